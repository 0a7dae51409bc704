"""Run methods of fairlearn with the rows, groups and objective that each needs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.preprocessing import StandardScaler

from .._rng import seeded_globally
from ._answers import Answer
from ._classifiers import SENSITIVE, filled, fit_classifier, predict_options
from ._editors import FRACTION
from ._fold import BATCH, Fold

__all__ = ["adversarial", "adversarial_as_given", "post_process", "reduce", "reduce_as_given"]

# fairlearn's names of our gaps.
THRESHOLD_NAMES = {
    "equalized_odds": "equalized_odds",
    "demographic_parity": "demographic_parity",
    "equal_opportunity": "true_positive_rate_parity",
}
MOMENT_NAMES = {
    "equalized_odds": "EqualizedOdds",
    "demographic_parity": "DemographicParity",
    "equal_opportunity": "TruePositiveRateParity",
    "accuracy_parity": "ErrorRateParity",
}
ADVERSARY_NAMES = ("equalized_odds", "demographic_parity")

# Epochs and steps of the default base network.
MIN_EPOCHS, MIN_STEPS = 20, 1500


class BaseScores(ClassifierMixin, BaseEstimator):
    """The base network as a fitted classifier that gets its probabilities as rows.

    Post-processors need nothing else, so the rows of the problem can be images too.
    """

    def __init__(self) -> None:
        self.classes_ = np.array([0, 1])

    def fit(self, X: Any, y: Any) -> BaseScores:
        """Do nothing, since the network is trained already."""
        return self

    def predict_proba(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn probabilities of class 1, the only column of X, into those of both classes."""
        positive = np.asarray(X, dtype=np.float64).reshape(-1)
        return np.stack([1 - positive, positive], axis=1)

    def predict(self, X: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the more probable class."""
        return self.predict_proba(X).argmax(axis=1)


def post_process(optimizer: Any, fold: Fold, constraint: str) -> NDArray[np.int64]:
    """Run a ThresholdOptimizer around the base network, or around its own estimator.

    It is fitted on the validation rows and the sample of training rows, or on all rows if its own
    estimator must be trained.
    """
    optimizer = clone(optimizer)
    optimizer.set_params(constraints=_translate(constraint, THRESHOLD_NAMES, optimizer))
    rows, X = fold.choosing, _as_double(fold)
    if optimizer.estimator is None:
        optimizer.set_params(estimator=BaseScores(), prefit=True)
        X = _score_column(fold)
    elif not optimizer.prefit:
        rows = fold.fitting
    rows = fold.drawn(rows)
    optimizer.fit(X(rows), fold.positive(rows), sensitive_features=fold.groups(rows))
    predicted = optimizer.predict(
        X(fold.test), sensitive_features=fold.groups(fold.test), random_state=fold.seed
    )
    return fold.codes_of_positive(predicted)


def _as_double(fold: Fold) -> Any:
    """Select rows in double precision, since fairlearn 0.15 with pandas 3 fails on single."""

    def rows_of(rows: NDArray[np.int64]) -> Any:
        X = fold.X(rows)
        return X.astype(np.float64) if hasattr(X, "astype") else X

    return rows_of


def _score_column(fold: Fold) -> Any:
    return lambda rows: fold.scores(rows)[:, None]


def reduce(fold: Fold, constraint: str) -> NDArray[np.int64]:
    """Run ExponentiatedGradient on logistic regressions, with costs as in balanced accuracy."""
    from fairlearn import reductions
    from sklearn.linear_model import LogisticRegression

    _require_table(fold, "ExponentiatedGradient with logistic regression")
    moment = getattr(reductions, _translate(constraint, MOMENT_NAMES, "ExponentiatedGradient"))
    share = float(np.average(fold.positive(fold.fitting), weights=fold.weights(fold.fitting)))
    reduction = reductions.ExponentiatedGradient(
        LogisticRegression(max_iter=200),
        moment(difference_bound=FRACTION * fold.problem.tolerance),
        objective=reductions.ErrorRate(costs={"fp": 0.5 / (1 - share), "fn": 0.5 / share}),
    )
    return _run_reduction(reduction, fold, _standardise(fold))


def reduce_as_given(reduction: Any, fold: Fold, constraint: str) -> NDArray[np.int64]:
    """Run an ExponentiatedGradient or GridSearch with its own moment and estimator."""
    return _run_reduction(clone(reduction), fold, _as_double(fold))


def _run_reduction(reduction: Any, fold: Fold, X: Any) -> NDArray[np.int64]:
    """Fit on all rows outside the test rows, since it chooses nothing on validation rows."""
    rows = fold.drawn(fold.fitting)
    reduction.fit(X(rows), fold.positive(rows), sensitive_features=fold.groups(rows))
    options = predict_options(reduction, fold)
    return fold.codes_of_positive(reduction.predict(X(fold.test), **options))


def adversarial(fold: Fold, constraint: str) -> NDArray[np.int64]:
    """Train AdversarialFairnessClassifier with its default linear models on scaled columns."""
    from fairlearn.adversarial import AdversarialFairnessClassifier

    _require_table(fold, "AdversarialFairnessClassifier")
    steps = -(-len(fold.fitting) // BATCH)
    classifier = AdversarialFairnessClassifier(
        backend="torch",
        predictor_model=[],
        adversary_model=[],
        constraints=_translate(constraint, ADVERSARY_NAMES, "AdversarialFairnessClassifier"),
        epochs=max(MIN_EPOCHS, -(-MIN_STEPS // steps)),
        batch_size=BATCH,
        shuffle=True,
        random_state=fold.seed,
    )
    X, rows = _standardise(fold), fold.drawn(fold.fitting)
    with seeded_globally(fold.seed):
        classifier.fit(X(rows), fold.y(rows), **{SENSITIVE: fold.groups(rows)})
    return fold.codes_of_labels(classifier.predict(X(fold.test)))


def adversarial_as_given(classifier: Any, fold: Fold, constraint: str) -> Answer:
    """Train an AdversarialFairnessClassifier with the user's settings."""
    copy = filled(classifier).set_params(
        constraints=_translate(constraint, ADVERSARY_NAMES, classifier)
    )
    with seeded_globally(fold.seed):  # it draws from torch's global generator
        return fit_classifier(copy, fold, constraint)


def _standardise(fold: Fold) -> Any:
    scaler = StandardScaler().fit(fold.X(fold.fitting))
    return lambda rows: scaler.transform(fold.X(rows))


def _require_table(fold: Fold, name: str) -> None:
    shape = np.shape(fold.X(fold.test[:1]))
    if len(shape) != 2:
        raise ValueError(f"{name} takes tables, but X holds images of shape {shape[1:]}.")


def _translate(constraint: str, names: Any, method: Any) -> str:
    """Translate a gap's name.

    Raises
    ------
    ValueError
        If the method does not know this gap.
    """
    if constraint not in names:
        who = method if isinstance(method, str) else type(method).__name__
        raise ValueError(f"{who} does not know {constraint}; it knows {', '.join(names)}.")
    return names[constraint] if isinstance(names, dict) else constraint
