"""compare's no-harm protocol: the reference, the quadrants, and the groups that lose."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from scipy.stats import binomtest
from scipy.stats import t as student
from sklearn.base import BaseEstimator, ClassifierMixin

from fairsvd import Comparison, GapFineTuner, compare
from fairsvd.comparison import _fine_tuning as fine_tuning
from fairsvd.comparison._select import NEEDED
from helpers import IGNORE_SMALL_DATA, mlp, table, trained

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

# Balanced accuracy and gap in each of three folds, and the number of groups that lose.
VALUES = {
    "untouched": ([0.7, 0.7, 0.7], [0.3, 0.3, 0.3], [0, 0, 0]),
    "tuned": ([0.8, 0.8, 0.82], [0.2, 0.2, 0.2], [0, 0, 0]),
    "better": ([0.85, 0.84, 0.86], [0.1, 0.11, 0.1], [0, 0, 0]),
    "costly": ([0.6, 0.61, 0.6], [0.05, 0.05, 0.04], [2, 2, 1]),
    "unfair": ([0.9, 0.7, 0.87], [0.25, 0.31, 0.3], [1, 0, 0]),
    "failing": ([np.nan] * 3, [np.nan] * 3, [np.nan] * 3),
}


def made(reference="tuned", values=VALUES):
    rows = [
        dict.fromkeys(NEEDED, np.nan)
        | {"fold": fold, "constraint": "equalized_odds", "method": method, "needs_group": False}
        | {"balanced_accuracy": b, "gap": g, "groups_lost": lost, "reference": reference}
        for method, columns in values.items()
        for fold, (b, g, lost) in enumerate(zip(*columns, strict=True))
    ]
    return Comparison(rows)


class Column(ClassifierMixin, BaseEstimator):
    """Predicts what a column of X holds."""

    def __init__(self, column=0, random_state=None):
        self.column = column
        self.random_state = random_state

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return self.classes_[np.asarray(X)[:, self.column].astype(int)]


# The table


def test_quadrants_are_by_the_signs_of_both_changes():
    found = made().no_harm().droplevel("constraint")
    assert found["quadrant"].to_dict() == {
        "better": "utility up, fairness up",
        "tuned": "reference",
        "unfair": "utility up, fairness down",
        "costly": "utility down, fairness up",
        "untouched": "utility down, fairness down",
        "failing": "",
    }
    assert found["groups_lost"].drop("failing").to_dict() == pytest.approx(
        {"better": 0, "tuned": 0, "unfair": 1 / 3, "costly": 5 / 3, "untouched": 0}
    )
    assert found["clear"].to_dict() == {
        "better": True, "tuned": False, "unfair": False, "costly": True, "untouched": True,
        "failing": False,
    }  # fmt: skip


def test_methods_are_in_the_order_of_their_distance_to_the_ideal_point():
    found = made().no_harm().droplevel("constraint")["distance"].dropna()
    for method, distance in found.items():
        balanced, gaps, _ = VALUES[method]
        folds = [np.sqrt((1 - b) ** 2 + g**2) for b, g in zip(balanced, gaps, strict=True)]
        assert distance == pytest.approx(np.mean(folds))
    assert found.is_monotonic_increasing


def test_intervals_are_those_of_nadeau_and_bengio():
    row = made().no_harm().loc["equalized_odds", "better"]
    changes = np.array([0.05, 0.04, 0.04])
    assert row["utility_change"] == pytest.approx(changes.mean())
    # Three folds: each test side has half as many rows as its training side.
    error = np.sqrt((1 / 3 + 1 / 2) * changes.var(ddof=1))
    low, high = student.interval(0.95, 2, changes.mean(), error)
    assert row[["utility_change_low", "utility_change_high"]].tolist() == pytest.approx([low, high])
    assert row["fairness_change"] == pytest.approx((0.1 + 0.09 + 0.1) / 3)


def test_one_fold_has_no_interval_and_is_not_clear():
    found = made()
    row = found[found["fold"] == 0].no_harm().loc["equalized_odds", "better"]
    assert row["quadrant"] == "utility up, fairness up"
    assert np.isnan(row["fairness_change_low"])
    assert not row["clear"]


def test_only_folds_in_which_both_worked_are_paired():
    values = {**VALUES, "tuned": ([0.8, np.nan, 0.82], [0.2, np.nan, 0.2], [0, np.nan, 0])}
    row = made(values=values).no_harm().loc["equalized_odds", "better"]
    assert (row["folds"], row["utility_change"]) == (2, pytest.approx(0.045))


def test_an_equal_method_is_not_down():
    values = {"tuned": VALUES["tuned"], "same": VALUES["tuned"]}
    found = made(values=values).no_harm().droplevel("constraint")
    assert found.loc["same", "quadrant"] == "utility up, fairness up"
    assert not found.loc["same", "clear"]


def test_a_file_keeps_what_the_protocol_needs(tmp_path):
    made().to_csv(tmp_path / "table.csv", index=False)
    again = Comparison(pd.read_csv(tmp_path / "table.csv"))
    pd.testing.assert_frame_equal(again.no_harm(), made().no_harm())


def test_what_is_missing_is_said():
    with pytest.raises(ValueError, match=r"call compare\(\.\.\., reference='fine-tuning'\)"):
        made().drop(columns="reference").no_harm()
    found = made()
    with pytest.raises(ValueError, match="rows of the reference 'tuned' are missing"):
        found[found["method"] != "tuned"].no_harm()
    with pytest.raises(ValueError, match="'average_odds' was not compared"):
        made().no_harm("average_odds")


def test_the_plot_shows_every_method_where_its_changes_are():
    ax = Figure().subplots()
    assert made().plot_no_harm(ax=ax) is ax
    points = {line.get_gid(): line.get_xydata()[0] for line in ax.lines if line.get_gid()}
    table_ = made().no_harm().droplevel("constraint")
    drawn = ["better", "unfair", "costly", "untouched"]
    assert set(points) >= {f"method {name}" for name in drawn}
    for name in drawn:
        wanted = table_.loc[name, ["fairness_change", "utility_change"]].astype(float)
        np.testing.assert_allclose(points[f"method {name}"], wanted)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "tuned (reference)" in labels
    assert "costly, 1.7 groups lose" in labels
    assert not any("failing" in label for label in labels)
    low, high = ax.get_xlim()
    assert low == -high
    with pytest.raises(ValueError, match="no method has numbers beside the reference"):
        made(values={"tuned": VALUES["tuned"]}).plot_no_harm(ax=ax)


# The runs


def count_losers(y, base, predicted, group):
    """Count groups for which a true positive or true negative rate fell, by McNemar's test."""
    losers = set()
    for g, label in np.ndindex(2, 2):
        cell = (group == g) & (y == label)
        lost = int(((base == label) & (predicted != label))[cell].sum())
        gained = int(((base != label) & (predicted == label))[cell].sum())
        chance = binomtest(lost, lost + gained, alternative="greater").pvalue if lost else 1.0
        if chance * 4 < 0.05 and (lost - gained) / cell.sum() > 0.02:
            losers.add(g)
    return len(losers)


@pytest.fixture(scope="module")
def planted():
    """Columns of predictions: the reference's, one that harms group 1, one that harms both."""
    rows = table(600)
    rng = np.random.default_rng(0)
    base = np.where(rng.random(600) < 0.9, rows.y, 1 - rows.y)
    one = np.where((rng.random(600) < 0.4) & (rows.group == 1), 1 - rows.y, base)
    both = np.where(rng.random(600) < 0.4, 1 - rows.y, base)
    X = np.column_stack([base, one, both, rows.y]).astype(np.float32)
    net = torch.nn.Sequential(torch.nn.Linear(4, 2))
    methods = {"base": Column(0), "one": Column(1), "both": Column(2), "right": Column(3)}
    settings = {"base": trained(net, rows._replace(X=X)), "cv": 2, "random_state": 0}
    return rows, X, methods, settings


def test_groups_lose_against_the_reference_and_not_against_the_untouched_network(planted):
    rows, X, methods, settings = planted
    splits = [(np.arange(300), np.arange(300, 600)), (np.arange(300, 600), np.arange(300))]
    settings = {**settings, "cv": splits, "reference": "base"}
    found = compare(methods, X, rows.y, rows.group, **settings)
    assert found["reference"].unique().tolist() == ["base"]
    for fold, (_, test) in enumerate(splits):
        mine = found[found["fold"] == fold].set_index("method")["groups_lost"]
        for k, name in enumerate(methods):
            codes = (part[test] for part in (rows.y, X[:, 0], X[:, k], rows.group))
            assert mine[name] == count_losers(*codes), name
        assert mine[["base", "one", "both", "right"]].tolist() == [0, 1, 2, 0]
    changes = found.no_harm().droplevel("constraint")
    assert changes.loc["right", "quadrant"] == "utility up, fairness up"
    assert changes.loc["one", "quadrant"] == "utility down, fairness down"


def test_without_a_reference_the_table_has_no_columns_of_one(planted):
    rows, X, methods, settings = planted
    found = compare({"one": methods["one"]}, X, rows.y, rows.group, **settings)
    assert not {"reference", "groups_lost"} & set(found.columns)


def test_a_reference_that_fails_leaves_rows_without_a_count(planted):
    rows, X, methods, settings = planted
    methods = {"bad": Column(99), "one": methods["one"]}
    found = compare(methods, X, rows.y, rows.group, **settings, reference="bad")
    assert found["groups_lost"].isna().all()
    assert (found.no_harm()["folds"] == 0).all()


def test_an_unknown_reference_is_refused_with_the_names(planted):
    rows, X, methods, settings = planted
    with pytest.raises(ValueError, match=r"reference='ERM' is no method.*'one', 'fine-tuning'"):
        compare({"one": methods["one"]}, X, rows.y, rows.group, **settings, reference="ERM")


def test_the_reference_is_the_rate_nearest_to_the_ideal_point(monkeypatch):
    """The same four fits by hand, judged by a distance of its own."""
    monkeypatch.setattr(fine_tuning, "RATES", (1e-4, 3e-2))
    rows = table(240)
    X, y, group = rows.X, rows.y, rows.group
    fits = {}
    kept = fine_tuning._tune

    def keep(fold, rate):
        fits[fold.number, rate] = fold, kept(fold, rate)
        return fits[fold.number, rate][1]

    monkeypatch.setattr(fine_tuning, "_tune", keep)
    base = trained(mlp(), rows)
    found = compare("threshold", X, y, group, base=base, cv=2, random_state=0,
                    reference="fine-tuning")  # fmt: skip
    assert found["method"].unique().tolist() == ["untouched", "fine-tuning", "threshold"]
    for number in (0, 1):
        distances, accuracies = {}, {}
        for rate in fine_tuning.RATES:
            fold, editor = fits[number, rate]
            assert isinstance(editor, GapFineTuner)
            assert editor.groups_ in (None, [])
            assert editor.get_params()["learning_rate"] == rate
            held, test = fold.validation, fold.test
            right = editor.predict(X[held]) == y[held]
            rates = np.array(
                [[right[(y[held] == k) & (group[held] == g)].mean() for g in (0, 1)]
                 for k in (0, 1)]
            )  # fmt: skip
            spread = np.abs(rates[:, 0] - rates[:, 1]).max()
            balanced = np.mean([right[y[held] == k].mean() for k in (0, 1)])
            distances[rate] = np.sqrt((1 - balanced) ** 2 + spread**2)
            accuracies[rate] = (editor.predict(X[test]) == y[test]).mean()
        best = min(distances, key=distances.get)
        mine = found[(found["fold"] == number) & (found["method"] == "fine-tuning")].iloc[0]
        assert mine["accuracy"] == pytest.approx(accuracies[best])
