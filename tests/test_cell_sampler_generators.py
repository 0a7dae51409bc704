"""The sampler's own generators: copula, smoothed bootstrap and SMOTE within cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.utils.estimator_checks import parametrize_with_checks

from fairsvd import CellSampler
from fairsvd.exceptions import GroupError
from fairsvd.generative import CopulaGenerator, SmoothedGenerator, SmoteGenerator
from fairsvd.generative.cells._codec import Encoded
from fairsvd.generative.cells._copula_fit import (
    SortedColumn,
    borrowing_weights,
    factorise,
    level_scores,
    pairwise_correlation,
    shrink,
    undo_steps,
)
from fairsvd.generative.cells._smoothed import bandwidth_of, jitter
from fairsvd.generative.cells._smote import embed_rows, find_neighbours

GENERATORS = [CopulaGenerator, SmoothedGenerator, SmoteGenerator]


def correlated(n, r, rng):
    z = rng.normal(size=(n, 2))
    return np.column_stack([z[:, 0], r * z[:, 0] + np.sqrt(1 - r**2) * z[:, 1]])


# All of them


@parametrize_with_checks([CellSampler(min_cell_size=1), *[kind() for kind in GENERATORS]])
@pytest.mark.filterwarnings("ignore::fairsvd.exceptions.MissingSensitiveFeaturesWarning")
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("kind", GENERATORS)
def test_cells_are_drawn_as_asked(kind):
    rng = np.random.default_rng(0)
    y, group = rng.integers(0, 2, 400), rng.choice(["F", "M"], 400)
    X = rng.normal(size=(400, 2)) * 0.1 + np.column_stack([10 * y, 10 * (group == "F")])
    generator = kind(random_state=0).fit(X, y, sensitive_features=group)
    assert generator.cells_ == [(0, "F"), (0, "M"), (1, "F"), (1, "M")]
    asked = [(1, "F"), (0, "M"), (1, "F"), (0, "F"), (1, "M")]
    drawn = generator.sample(5, conditions=asked)
    wanted = [[10 * label, 10 * (group == "F")] for label, group in asked]
    # The copula borrows five rows' worth, which may be far off; not in so few draws.
    assert np.abs(drawn - wanted).max() < 1
    assert (generator.sample(5, conditions=asked) == drawn).all()
    free = generator.sample(2000)
    assert abs((free[:, 0] > 5).mean() - y.mean()) < 0.05
    assert len(generator.sample(0)) == 0
    with pytest.raises(GroupError, match=r"conditions ask for .*\(2, 'F'\)"):
        generator.sample(1, conditions=[(2, "F")])
    with pytest.raises(ValueError, match="conditions has 1 entries"):
        generator.sample(2, conditions=[(1, "F")])
    for n in (-1, 2.5, "3", True):
        with pytest.raises(ValueError, match=r"^n=.*integer of at least 0"):
            generator.sample(n)


@pytest.mark.parametrize("kind", GENERATORS)
def test_moments_and_dependence_survive(kind):
    rng = np.random.default_rng(1)
    X = correlated(600, 0.8, rng) * [1, 50] + [5, 100]
    Z = kind(random_state=0).fit(X).sample(4000)
    assert np.abs(Z.mean(axis=0) - X.mean(axis=0)).max() < 0.1 * X.std(axis=0).max()
    # SMOTE's rows lie between real ones, hence closer together.
    assert Z.std(axis=0) / X.std(axis=0) == pytest.approx(1, abs=0.12)
    assert np.corrcoef(Z.T)[0, 1] == pytest.approx(np.corrcoef(X.T)[0, 1], abs=0.05)


@pytest.mark.parametrize("kind", GENERATORS)
def test_missing_values_keep_the_cells_rate(kind):
    rng = np.random.default_rng(2)
    y = np.arange(600) % 2
    X = pd.DataFrame({"a": rng.normal(size=600), "b": rng.choice(["x", "y", "z"], 600)})
    lacking = (y == 1) & (rng.random(600) < 0.4)
    X.loc[lacking, ["a", "b"]] = np.nan
    generator = kind(random_state=0).fit(X, y)
    Z = generator.sample(2000, conditions=[1] * 2000)
    assert Z["a"].isna().mean() == pytest.approx(X["a"][y == 1].isna().mean(), abs=0.04)
    assert (Z["a"].isna() == Z["b"].isna()).all()  # they lack values together
    assert not generator.sample(500, conditions=[0] * 500).isna().any(axis=None)


@pytest.mark.parametrize("kind", GENERATORS)
def test_category_rates_survive(kind):
    rng = np.random.default_rng(3)
    X = pd.DataFrame({"job": rng.choice(list("abcd"), 800, p=[0.6, 0.25, 0.1, 0.05])})
    X["pay"] = (X["job"] == "a") + 0.1 * rng.normal(size=800)
    Z = kind(random_state=0).fit(X).sample(4000)
    rates = Z["job"].value_counts(normalize=True) - X["job"].value_counts(normalize=True)
    assert rates.abs().max() < 0.05
    assert Z["pay"][Z["job"] == "a"].mean() - Z["pay"][Z["job"] != "a"].mean() > 0.7


@pytest.mark.parametrize("kind", GENERATORS)
def test_columns_without_any_value_stay_so(kind):
    X = pd.DataFrame({"a": np.arange(20.0), "b": [None] * 20, "c": np.full(20, np.nan)})
    Z = kind(random_state=0).fit(X).sample(5)
    assert Z[["b", "c"]].isna().all(axis=None)
    assert Z["a"].notna().all()
    pd.testing.assert_series_equal(Z.dtypes, X.dtypes)


@pytest.mark.parametrize("kind", [CopulaGenerator, SmoothedGenerator])
def test_a_cell_of_one_row_can_be_drawn(kind):
    X = np.random.default_rng(0).normal(size=(31, 2))
    y = np.arange(31) == 0
    generator = kind(random_state=0).fit(X, y)
    drawn = generator.sample(3, conditions=[True] * 3)
    assert drawn.shape == (3, 2)
    if kind is SmoothedGenerator:
        assert (drawn == X[0]).all()


# Copula


def test_margins_are_the_cells_own_even_with_a_mass_at_zero():
    rng = np.random.default_rng(4)
    X = np.where(rng.random(2000) < 0.7, 0.0, rng.exponential(1000, 2000))[:, None]
    Z = CopulaGenerator(random_state=0).fit(X).sample(4000)
    assert (Z == 0).mean() == pytest.approx((X == 0).mean(), abs=0.02)
    assert np.quantile(Z, [0.8, 0.9, 0.99]) == pytest.approx(
        np.quantile(X, [0.8, 0.9, 0.99]), rel=0.15
    )


def test_nothing_is_borrowed_at_zero_prior_rows():
    rng = np.random.default_rng(5)
    y = np.arange(400) >= 20
    X = rng.normal(size=(400, 1)) + 100 * y[:, None]
    for prior, share in ((0, 0.0), (5, 5 / 25 * 5 / 25 * 380 / 400)):
        drawn = CopulaGenerator(prior_rows=prior, random_state=0).fit(X, y)
        Z = drawn.sample(4000, conditions=[False] * 4000)
        # The way from the last own value to the first borrowed one takes half a row's worth.
        assert share <= (Z > 50).mean() <= share + 0.03


def test_small_cells_have_their_labels_correlation_and_large_ones_their_own():
    rng = np.random.default_rng(6)
    X = np.vstack([correlated(1000, 0.9, rng), correlated(1000, -0.5, rng), correlated(2, 0, rng)])
    y = np.repeat([0, 1, 0], [1000, 1000, 2])
    group = np.repeat(["M", "M", "F"], [1000, 1000, 2])
    found = CopulaGenerator(random_state=0).fit(X, y, sensitive_features=group).correlations_
    assert found[0, "M"][0, 1] == pytest.approx(0.9, abs=0.03)
    assert found[1, "M"][0, 1] == pytest.approx(-0.5, abs=0.06)
    assert found[0, "F"][0, 1] == pytest.approx(found[0, "M"][0, 1], abs=0.02)


def test_the_copula_refuses_what_is_too_wide():
    X = np.zeros((4, 3, 32, 32), dtype=np.float32)
    with pytest.raises(ValueError, match="takes at most 1024"):
        CopulaGenerator().fit(X)


@given(st.lists(st.integers(0, 6), min_size=3, max_size=40), st.floats(0, 20))
def test_borrowing_weights_add_up_and_favour_the_cell(cells, prior):
    cells = np.array(cells) - 1
    labels = np.array([0, 0, 1, 1, 2, 2])
    for cell in np.unique(cells[cells >= 0]):
        weights = borrowing_weights(cells, labels, cell, prior)
        n = (cells == cell).sum()
        assert weights.sum() == pytest.approx(1)
        assert weights[cells == cell].sum() >= n / (n + prior) - 1e-12
        assert (weights[cells < 0] == 0).all()


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30))
def test_a_margin_inverts_itself_on_what_occurs(values):
    column = SortedColumn.of(np.array(values, dtype=float))
    margin = column.margin(np.full(len(values), 1 / len(values)))
    assert margin.step(margin.middles).tolist() == sorted(set(values))
    assert margin.line(margin.middles) == pytest.approx(sorted(set(values)))
    u = np.linspace(0, 1, 101)
    assert set(margin.step(u)) <= set(values)
    assert (np.diff(margin.line(u)) >= 0).all()
    assert min(values) <= margin.line(u).min() <= margin.line(u).max() <= max(values)


def test_pairwise_correlation_is_numpys_where_nothing_is_missing():
    X = np.random.default_rng(7).normal(size=(50, 4))
    assert pairwise_correlation(X) == pytest.approx(np.corrcoef(X.T))
    X[:20, 0] = np.nan
    known = X[20:]
    expected = np.corrcoef(known[:, 0], known[:, 1] - X[:, 1].mean() + known[:, 1].mean())
    assert pairwise_correlation(X)[0, 1] == pytest.approx(expected[0, 1], abs=0.05)
    X[:, 2] = 3.0
    assert pairwise_correlation(X)[2].tolist() == [0, 0, 1, 0]


def test_a_correlation_seen_in_steps_is_made_up_for():
    rng = np.random.default_rng(12)
    z = correlated(200_000, 0.6, rng)
    steps = (z[:, 0] > norm.ppf(0.9)).astype(float)
    margin = SortedColumn.of(steps).margin(np.full(len(z), 1 / len(z)))
    assert margin.kept == pytest.approx(norm.pdf(norm.ppf(0.9)) / 0.3, abs=0.01)
    seen = np.corrcoef(steps, z[:, 1])
    assert seen[0, 1] < 0.4
    assert undo_steps(seen, np.array([margin.kept, 1.0]))[0, 1] == pytest.approx(0.6, abs=0.02)
    smooth = SortedColumn.of(z[:1000, 0]).margin(np.full(1000, 1e-3))
    assert smooth.kept == pytest.approx(1, abs=0.01)


def test_shrinkage_follows_its_formula_and_fades_with_rows():
    r, t = np.array([[1, 0.6], [0.6, 1]]), np.array([[1, 0.1], [0.1, 1]])
    part = (1 - 0.36) ** 2 / 9 / 0.25
    assert shrink(r, t, 10)[0, 1] == pytest.approx(part * 0.1 + (1 - part) * 0.6)
    assert shrink(r, t, 2)[0, 1] == 0.1
    assert shrink(r, t, 10**6)[0, 1] == pytest.approx(0.6, abs=1e-5)
    assert (shrink(r, r, 10) == r).all()


def test_the_factor_of_an_impossible_correlation_gives_a_possible_one():
    impossible = np.array([[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]])
    factor = factorise(impossible)
    made = factor @ factor.T
    assert np.diag(made) == pytest.approx(1)
    assert np.linalg.eigvalsh(made).min() > 0
    possible = np.array([[1, 0.5], [0.5, 1]])
    assert factorise(possible) @ factorise(possible).T == pytest.approx(possible)


def test_levels_are_ordered_by_what_they_come_with():
    rng = np.random.default_rng(8)
    pay = rng.normal(size=900)
    ranks = np.clip(np.floor(norm.cdf(pay) * 5), 0, 4).astype(np.int64)
    scrambled = np.array([3, 0, 4, 1, 2])
    codes = scrambled[ranks][:, None]
    (places,) = level_scores(pay[:, None], codes, rng)
    order = np.argsort(places)
    assert order.tolist() in (scrambled.tolist(), scrambled[::-1].tolist())


# Smoothed bootstrap


def test_jitter_keeps_mean_and_covariance():
    rng = np.random.default_rng(9)
    X = correlated(300, 0.7, rng) * [1, 3] + 10
    mean = X.mean(axis=0)
    made = jitter(np.repeat(X, 50, axis=0), mean, X - mean, 0.5, rng)
    assert made.mean(axis=0) == pytest.approx(mean, abs=0.1)
    assert np.cov(made.T, bias=True) == pytest.approx(np.cov(X.T, bias=True), rel=0.05)


def test_bandwidth():
    assert bandwidth_of(100) == pytest.approx(1.0592 * 100**-0.2, rel=1e-4)
    X = np.random.default_rng(0).normal(size=(40, 3))
    copies = SmoothedGenerator(bandwidth=0, random_state=0).fit(X).sample(100)
    assert {tuple(row) for row in copies} <= {tuple(row) for row in X}


def test_flips_at_their_rate():
    X = pd.DataFrame({"id": pd.Categorical(np.arange(500)), "job": ["a", "b"] * 250})
    copies = SmoothedGenerator(flip=0.0, random_state=0).fit(X).sample(300)
    parity = copies["id"].astype(int) % 2
    assert (copies["job"].to_numpy() == np.where(parity, "b", "a")).all()
    mixed = SmoothedGenerator(flip=1.0, random_state=0).fit(X).sample(4000)
    parity = mixed["id"].astype(int) % 2
    assert (mixed["job"].to_numpy() == np.where(parity, "b", "a")).mean() == pytest.approx(
        0.5, abs=0.03
    )


def test_mass_points_stay_and_the_rest_moves():
    rng = np.random.default_rng(10)
    gain = np.where(rng.random(300) < 0.8, 0.0, rng.exponential(1000, 300))
    Z = SmoothedGenerator(random_state=0).fit(gain[:, None]).sample(1000)[:, 0]
    assert (Z == 0).mean() == pytest.approx(0.8, abs=0.08)
    assert not set(Z[Z > 0]) <= set(gain)


# SMOTE


def test_rows_lie_between_a_row_and_a_neighbour():
    X = np.array([[0.0, 0.0], [1.0, 2.0], [10.0, 1.0], [11.0, 3.0]])
    Z = SmoteGenerator(n_neighbors=1, random_state=0).fit(X).sample(200)
    near, far = Z[Z[:, 0] < 5], Z[Z[:, 0] > 5]
    assert near[:, 1] == pytest.approx(2 * near[:, 0])
    assert far[:, 1] == pytest.approx(1 + 2 * (far[:, 0] - 10))
    assert 0 < near[:, 0].min() < 0.2 < 0.8 < near[:, 0].max() < 1


def test_neighbours_never_include_the_row_itself():
    rng = np.random.default_rng(11)
    codes = rng.integers(0, 2, (40, 1))
    rows = Encoded(rng.integers(0, 2, (40, 2)).astype(float), codes)  # many duplicates
    space = embed_rows(rows)
    near = find_neighbours(space, np.arange(40), 3)
    assert near.shape == (40, 3)
    assert not (near == np.arange(40)[:, None]).any()
    assert (rows.numbers[near[:, 0]] == rows.numbers).all()
    assert (codes[near[:, 0]] == codes).all()


def test_the_distance_of_two_categories_is_one_spread():
    numbers = np.array([[-1.0], [1.0], [-1.0], [1.0]])
    space = embed_rows(Encoded(numbers, np.array([[0], [0], [1], [-1]]))).toarray()
    assert np.linalg.norm(space[0] - space[2]) == pytest.approx(1)
    assert np.linalg.norm(space[0] - space[1]) == pytest.approx(2)
    assert np.linalg.norm(space[1] - space[3]) == pytest.approx(np.sqrt(0.5))


def test_smote_needs_two_rows():
    X, y = np.random.default_rng(0).normal(size=(5, 2)), np.array([0, 0, 0, 0, 1])
    with pytest.raises(GroupError, match="has 1 row: SMOTE needs at least two"):
        SmoteGenerator().fit(X, y).sample(1, conditions=[1])
