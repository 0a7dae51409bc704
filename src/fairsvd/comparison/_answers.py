"""What a method says of the test rows: classes, and probabilities where it has them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._fold import Fold

__all__ = ["Answer", "ask"]


class Answer(NamedTuple):
    """What a method says of the test rows.

    Attributes
    ----------
    codes : ndarray of shape (n_test,), int64
        Predicted classes.
    shares : ndarray of shape (n_test, n_classes), float64, or None
        Probabilities, if they are wanted and the method has them.
    """

    codes: NDArray[np.int64]
    shares: NDArray[np.float64] | None = None


def ask(model: Any, fold: Fold, X: Any, **options: Any) -> Answer:
    """Ask a fitted classifier about the test rows.

    Parameters
    ----------
    model : object with ``predict``
    fold : Fold
    X : array-like
        The test rows as the model gets them.
    **options
        Arguments of ``predict``.
    """
    codes = fold.codes_of_labels(model.predict(X, **options))
    if not (fold.problem.wants_shares and hasattr(model, "predict_proba")):
        return Answer(codes)
    columns = fold.codes_of_labels(model.classes_)
    shares = np.zeros((len(codes), len(fold.problem.classes)))
    shares[:, columns] = model.predict_proba(X)
    return Answer(codes, shares)
