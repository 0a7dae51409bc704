"""CellSampler's overlap region: which rows it holds, and what is generated beside it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression

from fairsvd import CellSampler
from fairsvd.exceptions import GroupError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def task():
    """In both groups a quarter of the large class lies where the small class does."""
    rng = np.random.default_rng(0)
    group = np.repeat(["f", "m"], [200, 400])
    y = np.tile(np.repeat([0, 1], [80, 20]), 6)
    inside = (y == 0) & (rng.random(600) < 0.25)
    X = rng.normal(size=(600, 2)) * 0.3
    X[:, 0] += 3.0 * ((y == 1) | inside)
    return X, y, group, inside


class Keeper(BaseEstimator):
    """A conditional generator that keeps what it was fitted on, and repeats first rows."""

    def fit(self, X, y=None, *, sensitive_features=None):
        self.given_ = np.asarray(X), list(y), list(sensitive_features)
        return self

    def sample(self, n, conditions=None):
        self.asked_ = conditions
        return np.repeat(self.given_[0][:1], n, axis=0)


def test_the_region_is_where_the_large_class_looks_like_the_small_one(task):
    X, y, group, inside = task
    sampler = CellSampler(overlap=0.1, random_state=0)
    sampler.fit_resample(X, y, sensitive_features=group)
    found = sampler.is_overlap_
    assert (found == inside).mean() > 0.97
    assert not found[y == 1].any()
    assert CellSampler(random_state=0).fit(X, y, sensitive_features=group).overlap is None


def test_nothing_overlaps_where_the_classes_are_apart(task):
    X, y, group, inside = task
    apart = X - np.column_stack([3.0 * inside, np.zeros(600)])
    sampler = CellSampler(overlap=0.1, random_state=0)
    sampler.fit_resample(apart, y, sensitive_features=group)
    assert sampler.is_overlap_.mean() < 0.01


def test_the_region_is_a_class_of_its_own_while_generating_and_is_not_drawn(task):
    X, y, group, _ = task
    sampler = CellSampler(generator=Keeper(), overlap=0.1, mode="replace", random_state=0)
    _, labels = sampler.fit_resample(X, y, sensitive_features=group)
    rows, learned, groups = sampler.generator_.given_
    np.testing.assert_array_equal(rows, X)
    np.testing.assert_array_equal(learned, np.where(sampler.is_overlap_, 2, y))
    np.testing.assert_array_equal(groups, group)
    assert set(sampler.generator_.asked_) == {(0, "f"), (0, "m"), (1, "f"), (1, "m")}
    assert set(labels) == {0, 1}
    assert sampler.sampling_strategy_ == dict.fromkeys(sampler.cell_counts_, 320)


@pytest.mark.parametrize("generator", ["copula", "smoothed", "smote", "gaussian"])
def test_no_synthetic_row_of_the_large_class_lies_in_the_region(task, generator):
    """Positive control: without the option a quarter of them does."""
    from sklearn.mixture import GaussianMixture

    X, y, group, _ = task
    made = GaussianMixture(2) if generator == "gaussian" else generator
    shares = {}
    for overlap in (None, 0.1):
        sampler = CellSampler(generator=made, overlap=overlap, mode="replace", random_state=0)
        rows, labels = sampler.fit_resample(X, y, sensitive_features=group)
        shares[overlap] = (rows[np.asarray(labels) == 0, 0] > 1.5).mean()
    assert shares[None] > 0.15
    assert shares[0.1] < 0.03


def test_a_classifier_of_clear_rows_finds_more_of_the_small_class(task):
    """What the region is for: recall of the small class, five points at least."""
    X, y, group, _ = task
    rng = np.random.default_rng(1)
    noisy = X + rng.normal(size=X.shape) * [1.2, 0]
    recall = {}
    for overlap in (None, 0.3):
        sampler = CellSampler(overlap=overlap, mode="replace", random_state=0)
        rows, labels = sampler.fit_resample(noisy, y, sensitive_features=group)
        model = LogisticRegression().fit(rows, labels)
        recall[overlap] = model.predict(noisy)[y == 1].mean()
    assert recall[0.3] > recall[None] + 0.05


def test_real_rows_are_kept_and_other_draws_are_as_without_it(task):
    X, y, group, _ = task
    plain = CellSampler(random_state=0)
    with_region = CellSampler(overlap=0.1, random_state=0)
    first, labels = plain.fit_resample(X, y, sensitive_features=group)
    second, others = with_region.fit_resample(X, y, sensitive_features=group)
    np.testing.assert_array_equal(second[:600], X)
    pd.testing.assert_series_equal(labels, others)
    assert not np.array_equal(first, second)
    again = CellSampler(overlap=0.1, random_state=0).fit_resample(X, y, sensitive_features=group)
    np.testing.assert_array_equal(again[0], second)


@pytest.mark.parametrize("names", [["no", "yes", "maybe"], [True, False, 2], [3, 1, 2]])
def test_labels_of_any_type_several_classes_and_mixed_columns(task, names):
    X, y, group, _ = task
    codes = np.where((y == 0) & (np.arange(600) % 7 == 0), 2, y)
    frame = pd.DataFrame(X, columns=["a", "b"]).assign(job=np.array(list("xyz"))[codes])
    frame.loc[::50, "b"] = np.nan
    sampler = CellSampler(overlap=0.1, random_state=0)
    rows, labels = sampler.fit_resample(frame, np.array(names)[codes], sensitive_features=group)
    assert set(labels) == set(names)
    assert rows.dtypes.equals(frame.dtypes)
    assert set(sampler.sampling_strategy_.values()) == {max(sampler.cell_counts_.values())}


@pytest.mark.filterwarnings("ignore::fairsvd.exceptions.MissingSensitiveFeaturesWarning")
def test_without_groups_and_with_images(task):
    _, y, _, inside = task
    rng = np.random.default_rng(0)
    images = rng.random((200, 1, 4, 4)).astype(np.float32) + ((y == 1) | inside)[
        :200, None, None, None
    ].astype(np.float32)
    sampler = CellSampler(generator="smote", overlap=0.1, random_state=0)
    rows, labels = sampler.fit_resample(images, y[:200])
    assert rows.shape[1:] == (1, 4, 4)
    assert (sampler.is_overlap_ == inside[:200]).mean() > 0.97
    assert np.bincount(labels).tolist() == [160, 160]


def test_a_cell_that_lies_in_the_region_whole_is_named(task):
    X, y, group, _ = task
    same = np.zeros_like(X)
    with pytest.raises(GroupError, match="fewer than min_cell_size=60 real rows"):
        CellSampler(overlap=0.01, min_cell_size=60, random_state=0, mode="replace").fit_resample(
            same, y, sensitive_features=group
        )


@pytest.mark.parametrize("wrong", [0.0, 1, "auto"])
def test_a_limit_is_a_probability(task, wrong):
    X, y, group, _ = task
    with pytest.raises(ValueError, match="The 'overlap' parameter of CellSampler must be"):
        CellSampler(overlap=wrong).fit(X, y, sensitive_features=group)
