"""What holds of CellSampler on any table, strategy, mode and generator."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairsvd import CellSampler
from mixed_tables import MAKERS, mixed_table

STRATEGIES = ("joint", "parity", "group", "match")


@st.composite
def tasks(draw):
    kinds = draw(st.lists(st.sampled_from(sorted(MAKERS)), min_size=1, max_size=5, unique=True))
    seed = draw(st.integers(0, 2**16))
    n_rows = draw(st.integers(30, 80))
    rng = np.random.default_rng(seed)
    X = mixed_table(kinds, n_rows, rng, draw(st.sampled_from([0.0, 0.2])))
    y = np.array(draw(st.sampled_from([[0, 1], ["no", "yes"], [2, 5, 9]])))
    y = y[rng.permutation(np.arange(n_rows) % len(y))]
    group = np.array(["F", "M", "X"][: draw(st.integers(2, 3))])
    group = group[rng.permutation(np.arange(n_rows) % len(group))]
    return X, y, pd.Series(group, name="sex")


samplers = st.builds(
    CellSampler,
    sampling_strategy=st.sampled_from(STRATEGIES),
    mode=st.sampled_from(["augment", "replace", "mix"]),
    generator=st.sampled_from(["copula", "smoothed", "smote"]),
    min_cell_size=st.just(1),
    mix_ratio=st.sampled_from([0.5, 1.0]),
    random_state=st.integers(0, 99),
)


def resample(sampler, X, y, group):
    """Resample, or give None where SMOTE has a cell of one row or a cell is empty."""
    if pd.crosstab(y, group).to_numpy().min() < 2:
        return None
    return sampler.fit_resample(X, y, sensitive_features=group)


def cells_of(y_res):
    return Counter(zip(np.asarray(y_res).tolist(), y_res.index.tolist(), strict=True))


@settings(max_examples=60)
@given(tasks(), samplers)
def test_counts_types_and_real_rows(task, sampler):
    X, y, group = task
    result = resample(sampler, X, y, group)
    if result is None:
        return
    X_res, y_res = result
    # Counts are what the strategy says, and the groups are the rows'.
    assert cells_of(y_res) == Counter({k: n for k, n in sampler.sampling_strategy_.items() if n})
    assert (
        len(X_res) == len(y_res) == len(sampler.is_synthetic_) == len(sampler.sensitive_features_)
    )
    assert y_res.index.name == sampler.sensitive_features_.name == "sex"
    assert list(sampler.sensitive_features_) == list(y_res.index)
    assert y_res.dtype == pd.Series(y).dtype
    # Columns, dtypes and categories are those that came.
    pd.testing.assert_series_equal(X_res.dtypes, X.dtypes)
    # Real rows come first and unchanged, or not at all.
    real = ~sampler.is_synthetic_
    assert real.sum() == (0 if sampler.mode == "replace" else len(X))
    if real.any():
        pd.testing.assert_frame_equal(X_res[: len(X)], X)
        assert np.asarray(y_res)[: len(X)].tolist() == y.tolist()
        assert real[: len(X)].all()
    # Nothing new: categories that occurred, numbers within their range, missing where it was.
    for name in X:
        assert_nothing_new(X_res[name], X[name])


def assert_nothing_new(made, real):
    assert not made.isna().any() or real.isna().any()
    made, real = made.dropna(), real.dropna()
    if not len(made):
        return
    ordinal = isinstance(real.dtype, pd.CategoricalDtype)
    numeric = pd.api.types.is_numeric_dtype(real.dtype) and not pd.api.types.is_bool_dtype(real)
    dated = real.dtype.kind in "mM"
    if ordinal or not (numeric or dated) or real.nunique() <= 2:
        whole_objects = real.dtype == object and not any(isinstance(v, str) for v in real)
        if whole_objects:  # numbers in a column of objects
            assert all(isinstance(v, int) for v in made)
            assert real.min() <= made.min() <= made.max() <= real.max()
        else:
            assert set(made) <= set(real)
    else:
        assert real.min() <= made.min() <= made.max() <= real.max()


@settings(max_examples=15)
@given(tasks(), samplers)
def test_equal_seeds_give_equal_rows(task, sampler):
    X, y, group = task
    state = np.random.get_state()[1].copy()
    first = resample(sampler, X, y, group)
    if first is None:
        return
    X_copy = X.copy(deep=True)
    X_again, y_again = resample(sampler, X_copy, y, group)
    pd.testing.assert_frame_equal(first[0], X_again)
    pd.testing.assert_series_equal(first[1], y_again)
    pd.testing.assert_frame_equal(X_copy, X)
    assert (np.random.get_state()[1] == state).all()


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.integers(1, 60), min_size=2, max_size=4), min_size=2, max_size=3).filter(
        lambda t: len({len(row) for row in t}) == 1
    ),
    st.sampled_from(["augment", "replace"]),
)
def test_what_the_strategies_promise(table, mode):
    counts = np.array(table)
    y = np.repeat(np.arange(len(counts)), counts.sum(axis=1))
    group = np.concatenate([np.repeat(np.arange(counts.shape[1]), row) for row in counts])
    X = np.random.default_rng(0).normal(size=(len(y), 2))

    def wanted(strategy):
        sampler = CellSampler(sampling_strategy=strategy, mode=mode, min_cell_size=1)
        sampler.fit(X, y, sensitive_features=group)
        return np.array(list(sampler.sampling_strategy_.values())).reshape(counts.shape)

    assert (wanted("joint") == counts.max()).all()
    assert (wanted("match") == counts).all()
    grouped = wanted("group")
    largest = counts.sum(axis=0).max()
    # Rounding, and real rows that stay, may add less than a row a label.
    assert ((grouped.sum(axis=0) >= largest) & (grouped.sum(axis=0) < largest + len(counts))).all()
    assert np.abs(grouped / largest - counts / counts.sum(axis=0)).max() <= 1 / largest + 1e-12
    parity = wanted("parity")
    shares = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum() ** 2
    total = (counts / shares).max() if mode == "augment" else counts.sum()
    assert np.abs(parity - total * shares).max() <= 1
    if mode == "augment":
        assert (parity >= counts).all()
    else:
        assert parity.sum() == counts.sum()


@pytest.mark.parametrize("generator", ["copula", "smoothed", "smote"])
def test_every_type_of_column_at_once(generator):
    rng = np.random.default_rng(3)
    X = mixed_table(sorted(MAKERS), 200, rng, 0.1)
    y, group = rng.integers(0, 2, 200), rng.choice(["F", "M"], 200, p=[0.3, 0.7])
    sampler = CellSampler(generator=generator, mode="replace", random_state=0)
    X_res, _ = sampler.fit_resample(X, y, sensitive_features=group)
    pd.testing.assert_series_equal(X_res.dtypes, X.dtypes)
    for name in X:
        assert_nothing_new(X_res[name], X[name])
    assert X_res["float64"].isna().any()
