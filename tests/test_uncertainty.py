"""Bootstrap intervals and noise floors against direct simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairsvd.objective import (
    GAPS,
    count_table,
    gap,
    gap_interval,
    noise_floor,
    resampled_counts,
)

# Rows in [group, true, predicted]: a gap of 0.3 in the TPR and 0.15 in the FPR.
BIASED = np.array([[[600, 150], [100, 400]], [[630, 70], [150, 150]]])


def resampled(counts, rng):
    """Rows of the table drawn with replacement, one by one."""
    rows = np.repeat(np.arange(counts.size), counts.ravel())
    drawn = np.bincount(rng.choice(rows, size=len(rows)), minlength=counts.size)
    return drawn.reshape(counts.shape)


@pytest.mark.parametrize("name", GAPS)
def test_the_interval_is_that_of_rows_drawn_with_replacement(name):
    rng = np.random.default_rng(0)
    gaps = [float(gap(resampled(BIASED, rng), name, 1)) for _ in range(1500)]
    low, high = gap_interval(BIASED, name, 1, rng, n_draws=4000)
    expected = np.quantile(gaps, [0.025, 0.975])
    np.testing.assert_allclose([low, high], expected, atol=0.012)
    assert low < float(gap(BIASED, name, 1)) < high
    assert high - low > 0.03  # narrower ones would agree with each other at that precision


@pytest.mark.parametrize("name", ["demographic_parity", "equal_opportunity", "equalized_odds"])
def test_the_interval_covers_the_truth_as_often_as_it_says(name):
    """The truth is known: tables are drawn from fixed probabilities."""
    truth = float(gap(BIASED, name, 1))
    rng = np.random.default_rng(1)
    total, p = BIASED.sum(), BIASED.ravel() / BIASED.sum()
    n_tables, covered = 250, {0.95: 0, 0.5: 0}
    for _ in range(n_tables):
        counts = rng.multinomial(total, p).reshape(BIASED.shape)
        for level in covered:
            low, high = gap_interval(counts, name, 1, rng, level=level, n_draws=300)
            covered[level] += low <= truth <= high
    for level, times in covered.items():
        slack = 4 * np.sqrt(level * (1 - level) / n_tables)
        assert abs(times / n_tables - level) < slack


def test_the_interval_narrows_with_rows_and_widens_with_the_level():
    def width(counts, level=0.95):
        low, high = gap_interval(
            counts, "equal_opportunity", 1, np.random.default_rng(0), level=level
        )
        return high - low

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
    floor = noise_floor(counts, name, 1, rng, n_draws=4000)
    assert floor == pytest.approx(expected, abs=5 * error)
    assert floor > 0.005


def test_the_floor_of_two_groups_is_known_in_closed_form():
    """A difference of two rates of variance p(1-p)/n: its absolute mean is sqrt(2/pi) sd."""
    counts = np.zeros((2, 2, 2), dtype=np.int64)
    counts[:, 1] = [[1200, 2800], [300, 700]]  # TPR .7 on 4,000 and on 1,000 rows
    counts[:, 0] = [[500, 500], [500, 500]]
    wanted = np.sqrt(2 / np.pi) * np.sqrt(0.7 * 0.3 * (1 / 4000 + 1 / 1000))
    floor = noise_floor(counts, "equal_opportunity", 1, np.random.default_rng(0), n_draws=20_000)
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
    floor = noise_floor(np.array(table), name, 1, np.random.default_rng(0), n_draws=20_000)
    assert floor == pytest.approx(wanted, rel=0.03)


def test_draws_without_the_rows_of_a_gap_are_left_out():
    """A group has one positive row, which more than a third of the draws miss."""
    counts = BIASED.copy()
    counts[1, 1] = [0, 1]
    drawn = gap(resampled_counts(counts, np.random.default_rng(4), 1000), "equal_opportunity", 1)
    assert 0.3 < np.isnan(drawn).mean() < 0.45
    found = gap_interval(counts, "equal_opportunity", 1, np.random.default_rng(4))
    assert found == pytest.approx(np.quantile(drawn[~np.isnan(drawn)], [0.025, 0.975]))


def test_the_defaults_are_95_percent_and_a_thousand_draws():
    def both(**options):
        rng = np.random.default_rng(3)
        interval = gap_interval(BIASED, "equalized_odds", 1, rng, **options)
        options.pop("level", None)
        return *interval, noise_floor(BIASED, "equalized_odds", 1, rng, **options)

    assert both() == both(level=0.95, n_draws=1000)
    gaps = gap(resampled_counts(BIASED, np.random.default_rng(3)), "equalized_odds", 1)
    assert gaps.shape == (1000,)
    assert both()[:2] == pytest.approx(np.quantile(gaps, [0.025, 0.975]))


def test_resampled_tables_hold_as_many_rows_and_the_cells_own_shares():
    drawn = resampled_counts(BIASED, np.random.default_rng(0), 4000)
    assert drawn.shape == (4000, 2, 2, 2)
    assert (drawn.sum(axis=(1, 2, 3)) == BIASED.sum()).all()
    share = BIASED / BIASED.sum()
    error = np.sqrt(BIASED.sum() * share * (1 - share) / 4000)
    assert (np.abs(drawn.mean(axis=0) - BIASED) < 5 * error).all()


def test_the_floor_shrinks_with_the_root_of_the_rows():
    floors = [
        noise_floor(BIASED * k, "equalized_odds", 1, np.random.default_rng(0), n_draws=4000)
        for k in (1, 16)
    ]
    assert floors[0] / floors[1] == pytest.approx(4, rel=0.1)


@given(st.integers(0, 99), st.sampled_from(GAPS), st.integers(2, 4), st.integers(2, 4))
def test_both_are_deterministic_and_in_range(seed, name, n_groups, n_classes):
    counts = np.random.default_rng(seed).integers(1, 9, size=(n_groups, n_classes, n_classes))

    def both():
        rng = np.random.default_rng(seed)
        low, high = gap_interval(counts, name, 1, rng, n_draws=20)
        return low, high, noise_floor(counts, name, 1, rng, n_draws=20)

    low, high, floor = both()
    assert 0 <= low <= high <= 1
    assert 0 <= floor <= 1
    assert both() == (low, high, floor)


def test_a_gap_that_cannot_be_measured_has_no_interval_and_no_floor():
    counts = BIASED.copy()
    counts[1, 1] = 0  # no positive row in the second group
    rng = np.random.default_rng(0)
    assert np.isnan(gap(counts, "equal_opportunity", 1))
    assert np.isnan(gap_interval(counts, "equal_opportunity", 1, rng)).all()
    assert np.isnan(noise_floor(counts, "equal_opportunity", 1, rng))
    # Equalized odds has the false positive rate left.
    assert 0 < noise_floor(counts, "equalized_odds", 1, rng) < 0.1
    assert np.isfinite(gap_interval(counts, "equalized_odds", 1, rng)).all()


def test_an_empty_group_is_left_out():
    counts = np.concatenate([BIASED, np.zeros((1, 2, 2), dtype=np.int64)])
    for name in GAPS:
        alone, beside = (
            (
                gap_interval(c, name, 1, np.random.default_rng(0), n_draws=5000),
                noise_floor(c, name, 1, np.random.default_rng(0), n_draws=5000),
            )
            for c in (BIASED, counts)
        )
        np.testing.assert_allclose(alone[0], beside[0], atol=0.01)
        assert alone[1] == pytest.approx(beside[1], rel=0.1)
