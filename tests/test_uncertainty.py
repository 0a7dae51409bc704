"""Bounds of gaps and noise floors against direct simulation and the formulas of large samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmark_files import load
from fairsvd.objective import GAPS, count_table, estimate_gaps, gap, resampled_counts

# Rows in [group, true, predicted]: a gap of 0.3 in the TPR and 0.15 in the FPR.
BIASED = np.array([[[600, 150], [100, 400]], [[630, 70], [150, 150]]])


def estimate(counts, name, pos=1, seed=0, **options):
    return estimate_gaps(counts, [name], pos, np.random.default_rng(seed), **options)[name]


def two_groups(hits, n=1000):
    """Rows of which so many are selected in each group, as many of either label."""
    return np.array([[[(n - k) // 2, k // 2]] * 2 for k in hits])


@pytest.mark.parametrize(("errors", "excludes_0"), [(1.85, False), (2.1, True)])
def test_the_interval_leaves_0_where_equal_groups_rarely_show_such_a_gap(errors, excludes_0):
    """Two equal groups show a gap above 1.96 standard errors in 5 % of all tables."""
    error = np.sqrt(2 * 0.5 * 0.5 / 10_000)
    gap_ = round(errors * error * 10_000 / 2) * 2
    counts = two_groups([5000 - gap_ // 2, 5000 + gap_ // 2], 10_000)
    found = estimate(counts, "demographic_parity", n_draws=20_000)
    assert (found.low > 0) == excludes_0
    assert found.low < found.high <= found.upper + 2 * error


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_far_from_0_both_bounds_are_those_of_a_normal_distribution(level):
    counts = two_groups([2000, 3000], 5000)
    error = np.sqrt((0.4 * 0.6 + 0.6 * 0.4) / 5000)
    found = estimate(counts, "demographic_parity", level=level, n_draws=20_000)
    z = stats.norm.isf([(1 - level) / 2, 1 - level])
    assert found.low == pytest.approx(0.2 - z[0] * error, abs=0.1 * error)
    assert found.high == pytest.approx(0.2 + z[0] * error, abs=0.1 * error)
    assert found.upper == pytest.approx(0.2 + z[1] * error, abs=0.1 * error)


@pytest.mark.parametrize("n", [60, 600])
def test_no_difference_seen_is_not_no_difference(n):
    """Three errors in n rows are as likely as not to be missed (the rule of three)."""
    nobody = two_groups([0, 0], n)
    found = estimate(nobody, "demographic_parity")
    assert found.low == found.noise_floor == 0
    assert found.upper == pytest.approx(3 / n, rel=0.35)


def test_many_equal_groups_show_a_gap_that_the_interval_discounts():
    """Ten groups of 40 rows with equal rates: the measured gap is noise, and biased."""
    rng = np.random.default_rng(0)
    hits = rng.binomial(20, 0.5, size=(10, 2))
    counts = np.stack([20 - hits, hits], axis=-1)
    found = estimate(counts, "demographic_parity")
    assert gap(counts, "demographic_parity", 1) == pytest.approx(0.35)
    assert found.low == 0
    assert found.noise_floor == pytest.approx(3.08 * 0.5 / np.sqrt(40), rel=0.05)  # Tippett's 3.08
    drawn = gap(resampled_counts(counts, rng), "demographic_parity", 1)
    assert np.quantile(drawn, 0.025) > 0.1  # the percentile bootstrap excludes the truth


@pytest.mark.parametrize(
    ("case", "percentile"),
    [
        (("demographic_parity", "one", 2, 200, 0.0), 0.0),
        (("equalized_odds", "even", 5, 200, 0.2), 0.7),
    ],
)
def test_the_interval_covers_the_truth_as_often_as_it_says(case, percentile):
    """A small form of benchmarks/coverage.py: of 60 tables 57 are expected to be covered."""
    coverage = load("coverage")
    found = coverage.check(coverage.Case(*case), 60, n_draws=300)
    assert 54 <= round(60 * found["covered"]) <= 60
    assert found["bound holds"] >= 0.9
    assert found["percentile covered"] <= percentile


def test_every_case_of_the_coverage_benchmark_has_the_gap_it_says():
    coverage = load("coverage")
    for case in coverage.cases():
        rates = case.rates()
        spreads = np.ptp(rates, axis=0)
        assert ((rates > 0) & (rates < 1)).all()
        assert spreads.max() == pytest.approx(case.gap)
        counts = coverage.draw_tables(case, 2, np.random.default_rng(0))
        assert counts.shape == (2, case.n_groups, 2, 2)
        assert (counts.sum(axis=(1, 2, 3)) == case.n_rows).all()


def test_the_interval_narrows_with_rows_and_widens_with_the_level():
    def width(counts, level=0.95):
        found = estimate(counts, "equal_opportunity", level=level)
        return found.high - found.low

    assert width(BIASED * 100) == pytest.approx(width(BIASED) / 10, rel=0.1)
    assert width(BIASED, 0.5) < width(BIASED, 0.9) < width(BIASED, 0.99)


def perfectly_equal(counts, name, rng, n_draws):
    """Mean gap of predictions that are drawn row by row, alike for all groups."""
    group, true = (
        np.repeat(code.ravel(), counts.sum(axis=2).ravel()) for code in np.indices(counts.shape[:2])
    )
    n_classes = counts.shape[-1]
    pooled = counts.sum(axis=0)
    if name == "demographic_parity":
        pooled = np.broadcast_to(pooled.sum(axis=0), pooled.shape)
    edges = np.cumsum(pooled / pooled.sum(axis=1, keepdims=True), axis=1)[true]
    right = np.trace(counts, axis1=1, axis2=2).sum() / counts.sum()
    gaps = []
    for _ in range(n_draws):
        draws = rng.random(len(true))
        predicted = (draws[:, None] > edges[:, :-1]).sum(axis=1)
        if name == "accuracy_parity":
            predicted = np.where(draws < right, true, (true + 1) % n_classes)
        table = count_table(true, predicted, group, n_classes, len(counts))
        gaps.append(float(gap(table, name, 1)))
    return np.mean(gaps), np.std(gaps) / np.sqrt(n_draws)


THREE = np.random.default_rng(5).integers(5, 60, size=(3, 3, 3))


@pytest.mark.parametrize("counts", [BIASED, BIASED // 10, THREE], ids=["large", "small", "three"])
@pytest.mark.parametrize("name", GAPS)
def test_the_floor_is_what_an_equal_classifier_shows(name, counts):
    rng = np.random.default_rng(2)
    expected, error = perfectly_equal(counts, name, rng, 400)
    floor = estimate(counts, name, n_draws=4000).noise_floor
    assert floor == pytest.approx(expected, abs=5 * error)
    assert floor > 0.005


def test_the_floor_of_two_groups_is_known_in_closed_form():
    """A difference of two rates of variance p(1-p)/n: its absolute mean is sqrt(2/pi) sd."""
    counts = np.zeros((2, 2, 2), dtype=np.int64)
    counts[:, 1] = [[1200, 2800], [300, 700]]  # TPR .7 on 4,000 and on 1,000 rows
    counts[:, 0] = [[500, 500], [500, 500]]
    wanted = np.sqrt(2 / np.pi) * np.sqrt(0.7 * 0.3 * (1 / 4000 + 1 / 1000))
    floor = estimate(counts, "equal_opportunity", n_draws=20_000).noise_floor
    assert floor == pytest.approx(wanted, rel=0.03)
    assert wanted == pytest.approx(0.0129, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "hits", "n"),
    [
        ("accuracy_parity", [9200, 50], [10_000, 500]),
        ("equal_opportunity", [4700, 50], [5000, 250]),
        # Those selected, who are neither as many as the positive rows nor as those that are right.
        ("demographic_parity", [5200, 250], [10_000, 500]),
        ("demographic_parity", [9800, 100], [10_000, 500]),
    ],
)
def test_the_rate_that_all_groups_share_is_that_of_all_rows_together(name, hits, n):
    """A large group and a small one whose rates differ: not the mean of both rates."""
    table = [[[4500, 500], [300, 4700]], [[0, 250], [200, 50]]]
    if hits == [9800, 100]:
        table = [[[100, 4900], [100, 4900]], [[200, 50], [200, 50]]]
    elif name == "demographic_parity":
        table[1] = [[125, 125], [125, 125]]
    p, n = sum(hits) / sum(n), np.array(n)
    wanted = np.sqrt(2 / np.pi * p * (1 - p) * (1 / n).sum())
    floor = estimate(np.array(table), name, n_draws=20_000).noise_floor
    assert floor == pytest.approx(wanted, rel=0.03)


def test_a_cell_of_one_row_widens_the_interval_and_does_not_narrow_it():
    counts = BIASED.copy()
    counts[1, 1] = [0, 1]
    drawn = gap(resampled_counts(counts, np.random.default_rng(4), 1000), "equal_opportunity", 1)
    assert 0.3 < np.isnan(drawn).mean() < 0.45  # draws that miss the row
    found = estimate(counts, "equal_opportunity")
    assert found.low == 0
    assert found.high > 0.7


def test_all_gaps_at_once_are_the_same_as_one_by_one():
    every = estimate_gaps(BIASED, GAPS, 1, np.random.default_rng(3))
    assert list(every) == list(GAPS)
    assert every["equalized_odds"] == estimate(BIASED, "equalized_odds", seed=3)
    assert every["equalized_odds"] == estimate(
        BIASED, "equalized_odds", seed=3, level=0.95, n_draws=1000
    )


def test_many_classes_take_little_time_and_few_of_the_chunks():
    """The draws of a table of 30 classes are made in parts; the parts add up."""
    rng = np.random.default_rng(0)
    y, g = rng.integers(30, size=900), rng.integers(2, size=900)
    predicted = np.where(rng.random(900) < 0.6, y, rng.integers(30, size=900))
    counts = count_table(y, predicted, g, 30, 2)
    found = estimate(counts, "equalized_odds", pos=None, n_draws=300)
    assert found.low == 0
    assert 0.05 < found.noise_floor < 0.4
    assert found.high > 0.01


def test_resampled_tables_hold_as_many_rows_and_the_cells_own_shares():
    drawn = resampled_counts(BIASED, np.random.default_rng(0), 4000)
    assert drawn.shape == (4000, 2, 2, 2)
    assert (drawn.sum(axis=(1, 2, 3)) == BIASED.sum()).all()
    share = BIASED / BIASED.sum()
    error = np.sqrt(BIASED.sum() * share * (1 - share) / 4000)
    assert (np.abs(drawn.mean(axis=0) - BIASED) < 5 * error).all()


def test_the_floor_shrinks_with_the_root_of_the_rows():
    floors = [estimate(BIASED * k, "equalized_odds", n_draws=4000).noise_floor for k in (1, 16)]
    assert floors[0] / floors[1] == pytest.approx(4, rel=0.1)


@settings(max_examples=25)
@given(st.integers(0, 99), st.sampled_from(GAPS), st.integers(2, 4), st.integers(2, 4))
def test_both_are_deterministic_and_in_range(seed, name, n_groups, n_classes):
    counts = np.random.default_rng(seed).integers(1, 9, size=(n_groups, n_classes, n_classes))

    found = estimate(counts, name, seed=seed, n_draws=20)
    assert 0 <= found.low <= found.high <= 1
    assert 0 <= found.upper <= found.high
    assert 0 <= found.noise_floor <= 1
    assert found == estimate(counts, name, seed=seed, n_draws=20)


def test_a_class_of_one_group_is_no_reason_to_know_more_of_the_others():
    """The class that both groups have shows no noise; those that do are not compared."""
    counts = np.zeros((2, 3, 3), dtype=int)
    counts[0, 0], counts[:, 1, 1], counts[1, 2] = [3, 2, 0], 6, [0, 1, 4]
    found = estimate(counts, "equal_opportunity", None)
    # As for the common class alone.
    alone = estimate(
        counts[:, 1:2, 1:2].repeat(2, 1).repeat(2, 2) * np.eye(2, dtype=int), "equal_opportunity"
    )
    assert found.low == alone.low == 0
    assert (found.upper, found.high) == pytest.approx((alone.upper, alone.high), abs=0.05)


def test_a_gap_that_cannot_be_measured_has_no_interval_and_no_floor():
    counts = BIASED.copy()
    counts[1, 1] = 0  # no positive row in the second group
    assert np.isnan(gap(counts, "equal_opportunity", 1))
    assert np.isnan(estimate(counts, "equal_opportunity")).all()
    # Equalized odds has the false positive rate left.
    found = estimate(counts, "equalized_odds")
    assert 0 < found.noise_floor < 0.1
    assert np.isfinite(found).all()
    assert np.isnan(estimate(np.zeros_like(counts), "equalized_odds")).all()


@pytest.mark.parametrize("name", GAPS)
def test_an_empty_group_is_left_out(name):
    counts = np.concatenate([BIASED, np.zeros((1, 2, 2), dtype=np.int64)])
    alone, beside = (estimate(c, name, n_draws=5000) for c in (BIASED, counts))
    np.testing.assert_allclose(alone[:3], beside[:3], atol=0.01)
    assert alone.noise_floor == pytest.approx(beside.noise_floor, rel=0.1)


@pytest.mark.parametrize("rows", [40, 100, 400])
def test_groups_that_show_no_gap_leave_room_for_one(rows):
    counts = np.array([[[0, 0], [rows // 2, rows // 2]]] * 2)
    found = estimate_gaps(counts, ["equal_opportunity"], 1, np.random.default_rng(0))
    error = np.sqrt(2 * 0.25 / rows)
    assert found["equal_opportunity"].low == 0
    assert found["equal_opportunity"].high > 0.5 * error
    assert found["equal_opportunity"].upper > 0.5 * error
