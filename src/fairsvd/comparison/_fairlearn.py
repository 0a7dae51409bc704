"""Methods of fairlearn, each given what it needs: validation rows, groups, a fair objective."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.preprocessing import StandardScaler

from .._rng import seeded_globally
from ._classifiers import SENSITIVE, filled, fit_classifier, predict_options
from ._editors import FRACTION
from ._fold import BATCH, Fold

__all__ = ["adversarial", "adversarial_as_given", "post_process", "reduce", "reduce_as_given"]

# What fairlearn calls our gaps.
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

# As many epochs and steps as the default base network gets.
MIN_EPOCHS, MIN_STEPS = 20, 1500


class BaseScores(ClassifierMixin, BaseEstimator):
    """The base network as a fitted classifier, over its probabilities in the place of rows.

    Post-processors look at nothing else, so that rows may be images too.
    """

    def __init__(self) -> None:
        self.classes_ = np.array([0, 1])

    def fit(self, X: Any, y: Any) -> BaseScores:
        """Do nothing: the network is trained already."""
        return self

    def predict_proba(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Write probabilities of class 1, the only column of X, as those of both classes."""
        positive = np.asarray(X, dtype=np.float64).reshape(-1)
        return np.stack([1 - positive, positive], axis=1)

    def predict(self, X: NDArray[np.float64]) -> NDArray[np.int64]:
        """Give the more probable class."""
        return self.predict_proba(X).argmax(axis=1)


def post_process(optimizer: Any, fold: Fold, constraint: str) -> NDArray[np.int64]:
    """Run a ThresholdOptimizer: around the base network, or the estimator that it brings.

    It is fitted on the validation rows and the sample of training rows; one whose own estimator
    is yet to be trained, on all rows.
    """
    optimizer = clone(optimizer)
    optimizer.set_params(constraints=_name(constraint, THRESHOLD_NAMES, optimizer))
    rows, X = fold.choosing, _as_double(fold)
    if optimizer.estimator is None:
        optimizer.set_params(estimator=BaseScores(), prefit=True)
        X = _score_column(fold)
    elif not optimizer.prefit:
        rows = fold.fitting
    optimizer.fit(X(rows), fold.positive(rows), sensitive_features=fold.groups(rows))
    predicted = optimizer.predict(
        X(fold.test), sensitive_features=fold.groups(fold.test), random_state=fold.seed
    )
    return fold.codes_of_positive(predicted)


def _as_double(fold: Fold) -> Any:
    """Select rows in double precision: with pandas 3, fairlearn 0.15 fails on single."""

    def rows_of(rows: NDArray[np.int64]) -> Any:
        X = fold.X(rows)
        return X.astype(np.float64) if hasattr(X, "astype") else X

    return rows_of


def _score_column(fold: Fold) -> Any:
    return lambda rows: fold.scores(rows)[:, None]


def reduce(fold: Fold, constraint: str) -> NDArray[np.int64]:
    """Run ExponentiatedGradient on logistic regression over standardised columns.

    Errors cost as in balanced accuracy.
    """
    from fairlearn import reductions
    from sklearn.linear_model import LogisticRegression

    _tables_only(fold, "ExponentiatedGradient with logistic regression")
    moment = getattr(reductions, _name(constraint, MOMENT_NAMES, "ExponentiatedGradient"))
    share = fold.positive(fold.fitting).mean()
    reduction = reductions.ExponentiatedGradient(
        LogisticRegression(max_iter=200),
        moment(difference_bound=FRACTION * fold.problem.tolerance),
        objective=reductions.ErrorRate(costs={"fp": 0.5 / (1 - share), "fn": 0.5 / share}),
    )
    return _reduced(reduction, fold, _standardised(fold))


def reduce_as_given(reduction: Any, fold: Fold, constraint: str) -> NDArray[np.int64]:
    """Run an ExponentiatedGradient or GridSearch with its own moment and estimator."""
    return _reduced(clone(reduction), fold, _as_double(fold))


def _reduced(reduction: Any, fold: Fold, X: Any) -> NDArray[np.int64]:
    """Fit on all rows that are not tested on, since it chooses nothing on validation rows."""
    rows = fold.fitting
    reduction.fit(X(rows), fold.positive(rows), sensitive_features=fold.groups(rows))
    options = predict_options(reduction, fold)
    return fold.codes_of_positive(reduction.predict(X(fold.test), **options))


def adversarial(fold: Fold, constraint: str) -> NDArray[np.int64]:
    """Train AdversarialFairnessClassifier's linear models, its default, on standardised columns."""
    from fairlearn.adversarial import AdversarialFairnessClassifier

    _tables_only(fold, "AdversarialFairnessClassifier")
    steps = -(-len(fold.fitting) // BATCH)
    classifier = AdversarialFairnessClassifier(
        backend="torch",
        predictor_model=[],
        adversary_model=[],
        constraints=_name(constraint, ADVERSARY_NAMES, "AdversarialFairnessClassifier"),
        epochs=max(MIN_EPOCHS, -(-MIN_STEPS // steps)),
        batch_size=BATCH,
        shuffle=True,
        random_state=fold.seed,
    )
    X, rows = _standardised(fold), fold.fitting
    with seeded_globally(fold.seed):
        classifier.fit(X(rows), fold.y(rows), **{SENSITIVE: fold.groups(rows)})
    return fold.codes_of_labels(classifier.predict(X(fold.test)))


def adversarial_as_given(classifier: Any, fold: Fold, constraint: str) -> NDArray[np.int64]:
    """Train an AdversarialFairnessClassifier of the user's settings."""
    copy = filled(classifier).set_params(constraints=_name(constraint, ADVERSARY_NAMES, classifier))
    with seeded_globally(fold.seed):  # it draws from torch's global generator
        return fit_classifier(copy, fold, constraint)


def _standardised(fold: Fold) -> Any:
    scaler = StandardScaler().fit(fold.X(fold.fitting))
    return lambda rows: scaler.transform(fold.X(rows))


def _tables_only(fold: Fold, name: str) -> None:
    shape = np.shape(fold.X(fold.test[:1]))
    if len(shape) != 2:
        raise ValueError(f"{name} takes tables; X holds images of shape {shape[1:]}.")


def _name(constraint: str, names: Any, method: Any) -> str:
    """Translate a gap's name.

    Raises
    ------
    ValueError
        The method does not know this gap.
    """
    if constraint not in names:
        who = method if isinstance(method, str) else type(method).__name__
        raise ValueError(f"{who} does not know {constraint}; it knows {', '.join(names)}.")
    return names[constraint] if isinstance(names, dict) else constraint
