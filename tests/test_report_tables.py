"""The report of a fit: its tables against fairlearn, and when it warns."""

from __future__ import annotations

import pickle
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equalized_odds_difference,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from sklearn.metrics import accuracy_score

from fairsvd.base._complaints import warn_about
from fairsvd.base._report_data import ReportData
from fairsvd.exceptions import (
    ConstantPredictionsWarning,
    ConstraintNotMetWarning,
    LevellingDownWarning,
    OverfittedNetworkWarning,
    SmallCellWarning,
)
from fairsvd.objective import (
    GAPS,
    Constraint,
    Moves,
    Verdict,
    count_moves,
    count_table,
    estimate_gaps,
)
from uncertainty_reference import UNEQUAL, check_uncertainty

CONSTRAINT = Constraint("equalized_odds", 0.1, 0.4, "balanced_accuracy", None, 1, "classes")
FEASIBLE = Verdict(0.0, 0.8, 0.03, True, 0.8)
INFEASIBLE = Verdict(0.0, 0.8, 0.2, False, 0.65)
EXACT = {"rtol": 0, "atol": 1e-12}

# [group, true, predicted]; every cell has 1,000 rows.
FAIR = np.array([[[800, 200], [200, 800]], [[800, 200], [200, 800]]])


def rows(seed, n_groups=3, n_classes=2, n=900):
    rng = np.random.default_rng(seed)
    y, groups = rng.integers(n_classes, size=n), rng.integers(n_groups, size=n)
    stays = rng.random(n) < 0.5 + 0.15 * groups
    return y, np.where(stays, y, rng.integers(n_classes, size=n)), groups


def unchanged(counts):
    """The moves of an edit that changed nothing."""
    zeros = np.zeros((3, *counts.shape[:1], 1), dtype=np.int64)
    return Moves(zeros, zeros, zeros)


def codes_of(counts):
    """Rows (y, predicted, group) of a table, sorted by group and label."""
    group, y, predicted = (
        np.repeat(code.ravel(), counts.ravel()) for code in np.indices(counts.shape)
    )
    return y, predicted, group


def make_report(before, after, *, labels=None, constraint=CONSTRAINT, verdict=FEASIBLE, **options):
    """The report of tables; equal cells are taken to be the same rows, predicted in order."""
    labels = tuple(range(len(after))) if labels is None else labels
    sizes = after.shape[-1], len(after)
    moves = unchanged(after)
    if np.array_equal(before.sum(axis=2), after.sum(axis=2)):
        (y, old, group), (_, new, _) = codes_of(before), codes_of(after)
        moves = count_moves(y, (old, new), group, sizes, constraint.pos)
    options = {"moves": moves, "threshold_only": before, **options}
    classes = np.arange(sizes[0])
    return ReportData(before, after, labels, constraint, verdict, classes, 0, **options)


def report_of_rows(n_classes=2):
    before, after = rows(0, n_classes=n_classes), rows(1, n_classes=n_classes)
    tables = [count_table(*codes, n_classes, 3) for codes in (before, after)]
    return before, after, make_report(*tables, labels=("a", ("b", 1), 7))


def test_the_groups_table_equals_fairlearn():
    before, after, report = report_of_rows()
    frame = report.group_frame()
    assert frame.index.tolist() == ["a", "('b', 1)", "7", "overall", "threshold only"]
    frame = frame.iloc[:3]
    metrics = {
        "selection_rate": selection_rate,
        "tpr": true_positive_rate,
        "fpr": false_positive_rate,
        "accuracy": accuracy_score,
    }
    expected = [
        MetricFrame(metrics=metrics, y_true=y, y_pred=p, sensitive_features=g).by_group
        for y, p, g in (before, after)
    ]
    for name in metrics:
        for when, table in zip(("before", "after"), expected, strict=True):
            np.testing.assert_allclose(frame[name, when], table[name], **EXACT)
        change = expected[1][name] - expected[0][name]
        np.testing.assert_allclose(frame[name, "change"], change, **EXACT)
        assert np.abs(change).max() > 0.005
    assert frame["", "n"].tolist() == np.bincount(after[2]).tolist()


def test_several_classes_are_averaged_one_against_the_rest():
    _, (y, predicted, groups), report = report_of_rows(n_classes=4)
    frame = report.group_frame()
    for g in range(3):
        mask = groups == g
        pairs = [(y[mask] == k, predicted[mask] == k) for k in range(4)]
        expected = {
            "selection_rate": np.mean([p.mean() for _, p in pairs]),
            "tpr": np.mean([true_positive_rate(t, p) for t, p in pairs]),
            "fpr": np.mean([false_positive_rate(t, p) for t, p in pairs]),
            "accuracy": accuracy_score(y[mask], predicted[mask]),
        }
        for name, value in expected.items():
            assert frame[name, "after"].iloc[g] == pytest.approx(value, abs=1e-12)


def test_the_gaps_table():
    before, after, report = report_of_rows()
    frame = report.gap_frame()
    assert frame.index.tolist() == list(GAPS)
    for when, (y, p, g) in (("before", before), ("after", after)):
        found = frame[when]
        expected = demographic_parity_difference(y, p, sensitive_features=g)
        assert found["demographic_parity"] == pytest.approx(expected, abs=1e-12)
        expected = equalized_odds_difference(y, p, sensitive_features=g)
        assert found["equalized_odds"] == pytest.approx(expected, abs=1e-12)
    assert (frame["low"] <= frame["after"]).all()
    assert (frame["after"] <= frame["high"]).all()
    assert frame["noise_floor"].between(0.005, 0.15).all()
    # The tolerance is of the gap that was asked for, and of no other.
    assert frame["tolerance"].dropna().to_dict() == {"equalized_odds": 0.1}
    assert frame["met"].dropna().to_dict() == {"equalized_odds": False}
    assert frame.equals(report.gap_frame())  # reading it twice draws the same


def test_a_gap_within_the_tolerance_is_met():
    frame = make_report(FAIR, FAIR).gap_frame()
    assert frame.loc["equalized_odds", "met"]
    assert frame.loc["equalized_odds", "after"] == 0
    found = estimate_gaps(FAIR, ["equalized_odds"], 1, np.random.default_rng(0))
    floor = found["equalized_odds"].noise_floor
    assert frame.loc["equalized_odds", "noise_floor"] == pytest.approx(floor, rel=0.1)


@pytest.mark.parametrize("pos", [1, 0])
def test_every_gap_has_its_own_interval_and_floor_of_the_edited_network(pos):
    """Before the edit there were a hundred times the rows and no gap at all."""
    constraint = Constraint("equalized_odds", 0.1, 0.4, "accuracy", None, pos, None)
    frame = make_report(FAIR * 100, UNEQUAL, constraint=constraint).gap_frame()
    assert frame["before"].eq(0).all()
    check_uncertainty(frame.rename(columns={"after": "difference"}), pos)


def test_the_seed_of_a_fit_draws_its_intervals():
    def drawn(seed):
        report = replace(make_report(FAIR, UNEQUAL), seed=seed)
        return report.gap_frame()[["low", "high", "upper", "noise_floor"]].iloc[1:3]

    assert drawn(3).equals(drawn(3))
    assert (drawn(3) != drawn(4)).all().all()


@pytest.mark.parametrize(("tolerance", "met"), [(0.25, True), (0.2499, False)])
def test_a_gap_of_exactly_the_tolerance_is_met(tolerance, met):
    counts = np.array([[[6, 2], [2, 6]], [[6, 2], [4, 4]]])  # a TPR of 3/4 and of 1/2
    constraint = Constraint("equal_opportunity", tolerance, 0.4, "accuracy", None, 1, None)
    frame = make_report(counts, counts, constraint=constraint).gap_frame()
    assert frame.loc["equal_opportunity", "after"] == 0.25
    assert frame.loc["equal_opportunity", "met"] is met


def test_a_class_that_a_group_lacks_is_left_out_of_its_mean_rates():
    """Of the first group's three classes two have rows: the third has no recall, not one of 0."""
    counts = np.array([[[4, 2, 0], [0, 5, 5], [0, 0, 0]], [[4, 0, 0], [0, 4, 0], [0, 2, 2]]])
    constraint = Constraint("equalized_odds", 0.1, 0.4, "accuracy", None, None, None)
    frame = make_report(counts, counts, constraint=constraint).group_frame()
    np.testing.assert_allclose(
        frame["tpr", "after"].iloc[:2], [(4 / 6 + 5 / 10) / 2, (1 + 1 + 2 / 4) / 3], **EXACT
    )
    fpr = [(0 / 10 + 2 / 6 + 5 / 16) / 3, (0 / 8 + 2 / 8 + 0 / 8) / 3]
    np.testing.assert_allclose(frame["fpr", "after"].iloc[:2], fpr, **EXACT)
    np.testing.assert_allclose(frame["selection_rate", "after"], 1 / 3, **EXACT)


def test_what_a_reader_adds_to_the_notes_is_not_kept():
    report = make_report(FAIR, FAIR, notes=["one"])
    report.report().notes.append("two")
    assert report.report().notes == ["one"]


def test_the_positive_class_is_the_constraints():
    _, (y, predicted, groups), _ = report_of_rows()
    counts = count_table(y, predicted, groups, 2, 3)
    constraint = Constraint("equalized_odds", 0.1, 0.4, "accuracy", None, 0, None)
    frame = make_report(counts, counts, constraint=constraint).group_frame()
    for g in range(3):
        expected = true_positive_rate(y[groups == g] == 0, predicted[groups == g] == 0)
        assert frame["tpr", "after"].iloc[g] == pytest.approx(expected)
    found = make_report(UNEQUAL, FAIR, constraint=constraint).gap_frame().loc["equal_opportunity"]
    assert found["before"] == pytest.approx(0.1)  # .85 and .75 of class 0
    assert found["after"] == 0


def test_reading_the_report_of_an_empty_cell_raises_no_warning():
    counts = FAIR.copy()
    counts[1, 1] = 0
    report = make_report(counts, counts).report()
    assert np.isnan(report.groups["tpr", "after"].iloc[1])
    assert np.isnan(report.gaps.loc["equal_opportunity", "noise_floor"])
    assert np.isfinite(report.gaps.loc["equalized_odds", "noise_floor"])
    assert report.notes == []


def test_without_groups_there_is_one_row_and_no_warning():
    counts = FAIR.sum(axis=0, keepdims=True)
    report = make_report(counts, counts, labels=(), verdict=INFEASIBLE)
    warn_about(report, 0.5)
    assert report.group_frame().index.tolist() == ["overall", "threshold only"]
    assert report.harm_frame().empty
    assert "no groups to compare" in report.report().summary()
    assert len(report.gap_frame()) == 0
    assert report.notes == []


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


# What the report says


def test_all_rows_together_and_the_threshold_alone_have_a_row_each():
    before, after, report = report_of_rows()
    alone = rows(2)
    report = replace(report, threshold_only=count_table(*alone, 2, 3))
    frame = report.group_frame()
    for row, (y, predicted, _) in (("overall", after), ("threshold only", alone)):
        found = frame.loc[row]
        assert found["accuracy", "after"] == pytest.approx(accuracy_score(y, predicted))
        assert found["tpr", "after"] == pytest.approx(true_positive_rate(y, predicted))
        assert found["tpr", "before"] == pytest.approx(true_positive_rate(*before[:2]))
        assert found["", "n"] == 900
    gaps = report.gap_frame()
    expected = demographic_parity_difference(alone[0], alone[1], sensitive_features=alone[2])
    assert gaps.loc["demographic_parity", "threshold_only"] == pytest.approx(expected)


@pytest.mark.parametrize("constant", [0, 1])
def test_a_constant_classifier_never_meets_a_tolerance(constant):
    collapsed = np.zeros_like(FAIR)
    collapsed[:, :, constant] = 1000
    report = make_report(collapsed, collapsed)
    row = report.gap_frame().loc["equalized_odds"]
    assert (row["after"], row["met"]) == (0, False)
    assert "one class only never meets the tolerance" in report.report().summary()


@pytest.mark.parametrize(
    ("pos", "said"), [(1, "'yes', the other one 'no'"), (0, "'no', the other one 'yes'")]
)
def test_the_positive_label_is_said_in_words(pos, said):
    constraint = Constraint("equalized_odds", 0.1, 0.4, "accuracy", None, pos, None)
    report = make_report(FAIR, FAIR, constraint=constraint)
    report = replace(report, classes=np.array(["no", "yes"]))
    assert report.report().positive == f"The positive label is {said}."


def test_of_several_classes_none_is_the_positive_one():
    _, _, report = report_of_rows(n_classes=4)
    assert report.report().positive.startswith("None of the 4 classes")


def test_the_summary_is_sentences_that_say_who_pays():
    after = FAIR.copy()
    after[0, 1] += [200, -200]
    after[1, 0] -= [-50, 50]
    report = make_report(FAIR, after, labels=("here", ("there", 1))).report()
    text = report.summary()
    assert all(line.endswith((".", ").")) for line in text.splitlines())
    for part in (
        "On 4000 validation rows the accuracy was 0.800 and is 0.762.",
        "The gap in equalized odds was 0.000 and is 0.200.",
        "This does not meet the tolerance of 0.1.",
        "Group here lost 0.200 of its true positive rate.",
        "Group there/1 gained 0.050 of its true negative rate.",
        "So a group lost while another gained.",
    ):
        assert part in text
    again = pickle.loads(pickle.dumps(report))
    assert again.summary() == text
    assert again.gaps.equals(report.gaps)


@pytest.mark.parametrize(
    ("share", "said"),
    [(1, "too few to be sure"), (100, "This meets the tolerance of 0.1, also at the upper bound.")],
)
def test_the_summary_says_whether_a_tolerance_is_sure_to_be_met(share, said):
    counts = FAIR // 20 * share
    counts[0, 1] += np.array([2, -2]) * share
    assert said in make_report(counts, counts).report().summary()


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
