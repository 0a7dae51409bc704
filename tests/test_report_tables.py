"""The report of a fit: its tables against fairlearn, and when it warns."""

from __future__ import annotations

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


def test_the_positive_class_is_the_constraints():
    _, (y, predicted, groups), _ = report_of_rows()
    counts = count_table(y, predicted, groups, 2, 3)
    constraint = Constraint("equalized_odds", 0.1, 0.4, "accuracy", None, 0, None)
    frame = make_report(counts, counts, constraint=constraint).group_frame()
    for g in range(3):
        expected = true_positive_rate(y[groups == g] == 0, predicted[groups == g] == 0)
        assert frame["tpr", "after"].iloc[g] == pytest.approx(expected)


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


@pytest.mark.parametrize(("lost", "harmed"), [(10, False), (38, False), (42, True), (90, True)])
def test_levelling_down(lost, harmed):
    """Harm is .02 of balanced accuracy: 40 of the 1,000 rows of one of two classes."""
    after = FAIR.copy()
    after[0, 1] = [200 + lost, 800 - lost]
    kinds, text = raised(make_report(FAIR, after, labels=("here", "there")))
    assert kinds == [LevellingDownWarning] * harmed
    assert (f"here (-{lost / 2000:.3f})" in text) == harmed
    assert "there" not in text


def test_levelling_down_needs_more_than_noise():
    before, after = FAIR // 40, FAIR // 40
    after[0, 1] = [7, 18]  # of 25 rows two more are wrong: -.04 of balanced accuracy
    tolerant = Constraint("equalized_odds", 0.5, 0.4, "balanced_accuracy", None, 1, "classes")
    assert raised(make_report(before, after, constraint=tolerant))[0] == []
    assert raised(make_report(before * 40, after * 40))[0] == [LevellingDownWarning]


def test_a_group_that_gains_is_not_harmed():
    after = FAIR.copy()
    after[0] = [[900, 100], [100, 900]]
    assert raised(make_report(FAIR, after))[0] == []


@pytest.mark.parametrize(("tolerance", "needed"), [(0.1, 25), (0.05, 100)])
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
