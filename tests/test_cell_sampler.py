"""CellSampler: modes, strategies, generators of others, and complaints."""

from __future__ import annotations

import copy
import pickle
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.utils import get_tags

from cell_tasks import COUNTS, cells_of, small_task
from fairsvd import CellSampler
from fairsvd.exceptions import GroupError
from fairsvd.generative import HyperGenerator, SmoothedGenerator

task = pytest.fixture(small_task)


def test_augment_keeps_the_real_rows_first_and_fills_up(task):
    X, y, sex = task
    sampler = CellSampler(random_state=0)
    X_res, y_res = sampler.fit_resample(X, y, sensitive_features=sex)
    assert cells_of(y_res) == dict.fromkeys(COUNTS, 48) == sampler.sampling_strategy_
    assert sampler.cell_counts_ == COUNTS
    pd.testing.assert_frame_equal(X_res[:120], X)
    assert sampler.is_synthetic_.tolist() == [False] * 120 + [True] * 72
    # Synthetic rows are in random order, not cell by cell.
    assert len(set(y_res.index[120:150])) == 2
    assert sampler.classes_.tolist() == [0, 1]
    assert sampler.groups_ == ["F", "M"]
    assert sampler.sensitive_source_ == "sensitive_features"


def test_replace_has_synthetic_rows_only(task):
    X, y, sex = task
    sampler = CellSampler(sampling_strategy="match", mode="replace", random_state=0)
    X_res, y_res = sampler.fit_resample(X, y, sensitive_features=sex)
    assert sampler.is_synthetic_.all()
    assert cells_of(y_res) == COUNTS
    assert not set(X_res["score"]) & set(X["score"])


def test_mix_puts_a_balanced_set_beside_the_real_one(task):
    X, y, sex = task
    sampler = CellSampler(mode="mix", mix_ratio=0.5, random_state=0)
    _, y_res = sampler.fit_resample(X, y, sensitive_features=sex)
    assert sampler.is_synthetic_.sum() == 60
    assert cells_of(y_res[120:]) == dict.fromkeys(COUNTS, 15)
    assert sampler.sampling_strategy_ == {key: n + 15 for key, n in COUNTS.items()}


def test_parity_makes_label_and_group_independent(task):
    X, y, sex = task
    sampler = CellSampler(sampling_strategy="parity", random_state=0)
    _, y_res = sampler.fit_resample(X, y, sensitive_features=sex)
    table = pd.crosstab(np.asarray(y_res), y_res.index).to_numpy()
    # n(y) is 60, 60 and n(s) is 32, 88: the 20 rows of (1, F), which are 16 by n(y) n(s) / n,
    # scale the table by 5 / 4.
    assert table.tolist() == [[20, 55], [20, 55]]


def test_a_dict_names_the_cells_that_change(task):
    X, y, sex = task
    given = {(0, "F"): 15}
    sampler = CellSampler(sampling_strategy=given, random_state=0)
    _, y_res = sampler.fit_resample(X, y, sensitive_features=sex)
    assert cells_of(y_res) == {**COUNTS, **given}


def test_a_callable_gets_the_counts_and_gives_a_dict(task):
    X, y, sex = task
    seen = []

    def twice(counts):
        seen.append(counts)
        return {cell: 2 * n for cell, n in counts.items()}

    sampler = CellSampler(sampling_strategy=twice, random_state=0)
    _, y_res = sampler.fit_resample(X, y, sensitive_features=sex)
    assert seen == [COUNTS]
    assert cells_of(y_res) == {cell: 2 * n for cell, n in COUNTS.items()}


def test_a_mixed_dict_counts_the_synthetic_set(task):
    X, y, sex = task
    sampler = CellSampler(sampling_strategy=dict.fromkeys(COUNTS, 5), mode="mix", random_state=0)
    sampler.fit_resample(X, y, sensitive_features=sex)
    assert sampler.sampling_strategy_ == {cell: n + 5 for cell, n in COUNTS.items()}


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ({(0, "X"): 50}, r"names the cells \[\(0, 'X'\)\]"),
        ({0: 50}, r"names the cells \[0\]"),
        ({(0, "F"): 3}, "wants fewer rows than there are in"),
        ({(0, "F"): 20.5}, "whole numbers"),
        ({(0, "F"): True}, "whole numbers"),
        ({(0, "F"): -1}, "whole numbers"),
        (lambda counts: 7, "returned 7"),
    ],
)
def test_strategies_that_cannot_be_met(task, strategy, message):
    X, y, sex = task
    with pytest.raises(ValueError, match=message):
        CellSampler(sampling_strategy=strategy).fit_resample(X, y, sensitive_features=sex)


def test_tiny_cells_are_named(task):
    X, y, sex = task
    with pytest.raises(GroupError, match=r"min_cell_size=13 .*\{\(0, 'F'\): 12\}. Lower min_cell"):
        CellSampler(min_cell_size=13).fit_resample(X, y, sensitive_features=sex)
    # A cell that gets no rows may be as small as it likes.
    sampler = CellSampler(sampling_strategy={(1, "F"): 30}, min_cell_size=13)
    assert len(sampler.fit_resample(X, y, sensitive_features=sex)[1]) == 130


def test_empty_cells_are_refused_whatever_min_cell_size_is(task):
    X, y, sex = task
    keep = ~((y == 0) & (sex == "F")).to_numpy()
    rows = X[keep], y[keep]
    with pytest.raises(GroupError, match=r"\[\(0, 'F'\)\] have no rows to learn from"):
        CellSampler(min_cell_size=1).fit_resample(*rows, sensitive_features=sex[keep])
    sampler = CellSampler(sampling_strategy="match", mode="replace")
    _, y_res = sampler.fit_resample(*rows, sensitive_features=sex[keep])
    assert (0, "F") not in cells_of(y_res)
    assert sampler.sampling_strategy_[0, "F"] == 0


# Complaints


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, y, s: (sparse.csr_matrix(X[["age"]]), y, s), "sparse"),
        (lambda X, y, s: (X.assign(age=np.inf), y, s), "'age' holds infinite values"),
        (lambda X, y, s: (X["age"], y, s), "shape"),
        (lambda X, y, s: (X.set_axis(["a", "a", "b"], axis=1), y, s), "several columns named"),
        (lambda X, y, s: (X[:0], y[:0], s[:0]), "at least one row"),
        (lambda X, y, s: (np.full((120, 1, 2, 2), np.nan), y, s), "images with NaN"),
        (lambda X, y, s: (np.zeros((120, 2), complex), y, s), "real numbers"),
        (lambda X, y, s: (np.full((120, 1, 2, 2), "a"), y, s), "images of the dtype"),
        (lambda X, y, s: (X[[]], y, s), "0 feature"),
        (lambda X, y, s: (X, y[:-1], s), "X has 120 rows but y has 119"),
        (lambda X, y, s: (X, None, s), "y is None: cells"),
        (lambda X, y, s: (X, y * 0, s), "one class only"),
        (lambda X, y, s: (X, y + np.linspace(0, 0.5, 120), s), "Unknown label type"),
        (lambda X, y, s: (X, y, s[:-1]), "119 rows"),
        (lambda X, y, s: (X, y, np.zeros((120, 2, 2))), "shape"),
        (lambda X, y, s: (X, y, ["F"] * 120), "one group only"),
    ],
)
def test_bad_input(task, change, message):
    X, y, sex = change(*task)
    with pytest.raises(ValueError, match=message):
        CellSampler().fit_resample(X, y, sensitive_features=sex)


@pytest.mark.parametrize(
    "params",
    [
        {"sampling_strategy": "all"},
        {"mode": "add"},
        {"generator": "gan"},
        {"generator": object()},
        {"min_cell_size": 0},
        {"mix_ratio": 0.0},
        {"missing_group": "drop"},
    ],
)
def test_bad_parameters(task, params):
    X, y, sex = task
    with pytest.raises(ValueError, match=f"'{next(iter(params))}' parameter"):
        CellSampler(**params).fit_resample(X, y, sensitive_features=sex)


# Generators of others


class Conditional:
    """A generator that copies real rows of the cell asked for; draws from numpy's global state."""

    def fit(self, X, y, *, sensitive_features=None):
        self.X, self.cells = X, list(zip(y.tolist(), sensitive_features.tolist(), strict=True))
        return self

    def sample(self, n, conditions=None):
        self.asked = conditions
        rows = [
            np.random.choice([k for k, own in enumerate(self.cells) if own == cell])
            for cell in conditions
        ]
        return self.X.iloc[rows, ::-1]


def test_a_generator_with_conditions_is_asked_for_cells(task):
    X, y, sex = task
    generator = Conditional()
    sampler = CellSampler(generator=generator, random_state=0)
    state = np.random.get_state()[1].copy()
    X_res, y_res = sampler.fit_resample(X, y, sensitive_features=sex)
    assert not hasattr(generator, "X")  # a copy was fitted
    assert Counter(sampler.generator_.asked) == {
        cell: 48 - n for cell, n in COUNTS.items() if n < 48
    }
    real = dict(zip(X["score"], sampler.generator_.cells, strict=True))
    made = zip(X_res["score"][120:], y_res[120:].tolist(), y_res.index[120:], strict=True)
    assert all(real[score] == (label, group) for score, label, group in made)
    # It drew from the global state, which equal seeds reproduce and nobody else notices.
    assert (np.random.get_state()[1] == state).all()
    again, _ = clone(sampler).fit_resample(X, y, sensitive_features=sex)
    pd.testing.assert_frame_equal(again, X_res)


@pytest.mark.parametrize("generator", [GaussianMixture(2), KernelDensity(bandwidth=0.1)])
def test_a_plain_generator_is_fitted_on_each_cell(task, generator):
    X, y, sex = task
    X = X[["age", "score"]].assign(age=lambda t: t["age"] + 100 * (sex == "M"))
    sampler = CellSampler(generator=generator, random_state=0)
    X_res, y_res = sampler.fit_resample(X, y, sensitive_features=sex)
    assert set(sampler.generator_) == {cell for cell, n in COUNTS.items() if n < 48}
    assert X_res["age"].dtype == X["age"].dtype
    assert X_res["age"][y_res.index == "F"].max() < 110 < X_res["age"][y_res.index == "M"].min()
    assert not hasattr(generator, "weights_")
    again, _ = clone(sampler).fit_resample(X, y, sensitive_features=sex)
    pd.testing.assert_frame_equal(again, X_res)


class Faulty(Conditional):
    def __init__(self, fault):
        self.fault = fault

    def sample(self, n, conditions=None):
        return self.fault(super().sample(n, conditions))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda X: X[:-1], "gave rows of shape"),
        (lambda X: X.rename(columns={"age": "years"}), "gave the columns"),
        (lambda X: X.assign(job="new"), "'new' in column 'job'"),
    ],
)
def test_rows_that_do_not_fit_are_refused(task, fault, message):
    X, y, sex = task
    with pytest.raises(ValueError, match=message):
        CellSampler(generator=Faulty(fault)).fit_resample(X, y, sensitive_features=sex)


def test_numbers_of_a_generator_are_cast_to_the_dtype(task):
    X, y, sex = task
    X = X.assign(age=X["age"].astype(np.uint8))
    wild = Faulty(lambda rows: rows.assign(age=np.linspace(-50, 1000, len(rows))))
    X_res, _ = CellSampler(generator=wild).fit_resample(X, y, sensitive_features=sex)
    assert X_res["age"].dtype == np.uint8
    assert (X_res["age"][120:].min(), X_res["age"][120:].max()) == (0, 255)


def test_the_hypernetwork_draws_cells(task):
    X, y, sex = task
    generator = HyperGenerator(n_steps=3)
    sampler = CellSampler(generator=generator, random_state=0)
    X_res, y_res = sampler.fit_resample(X, y, sensitive_features=sex)
    assert isinstance(sampler.generator_, HyperGenerator)
    assert cells_of(y_res) == dict.fromkeys(COUNTS, 48)
    pd.testing.assert_series_equal(X_res.dtypes, X.dtypes)
    assert set(X_res["job"]) <= {"a", "b", "c"}


# Conventions


def test_parameters_of_the_generator_can_be_searched():
    sampler = CellSampler(generator=SmoothedGenerator(bandwidth=0.5))
    copied = clone(sampler).set_params(generator__bandwidth=0.2, mode="replace")
    assert copied.get_params()["generator__bandwidth"] == 0.2
    assert sampler.generator.bandwidth == 0.5
    assert "SmoothedGenerator(bandwidth=0.2)" in repr(copied)


def test_tags():
    tags = get_tags(CellSampler())
    assert tags.estimator_type == "sampler"
    assert tags.target_tags.required
    assert tags.input_tags.allow_nan


def test_fit_draws_nothing_but_says_what_would_be(task):
    X, y, sex = task
    sampler = CellSampler().fit(X, y, sensitive_features=sex)
    assert sampler.sampling_strategy_ == dict.fromkeys(COUNTS, 48)
    assert sampler.n_features_in_ == 3
    assert sampler.get_feature_names_out().tolist() == list(X.columns)
    assert not hasattr(sampler, "is_synthetic_")


def test_a_failed_call_leaves_the_sampler_as_it_was(task):
    X, y, sex = task
    sampler = CellSampler(random_state=0)
    sampler.fit_resample(X, y, sensitive_features=sex)
    before = copy.copy(vars(sampler))
    sampler.generator = Faulty(lambda rows: rows[:-1])
    with pytest.raises(ValueError, match="gave rows of shape"):
        sampler.fit_resample(X[:100], y[:100], sensitive_features=sex[:100])
    assert all(vars(sampler)[name] is value for name, value in before.items() if name[-1] == "_")


def test_no_global_state_moves_and_a_sampler_can_be_pickled(task):
    X, y, sex = task
    # Without a seed it would draw one from numpy's global generator, as scikit-learn does.
    numpy_state, torch_state = np.random.get_state(), torch.get_rng_state()
    for generator in ("copula", "smoothed", "smote"):
        sampler = CellSampler(generator=generator, random_state=0)
        sampler.fit_resample(X, y, sensitive_features=sex)
        assert pickle.loads(pickle.dumps(sampler)).sampling_strategy_ == dict.fromkeys(COUNTS, 48)
    np.testing.assert_equal(np.random.get_state(), numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_a_random_state_instance_draws_anew(task):
    X, y, sex = task
    shared = np.random.RandomState(0)
    first, second = (
        CellSampler(random_state=shared).fit_resample(X, y, sensitive_features=sex)[0]
        for _ in range(2)
    )
    assert not first.equals(second)
