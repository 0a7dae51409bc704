"""What a fit warns of: gaps, constant predictions, groups that lose, small cells."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

from fairsvd.base._complaints import warn_about
from fairsvd.exceptions import (
    ConstantPredictionsWarning,
    ConstraintNotMetWarning,
    LevellingDownWarning,
    OverfittedNetworkWarning,
    SmallCellWarning,
)
from fairsvd.objective import (
    Constraint,
    count_moves,
    count_table,
)
from report_rows import (
    FAIR,
    INFEASIBLE,
    codes_of,
    make_report,
)


def raised(report, overfitted=None):
    """Categories of the warnings raised, in order, and the notes kept."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_about(report, overfitted)
    assert [str(w.message) for w in caught] == report.notes
    return [w.category for w in caught], " ".join(report.notes)


def test_nothing_to_complain_about():
    assert raised(make_report(FAIR, FAIR)) == ([], "")


def test_constraint_not_met():
    kinds, text = raised(make_report(FAIR, FAIR, verdict=INFEASIBLE))
    assert kinds == [ConstraintNotMetWarning]
    assert "equalized_odds within the tolerance of 0.1 " in text
    assert "0.200" in text


@pytest.mark.parametrize("constant", [0, 1])
def test_constant_predictions(constant):
    collapsed = np.zeros_like(FAIR)
    collapsed[:, :, constant] = 1000
    kinds, _ = raised(make_report(collapsed, collapsed))
    assert kinds == [ConstantPredictionsWarning]
    collapsed[0, 0] = [999, 1] if constant == 0 else [1, 999]
    assert raised(make_report(collapsed, collapsed))[0] == []


def test_overfitted():
    kinds, text = raised(make_report(FAIR, FAIR), overfitted=0.23)
    assert kinds == [OverfittedNetworkWarning]
    assert "0.23 higher" in text


RATES_OF_LABEL = {0: "true negative rate", 1: "true positive rate"}


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize(("lost", "harmed"), [(10, False), (20, False), (21, True), (90, True)])
def test_levelling_down(lost, harmed, label):
    """Harm is more than .02 of a rate: 20 of the 1,000 rows that it is measured on."""
    after = FAIR.copy()
    after[0, label, label] -= lost  # a lower TPR, or a lower TNR
    after[0, label, 1 - label] += lost
    kinds, text = raised(make_report(FAIR, after, labels=("here", "there")))
    assert kinds == [LevellingDownWarning] * harmed
    told = re.findall(r"here \((.*?) ([-+.\d]+)\)", text)
    assert told == [(RATES_OF_LABEL[label], f"{-lost / 1000:+.3f}")] * harmed
    assert "there (" not in text


def test_levelling_down_needs_more_than_noise():
    """Of 25 rows 4 more are wrong: that is .16, and by chance once in sixteen."""
    before, after = FAIR // 40, FAIR // 40
    after[0, 1] += [4, -4]
    tolerant = Constraint("equalized_odds", 0.5, 0.4, "balanced_accuracy", None, 1, "classes")
    assert raised(make_report(before, after, constraint=tolerant))[0] == []
    assert raised(make_report(before * 40, after * 40))[0] == [LevellingDownWarning]


@pytest.mark.parametrize(("lost", "harmed"), [(6, False), (7, True)])
def test_the_noise_is_mcnemars_for_all_rates_together(lost, harmed):
    """Four rates are looked at: .5 ** 6 is more than .05 / 4, and .5 ** 7 is less."""
    before = FAIR // 10
    after = before.copy()
    after[0, 1] += [lost, -lost]
    kinds, _ = raised(make_report(before, after, labels=("here", "there")))
    assert kinds == [LevellingDownWarning] * harmed


def test_rows_won_back_count_against_the_rows_lost():
    """Twenty positive rows are lost; if eighteen others are gained, that is noise."""
    y, predicted, group = codes_of(FAIR // 10)
    wrong = np.flatnonzero((y == 1) & (predicted == 0) & (group == 0))
    right = np.flatnonzero((y == 1) & (predicted == 1) & (group == 0))
    for n_gained, harmed in ((0, True), (18, False)):
        new = predicted.copy()
        new[right[:20]], new[wrong[:n_gained]] = 0, 1
        moves = count_moves(y, (predicted, new), group, (2, 2), 1)
        assert (moves.lost[0, 0, 0], moves.gained[0, 0, 0]) == (20, n_gained)
        assert any(each.fell for each in moves.changes("equalized_odds")) == harmed
        assert moves.harm("equalized_odds") == (0.2 if harmed else 0)


def test_a_group_that_gains_is_not_harmed():
    after = FAIR.copy()
    after[0] = [[900, 100], [100, 900]]
    report = make_report(FAIR, after)
    assert raised(report)[0] == []
    assert (report.lost, report.gained, report.traded) == ([], [0], False)


def test_a_rate_lost_and_another_gained_is_harm_though_balanced_accuracy_is_the_same():
    after = FAIR.copy()
    after[0] += [[100, -100], [100, -100]]
    report = make_report(FAIR, after, labels=("here", "there"))
    kinds, text = raised(report)
    assert kinds == [LevellingDownWarning]
    assert "here (true positive rate -0.100); no other group gained" in text
    assert (report.lost, report.gained, report.traded) == (["here"], ["here"], False)


def test_a_group_that_loses_while_another_gains_is_told():
    after = FAIR.copy()
    after[0, 1] += [100, -100]
    after[1, 1] -= [100, -100]
    report = make_report(FAIR, after, labels=("here", "there"))
    assert (report.lost, report.gained, report.traded) == (["here"], ["there"], True)
    assert "another group gained" in raised(report)[1]
    frame = report.harm_frame()
    assert frame.loc[("here", "true positive rate"), "verdict"] == "fell"
    assert frame.loc[("there", "true positive rate"), "verdict"] == "rose"
    assert frame.loc[("there", "true negative rate"), "verdict"] == "within noise"
    assert frame.loc[("here", "true positive rate"), ["lost", "gained", "rows"]].tolist() == [
        *(100, 0, 1000)
    ]


@pytest.mark.parametrize("gap", ["demographic_parity", "equalized_odds"])
def test_under_demographic_parity_being_selected_is_the_good(gap):
    """Of 2,000 rows 45 are selected less, rightly: that is .0225 of the group."""
    constraint = Constraint(gap, 0.1, 0.4, "accuracy", None, 1, None)
    after = FAIR.copy()
    after[0, 0] += [45, -45]  # fewer of them are selected, rightly
    report = make_report(FAIR, after, labels=("here", "there"), constraint=constraint)
    rates = {each.rate for each in report.changes}
    assert ("selection_rate" in rates) == (gap == "demographic_parity")
    assert report.lost == (["here"] if gap == "demographic_parity" else [])


def test_of_several_classes_each_is_looked_at():
    rng = np.random.default_rng(0)
    y, group = rng.integers(3, size=3000), rng.integers(2, size=3000)
    new = np.where((y == 2) & (group == 1) & (rng.random(3000) < 0.3), 0, y)
    moves = count_moves(y, (y, new), group, (3, 2), None)
    fell = {
        (each.rate, each.group, each.place) for each in moves.changes("equalized_odds") if each.fell
    }
    assert fell == {("tpr", 1, 2), ("tnr", 1, 0)}
    for each in moves.changes("demographic_parity"):
        mask = group == each.group
        true, old, now = (codes[mask] == each.place for codes in (y, y, new))
        rate = {
            "tpr": lambda p, t: p[t].mean(),
            "tnr": lambda p, t: 1 - p[~t].mean(),
            "selection_rate": lambda p, t: p.mean(),
        }[each.rate]
        assert each.change == pytest.approx(rate(now, true) - rate(old, true), abs=1e-12)
    counts = [count_table(y, codes, group, 3, 2) for codes in (y, new)]
    report = make_report(*counts, labels=("a", "b"))
    assert "b (true positive rate of class 2" in raised(report)[1]


def test_rows_without_a_group_are_not_counted():
    y, new, group = np.array([1, 1, 1]), np.array([0, 0, 0]), np.array([-1, 0, 0])
    moves = count_moves(y, (y, new), group, (2, 1), 1)
    assert moves.lost[0].tolist() == [[2]]
    assert moves.rows[:, 0, 0].tolist() == [2, 0, 2]


# Cells


@pytest.mark.parametrize(("tolerance", "needed"), [(0.1, 25), (0.05, 100), (0.25, 4)])
def test_small_cells(tolerance, needed):
    constraint = Constraint("equalized_odds", tolerance, 0.4, "accuracy", None, 1, None)
    for n, small in ((needed, False), (needed - 1, True)):
        counts = FAIR.copy()
        counts[1, 0] = [n, 0]
        report = make_report(counts, counts, labels=("x", "y"), constraint=constraint)
        kinds, text = raised(report)
        assert kinds == [SmallCellWarning] * small
        assert (f"(label 0, group y): {n} rows" in text) == small


def test_many_small_cells_are_counted_not_listed():
    counts = np.ones((9, 2, 2), dtype=np.int64)
    _, text = raised(make_report(counts, counts))
    assert text.count("(label") == 6
    assert "and 12 more" in text


def test_several_complaints_come_together():
    counts = np.zeros((2, 2, 2), dtype=np.int64)
    counts[:, :, 0] = 5
    counts[0] = [[20, 0], [20, 0]]
    before = np.array([[[16, 4], [4, 16]], [[4, 1], [1, 4]]])
    kinds, _ = raised(make_report(before, counts, verdict=INFEASIBLE), overfitted=0.2)
    assert kinds == [
        ConstraintNotMetWarning,
        ConstantPredictionsWarning,
        OverfittedNetworkWarning,
        LevellingDownWarning,
        SmallCellWarning,
    ]
