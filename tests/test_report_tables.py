"""The report of a fit: its tables against fairlearn, and its sentences."""

from __future__ import annotations

import pickle
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
from fairsvd.objective import (
    GAPS,
    Constraint,
    count_table,
    estimate_gaps,
)
from report_rows import (
    FAIR,
    INFEASIBLE,
    make_report,
    rows,
)
from uncertainty_reference import UNEQUAL, check_uncertainty

EXACT = {"rtol": 0, "atol": 1e-12}


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
