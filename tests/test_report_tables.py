"""The report of a fit: its tables against fairlearn, and when it warns."""

from __future__ import annotations

import re
import warnings

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

from fairsvd.base._report import ReportData
from fairsvd.exceptions import (
    ConstantPredictionsWarning,
    ConstraintNotMetWarning,
    LevellingDownWarning,
    OverfittedNetworkWarning,
    SmallCellWarning,
)
from fairsvd.objective import GAPS, Constraint, Verdict, count_table, noise_floor
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


def make_report(before, after, *, labels=None, constraint=CONSTRAINT, verdict=FEASIBLE, **options):
    labels = tuple(range(len(after))) if labels is None else labels
    classes = np.arange(after.shape[-1])
    return ReportData(before, after, labels, constraint, verdict, classes, 0, **options)


def report_of_rows(n_classes=2):
    before, after = rows(0, n_classes=n_classes), rows(1, n_classes=n_classes)
    tables = [count_table(*codes, n_classes, 3) for codes in (before, after)]
    return before, after, make_report(*tables, labels=("a", ("b", 1), 7))


def test_the_groups_table_equals_fairlearn():
    before, after, report = report_of_rows()
    frame = report.group_frame()
    assert frame.index.tolist() == ["a", "('b', 1)", "7"]
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
    floor = noise_floor(FAIR, "equalized_odds", 1, np.random.default_rng(0))
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
        classes = np.arange(2)
        report = ReportData(FAIR, UNEQUAL, (0, 1), CONSTRAINT, FEASIBLE, classes, seed)
        return report.gap_frame()[["low", "high", "noise_floor"]]

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
        frame["tpr", "after"], [(4 / 6 + 5 / 10) / 2, (1 + 1 + 2 / 4) / 3], **EXACT
    )
    fpr = [(0 / 10 + 2 / 6 + 5 / 16) / 3, (0 / 8 + 2 / 8 + 0 / 8) / 3]
    np.testing.assert_allclose(frame["fpr", "after"], fpr, **EXACT)
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
    report.warn(0.5)
    assert report.group_frame().index.tolist() == ["all"]
    assert len(report.gap_frame()) == 0
    assert report.notes == []


def raised(report, overfitted=None):
    """Categories of the warnings raised, in order, and the notes kept."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report.warn(overfitted)
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


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize(("lost", "harmed"), [(10, False), (39, False), (41, True), (90, True)])
def test_levelling_down(lost, harmed, label):
    """Harm is .02 of balanced accuracy: 40 of the 1,000 rows of one of two classes."""
    after = FAIR.copy()
    after[0, label, label] -= lost  # a lower TPR, or a higher FPR
    after[0, label, 1 - label] += lost
    kinds, text = raised(make_report(FAIR, after, labels=("here", "there")))
    assert kinds == [LevellingDownWarning] * harmed
    told = re.findall(r"here \((.*?)\)", text)
    assert [float(change) for change in told] == harmed * [pytest.approx(-lost / 2000, abs=6e-4)]
    assert "there" not in text


def test_levelling_down_needs_more_than_noise():
    before, after = FAIR // 40, FAIR // 40
    after[0, 1] = [7, 18]  # of 25 rows two more are wrong: -.04 of balanced accuracy
    tolerant = Constraint("equalized_odds", 0.5, 0.4, "balanced_accuracy", None, 1, "classes")
    assert raised(make_report(before, after, constraint=tolerant))[0] == []
    assert raised(make_report(before * 40, after * 40))[0] == [LevellingDownWarning]


@pytest.mark.parametrize(("lost", "harmed"), [(5, False), (6, True)])
def test_a_loss_within_two_standard_errors_is_no_harm(lost, harmed):
    """Of 100 rows a cell with 80 of them right: 2 * sqrt(.8 * .2 / 100 * 2) / 2 = .0566.

    Those of the network before: after it two errors are .0620, more than the .06 that are lost.
    """
    before = FAIR // 10
    after = before.copy()
    after[0] += [[-lost, lost], [lost, -lost]]
    kinds, text = raised(make_report(before, after, labels=("here", "there")))
    assert kinds == [LevellingDownWarning] * harmed
    assert ("here (-0.060)" in text) == harmed


def test_harm_to_a_group_of_one_class_is_that_of_this_class():
    """Twenty-five of its 1,000 rows are .025: the class that it lacks does not halve them."""
    before, after = FAIR.copy(), FAIR.copy()
    before[0, 0] = after[0, 0] = 0
    after[0, 1] += [25, -25]
    kinds, text = raised(make_report(before * 10, after * 10, labels=("here", "there")))
    assert kinds[0] is LevellingDownWarning
    assert "here (-0.025)" in text


def test_a_group_that_gains_is_not_harmed():
    after = FAIR.copy()
    after[0] = [[900, 100], [100, 900]]
    assert raised(make_report(FAIR, after))[0] == []


def test_a_recall_lost_in_one_class_and_gained_in_the_other_is_no_harm():
    after = FAIR.copy()
    after[0] += [[100, -100], [100, -100]]
    assert raised(make_report(FAIR, after))[0] == []


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
    kinds, _ = raised(make_report(FAIR // 200, counts, verdict=INFEASIBLE), overfitted=0.2)
    assert kinds == [
        ConstraintNotMetWarning,
        ConstantPredictionsWarning,
        OverfittedNetworkWarning,
        LevellingDownWarning,
        SmallCellWarning,
    ]
