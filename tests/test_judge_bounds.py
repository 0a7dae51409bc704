"""The judge at its limits: exactly the tolerance, exactly the floor, a hair beyond either."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fairsvd.objective import Constraint, Curves, GapJudge, Verdict
from fairsvd.phases import judge_steadily

CONSTRAINT = Constraint("equal_opportunity", 0.25, 0.5, "balanced_accuracy", None, 1, "classes")
NOBODY = np.zeros(0, dtype=np.int64)
# The limit is .25 and the target .125; both are numbers that floats can hold.
JUDGE = GapJudge(NOBODY, NOBODY, NOBODY, 2, 2, CONSTRAINT, floor=0.625)


def curves(*cuts):
    """Thresholds that fall from the first cut to the last; each is (utility, gap)."""
    thresholds = np.arange(len(cuts), 0, -1, dtype=np.float64)
    return Curves(thresholds, *np.array(cuts, dtype=np.float64).T)


def judged(margins, y, groups, parts=None, *, n_groups=2, **changes):
    y, groups = np.asarray(y), np.asarray(groups)
    parts = np.zeros_like(y) if parts is None else parts
    judge = GapJudge(y, groups, parts, 2, n_groups, replace(CONSTRAINT, **changes))
    margins = torch.as_tensor(np.asarray(margins, dtype=np.float64))
    return judge, torch.stack([torch.zeros_like(margins), margins], dim=1)


def test_the_tolerance_and_the_floor_themselves_are_allowed():
    assert JUDGE(curves((0.625, 0.25))) == Verdict(1.0, 0.625, 0.25, True, 0.5)


def test_a_hair_beyond_the_tolerance_is_beyond_it():
    verdict = JUDGE(curves((0.75, np.nextafter(0.25, 1))))
    assert not verdict.feasible
    assert verdict.value == pytest.approx(0.75 - 0.125)


def test_a_hair_below_the_floor_cannot_win():
    below = np.nextafter(0.625, 0)
    for gap in (0.0, 0.5):
        assert JUDGE(curves((below, gap))).rank == (False, -np.inf)
    # Beside one that is on the floor it is not even looked at, however small its gap.
    assert JUDGE(curves((below, 0.0), (0.625, 0.5))) == Verdict(1.0, 0.625, 0.5, False, 0.25)


def test_up_to_the_target_a_gap_costs_nothing():
    for gap in (0.0, 0.0625, 0.125):
        assert JUDGE(curves((0.75, gap))).value == 0.75
    assert JUDGE(curves((0.75, 0.1875))).value == 0.75 - 0.0625
    assert JUDGE(curves((0.75, 0.5))).value == 0.75 - 0.375


def test_the_limit_of_a_call_is_its_target_too():
    cuts = curves((0.875, 0.5), (0.75, 0.25), (0.625, 0.0))
    assert JUDGE(cuts, 0.5) == Verdict(3.0, 0.875, 0.5, True, 0.875)
    assert JUDGE(cuts, 0.25) == Verdict(2.0, 0.75, 0.25, True, 0.75)
    assert JUDGE(cuts, 0.2) == Verdict(1.0, 0.625, 0.0, True, 0.625)


def test_of_equal_values_the_highest_threshold_wins():
    assert JUDGE(curves((0.75, 0.0), (0.75, 0.125), (0.75, 0.0625))).margin == 3.0
    assert JUDGE(curves((0.625, 0.0), (0.75, 0.25), (0.625, 0.125))).margin == 3.0


def test_a_threshold_within_the_limit_beats_better_ones_beyond_it():
    assert JUDGE(curves((1.0, 0.26), (0.625, 0.25))) == Verdict(1.0, 0.625, 0.25, True, 0.5)


def test_a_gap_that_cannot_be_measured_is_never_within_the_limit():
    judge, logits = judged([2.0, -1.0, -2.0], [1, 0, 0], [0, 0, 1])
    verdict = judge(logits)  # no positive row in the second group
    assert (verdict.feasible, verdict.gap) == (False, np.inf)
    assert judge.for_utility(logits).utility == 1.0
    apart = replace(judge, held_apart=True)
    assert apart(logits).gap == np.inf


def test_of_two_sets_that_are_judged_apart_one_may_lack_the_rows_of_a_gap():
    """Validation rows have a TPR for one group only; the editing rows' gap is 1."""
    judge, logits = judged(
        [1, -1, 1, -1, -1],
        [1, 0, 1, 1, 0],
        [0, 1, 0, 1, 0],
        np.array([0, 0, 1, 1, 1]),
        threshold=0.5,
    )
    assert replace(judge, held_apart=True)(logits).gap == 1.0


@pytest.mark.parametrize(("right", "apart"), [(849, False), (851, True)])
def test_judged_apart_from_a_twentieth_of_over_fitting_on(right, apart):
    """Validation: 25 rows a cell, right 25 times in one group and 15 times in the other: .8."""
    cells = [(0, 0, 25), (0, 1, 15)], [(1, 0, right), (1, 1, right)]
    parts, groups, y, correct = [], [], [], []
    for part, group, hits in cells[0] + cells[1]:
        size = 25 if part == 0 else 1000
        for label in (0, 1):
            parts += [part] * size
            groups += [group] * size
            y += [label] * size
            correct += [True] * hits + [False] * (size - hits)
    y = np.array(y)
    margins = np.where(correct, 2.0 * y - 1, 1 - 2.0 * y)
    judge, logits = judged(margins, y, groups, np.array(parts), threshold=0.5)
    verdict = judge(logits)
    assert verdict.gap == pytest.approx(0.4 if apart else 10 / 1025)
    mixed = (40 + 2 * right) / 2050
    assert verdict.utility == pytest.approx(0.8 if apart else mixed)


def test_exactly_a_twentieth_is_not_yet_over_fitted():
    """Wrong on every validation row and right on 5 of 100 editing rows: judged together."""
    y = np.repeat([0, 1, 0, 1], [20, 20, 100, 100])
    parts = np.repeat([0, 1], [40, 200])
    right = (parts == 1) & (np.arange(240) % 20 == 0)
    margins = np.where(right, 2.0 * y - 1, 1 - 2.0 * y)
    doubled = [np.tile(each, 2) for each in (margins, y, parts)]
    judge, logits = judged(*doubled[:2], np.repeat([0, 1], 240), doubled[2], threshold=0.5)
    assert judge.can_tell
    assert judge.excess(logits.numpy(), 0.0) == 0.05
    assert judge(logits).utility == 5 / 120


@pytest.mark.parametrize(
    "utility",
    [
        "balanced_accuracy",
        "accuracy",
        "cell_balanced_accuracy",
        "worst_cell_accuracy",
        "mean_and_worst_cell_accuracy",
    ],
)
def test_over_fitting_is_measured_as_the_utility_weighs_rows(utility):
    """A cell of 20 among cells of 180 is right on editing rows only: a quarter of all cells."""
    y = np.tile(np.repeat([0, 1, 0, 1], [180, 180, 180, 20]), 2)
    groups = np.tile(np.repeat([0, 0, 1, 1], [180, 180, 180, 20]), 2)
    parts = np.repeat([0, 1], 560)
    wrong = (parts == 0) & (groups == 1) & (y == 1)
    margins = np.where(wrong, -1.0, 2.0 * y - 1)
    judge, logits = judged(margins, y, groups, parts, threshold=0.5, utility=utility)
    excess = judge.excess(logits.numpy(), 0.0)
    assert excess == pytest.approx(1 / 4 if "cell" in utility else 20 / 200 / 2)
    assert judge.excess(logits.numpy(), 0.0, "balanced_accuracy") == pytest.approx(0.05)
    assert judge.excess(logits.numpy(), -2.0) == 0  # everybody positive
    turned = replace(judge, parts=1 - parts)
    assert turned.excess(logits.numpy(), 0.0) == pytest.approx(-excess)


def test_the_floor_is_set_on_the_rows_that_utility_is_taken_on():
    """Apart: validation rows alone, three of four right; together: seven of eight."""
    y = np.array([0, 0, 1, 1, 0, 0, 0, 1])
    right = np.array([1, 1, 1, 0, 1, 1, 1, 1], dtype=bool)
    parts = np.repeat([0, 1], 4)
    margins = np.where(right, 2 * y - 1, 1 - 2 * y)
    judge, logits = judged(margins, y, [0] * 8, parts, n_groups=1, utility="accuracy")
    judge = replace(judge, constraint=replace(judge.constraint, threshold=0.5))
    # One class for everybody is right for five of eight, and for two of four.
    assert judge.against(logits).floor == (5 / 8 + 7 / 8) / 2
    assert replace(judge, held_apart=True).against(logits).floor == (2 / 4 + 3 / 4) / 2


def test_below_the_floor_the_best_threshold_is_kept_and_counts_for_nothing():
    assert JUDGE(curves((0.25, 0.0), (0.5, 0.0), (0.375, 0.0))) == Verdict(
        2.0, 0.5, 0.0, False, -np.inf
    )


def test_one_group_alone_is_never_judged_apart():
    """Wrong on every validation row, right on every editing row."""
    y, parts = np.tile([0, 1], 60), np.repeat([0, 1], 60)
    margins = np.where(parts == 1, 2.0 * y - 1, 1 - 2.0 * y)
    judge, logits = judged(margins, y, [0] * 120, parts, n_groups=1, threshold=0.5)
    assert not judge.comparable
    assert (judge(logits).utility, judge(logits).gap) == (0.5, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_earn_nothing_at_all(bad):
    judge, logits = judged([bad, 1.0, -1.0, 1.0], [0, 1, 0, 1], [0, 0, 1, 1])
    assert judge(logits) == Verdict(0.0, -np.inf, np.inf, False, -np.inf)
    assert judge.for_utility(logits).utility == -np.inf


def test_far_margins_are_told_apart():
    judge, logits = judged([-25, -20, 20, 25], [0, 0, 0, 1], [0, 1, 0, 1], utility="accuracy")
    verdict = judge.for_utility(logits)
    assert (verdict.margin, verdict.utility) == (22.5, 1.0)


def test_a_callable_utility_is_given_labels_then_predictions():
    """The share of positive labels that were found, which is not that of right predictions."""

    def found(y_true, y_pred):
        return float((y_pred[y_true == 1] == 1).mean())

    judge, logits = judged([1, 1, 1, -1], [1, 0, 0, 1], [0, 1, 0, 1], utility=found, threshold=0.5)
    assert judge.for_utility(logits).utility == 0.5


def test_a_callable_utility_is_asked_at_every_hundredth_of_the_margins():
    """Of 101 margins each is a quantile: the one that leaves 37 rows above it is found."""
    asked = []

    def wants_37(y_true, y_pred):
        asked.append(int(y_pred.sum()))
        return float(y_pred.sum() == 37)

    judge, logits = judged(np.arange(101) / 10, np.arange(101) % 2, [0] * 101, utility=wants_37)
    verdict = judge.for_utility(logits)
    assert (verdict.margin, verdict.utility) == (pytest.approx(6.3), 1.0)
    assert len(asked) == 101


def test_noise_is_that_of_a_difference_of_rates_on_the_smallest_validation_cell():
    """Cells of 8, 2, 4 and 2 validation rows; the editing rows count for nothing."""
    y, groups = np.repeat([0, 0, 1, 1], [8, 2, 4, 2]), np.repeat([0, 1, 0, 1], [8, 2, 4, 2])
    held, _ = judged(np.zeros(16), y, groups)
    assert held.noise == pytest.approx(np.sqrt(0.25 / 2 + 0.25 / 2))
    parts = np.r_[np.zeros(16, dtype=np.int64), 1]
    both, _ = judged(np.zeros(17), np.r_[y, 1], np.r_[groups, 1], parts)
    assert both.noise == held.noise


def test_a_row_exactly_at_the_threshold_is_not_above_it_where_the_fit_is_measured():
    """The editing row of label 1 has the margin 1: found below that threshold, and not at it."""
    parts = np.array([0, 0, 1, 1])
    judge, logits = judged([0.0, 0.0, 0.0, 1.0], [0, 1, 0, 1], [0, 0, 0, 0], parts)
    assert judge.excess(logits.numpy(), 0.5, "balanced_accuracy") == 0.5
    assert judge.excess(logits.numpy(), 1.0, "balanced_accuracy") == 0.0


def test_a_better_threshold_has_to_be_better_by_more_than_noise():
    """Eight rows a cell: the noise is a quarter."""
    y, groups = np.repeat([0, 1], 16), np.tile(np.repeat([0, 1], 8), 2)
    judge, _ = judged(np.zeros(32), y, groups)
    assert judge.noise == 0.25
    for gain, margin, for_utility in ((0.25, 1.0, 1.0), (0.3125, 1.0, 2.0), (0.5625, 2.0, 2.0)):
        cuts = curves((0.25 + gain, 0.0), (0.25, 0.0))
        assert judge.steady(cuts, 1.0).margin == margin
        assert judge.steady(cuts, 1.2, for_utility=True).margin == for_utility


def test_a_candidate_that_is_judged_apart_is_compared_with_the_untouched_network_on_the_same_rows():
    """Half of a group's rows of label 1 are missed: of the second in validation, of the first else.

    Together both groups have .75 and the value is the utility, .875; apart the gap is .5, which is
    .375 above the target.
    """
    y, groups = np.tile(np.repeat([0, 1], 80), 2), np.tile(np.repeat([0, 1], 40), 4)
    parts = np.repeat([0, 1], 160)
    right = 2.0 * y - 1
    missed = (y == 1) & (groups != parts) & (np.arange(320) % 2 == 0)
    judge, untouched = judged(np.where(missed, -right, right), y, groups, parts)
    data = SimpleNamespace(judge=judge, untouched=untouched)
    assert (judge.steady(untouched, -0.9).value, judge.apart().steady(untouched, -0.9).value) == (
        0.875,
        0.5,
    )
    together = curves((0.75, 0.25))
    assert judge_steadily(data, together, -0.9) == Verdict(1.0, 0.75, 0.25, True, 0.625)
    alone = judge_steadily(data, replace(together, apart=True), -0.9)
    assert alone == Verdict(1.0, 0.75, 0.25, True, 1.0)


def test_curves_say_whether_an_over_fitted_candidate_was_judged_apart():
    y, groups = np.tile(np.repeat([0, 1], 80), 2), np.tile(np.repeat([0, 1], 40), 4)
    parts, right = np.repeat([0, 1], 160), 2.0 * y - 1
    spoiled = (parts == 0) & (np.arange(320) % 4 == 0)
    judge, fitted = judged(np.where(spoiled, -right, right), y, groups, parts)
    assert judge.curves(fitted).apart
    assert not judge.curves(torch.tensor([-1.0, 1.0]) * torch.as_tensor(right)[:, None]).apart
