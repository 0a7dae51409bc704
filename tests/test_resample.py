"""Weights of rows turned into rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from fairsvd import ImageFrame
from fairsvd.interop import resample_by_weight
from fairsvd.interop._resample import _draw_counts

WEIGHTS = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-3, 1e3), st.sampled_from([0.1, 1.0, 1 / 3])),
    min_size=1,
    max_size=40,
).filter(any)


def drawn(weights, y=None, groups=None, seed=0):
    """Count how often each row was drawn."""
    n_rows = len(weights)
    y = np.zeros(n_rows) if y is None else y
    rows, _, _ = resample_by_weight(np.arange(n_rows), y, groups, weights, seed)
    return np.bincount(rows, minlength=n_rows)


def check_rounding(counts, expected):
    """Each count is the expected number, rounded down or up."""
    assert (counts >= np.floor(expected - 1e-9)).all()
    assert (counts <= np.ceil(expected + 1e-9)).all()


@given(WEIGHTS, st.integers(0, 2**31 - 2), st.data())
def test_rows_and_cells_appear_as_often_as_their_weights_ask(weights, seed, data):
    n_rows = len(weights)
    codes = st.lists(st.integers(0, 2), min_size=n_rows, max_size=n_rows)
    y, groups = np.array(data.draw(codes)), np.array(data.draw(codes))
    counts = drawn(weights, y, groups, seed)
    expected = n_rows * np.array(weights) / np.sum(weights)
    assert counts.sum() == n_rows
    check_rounding(counts, expected)
    cells = 3 * y + groups
    check_rounding(np.bincount(cells, counts), np.bincount(cells, expected))
    assert counts[np.array(weights) == 0].sum() == 0


@given(st.integers(1, 50), st.sampled_from([1.0, 0.1, 1 / 3, 1e-300, 1e308]))
def test_equal_weights_give_every_row_once(n_rows, weight):
    assert (drawn(np.full(n_rows, weight)) == 1).all()


class Unlucky:
    """Draws the one number at which a sum that is short by rounding would lose a row."""

    random = staticmethod(lambda: 0.0)
    permutation = staticmethod(np.arange)


@pytest.mark.parametrize("weights", [[1, 2, 3, 1, 1, 1], [1, 2, 3, 1, 1, 1, 0]])
def test_rounding_loses_no_row(weights):
    counts = _draw_counts(np.array(weights) / 10, np.zeros(len(weights), dtype=np.int64), Unlucky())
    assert counts.sum() == len(weights)
    assert counts[np.array(weights) == 0].sum() == 0


def test_counts_are_right_on_average():
    """Not only rounded: over many draws the mean is the expected number."""
    weights = np.array([0.2, 0.5, 0.5, 1.3, 2.5])
    counts = np.mean([drawn(weights, seed=seed) for seed in range(1000)], axis=0)
    np.testing.assert_allclose(counts, weights, atol=0.05)


def test_rows_of_a_cell_are_not_always_drawn_together():
    """The order in which residuals are drawn is random, so neighbours do not exclude each other."""
    counts = {tuple(drawn([1, 1, 1, 1, 4, 4], seed=seed)) for seed in range(60)}
    assert {row[4:] for row in counts} == {(2, 2)}
    assert len(counts) == 6  # two of four


def test_the_seed_decides():
    weights = np.random.default_rng(0).uniform(size=50)
    X, y = np.arange(50), np.zeros(50)
    first, again, other = (resample_by_weight(X, y, None, weights, s)[0] for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(np.sort(first), np.sort(other))
    assert not np.array_equal(first, np.sort(first))


def test_numpys_global_state_stays_where_it_is():
    before = np.random.get_state()[1].copy()
    resample_by_weight(np.arange(5), np.zeros(5), None, np.arange(5), 0)
    assert np.array_equal(np.random.get_state()[1], before)


def test_x_y_and_groups_stay_in_step():
    n_rows = 30
    X = np.arange(n_rows)
    result = resample_by_weight(X, -X, [f"g{x % 2}" for x in X], np.arange(n_rows), 0)
    assert np.array_equal(result[1], -result[0])
    assert result[2] == [f"g{x % 2}" for x in result[0]]


def test_pandas_types_and_index_are_kept():
    index = pd.Index(list("pqrs"), name="who")
    X = pd.DataFrame({"a": [1, 2, 3, 4], "b": pd.Categorical(list("uvuv"))}, index=index)
    y = pd.Series(["no", "yes", "no", "yes"], index=index, name="paid", dtype="category")
    groups = pd.DataFrame({"sex": list("fmfm"), "old": [0, 0, 1, None]}, index=index)
    X_new, y_new, groups_new = resample_by_weight(X, y, groups, [3, 0, 0, 1], 0)
    assert sorted(X_new.index) == list("ppps")
    assert X_new.dtypes.equals(X.dtypes) and y_new.dtype == y.dtype and y_new.name == "paid"
    for new, old in ((X_new, X), (groups_new, groups)):
        pd.testing.assert_frame_equal(new, old.loc[new.index])
    pd.testing.assert_series_equal(y_new, y.loc[y_new.index])
    assert list(X_new.index) == list(y_new.index) == list(groups_new.index)


def test_images_of_every_kind(tmp_path):
    images = np.arange(4 * 3 * 2 * 2, dtype=np.float32).reshape(4, 3, 2, 2)
    frame = ImageFrame(pd.DataFrame({"path": list("abcd")}), root=tmp_path)
    given = {"array": images, "tensor": torch.tensor(images), "frame": frame}
    found = {
        k: resample_by_weight(X, [0, 1, 0, 1], None, [0, 3, 1, 0], 5) for k, X in given.items()
    }
    order = ["abcd"[row] for row in (found["array"][0][:, 0, 0, 0] / 12).astype(int)]
    assert sorted(order) == list("bbbc")
    assert found["frame"][0].data["path"].tolist() == order  # and no file was read
    assert np.array_equal(found["tensor"][0].numpy(), found["array"][0])
    assert found["array"][2] is None


def test_a_dataset_comes_back_as_a_subset():
    data = TensorDataset(torch.arange(4.0)[:, None])
    X, y, _ = resample_by_weight(data, torch.tensor([0, 1, 0, 1]), None, [0, 3, 1, 0], 5)
    assert sorted(float(X[k][0]) for k in range(len(X))) == [1, 1, 1, 2]
    assert [float(X[k][0]) % 2 for k in range(4)] == y.tolist()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, -0.5, 1], r"sample_weight is -0\.5: .*not negative"),
        ([1, np.nan, 1], "sample_weight is nan"),
        ([1, np.inf, 1], "sample_weight is inf"),
        ([0, 0, 0], "sample_weight is 0 in every row"),
        ([1, 1], r"sample_weight has the shape \(2,\) but X has 3 rows"),
        ([[1, 1, 1]], r"sample_weight has the shape \(1, 3\)"),
    ],
)
def test_weights_that_cannot_be_used(weights, message):
    with pytest.raises(ValueError, match=message):
        resample_by_weight(np.zeros((3, 1)), [0, 1, 0], None, weights)


def test_lengths_that_differ():
    with pytest.raises(ValueError, match="y has 2 rows but X has 3"):
        resample_by_weight(np.zeros((3, 1)), [0, 1], None, [1, 1, 1])
    with pytest.raises(ValueError, match="sensitive_features"):
        resample_by_weight(np.zeros((3, 1)), [0, 1, 0], ["f", "m"], [1, 1, 1])


@pytest.mark.parametrize("seed", range(5))
def test_reweighing_s_weights_make_label_and_group_independent(biased_arrays, seed):
    from aif360.algorithms.preprocessing import Reweighing
    from aif360.datasets import BinaryLabelDataset

    X, y, group = biased_arrays
    dataset = BinaryLabelDataset(
        df=pd.DataFrame({"sex": group, "y": y}),
        label_names=["y"],
        protected_attribute_names=["sex"],
    )
    weights = Reweighing([{"sex": 0}], [{"sex": 1}]).fit_transform(dataset).instance_weights
    _, y_new, group_new = resample_by_weight(X, y, group, weights, seed)

    def dependence(labels, groups):
        joint = np.mean((labels == 1) & (groups == 1))
        return abs(joint - np.mean(labels == 1) * np.mean(groups == 1)) * len(labels)

    assert dependence(y, group) > 20  # rows too many in a cell, before
    assert dependence(y_new, group_new) < 2
    # It is the dependence that goes: how many rows a label and a group have stays.
    assert abs(np.sum(y_new) - np.sum(y)) <= 2
    assert abs(np.sum(group_new) - np.sum(group)) <= 2
