"""Numbers of the cells' generators and of the sampler's strategies, by hand and by brute force."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture

from fairsvd import CellSampler
from fairsvd.generative import CopulaGenerator, SmoothedGenerator, SmoteGenerator
from fairsvd.generative.cells._copula_fit import add_ridge
from fairsvd.generative.sampler._strategy import _apportion

WEIGHTS = st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any)


@given(WEIGHTS, st.integers(0, 200))
def test_rows_are_shared_out_by_largest_remainders(weights, total):
    exact = [Fraction(w, sum(weights)) * total for w in weights]
    rows = [int(share) for share in exact]  # rounded down
    rest = [share - n for share, n in zip(exact, rows, strict=True)]
    assume(len(set(rest)) == len(rest))  # ties are below
    order = sorted(range(len(weights)), key=lambda k: (rows[k] - exact[k], k))
    for k in order[: total - sum(rows)]:
        rows[k] += 1
    assert _apportion(np.array(weights, dtype=float), total).tolist() == rows


def test_of_equal_remainders_the_earlier_cell_gets_the_row():
    assert _apportion(np.ones(4), 6).tolist() == [2, 2, 1, 1]
    assert _apportion(np.array([9.0, 12.0, 1.0]), 8).tolist() == [3, 5, 0]
    assert _apportion(np.array([[1.0, 1.0], [2.0, 0.0]]), 2).tolist() == [[1, 0], [1, 0]]


def resampled(counts, **settings):
    """Resample plain numbers with given rows of every cell, and count the cells."""
    keys = [(k, g) for k in range(len(counts)) for g in range(len(counts[0]))]
    labels = np.repeat(keys, np.ravel(counts), axis=0)
    X = np.random.default_rng(0).normal(size=(len(labels), 2))
    sampler = CellSampler(generator="smoothed", min_cell_size=1, random_state=0, **settings)
    _, y = sampler.fit_resample(X, labels[:, 0], sensitive_features=labels[:, 1])
    table = np.zeros(np.shape(counts), dtype=int)
    np.add.at(table, (np.asarray(y), np.asarray(y.index)), 1)
    return sampler, table


@pytest.mark.parametrize(
    ("strategy", "mode", "wanted"),
    [
        ("joint", "augment", [[60, 60], [60, 60]]),
        ("joint", "replace", [[60, 60], [60, 60]]),
        ("match", "replace", [[10, 60], [20, 30]]),
        # The second group has 90 rows; the first's labels stay at 1 : 2.
        ("group", "augment", [[30, 60], [60, 30]]),
        # A synthetic set of 120 rows beside the real one.
        ("joint", "mix", [[40, 90], [50, 60]]),
        # Labels 70 : 50, groups 30 : 90: 17.5, 52.5, 12.5 and 37.5, of which the first two rise.
        ("parity", "replace", [[18, 53], [12, 37]]),
    ],
)
def test_strategies_by_hand(strategy, mode, wanted):
    sampler, table = resampled([[10, 60], [20, 30]], sampling_strategy=strategy, mode=mode)
    assert table.tolist() == wanted
    assert list(sampler.sampling_strategy_.values()) == np.ravel(wanted).tolist()


def test_parity_that_keeps_every_row_is_the_smallest_such_table():
    _, table = resampled([[10, 60], [20, 30]], sampling_strategy="parity")
    shares = np.outer([70, 50], [30, 90]) / 120**2
    # The cell that has most of its share sets the size: 20 of .104, which is 192 rows.
    assert table.sum() == 192
    assert table.tolist() == np.rint(192 * shares).astype(int).tolist() == [[28, 84], [20, 60]]


def test_a_mix_has_the_share_of_synthetic_rows_that_was_asked_for():
    sampler, table = resampled([[10, 60], [20, 30]], mode="mix", mix_ratio=0.5)
    assert sampler.is_synthetic_.sum() == 60
    assert table.tolist() == [[25, 75], [35, 45]]


def two_rows():
    """One row at 0 and "a", one at 1 and "b"."""
    return pd.DataFrame({"x": [0.0, 1.0, 0.0], "job": ["a", "b", "a"]})[:2]


def test_a_category_comes_from_the_neighbour_as_often_as_numbers_lean_to_it():
    rows = pd.DataFrame({"x": np.arange(4.0) * 100, "job": list("abcd")})
    pair = pd.concat([two_rows(), rows.assign(x=rows["x"] + 1000)], ignore_index=True)
    cell = np.array([0, 0, 1, 1, 1, 1])
    generator = SmoteGenerator(random_state=0).fit(pair, cell)
    drawn = generator.sample(4000, conditions=[0] * 4000)
    x, second = drawn["x"].to_numpy(float), (drawn["job"] == "b").to_numpy()
    assert ((x >= 0) & (x <= 1)).all()
    for low in (0.0, 0.25, 0.5, 0.75):
        inside = (x >= low) & (x < low + 0.25)
        wanted = x[inside].mean()
        error = 4 * np.sqrt(0.25 / inside.sum())
        assert second[inside].mean() == pytest.approx(wanted, abs=error)


def test_smote_keeps_the_row_where_its_neighbour_lacks_a_value():
    X = np.random.default_rng(0).normal(size=(12, 3))
    X[::2, 1] = np.nan
    drawn = SmoteGenerator(random_state=0).fit(X).sample(2000)
    # A value is there where it is in the row drawn, every second one, whatever the neighbour has.
    known = ~np.isnan(drawn[:, 1])
    assert known.mean() == pytest.approx(1 / 2, abs=4 * np.sqrt(1 / 4 / 2000))
    # Every second neighbour lacks it, and leaves the row's own.
    kept = np.isin(drawn[known, 1], X[1::2, 1])
    assert 0.3 < kept.mean() < 0.8


@pytest.mark.parametrize("bandwidth", [0.5, 1.0, None])
def test_categories_flip_at_the_jitter_s_part_of_the_variance(bandwidth):
    """Two columns that number the rows: where they differ, one of them was flipped."""
    n = 100
    X = pd.DataFrame({column: [f"{column}{k}" for k in range(n)] for column in "ab"})
    settings = {} if bandwidth is None else {"bandwidth": bandwidth}
    drawn = SmoothedGenerator(**settings, random_state=0).fit(X).sample(8000)
    same = (drawn["a"].str[1:] == drawn["b"].str[1:]).mean()
    size = (4 / (3 * n)) ** 0.2 if bandwidth is None else bandwidth
    stay = 1 / (1 + size**2)
    wanted = stay**2 + (1 - stay**2) / n
    assert same == pytest.approx(wanted, abs=4 * np.sqrt(0.25 / 8000))


@pytest.mark.parametrize(("zeros", "share"), [(5, 1 / 8), (4, 0)])
def test_five_rows_of_one_value_are_a_mass_and_four_are_not(zeros, share):
    X = np.random.default_rng(0).normal(size=(40, 2))
    X[:zeros, 0] = 0
    drawn = SmoothedGenerator(random_state=0).fit(X).sample(4000)
    assert (drawn[:, 0] == 0).mean() == pytest.approx(
        share, abs=4 * np.sqrt(7 / 64 / 4000) * (share > 0)
    )


def test_jitter_of_one_column_has_the_bandwidth_of_its_rows():
    """Two far clusters: within one, the spread is the jitter's, pulled in with the rest."""
    X = np.concatenate([np.zeros(4), 1000 + np.zeros(4), [500.0]]).reshape(-1, 1)
    X += np.linspace(0, 1e-3, 9)[:, None]  # no value is shared
    h = 0.05
    drawn = SmoothedGenerator(bandwidth=h, random_state=0).fit(X).sample(20000)[:, 0]
    middle = drawn[np.abs(drawn - 500) < 250]
    wanted = X.std() * h / np.sqrt(1 + h**2)
    assert middle.std() == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize("own", [5, None])
def test_a_generator_s_own_seed_is_kept_and_only_a_missing_one_is_the_sampler_s(own):
    X = np.random.default_rng(0).normal(size=(60, 2))
    y, g = np.arange(60) % 2, np.arange(60) // 2 % 3 % 2
    drawn = []
    for seed in (0, 1):
        sampler = CellSampler(generator=SmoothedGenerator(random_state=own), random_state=seed)
        rows, _ = sampler.fit_resample(X, y, sensitive_features=g)
        drawn.append(np.sort(rows[sampler.is_synthetic_], axis=0))
    assert np.array_equal(*drawn) == (own == 5)


def test_a_plain_generator_is_copied_for_every_cell_and_fitted_on_its_rows_alone():
    X = np.random.default_rng(0).normal(size=(60, 2))
    y, g = np.arange(60) % 2, np.arange(60) // 2 % 3 % 2
    generator = GaussianMixture(1, covariance_type="diag", random_state=0)
    sampler = CellSampler(generator=generator, min_cell_size=1, mode="replace", random_state=0)
    sampler.fit_resample(X, y, sensitive_features=g)
    assert not hasattr(generator, "means_")
    assert set(sampler.generator_) == {(k, j) for k in (0, 1) for j in (0, 1)}
    for (label, group), fitted in sampler.generator_.items():
        own = X[(y == label) & (g == group)]
        np.testing.assert_allclose(fitted.means_[0], own.mean(axis=0))


class FromGlobalNumbers:
    """Draws from numpy's global generator, and perhaps a row too many."""

    def __init__(self, more=0):
        self.more = more

    def fit(self, X):
        self.width = X.shape[1]
        return self

    def sample(self, n):
        return np.random.normal(size=(n + self.more, self.width))


def test_global_generators_are_seeded_by_the_sampler_and_a_row_too_many_is_refused():
    X, y = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 2
    g, drawn = np.arange(60) // 2 % 3 % 2, []
    for seed in (0, 0, 1):
        sampler = CellSampler(generator=FromGlobalNumbers(), random_state=seed)
        rows, _ = sampler.fit_resample(X, y, sensitive_features=g)
        drawn.append(np.sort(rows[sampler.is_synthetic_], axis=0))
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    with pytest.raises(ValueError, match=r"shape \(11, 2\), wanted \(10, 2\)"):
        CellSampler(generator=FromGlobalNumbers(1)).fit_resample(X, y, sensitive_features=g)


def test_the_copula_draws_ranks_that_its_cell_has_and_none_between():
    levels = pd.CategoricalDtype(["low", "some", "much", "most"], ordered=True)
    y = np.repeat([0, 1], 40)
    first = np.tile(["low", "most"], 20)
    rank = pd.Series(np.concatenate([first, np.resize(levels.categories, 40)])).astype(levels)
    X = pd.DataFrame({"rank": rank, "x": np.random.default_rng(0).normal(size=80)})
    drawn = CopulaGenerator(prior_rows=0.0, random_state=0).fit(X, y).sample(500, [0] * 500)
    assert drawn["rank"].value_counts()[["some", "much"]].tolist() == [0, 0]
    assert (drawn["rank"] == "low").mean() == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 500))


def test_a_table_s_correlation_has_a_ridge_of_columns_over_rows_and_columns():
    correlation = np.array([[1.0, 0.8], [0.8, 1.0]])
    # Two columns and six rows: a quarter of the identity.
    np.testing.assert_allclose(add_ridge(correlation, 6), [[1.0, 0.6], [0.6, 1.0]])
