"""compare: weighted rows, measures by group, and requirements in the place of a gap."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.metrics import equalized_odds_difference
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_score, roc_auc_score

from fairsvd import BlindPostProcessor, EachAttribute, GapLimit, MinimumRate, NoHarm, compare
from helpers import EXACT, IGNORE_SMALL_DATA

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.ConstraintNotMetWarning"),
]

SEEN: list[tuple[np.ndarray, np.ndarray | None]] = []


class Sign(ClassifierMixin, BaseEstimator):
    """Predicts the sign of the first column, and remembers the rows that it got."""

    def fit(self, X, y):
        SEEN.append((np.asarray(X), None))
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return self.classes_[(np.asarray(X)[:, 0] > 0).astype(int)]


class WeightedSign(Sign):
    """The same, and takes weights."""

    def fit(self, X, y, sample_weight=None):
        super().fit(X, y)
        SEEN[-1] = (SEEN[-1][0], sample_weight)
        return self


@pytest.fixture(scope="module")
def task():
    """480 rows, the last half of which is the test side, with integer weights."""
    rng = np.random.default_rng(0)
    n = 480
    people = pd.DataFrame({"sex": rng.choice(["f", "m"], n), "race": rng.choice(["a", "b"], n)})
    male, second = (people["sex"] == "m").to_numpy(), (people["race"] == "b").to_numpy()
    y = rng.integers(2, size=n)
    first = 1.4 * y - 0.7 + 0.8 * male - 0.6 * second + rng.normal(size=n)
    X = np.column_stack([first, second + rng.normal(size=n), male + rng.normal(size=n)])
    net = torch.nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0, 0, 0], [1.0, 0, 0.2]]))
        net.bias.zero_()
    return X.astype(np.float32), y, people, net, rng.integers(1, 4, size=n)


def run(task, methods, **options):
    X, y, people, net, _ = task
    half = np.arange(len(y)) < 240
    options = {"cv": [(half, ~half)], "random_state": 0, **options}
    return compare(methods, X, y, people, base=net, **options)


def test_weights_of_test_rows_are_repeated_rows(task):
    X, y, people, net, weights = task
    plain = run(task, Sign())
    weighted = run(task, Sign(), sample_weight=weights)
    rows = np.repeat(np.arange(480), np.where(np.arange(480) < 240, 1, weights))
    columns = X[rows], y[rows], people.iloc[rows].reset_index(drop=True)
    side = rows < 240
    repeated = compare(Sign(), *columns, base=net, cv=[(side, ~side)], random_state=0)
    exact = ["accuracy", "balanced_accuracy", "gap", "worst_cell", "psi", "phi"]
    exact += [name for name in plain if "_change_" in name]
    for name in exact:
        np.testing.assert_allclose(weighted[name], repeated[name], **EXACT)
    assert (weighted["accuracy"] - plain["accuracy"]).abs().min() > 1e-4, "weights change nothing"
    # Weighted rows tell less than as many rows of weight 1, so that intervals are wider.
    width = [each["gap_high"] - each["gap_low"] for each in (weighted, repeated)]
    assert (width[0] > width[1]).all()


def test_methods_get_the_weights_or_rows_drawn_by_them(task):
    X, _, _, _, weights = task
    SEEN.clear()
    weights = np.where(np.arange(480) % 7 == 0, 0, weights)
    found = run(task, {"draws": Sign(), "takes": WeightedSign()}, sample_weight=weights)
    assert not found["error"].any()
    (drawn, none), (every, given) = SEEN
    assert none is None
    own = X[:240]
    np.testing.assert_array_equal(every, own)
    np.testing.assert_array_equal(given, weights[:240])
    times = np.array([(drawn == row).all(axis=1).sum() for row in own])
    share = 240 * weights[:240] / weights[:240].sum()
    assert times.sum() == 240
    assert (np.abs(times - share) < 1).all()


def test_editors_and_peers_follow_the_weights(task):
    """Weights that make one sex's errors rare give the peers another gap to close."""
    X, y, people, _, _ = task
    male = (people["sex"] == "m").to_numpy()
    task = (X, y, people[["sex"]], *task[3:])
    right = (X[:, 0] > 0) == y
    # Of one sex mostly rows that the network gets right, of the other those that it does not.
    weights = np.where(right == male, 1.0, 0.1)
    editor = BlindPostProcessor(joint="head", n_teachers=1)
    names = [editor, "ThresholdOptimizer"]
    plain = run(task, names)
    weighted = run(task, [*names, "DifFair"], sample_weight=weights)
    assert "takes no sample_weight" in weighted.set_index("method").loc["DifFair", "error"]
    for method in ("BlindPostProcessor", "ThresholdOptimizer"):
        rows = [table.set_index("method").loc[method] for table in (plain, weighted)]
        assert not any(row["error"] for row in rows)
        assert rows[1]["gap"] < weighted["gap"].iloc[0] - 0.2
        assert abs(rows[0]["accuracy"] - rows[1]["accuracy"]) > 0.02


def test_measures_by_group_are_those_of_the_test_rows(task):
    X, y, people, _, _ = task
    model = LogisticRegression()
    found = run(task, {"mine": model, "signs": Sign()}, measures=["auc", "ppv"])
    row = found.set_index("method").loc["mine"]
    fitted = LogisticRegression().fit(X[:240], y[:240])
    predicted, share = fitted.predict(X[240:]), fitted.predict_proba(X[240:])[:, 1]
    groups = people.iloc[240:].agg("/".join, axis=1).to_numpy()
    own = {g: groups == g for g in np.unique(groups)}
    auc = {g: roc_auc_score(y[240:][rows], share[rows]) for g, rows in own.items()}
    ppv = {g: precision_score(y[240:][rows], predicted[rows]) for g, rows in own.items()}
    for name, values in (("auc", auc), ("ppv", ppv)):
        low, high = min(values.values()), max(values.values())
        assert row[f"{name}_difference"] == pytest.approx(high - low, abs=1e-12)
        assert row[f"{name}_ratio"] == pytest.approx(low / high, abs=1e-12)
        assert row[f"{name}_worst"] == pytest.approx(low, abs=1e-12)
        assert row[f"{name}_worst_group"] == min(values, key=values.get)
        assert row[f"{name}_worst_low"] < low < row[f"{name}_worst_high"]
    other = found.set_index("method").loc["signs"]
    assert np.isnan(other["auc_difference"]), "it has no probabilities"
    assert other["ppv_difference"] > 0
    table = found.disparities()
    assert table.index.names == ["constraint", "method", "measure"]
    line = table.loc["equalized_odds", "mine", "auc"]
    assert line["difference"] == line["difference_low"] == row["auc_difference"]
    assert line["worst_group"] == row["auc_worst_group"]
    assert len(run(task, Sign(), measures="all").disparities()) == 2 * 19
    with pytest.raises(ValueError, match="lacks measures by group"):
        run(task, Sign()).disparities()
    with pytest.raises(ValueError, match=r"measures='ppw'.*Did you mean 'ppv'"):
        run(task, Sign(), measures="ppw")


def test_a_requirement_takes_the_place_of_a_gap(task):
    X, y, people, _, _ = task
    editor = BlindPostProcessor(joint="head", n_teachers=1)
    each = EachAttribute("equalized_odds")
    found = run(task, [editor, Sign()], constraints=["equalized_odds", each], tolerance=0.1)
    assert found["constraint"].unique().tolist() == [
        "equalized_odds",
        "equalized_odds by each attribute",
    ]
    rows = found.set_index(["constraint", "method"])
    predicted = (X[240:, 0] > 0).astype(int)
    alone = [
        equalized_odds_difference(y[240:], predicted, sensitive_features=people[name].iloc[240:])
        for name in people
    ]
    own = rows.loc["equalized_odds by each attribute", "Sign"]
    assert own["gap"] == pytest.approx(max(alone), abs=1e-12)
    assert own["gap_low"] <= own["gap"] <= own["gap_high"]
    assert own["psi"] == pytest.approx(own["balanced_accuracy"] - max(0, max(alone) - 0.1))
    assert rows.loc["equalized_odds", "Sign"]["gap"] > own["gap"]
    edited = rows.loc["equalized_odds by each attribute", "BlindPostProcessor"]
    assert edited["gap"] < own["gap"] - 0.05


def test_several_requirements_are_named_by_a_mapping(task):
    y = task[1]
    asked = {"both": [MinimumRate("tpr", 0.9), EachAttribute(NoHarm(0.1))]}
    row = run(task, Sign(), constraints=asked, tolerance=0.05).set_index("method").loc["Sign"]
    assert row["constraint"] == "both"
    selected = pd.Series(task[0][240:, 0] > 0)
    rows = task[2].iloc[240:].reset_index(drop=True)[y[240:] == 1]
    lowest = selected[y[240:] == 1].groupby([rows["sex"], rows["race"]]).mean().min()
    assert row["gap"] >= 0.05 + 0.9 - lowest - 1e-12
    assert np.isnan(row["gap_low"])
    assert row["gap_upper"] > row["gap"]
    only = {"rate": MinimumRate("tpr", 0.9)}
    alone = run(task, Sign(), constraints=only).set_index("method").loc["Sign"]
    assert alone["gap"] == pytest.approx(0.05 + 0.9 - lowest)
    for wrong in ([], {"x": [0.1]}, GapLimit("tprr")):
        with pytest.raises(ValueError, match=r"constraints=|gap='tprr'"):
            run(task, Sign(), constraints=wrong)
