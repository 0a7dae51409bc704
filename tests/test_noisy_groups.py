"""Bounds of gaps whose groups are recorded with errors."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from sklearn.base import clone

from fairsvd import FairLRFTransformer, fairness_score
from fairsvd.metrics import noisy_gap
from helpers import IGNORE_SMALL_DATA, mlp, table, trained

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]

RATES = ("demographic_parity", "equal_opportunity", "accuracy_parity")


def draw(seed, n=200, n_groups=2, n_classes=2):
    rng = np.random.default_rng(seed)
    y, group = rng.integers(n_classes, size=n), rng.integers(n_groups, size=n)
    return y, np.where(rng.random(n) < 0.25 + 0.2 * group, (y + 1) % n_classes, y), group


def flipped(group, y, rate, rng, n_groups):
    """Move at most a share of the rows of every group and label to other groups."""
    true = group.copy()
    for cell in product(range(n_groups), range(y.max() + 1)):
        rows = np.flatnonzero((group == cell[0]) & (y == cell[1]))
        moved = rng.choice(rows, size=rng.integers(int(rate * len(rows)) + 1), replace=False)
        true[moved] = (cell[0] + rng.integers(1, n_groups, size=len(moved))) % n_groups
    return true


@pytest.mark.parametrize("name", [*RATES, "equalized_odds", "average_odds"])
@pytest.mark.parametrize(("n_groups", "n_classes"), [(2, 2), (3, 2), (2, 3)])
def test_no_true_groups_have_a_gap_outside(name, n_groups, n_classes):
    rng = np.random.default_rng(5)
    for seed in range(5):
        y, predicted, group = draw(seed, n_groups=n_groups, n_classes=n_classes)
        found = noisy_gap(name, y, predicted, sensitive_features=group, flip_rate=0.15)
        for _ in range(20):
            true = flipped(group, y, 0.15, rng, n_groups)
            gap = fairness_score(f"{name}_difference", y, predicted, sensitive_features=true)
            assert found.low - 1e-12 <= gap <= found.high + 1e-12


@pytest.mark.parametrize("name", RATES)
def test_for_two_groups_and_one_rate_both_ends_are_reached(name):
    """All true groups of a small table, in which a quarter of a cell is one row."""
    y = np.repeat([1, 0], 8)
    group = np.tile(np.repeat([0, 1], 4), 2)
    # A gap so large that flips do not close it: closed, it would jump over 0 row by row.
    favoured, other = ([1, 0, 0, 0], [1, 1, 1, 0])
    if name == "demographic_parity":
        favoured, other = other, [0, 0, 0, 1]
    predicted = np.array([1, 1, 1, 1, 1, 0, 0, 0, *favoured, *other])
    found = noisy_gap(name, y, predicted, sensitive_features=group, flip_rate=0.25)
    cells = [np.flatnonzero((y == k) & (group == g)) for k, g in product((0, 1), (0, 1))]
    gaps = []
    for moved in product(*([None, *cell] for cell in cells)):
        true = group.copy()
        chosen = [row for row in moved if row is not None]
        true[chosen] = 1 - true[chosen]
        gaps.append(fairness_score(f"{name}_difference", y, predicted, sensitive_features=true))
    assert np.isclose(max(gaps), found.high) and np.isclose(min(gaps), found.low)


def test_without_flips_it_is_the_gap_and_more_flips_widen_it():
    y, predicted, group = draw(0)
    found = [
        noisy_gap("equalized_odds", y, predicted, sensitive_features=group, flip_rate=rate)
        for rate in (0.0, 0.05, 0.2, 0.5)
    ]
    assert np.allclose(found[0], found[0].measured)
    assert all(a.low >= b.low and a.high <= b.high for a, b in combinations(found, 2))
    assert found[-1].low == 0


def test_weights_count_as_repeated_rows():
    y, predicted, group = draw(1)
    times = np.random.default_rng(0).integers(1, 4, size=200)
    columns = (np.repeat(each, times) for each in (y, predicted))
    weighted = noisy_gap(
        "average_odds", y, predicted, sensitive_features=group, flip_rate=0.1, sample_weight=times
    )
    repeated = noisy_gap(
        "average_odds", *columns, sensitive_features=np.repeat(group, times), flip_rate=0.1
    )
    assert np.allclose(weighted, repeated)


def test_what_cannot_be_bounded():
    y, predicted, group = draw(0)
    with pytest.raises(ValueError, match="name='signed_average_odds': wanted one of"):
        noisy_gap("signed_average_odds", y, predicted, sensitive_features=group, flip_rate=0.1)
    with pytest.raises(ValueError, match=r"flip_rate=1\.0: wanted a share"):
        noisy_gap("equal_opportunity", y, predicted, sensitive_features=group, flip_rate=1.0)
    with pytest.raises(ValueError, match="flip_rate"):
        noisy_gap("equal_opportunity", y, predicted, sensitive_features=group, flip_rate=-0.1)
    alone = noisy_gap(
        "equal_opportunity", [1, 1, 0], [1, 0, 1], sensitive_features=[0, 0, 1], flip_rate=0.1
    )
    assert np.isnan(alone).all()


def test_the_report_says_that_groups_are_a_proxy():
    rows = table(240)
    editor = FairLRFTransformer(
        trained(mlp(), rows), criterion="magnitude", sparsity=0.1, refine=None, random_state=0
    )
    plain, proxy = (
        clone(editor).set_params(flip_rate=rate).fit(rows.X, rows.y, sensitive_features=rows.group)
        for rate in (None, 0.1)
    )
    assert plain.history_.equals(proxy.history_)
    assert "true_low" not in plain.report_.gaps and "true_high" in proxy.report_.gaps
    gaps = proxy.report_.gaps.drop(index="signed_average_odds")
    assert (gaps["true_low"] <= gaps["after"]).all() and (gaps["true_high"] > gaps["after"]).all()
    (note,) = (n for n in proxy.report_.notes if "a proxy" in n)
    assert f"{gaps.loc['equalized_odds', 'true_high']:.3f} here" in note
    assert not any("a proxy" in n for n in plain.report_.notes)
