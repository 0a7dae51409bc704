"""Gaps and ratios as numbers, and the tables of groups and gaps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fairsvd import fairness_score, group_table
from fairsvd.exceptions import GroupError
from fairsvd.metrics import METRICS, gap_table, gaps_frame, rates_frame

EXACT = {"rtol": 0, "atol": 1e-12}
NAME = "equalized_odds_difference"


@pytest.fixture
def rows():
    """String labels, predictions of three groups, and the codes behind both."""
    rng = np.random.default_rng(0)
    group = rng.choice(["a", "b", "c"], size=300)
    y = rng.integers(2, size=300)
    predicted = np.where(rng.random(300) < 0.6 + 0.3 * (group == "a"), y, 1 - y)
    return np.array(["no", "yes"])[y], predicted, group


def test_there_is_a_difference_and_a_ratio_of_every_gap():
    assert len(METRICS) == 12
    assert {"average_odds_ratio", "accuracy_parity_difference"} < set(METRICS)


@pytest.mark.parametrize(
    ("y_true", "y_pred", "message"),
    [
        ([0, 1, 1], [0, 1], r"lengths differ: \{'y_true': 3, 'y_pred': 2\}"),
        ([0, 1], [[0.1, 0.9], [0.5, 0.5]], r"y_pred .* shape \(2, 2\).*argmax"),
        ([], [], "at least one label"),
        (["a", "b"], [0, 1], "cannot be compared"),
        (
            np.array(["a", None], dtype=object),
            ["a", "b"],
            "y_true has missing .* in row 1",
        ),
        ([0.0, np.nan], [0.0, 1.0], "y_true has missing labels"),
        (["a", "a"], ["a", "a"], "single label 'a'"),
    ],
)
def test_labels_that_do_not_fit(y_true, y_pred, message):
    with pytest.raises(ValueError, match=message):
        fairness_score(NAME, y_true, y_pred, sensitive_features=[0, 1][: len(y_true)])


def test_labels_of_one_kind_or_close_to_it():
    group = ["f", "f", "m", "m"]

    def score(y_true, y_pred, **options):
        name = "demographic_parity_difference"
        return fairness_score(name, y_true, y_pred, sensitive_features=group, **options)

    assert score([0, 1, 0, 1], [False, True, True, True]) == 0.5
    assert score(pd.Series([0, 1, 0, 1], dtype="Int64"), [0, 1, 1, 1.0]) == 0.5
    assert score([1] * 4, [1] * 4) == 0
    assert np.isnan(
        fairness_score("demographic_parity_ratio", [0] * 4, [0] * 4, sensitive_features=group)
    )
    assert score(["no"] * 4, ["no"] * 4, pos_label="yes") == 0
    with pytest.raises(ValueError, match=r"pos_label='maybe' is not among .*'no', 'yes'"):
        score(["no", "yes"] * 2, ["no"] * 4, pos_label="maybe")
    with pytest.raises(GroupError, match="X has 4 rows"):
        fairness_score(NAME, [0, 1, 0, 1], [0, 1, 1, 1], sensitive_features=group[:2])


def test_group_table(rows):
    y, predicted, group = rows
    labels = np.array(["no", "yes"])[predicted]
    table = group_table(y, labels, pd.Series(group, name="race"))
    assert table.index.name == "race"
    assert list(table.columns) == ["n", "selection_rate", "tpr", "fpr", "accuracy"]
    assert table["n"].sum() == 300
    for name, row in table.iterrows():
        own = group == name
        assert row["n"] == own.sum()
        np.testing.assert_allclose(row["selection_rate"], predicted[own].mean())
        np.testing.assert_allclose(row["tpr"], predicted[own & (y == "yes")].mean())
        np.testing.assert_allclose(row["fpr"], predicted[own & (y == "no")].mean())
        np.testing.assert_allclose(row["accuracy"], (labels == y)[own].mean())


def test_group_table_of_several_columns_and_of_empty_cells():
    sensitive = pd.DataFrame({"sex": ["f", "f", "m"], "old": [True, False, True]})
    table = group_table([0, 1, 1], [0, 1, 0], sensitive)
    assert table.index.names == ["sex", "old"]
    assert table.loc[("f", False), "tpr"] == 1
    assert np.isnan(table.loc[("f", False), "fpr"])


def test_group_table_of_several_classes():
    y, predicted = np.array([0, 1, 2, 2, 0, 1]), np.array([0, 1, 2, 0, 1, 1])
    table = group_table(y, predicted, [0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(table["selection_rate"], 1 / 3)
    np.testing.assert_allclose(table["tpr"], [1, 1 / 3])
    np.testing.assert_allclose(table["fpr"], [0, (1 / 2 + 1 / 2 + 0) / 3])
    np.testing.assert_allclose(table["accuracy"], [1, 1 / 3])


def test_gap_table_holds_every_metric(rows):
    y, predicted, group = rows
    labels = np.array(["no", "yes"])[predicted]
    table = gap_table(y, labels, group, pos_label="no")
    for name in METRICS:
        stem, kind = name.rsplit("_", 1)
        expected = fairness_score(name, y, labels, sensitive_features=group, pos_label="no")
        assert table.loc[stem, kind] == expected
    assert table.shape == (6, 2)


def test_tables_take_the_labels_their_order_and_the_positive_one():
    """Of two classes in the order given the second is positive, unless another is named."""
    y, predicted = ["no", "no", "yes", "yes"] * 2, ["no", "yes", "yes", "yes"] * 2
    group = ["a"] * 4 + ["b"] * 4
    predicted[4] = "yes"  # no recall of "no" in b
    for options, tpr, fpr in (
        ({}, [1.0, 1.0], [0.5, 1.0]),
        ({"labels": ["yes", "no"]}, [0.5, 0.0], [0.0, 0.0]),
        ({"pos_label": "no"}, [0.5, 0.0], [0.0, 0.0]),
        ({"pos_label": "yes", "labels": ["yes", "no"]}, [1.0, 1.0], [0.5, 1.0]),
    ):
        table = group_table(y, predicted, group, **options)
        assert table["tpr"].tolist() == tpr
        assert table["fpr"].tolist() == fpr
        gaps = gap_table(y, predicted, group, **options)["difference"]
        assert gaps["equal_opportunity"] == abs(tpr[0] - tpr[1])
        assert gaps["equalized_odds"] == 0.5
    # A class that does not occur is one more to compare with the rest.
    third = group_table(y, predicted, group, labels=["no", "yes", "maybe"])
    assert third["selection_rate"].tolist() == pytest.approx([1 / 3, 1 / 3])
    name = "demographic_parity_difference"
    third = gap_table(y, predicted, group, labels=["no", "yes", "maybe"])["difference"]
    assert third["demographic_parity"] == pytest.approx((0.25 + 0.25 + 0) / 3)
    score = fairness_score(
        name, y, predicted, sensitive_features=group, labels=["no", "yes", "maybe"]
    )
    assert score == third["demographic_parity"]


def test_rows_without_a_group_in_tables_and_scores():
    y, predicted = [0, 1, 0, 1, 1], [0, 1, 1, 1, 0]
    group = ["a", "a", "b", "b", None]
    for call in (
        lambda **options: group_table(y, predicted, group, **options),
        lambda **options: gap_table(y, predicted, group, **options),
        lambda **options: fairness_score(NAME, y, predicted, sensitive_features=group, **options),
    ):
        with pytest.raises(GroupError, match="missing_group="):
            call()
    ignored = group_table(y, predicted, group, missing_group="ignore")
    assert ignored["n"].to_dict() == {"a": 2, "b": 2}
    own = group_table(y, predicted, group, missing_group="own_group")
    assert own["tpr"].to_dict() == {"a": 1.0, "b": 1.0, "missing": 0.0}
    for missing, gap in (("ignore", 0.0), ("own_group", 1.0)):
        table = gap_table(y, predicted, group, missing_group=missing)
        assert table.loc["equal_opportunity", "difference"] == gap
        score = fairness_score(
            "equal_opportunity_difference",
            y,
            predicted,
            sensitive_features=group,
            missing_group=missing,
        )
        assert score == gap


def test_a_lone_label_is_one_of_a_pair():
    """Zero and one are known by their names; of any other the one to find is to be named."""

    def rate(label, **options):
        return group_table([label] * 2, [label] * 2, ["a", "b"], **options)["selection_rate"].iloc[
            0
        ]

    assert rate(1) == 1.0
    assert rate(0) == 0.0
    assert rate(0, pos_label=0) == 1.0
    assert rate("no", pos_label="yes") == 0.0
    with pytest.raises(ValueError, match="single label 'no'"):
        rate("no")


def test_a_class_that_a_group_lacks_is_left_out_of_its_mean():
    table = group_table([0, 1, 2, 0], [0, 2, 2, 1], ["a", "a", "b", "b"])
    assert table["tpr"].tolist() == [(1 + 0) / 2, (0 + 1) / 2]
    fpr = [(0 / 1 + 0 / 1 + 1 / 2) / 3, (0 / 1 + 1 / 2 + 0 / 1) / 3]
    np.testing.assert_allclose(table["fpr"], fpr, **EXACT)
    empty = rates_frame(np.zeros((1, 3, 3), dtype=int), None, ["a"])
    assert empty[["selection_rate", "tpr", "fpr", "accuracy"]].isna().all(axis=None)


def test_tables_from_counts():
    counts = np.array([[[3, 1], [1, 3]], [[4, 0], [0, 0]]])
    table = rates_frame(counts, 1, ["a", "b"])
    assert table.index.tolist() == ["a", "b"]
    assert table["n"].tolist() == [8, 4]
    np.testing.assert_array_equal(table["tpr"], [0.75, np.nan])
    assert gaps_frame(counts, 1).loc["demographic_parity", "difference"] == 0.5


def test_labels_that_are_tuples_stay_labels_of_one_column():
    counts = np.ones((2, 2, 2), dtype=int)
    for names in (("box",), ()):
        table = rates_frame(counts, 1, [("a", 1), ("b", 2)], names)
        assert table.index.nlevels == 1
        assert table.index.tolist() == [("a", 1), ("b", 2)]
    assert rates_frame(counts, 1, [("a", 1), ("b", 2)], ("x", "y")).index.names == ["x", "y"]
