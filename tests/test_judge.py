"""The choice of thresholds and candidates against the rule written out as a loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from fairsvd.objective import (
    GAPS,
    UTILITIES,
    Constraint,
    Curves,
    GapJudge,
    Verdict,
    _sweep,
    count_table,
    gap,
    margin_of_threshold,
    utility_from_counts,
)

CONSTRAINT = Constraint("equalized_odds", 0.25, 0.4, "balanced_accuracy", None, 1, "classes")


def make_judge(seed, *, n=120, n_classes=2, n_groups=2, **constraint):
    rng = np.random.default_rng(seed)
    y, groups, parts = (rng.integers(k, size=n) for k in (n_classes, n_groups, 2))
    return GapJudge(y, groups, parts, n_classes, n_groups, replace(CONSTRAINT, **constraint))


def make_logits(judge, seed, *, skill=1.0, bias=0.8, decimals=1):
    """Logits with ties that see the label and, too much, the group."""
    rng = np.random.default_rng(1000 + seed)
    logits = rng.normal(size=(len(judge.y), judge.n_classes))
    logits[np.arange(len(judge.y)), judge.y] += skill
    logits[:, -1] += bias * judge.groups
    return torch.as_tensor(logits.round(decimals), dtype=torch.float32)


def predictions(judge, logits):
    """(threshold or None, predictions) for everything that could be chosen, in order."""
    values = logits.double().numpy()
    if judge.n_classes > 2:
        return [values.argmax(axis=1)]
    margins = values[:, 1] - values[:, 0]
    if judge.constraint.threshold is not None:
        return [(margins > margin_of_threshold(judge.constraint.threshold)).astype(np.int64)]
    distinct = np.unique(margins)[::-1]
    return [(margins >= value).astype(np.int64) for value in [np.inf, *distinct]]


def measured(judge, predicted):
    """Utility and gap of predictions, as the design has them."""

    def counts(mask):
        codes = judge.y[mask], predicted[mask], judge.groups[mask]
        return count_table(*codes, judge.n_classes, judge.n_groups)

    everything, name = np.ones(len(judge.y), dtype=bool), judge.constraint.utility
    looked_at = judge.parts == 0 if judge.separate else everything
    if callable(name):
        utility = name(judge.y[looked_at], predicted[looked_at])
    else:
        utility = float(utility_from_counts(counts(looked_at), name))
    sets = [judge.parts == 0, judge.parts == 1] if judge.separate else [everything]
    worst = max(
        float(gap(counts(mask), judge.constraint.gap, judge.constraint.pos)) for mask in sets
    )
    return utility, worst


def as_judged(judge, logits):
    """The judge that looks at the two sets apart, where the logits ask for it."""
    held = judge.parts == 0
    cells = np.unique(np.stack([judge.y, judge.groups])[:, held], axis=1, return_counts=True)[1]
    able = cells.min() >= 20
    return replace(judge, held_apart=judge.separate or (able and is_over_fitted(judge, logits)))


def is_over_fitted(judge, logits):
    """Whether editing rows are fitted better by more than .05, where utility is highest."""
    predicted = max(predictions(judge, logits), key=lambda each: measured(judge, each)[0])
    of_cells = "cell" in str(judge.constraint.utility)
    name = "cell_balanced_accuracy" if of_cells else "balanced_accuracy"
    validation, editing = (
        float(utility_from_counts(count_table(*codes, judge.n_classes, judge.n_groups), name))
        for mask in (judge.parts == 0, judge.parts == 1)
        for codes in [(judge.y[mask], predicted[mask], judge.groups[mask])]
    )
    return editing - validation > 0.05


def by_the_rule(judge, logits, tolerance):
    """Return the (utility, gap, feasible, value) that should be chosen; None: nothing may be."""
    judge = as_judged(judge, logits)
    best = None
    for predicted in predictions(judge, logits):
        utility, worst = measured(judge, predicted)
        if utility < judge.floor:
            continue
        feasible = worst <= tolerance
        value = utility - max(0.0, worst - 0.4 * tolerance)
        if best is None or (feasible, value) > (best[2], best[3]):
            best = utility, worst, feasible, value
    return best


def assert_same(verdict, expected):
    found = verdict.utility, verdict.gap, verdict.feasible, verdict.value
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("threshold", [None, 0.4])
@pytest.mark.parametrize("n_groups", [2, 3])
@pytest.mark.parametrize("name", GAPS)
@pytest.mark.parametrize("utility", UTILITIES)
def test_equal_to_the_rule(utility, name, n_groups, threshold, separate):
    options = {"gap": name, "utility": utility, "threshold": threshold}
    feasible = set()
    for seed, tolerance in enumerate([0.05, 0.3, 0.6, 2.0]):
        judge = make_judge(seed, n_groups=n_groups, tolerance=tolerance, **options)
        judge = replace(judge, held_apart=separate, floor=0.2)
        logits = make_logits(judge, seed)
        expected = by_the_rule(judge, logits, tolerance)
        if expected is None:
            assert judge(logits).rank == (False, -np.inf)
            continue
        assert_same(judge(logits), expected)
        feasible.add(expected[2])
    assert True in feasible


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from(GAPS), st.sampled_from(UTILITIES), st.integers(2, 9))
def test_equal_to_the_rule_on_small_data_in_chunks(seed, name, utility, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sweep, "CHUNK", 8 * chunk)
        judge = make_judge(seed, n=25, gap=name, utility=utility)
        filled = np.bincount(judge.y * 2 + judge.groups, minlength=4).min() > 0
        logits = make_logits(judge, seed)
        judge = judge.against(logits)
        expected = by_the_rule(judge, logits, 0.25)
        if filled and expected is not None:
            assert_same(judge(logits), expected)


def chosen_among_tables(judge, logits, tolerance):
    """The first of the best thresholds from above, one table of counts after the other."""
    judge = as_judged(judge, logits)
    values = logits.double().numpy()
    margins = values[:, 1] - values[:, 0]
    distinct = np.unique(margins)[::-1]
    middles = [distinct[0] + 1, *((distinct[:-1] + distinct[1:]) / 2), distinct[-1] - 1]
    best, answer = (False, -np.inf), None
    for threshold, predicted in zip(middles, predictions(judge, logits), strict=True):
        utility, worst = measured(judge, predicted)
        feasible = bool(worst <= tolerance)
        value = utility - max(0.0, worst - 0.4 * tolerance)
        if utility >= judge.floor and (feasible, value) > best:
            best = feasible, value
            answer = Verdict(threshold, utility, worst, feasible, value)
    return answer


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from(GAPS),
    st.sampled_from(UTILITIES),
    st.integers(2, 5),
    st.booleans(),
    st.sampled_from([1, 6]),
)
def test_threshold_and_figures_are_those_of_single_tables_to_the_bit(
    seed, name, utility, n_groups, separate, decimals
):
    judge = make_judge(seed, n=80, n_groups=n_groups, gap=name, utility=utility)
    judge = replace(judge, held_apart=separate, floor=0.3)
    logits = make_logits(judge, seed, decimals=decimals)
    if seed % 7 == 0:
        logits[:, :] = logits[0]
    found, expected = judge(logits), chosen_among_tables(judge, logits, 0.25)
    if expected is None:
        assert found.rank == (False, -np.inf)
    else:
        assert found == expected


@given(st.integers(0, 10_000))
def test_the_margin_gives_the_predictions_that_were_judged(seed):
    judge = make_judge(seed)
    logits = make_logits(judge, seed)
    verdict = judge(logits)
    values = logits.double().numpy()
    predicted = (values[:, 1] - values[:, 0] > verdict.margin).astype(np.int64)
    expected = measured(as_judged(judge, logits), predicted)
    assert (verdict.utility, verdict.gap) == pytest.approx(expected)


def test_several_classes_are_judged_at_the_argmax():
    judge = make_judge(0, n=300, n_classes=4, n_groups=3)
    logits = make_logits(judge, 0)
    verdict = judge(logits)
    assert verdict.margin == 0
    assert_same(verdict, by_the_rule(judge, logits, 0.25))
    assert verdict.utility > 0.4


def test_the_limit_of_the_call_replaces_the_constraints_and_its_target():
    judge = make_judge(3, n=400)
    logits = make_logits(judge, 3)
    strict, loose = judge(logits, 0.02), judge(logits, 0.5)
    assert strict.gap <= 0.02 < loose.gap <= 0.5
    assert strict.utility < loose.utility
    assert (
        replace(judge, constraint=replace(CONSTRAINT, tolerance=0.5, fraction=1.0))(logits) == loose
    )
    assert judge.for_utility(logits) == judge(logits, np.inf)
    assert judge.for_utility(logits).utility >= loose.utility


@pytest.mark.parametrize("utility", UTILITIES)
def test_the_floor_is_half_way_from_chance_to_the_untouched_network(utility):
    judge = make_judge(0, n=400, utility=utility)
    logits = make_logits(judge, 0, skill=2.0, bias=0.0)
    best = max(measured(judge, p)[0] for p in predictions(judge, logits))
    chance = max(measured(judge, np.full_like(judge.y, k))[0] for k in range(2))
    if "worst_cell" in utility:
        assert chance < 0.3
        chance = 0.5  # a coin is right in half of the worst cell, too
    assert best > chance + 0.1
    assert judge.against(logits).floor == pytest.approx((chance + best) / 2)


def test_the_floor_of_a_network_below_a_coin_in_the_worst_cell_is_half_of_its_lead_over_nothing():
    judge = make_judge(0, n=400, utility="worst_cell_accuracy", threshold=0.5)
    logits = make_logits(judge, 0, skill=0.3)
    best = judge.for_utility(logits).utility
    assert 0 < best < 0.5
    assert judge.against(logits).floor == pytest.approx(best / 2)


def test_the_floor_of_a_network_below_chance_is_chance():
    judge = make_judge(0, threshold=0.5)
    logits = make_logits(judge, 0, skill=-3.0)
    assert judge.against(logits).floor == pytest.approx(0.5)


@pytest.mark.parametrize("utility", UTILITIES)
def test_a_collapsed_network_never_wins(utility):
    judge = make_judge(1, n=400, utility=utility, tolerance=0.001)
    untouched = make_logits(judge, 1, skill=2.0, bias=2.0)
    judge = judge.against(untouched)
    constant = torch.zeros_like(untouched)
    constant[:, 1] = 1.0
    assert not judge(constant).feasible
    assert judge(constant).rank < judge(untouched).rank
    assert replace(judge, floor=-np.inf)(constant).rank > judge(untouched).rank  # but for the floor


def test_between_target_and_tolerance_a_point_of_gap_costs_a_point_of_utility():
    """Three thresholds: 10 points of utility are worth 6 of the gap, not the tolerance."""
    judge = make_judge(0, threshold=None)
    curves = Curves(
        np.array([2.0, 1.0, 0.0]), np.array([0.6, 0.7, 0.9]), np.array([0.1, 0.16, 0.3])
    )
    chosen = judge(curves)
    assert (chosen.margin, chosen.feasible) == (1.0, True)
    assert chosen.value == pytest.approx(0.7 - 0.06)
    cheap = replace(curves, utility=np.array([0.6, 0.65, 0.9]))
    assert judge(cheap).margin == 2.0
    strict = replace(judge, constraint=replace(CONSTRAINT, tolerance=0.15, fraction=2 / 3))
    assert strict(curves).margin == 2.0


def test_nothing_feasible_falls_back_on_utility_less_the_excess():
    judge = make_judge(2, n=400, tolerance=0.0)
    judge = replace(judge, floor=0.6)
    logits = make_logits(judge, 2, skill=1.0, bias=1.5)
    verdict = judge(logits)
    assert not verdict.feasible
    assert verdict.value == pytest.approx(verdict.utility - verdict.gap)
    assert verdict.utility >= 0.6
    assert_same(verdict, by_the_rule(judge, logits, 0.0))


def test_ties_go_to_the_highest_threshold():
    y, groups = np.array([1, 0, 1, 0]), np.zeros(4, dtype=np.int64)
    judge = GapJudge(
        y, groups, np.zeros(4, dtype=np.int64), 2, 1, replace(CONSTRAINT, utility="accuracy")
    )
    margins = torch.tensor([4.0, 3.0, 2.0, 1.0])
    verdict = judge(torch.stack([torch.zeros(4), margins], dim=1))
    assert verdict.utility == 0.75  # at 3.5 and at 1.5
    assert verdict.margin == 3.5
    assert verdict.gap == 0  # one group


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_never_chosen(bad):
    judge = make_judge(0)
    logits = make_logits(judge, 0)
    untouched = judge(logits)
    logits[5, 1] = bad
    assert judge(logits).rank == (False, -np.inf)
    assert judge(logits).rank < untouched.rank


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_a_callable_utility_is_asked_on_codes(threshold):
    judge = make_judge(0, n=120, utility=f1_score, tolerance=2.0, threshold=threshold)
    logits = make_logits(judge, 0, decimals=3)
    values = logits.double().numpy()
    margins = values[:, 1] - values[:, 0]
    verdict = judge(logits)
    predicted = (margins > verdict.margin).astype(np.int64)
    assert verdict.utility == pytest.approx(f1_score(judge.y, predicted))
    assert verdict.feasible
    if threshold is None:  # 101 quantiles of 120 values
        best = max(f1_score(judge.y, margins > cut) for cut in margins)
        assert best - 0.02 < verdict.utility <= best
    else:
        assert verdict.margin == pytest.approx(margin_of_threshold(0.3))
    chance = f1_score(judge.y, np.ones_like(judge.y))
    floor = judge.against(logits).floor
    assert floor == pytest.approx(chance + max(0, judge.for_utility(logits).utility - chance) / 2)


def test_separate_holds_each_set_to_the_limit_on_its_own():
    """The groups are treated apart in each set, in opposite directions: together it cancels."""
    n = 400
    rng = np.random.default_rng(0)
    y, groups, parts = (rng.integers(2, size=n) for _ in range(3))
    wrong = (groups == parts) & (rng.random(n) < 0.5)
    margins = torch.as_tensor(np.where(wrong, 1 - y, y) * 2.0 - 1)
    logits = torch.stack([torch.zeros(n), margins], dim=1)
    judge = GapJudge(y, groups, parts, 2, 2, replace(CONSTRAINT, threshold=0.5))
    together, apart = judge(logits), replace(judge, held_apart=True)(logits)
    assert together.gap < 0.1 < 0.4 < apart.gap
    assert together.feasible
    assert not apart.feasible


@pytest.mark.parametrize("utility", ["balanced_accuracy", "worst_cell_accuracy"])
def test_a_candidate_that_is_over_fitted_is_judged_on_each_set_apart(utility):
    judge = make_judge(0, n=2000, utility=utility)
    honest = make_logits(judge, 0)
    learned = honest.clone()
    seen = torch.as_tensor(judge.parts == 1)
    learned[seen, torch.as_tensor(judge.y)[seen]] += 1.0
    apart = replace(judge, held_apart=True)
    assert not is_over_fitted(judge, honest)
    assert is_over_fitted(judge, learned)
    assert judge(honest) != apart(honest)
    assert judge(learned) == apart(learned)
    # On all rows the one that was learned by heart looks better; on validation it is no better.
    assert judge(learned).utility < judge.for_utility(honest).utility + 0.05


@pytest.mark.parametrize(("n", "able"), [(19, False), (20, True)])
def test_small_validation_cells_cannot_tell_who_is_over_fitted(n, able):
    y, groups = (np.tile(np.repeat(codes, n), 5) for codes in ([0, 0, 1, 1], [0, 1, 0, 1]))
    parts = np.repeat([0, 1], [4 * n, 16 * n])
    judge = GapJudge(y, groups, parts, 2, 2, replace(CONSTRAINT, threshold=0.5))
    # Right on every editing row, and on validation rows for one group only.
    right = (parts == 1) | (groups == 0)
    margins = torch.as_tensor(np.where(right, 2.0 * y - 1, 1 - 2.0 * y))
    logits = torch.stack([torch.zeros(len(y)), margins], dim=1)
    assert is_over_fitted(judge, logits)
    assert judge(logits).gap == pytest.approx(1.0 if able else 0.2)


@pytest.mark.parametrize("part", [0, 1])
def test_one_set_of_rows_is_judged_as_it_is(part):
    judge = make_judge(0)
    judge = replace(judge, parts=np.full_like(judge.parts, part))
    assert not judge.comparable
    assert np.isfinite(judge(make_logits(judge, 0)).value)


def test_margin_of_threshold():
    for threshold in (0.01, 0.3, 0.5, 0.99):
        assert 1 / (1 + np.exp(-margin_of_threshold(threshold))) == pytest.approx(threshold)
    assert margin_of_threshold(0.5) == 0
