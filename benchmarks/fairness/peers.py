"""Methods of other packages; each gets the rows, the groups and the objective that suit it.

Post-processors are fitted on the rows that the selection rule uses, which are validation rows and a
sample of training rows. On development rows this was better than the validation rows alone. If a
method lets us choose its objective, it is balanced accuracy. If a method leaves one threshold open,
the benchmark's selection rule sets it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import product
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import nn

from benchmarks.fairness.context import Context, Method, Outcome
from benchmarks.fairness.protocol import FRACTION, TOLERANCE, pool
from benchmarks.nets import convnet, margins, mlp, train
from benchmarks.tasks import Rows

__all__ = ["PEERS"]

# RejectOptionClassification measures every pair of a threshold and a margin in pandas.
REJECT_ROWS, REJECT_THRESHOLDS, REJECT_MARGINS = 5000, 50, 20
GRADIENT_STEPS = 50
ALPHAS = (0.3, 1.0, 3.0)
ADVERSARIES: dict[str, tuple[list[Any], list[Any]]] = {
    "linear": ([], []),
    "hidden": ([64, "relu", 64, "relu"], [16, "relu"]),
}


def logistic(margin: np.ndarray) -> np.ndarray:
    """Turn margins into probabilities of class 1."""
    return 1 / (1 + np.exp(-margin))


class Probabilities(ClassifierMixin, BaseEstimator):
    """The base network as a fitted scikit-learn classifier, which post-processors need."""

    def __init__(self, network: Any = None) -> None:
        self.network = network

    def fit(self, X: np.ndarray, y: np.ndarray) -> Probabilities:
        """Do nothing, because the network is already trained."""
        self.classes_ = np.array([0, 1])
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Give the probabilities of both classes; float64 ndarray of shape (n, 2)."""
        positive = logistic(margins(self.network, np.asarray(X, np.float32)))
        return np.stack([1 - positive, positive], axis=1)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Give the more probable class."""
        return self.predict_proba(X).argmax(axis=1)


def like_base(context: Context) -> nn.Module:
    """Make a new network of the base network's shape."""
    width, *sides = context.train.X.shape[1:]
    if sides:
        return convnet(width, context.seed + 1, sides[0])
    return mlp(width, context.seed + 1)


def oxonfair_predictions(context: Context, constraint: str, inferred: bool) -> np.ndarray:
    """Fit OxonFair's DeepFairPredictor and predict (Delaney et al., arXiv:2407.13710).

    The head that guesses the group has the shape of the base network and is trained as long, on
    the groups of the training rows. OxonFair is fitted at the tolerance itself, which on
    development rows was better than 0.4 x the tolerance.
    """
    from oxonfair import DeepDataDict, DeepFairPredictor
    from oxonfair.utils import group_metrics

    guess = like_base(context)
    if inferred:
        few = {"steps": 0} if context.train.X.ndim == 4 else {}
        train(guess, context.train.X, context.train.g, seed=context.seed + 1, **few)

    def heads(X: np.ndarray) -> np.ndarray:
        return np.stack([margins(context.network, X), logistic(margins(guess, X))], axis=1)

    rows = pool(context.parts)
    predictor = DeepFairPredictor(rows.y, heads(rows.X), rows.g, use_actual_groups=not inferred)
    gap = {
        "equalized_odds": group_metrics.equalized_odds_max,
        "demographic_parity": group_metrics.demographic_parity,
    }[constraint]
    predictor.fit(group_metrics.balanced_accuracy, gap, TOLERANCE)
    unused = np.zeros(len(context.test_X), int)
    test = DeepDataDict(unused, heads(context.test_X), context.test_g)
    return np.asarray(predictor.predict(test))


def oxonfair_inferred(context: Context, constraint: str) -> Outcome:
    """Let OxonFair set a threshold for every guessed group."""
    return Outcome(oxonfair_predictions(context, constraint, inferred=True), {})


def oxonfair_actual(context: Context, constraint: str) -> Outcome:
    """Let OxonFair set a threshold for every actual group."""
    return Outcome(oxonfair_predictions(context, constraint, inferred=False), {})


def threshold_optimizer(context: Context, constraint: str) -> Outcome:
    """Run fairlearn's ThresholdOptimizer (Hardt et al., arXiv:1610.02413)."""
    from fairlearn.postprocessing import ThresholdOptimizer

    rows = pool(context.parts)
    optimizer = ThresholdOptimizer(
        estimator=Probabilities(context.network).fit(rows.X, rows.y),
        constraints=constraint,
        objective="balanced_accuracy_score",
        prefit=True,
        predict_method="predict_proba",
    ).fit(rows.X, rows.y, sensitive_features=rows.g)
    predictions = optimizer.predict(
        context.test_X, sensitive_features=context.test_g, random_state=context.seed
    )
    return Outcome(np.asarray(predictions), {})


def exponentiated_gradient(context: Context, constraint: str) -> Outcome:
    """Run fairlearn's ExponentiatedGradient on logistic regression (arXiv:1803.02453).

    Errors have the costs of balanced accuracy. The method chooses nothing on validation rows, so
    it is fitted on training and validation rows together.
    """
    from fairlearn.reductions import (
        DemographicParity,
        EqualizedOdds,
        ErrorRate,
        ExponentiatedGradient,
    )
    from sklearn.linear_model import LogisticRegression

    rows = pool([context.train, context.validation])
    moment = {"equalized_odds": EqualizedOdds, "demographic_parity": DemographicParity}[constraint]
    share = rows.y.mean()
    reduction = ExponentiatedGradient(
        LogisticRegression(max_iter=200),
        moment(difference_bound=FRACTION * TOLERANCE),
        objective=ErrorRate(costs={"fp": 0.5 / (1 - share), "fn": 0.5 / share}),
        max_iter=GRADIENT_STEPS,
    ).fit(rows.X, rows.y, sensitive_features=rows.g)
    predictions = reduction.predict(context.test_X, random_state=context.seed)
    return Outcome(np.asarray(predictions).astype(int), {"fits": int(reduction.n_oracle_calls_)})


def adversarial(context: Context, constraint: str) -> Outcome:
    """Train fairlearn's AdversarialFairnessClassifier (Zhang et al., arXiv:1801.07593).

    There are two pairs of predictor and adversary: linear models, as is the default, and the base
    network's shape against one hidden layer. Each is trained for the base network's number of
    steps with three weights of the adversary. The selection rule chooses among them and sets the
    one threshold. Runs whose weights become NaN are left out and counted; with hidden layers this
    happened on bank-age in most development runs.
    """
    made, names = [], []
    for (shape, models), alpha in product(ADVERSARIES.items(), ALPHAS):
        with suppress(RuntimeError):  # torch raises it when its loss gets NaN
            made.append(adversarial_scores(context, constraint, models, alpha))
            names.append((shape, alpha))
    if not made:
        raise RuntimeError("the weights became NaN for all models and weights of the adversary")
    outcome, winner = context.select(made, constraint, first=1)
    diverged = len(ADVERSARIES) * len(ALPHAS) - len(made)
    notes = {"chosen": names[winner - 1], "diverged": diverged}
    return Outcome(outcome.predictions, {**outcome.notes, **notes})


def adversarial_scores(
    context: Context, constraint: str, models: tuple[list[Any], list[Any]], alpha: float
) -> Callable[[np.ndarray], np.ndarray]:
    """Train one predictor against one adversary and give its score function."""
    from fairlearn.adversarial import AdversarialFairnessClassifier

    rows = context.train
    n_batches = -(-len(rows.y) // 256)
    classifier = AdversarialFairnessClassifier(
        backend="torch",
        predictor_model=list(models[0]),  # fairlearn appends the output layer to this list
        adversary_model=list(models[1]),
        constraints=constraint,
        epochs=max(20, -(-1500 // n_batches)),
        batch_size=256,
        shuffle=True,
        alpha=alpha,
        random_state=context.seed,
    ).fit(rows.X, rows.y, sensitive_features=rows.g)

    def score(X: np.ndarray) -> np.ndarray:
        return np.asarray(classifier._raw_predict(X), float).reshape(-1)

    if not np.isfinite(score(rows.X)).all():
        raise RuntimeError("the weights became NaN in the last step")
    return score


def reweighing(context: Context, constraint: str) -> Outcome:
    """Train a new base network under the weights of AIF360's Reweighing (Kamiran and Calders).

    The weights make label and group independent and multiply every row's cross-entropy; the
    selection rule sets the one threshold.
    """
    from aif360.algorithms.preprocessing import Reweighing

    rows = context.train
    table = labelled(rows, rows.y)
    weights = Reweighing(*group_roles(context)).fit_transform(table).instance_weights
    network = mlp(rows.X.shape[1], context.seed)
    train(network, rows.X, rows.y, seed=context.seed, weights=np.asarray(weights))
    return context.select([lambda X: margins(network, X)], constraint, first=1)[0]


def group_roles(context: Context) -> tuple[list[dict[str, int]], list[dict[str, int]]]:
    """Name the unprivileged and the privileged group as AIF360 wants them.

    The privileged group is the one with more positive labels, since the positive class is what
    AIF360 calls favourable.
    """
    rows = context.train
    privileged = int(rows.y[rows.g == 1].mean() > rows.y[rows.g == 0].mean())
    return [{"group": 1 - privileged}], [{"group": privileged}]


def labelled(rows: Rows, labels: np.ndarray, scores: np.ndarray | None = None) -> Any:
    """Build AIF360's table of labels, groups and scores."""
    import pandas as pd
    from aif360.datasets import BinaryLabelDataset

    frame = pd.DataFrame({"group": rows.g.astype(float), "label": labels.astype(float)})
    table = BinaryLabelDataset(
        favorable_label=1.0,
        unfavorable_label=0.0,
        df=frame,
        label_names=["label"],
        protected_attribute_names=["group"],
    )
    if scores is not None:
        table.scores = scores.reshape(-1, 1)
    return table


def scored(context: Context, rows: Rows) -> Any:
    """Build AIF360's table of the base network's probabilities and tuned predictions."""
    margin = margins(context.network, rows.X)
    hard = (margin > context.operating_threshold).astype(int)
    return labelled(rows, hard, logistic(margin))


def unlabelled_test(context: Context) -> Rows:
    """Give the test rows labels of zero, because AIF360's tables need labels."""
    return Rows(context.test_X, np.zeros(len(context.test_X), int), context.test_g)


def eq_odds_postprocessing(context: Context, constraint: str) -> Outcome:
    """Run AIF360's EqOddsPostprocessing on predictions at the best threshold (1610.02413).

    It supports equalized odds only; the rows of demographic parity show the same predictions.
    """
    from aif360.algorithms.postprocessing import EqOddsPostprocessing

    processor = EqOddsPostprocessing(*group_roles(context), seed=context.seed)
    rows = pool(context.parts)
    processor.fit(labelled(rows, rows.y), scored(context, rows))
    fixed = processor.predict(scored(context, unlabelled_test(context)))
    return Outcome(fixed.labels.reshape(-1).astype(int), {})


def reject_option(context: Context, constraint: str) -> Outcome:
    """Run AIF360's RejectOptionClassification (Kamiran et al., ICDM 2012).

    Of its metrics, average odds is the nearest to equalized odds. Its grid is searched on at most
    5,000 rows, because it measures every point in pandas.
    """
    from aif360.algorithms.postprocessing import RejectOptionClassification

    names = {
        "equalized_odds": "Average odds difference",
        "demographic_parity": "Statistical parity difference",
    }
    rows = pool(context.parts)
    drawn = np.random.default_rng(context.seed).permutation(len(rows.y))[:REJECT_ROWS]
    rows = Rows(*(column[drawn] for column in rows))
    processor = RejectOptionClassification(
        *group_roles(context),
        num_class_thresh=REJECT_THRESHOLDS,
        num_ROC_margin=REJECT_MARGINS,
        metric_name=names[constraint],
        metric_ub=FRACTION * TOLERANCE,
        metric_lb=-FRACTION * TOLERANCE,
    ).fit(labelled(rows, rows.y), scored(context, rows))
    fixed = processor.predict(scored(context, unlabelled_test(context)))
    return Outcome(fixed.labels.reshape(-1).astype(int), {})


PEERS = {
    "oxonfair-inferred": Method(oxonfair_inferred, False, "OxonFair, inferred groups"),
    "oxonfair-actual": Method(oxonfair_actual, True, "OxonFair, actual groups"),
    "threshold-optimizer": Method(threshold_optimizer, True, "fairlearn ThresholdOptimizer"),
    "exponentiated-gradient": Method(
        exponentiated_gradient, False, "fairlearn ExponentiatedGradient"
    ),
    "adversarial": Method(adversarial, False, "fairlearn AdversarialFairnessClassifier"),
    "reweighing": Method(reweighing, False, "AIF360 Reweighing"),
    "eq-odds-postprocessing": Method(eq_odds_postprocessing, True, "AIF360 EqOddsPostprocessing"),
    "reject-option": Method(reject_option, True, "AIF360 RejectOptionClassification"),
}
