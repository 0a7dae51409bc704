"""compare: what each method is given, shown by doing the same with its own package."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.postprocessing import ThresholdOptimizer
from fairlearn.reductions import (
    DemographicParity,
    ErrorRate,
    ExponentiatedGradient,
    TruePositiveRateParity,
)
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler
from torch import nn

from fairsvd import compare
from fairsvd._rng import stage_rng
from fairsvd.base import draw_sample, split_rows
from fairsvd.comparison._fold import fold_seed
from fairsvd.datasets import make_biased_classification
from fairsvd.objective import count_table, gap
from helpers import IGNORE_SMALL_DATA, Rows, mlp, skorch_net, table, trained

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
    # fairlearn 0.15 does with pandas 3.1 what pandas 4 will refuse.
    pytest.mark.filterwarnings("ignore:Setting an? (item|value)"),
]


def fold_of(rows, fitting, seed=0):
    """The first fold's seed, its training and validation rows, and the rows to choose on."""
    cells, own = 2 * rows.y[fitting] + rows.group[fitting], fold_seed(seed, 0)
    parts = split_rows(0.3, cells, rows.y[fitting], stage_rng(own, "split"))
    training, validation = (fitting[part] for part in parts)
    sample = draw_sample(training, 4000, stage_rng(own, "sample"))
    return own, training, validation, np.sort(np.concatenate([validation, sample]))


def compared(method, rows, fitting, test, **settings):
    """The row of a method on one fold."""
    settings = {"cv": [(fitting, test)], "random_state": 0, **settings}
    found = compare({"mine": method}, rows.X, rows.y, rows.group, **settings)
    row = found[found["method"] == "mine"].iloc[0]
    assert row["error"] == ""
    return row


def same(row, rows, test, predicted, pos=1):
    """Check that the row is about these predictions for the test rows."""
    counts = count_table(rows.y[test], predicted, rows.group[test], 2, 2)
    for name in ("equalized_odds", "demographic_parity"):
        value = float(gap(counts, name, pos))
        assert row[f"{name}_difference"] == pytest.approx(value, abs=1e-12)
    balanced = balanced_accuracy_score(rows.y[test], predicted)
    assert row["balanced_accuracy"] == pytest.approx(balanced, abs=1e-12)
    assert row["accuracy"] == pytest.approx((predicted == rows.y[test]).mean(), abs=1e-12)


def at_levels():
    """Rows of one column at three levels, far more positives than negatives.

    Balanced accuracy is best between the upper levels (0.8 and 0.8 of the classes are right),
    accuracy between the lower ones (420 of 500 rows).
    """
    cells = {(1, 0): 40, (1, 1): 20, (2, 0): 40, (2, 1): 60, (3, 0): 20, (3, 1): 320}
    levels, y = np.repeat(np.array(list(cells)), list(cells.values()), axis=0).T
    order = np.random.default_rng(0).permutation(500)
    return Rows(levels[order, None].astype(np.float32), y[order], np.arange(500) % 2)


def test_one_threshold_is_that_of_best_balanced_accuracy():
    """The network's margin is the level itself: untouched it calls every row positive."""
    rows = at_levels()
    base = nn.Sequential(nn.Linear(1, 2))
    with torch.no_grad():
        base[0].weight.copy_(torch.tensor([[0.0], [1.0]]))
        base[0].bias.zero_()
    halves = np.arange(500) < 250
    fitting, test = np.flatnonzero(halves), np.flatnonzero(~halves)
    row = compared("threshold", rows, fitting, test, base=base)
    same(row, rows, test, (rows.X[test, 0] == 3).astype(int))
    flipped = compared("threshold", rows, fitting, test, base=base, pos_label=0)
    assert flipped["balanced_accuracy"] == row["balanced_accuracy"]


def test_the_threshold_is_chosen_without_a_look_at_the_test_rows():
    rows = at_levels()
    base = nn.Sequential(nn.Linear(1, 2))
    with torch.no_grad():
        base[0].weight.copy_(torch.tensor([[0.0], [1.0]]))
        base[0].bias.zero_()
    halves = np.arange(500) < 250
    fitting, test = np.flatnonzero(halves), np.flatnonzero(~halves)
    y = rows.y.copy()
    y[test] = (rows.X[test, 0] > 1).astype(int)  # there the lower cut would be right everywhere
    row = compared("threshold", rows._replace(y=y), fitting, test, base=base)
    same(row, rows._replace(y=y), test, (rows.X[test, 0] == 3).astype(int))


@pytest.fixture(scope="module")
def many():
    """More training rows than post-processors are given, and a network for them."""
    data = make_biased_classification(9000, n_features=4, random_state=3)
    rows = Rows(data.data.astype(np.float32), data.target, data.groups)
    fitting, test = np.arange(7000), np.arange(7000, 9000)
    base = trained(nn.Sequential(nn.Linear(4, 2)), Rows(*(part[:500] for part in rows)))
    return rows, fitting, test, base


class Scores(ClassifierMixin, BaseEstimator):
    """Scores in the only column of X."""

    def fit(self, X, y):
        self.classes_ = np.array([0, 1])
        return self

    def predict_proba(self, X):
        return np.stack([1 - X[:, 0], X[:, 0]], axis=1)


def fitted_here(optimizer, X, rows, fitted_on, test, seed, pos):
    optimizer.fit(X[fitted_on], rows.y[fitted_on] == pos, sensitive_features=rows.group[fitted_on])
    options = {"sensitive_features": rows.group[test], "random_state": seed}
    chosen = np.asarray(optimizer.predict(X[test], **options)).astype(int)
    return np.where(chosen == 1, pos, 1 - pos)


@pytest.mark.parametrize("pos", [0, 1])
def test_threshold_optimizer_gets_scores_of_the_positive_label_on_the_rows_to_choose_on(many, pos):
    rows, fitting, test, base = many
    seed, training, validation, choosing = fold_of(rows, fitting)
    assert len(choosing) == len(validation) + 4000 < len(training) + len(validation)
    with torch.no_grad():
        scores = base(torch.tensor(rows.X)).double().softmax(1).numpy()[:, [pos]]
    theirs = ThresholdOptimizer(
        estimator=Scores().fit(None, None),
        constraints="true_positive_rate_parity",
        objective="balanced_accuracy_score",
        predict_method="predict_proba",
        prefit=True,
    )
    predicted = fitted_here(theirs, scores, rows, choosing, test, seed, pos)
    asked = {"base": base, "constraints": "equal_opportunity", "pos_label": pos}
    same(compared("ThresholdOptimizer", rows, fitting, test, **asked), rows, test, predicted, pos)


def test_an_optimizer_with_an_estimator_of_its_own_is_fitted_on_all_rows(many):
    rows, fitting, test, base = many
    seed, *_ = fold_of(rows, fitting)
    settings = {"estimator": LogisticRegression(), "predict_method": "predict_proba"}
    theirs = ThresholdOptimizer(constraints="demographic_parity", **settings)
    predicted = fitted_here(theirs, rows.X.astype(float), rows, fitting, test, seed, 1)
    asked = {"base": base, "constraints": "demographic_parity"}
    mine = compared(ThresholdOptimizer(**settings), rows, fitting, test, **asked)
    same(mine, rows, test, predicted)


@pytest.fixture(scope="module")
def uneven():
    """Few positives, so that the two kinds of errors cost differently."""
    rows = table(900, seed=2)
    keep = (rows.y == 0) | (np.random.default_rng(0).random(900) < 0.3)
    rows = Rows(*(part[keep] for part in rows))
    base = trained(nn.Sequential(nn.Linear(6, 2)), rows)
    half = np.arange(len(rows.y)) % 2 == 0
    return rows, np.flatnonzero(half), np.flatnonzero(~half), base


@pytest.mark.parametrize(
    ("name", "moment"),
    [("equal_opportunity", TruePositiveRateParity), ("demographic_parity", DemographicParity)],
)
def test_the_reduction_is_of_logistic_regressions_with_balanced_costs_on_all_rows(
    uneven, name, moment
):
    rows, fitting, test, base = uneven
    rows = rows._replace(X=rows.X.copy())
    rows.X[test, 2] *= 30  # what is standardised by the test rows is another column
    seed, *_ = fold_of(rows, fitting)
    share = rows.y[fitting].mean()
    assert share < 0.35
    X = StandardScaler().fit(rows.X[fitting]).transform(rows.X)
    theirs = ExponentiatedGradient(
        LogisticRegression(max_iter=200),
        moment(difference_bound=0.4 * 0.1),
        objective=ErrorRate(costs={"fp": 0.5 / (1 - share), "fn": 0.5 / share}),
    ).fit(X[fitting], rows.y[fitting], sensitive_features=rows.group[fitting])
    predicted = np.asarray(theirs.predict(X[test], random_state=seed)).astype(int)
    asked = {"base": base, "constraints": name, "tolerance": 0.1}
    same(compared("ExponentiatedGradient", rows, fitting, test, **asked), rows, test, predicted)


def aif360_table(labels, group, scores=None):
    from aif360.datasets import BinaryLabelDataset

    found = BinaryLabelDataset(
        df=pd.DataFrame({"sex": group.astype(float), "label": labels.astype(float)}),
        label_names=["label"],
        protected_attribute_names=["sex"],
    )
    if scores is not None:
        found.scores = scores.reshape(-1, 1)
    return found


def by_aif360(processor, rows, fitted_on, test, scores, hard, pos):
    """Fit and predict as AIF360's own users do, the positive label being its favourable one."""
    true = aif360_table(rows.y[fitted_on] == pos, rows.group[fitted_on])
    told = aif360_table(hard[fitted_on], rows.group[fitted_on], scores[fitted_on])
    processor.fit(true, told)
    fixed = processor.predict(aif360_table(hard[test], rows.group[test], scores[test]))
    return np.where(fixed.labels.ravel() == 1, pos, 1 - pos)


def best_cut(y, margins):
    """Every cut between two margins, by hand: where balanced accuracy is highest, in the middle.

    In the middle of margins and not of probabilities, since a test row may lie between the two.
    """
    values = np.unique(margins)
    cuts = (values[1:] + values[:-1]) / 2
    worth = [balanced_accuracy_score(y, margins > cut) for cut in cuts]
    best = np.flatnonzero(np.isclose(worth, max(worth)))
    assert len(best) == 1
    return cuts[best[0]]


@pytest.mark.parametrize(
    ("name", "pos"),
    [
        ("EqOddsPostprocessing", 0),
        ("EqOddsPostprocessing", 1),
        ("RejectOptionClassification", 0),  # seconds each
    ],
)
def test_aif360s_post_processors_get_scores_and_decisions_at_the_best_threshold(uneven, name, pos):
    from aif360.algorithms import postprocessing

    rows, fitting, test, base = uneven
    seed, _, _, choosing = fold_of(rows, fitting)
    with torch.no_grad():
        logits = base(torch.tensor(rows.X)).double()
    scores = logits.softmax(1).numpy()[:, pos]
    margins = (logits[:, pos] - logits[:, 1 - pos]).numpy()
    hard = margins > best_cut(rows.y[choosing] == pos, margins[choosing])
    shares = [(rows.y[fitting][rows.group[fitting] == g] == pos).mean() for g in (0, 1)]
    more = int(shares[1] > shares[0])
    roles = [{"sex": 1 - more}], [{"sex": more}]
    if name == "EqOddsPostprocessing":
        theirs = postprocessing.EqOddsPostprocessing(*roles, seed=seed)
    else:
        theirs = postprocessing.RejectOptionClassification(
            *roles,
            num_class_thresh=50,
            num_ROC_margin=20,
            metric_name="Average odds difference",
            metric_ub=0.4 * 0.05,
            metric_lb=-0.4 * 0.05,
        )
    predicted = by_aif360(theirs, rows, choosing, test, scores, hard, pos)
    named = rows._replace(group=pd.Series(rows.group, name="sex"))
    row = compared(name, named, fitting, test, base=base, tolerance=0.05, pos_label=pos)
    same(row, rows, test, predicted, pos)


class Noting(nn.Module):
    """Notes the numbers of the rows that it is trained on, in the last column of X."""

    trained_on: list[int] = []  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, X):
        if self.training:
            type(self).trained_on.extend(X[:, 5].long().tolist())
        return self.inner(X * torch.tensor([1, 1, 1, 1, 1, 0.0]))


def test_base_networks_are_trained_on_training_rows_alone(uneven):
    """Once on each of them; for Reweighing again, on as many of them, some more often."""
    rows, fitting, test, _ = uneven
    X = rows.X.copy()
    X[:, 5] = np.arange(len(X))
    kind = type("Mine", (Noting,), {"trained_on": []})
    net = skorch_net(kind, max_epochs=1)
    _, training, _, _ = fold_of(rows, fitting)
    compared("threshold", rows._replace(X=X), fitting, test, base=net)
    assert sorted(kind.trained_on) == training.tolist()
    kind.trained_on.clear()
    compared("Reweighing", rows._replace(X=X), fitting, test, base=net)
    first, second = kind.trained_on[: len(training)], kind.trained_on[len(training) :]
    assert sorted(first) == training.tolist()
    assert len(second) == len(training)
    assert set(second) < set(training.tolist())
    y, group = rows.y[second], rows.group[second]
    joint = np.mean((y == 1) & (group == 1))
    assert joint == pytest.approx(np.mean(y) * np.mean(group), abs=0.005)
    before = np.mean((rows.y[training] == 1) & (rows.group[training] == 1))
    assert abs(before - rows.y[training].mean() * rows.group[training].mean()) > 0.03
