"""Probabilities and decisions of a classifier, as shares of its classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ask_for_shares"]


def ask_for_shares(estimator: Any, method: str, X: Any) -> NDArray[np.float64]:
    """Compute probabilities, or decisions as 0/1 shares, of shape (n, n_classes)."""
    classes = getattr(estimator, "classes_", None)
    if classes is None:
        raise ValueError(
            f"{type(estimator).__name__} has no classes_, which response_method="
            f"{method!r} needs to identify its columns: use 'predict'."
        )
    respond = getattr(estimator, method, None)
    if respond is None:
        raise ValueError(
            f"{type(estimator).__name__} has no {method}: pass "
            "response_method='predict' to fairness_scorer, or score another estimator."
        )
    scores = np.asarray(respond(X), dtype=np.float64)
    if np.isnan(scores).any():
        rows = np.flatnonzero(np.isnan(scores).reshape(len(scores), -1).any(axis=1))
        raise ValueError(
            f"{method} of {type(estimator).__name__} gave NaN for {len(rows)} rows, the first in "
            f"row {rows[0]}, which are of no class: check the estimator and X."
        )
    n_classes = len(classes)
    if scores.ndim == 1 and n_classes == 2:
        return np.eye(2)[(scores > 0).astype(np.int64)]
    if scores.ndim != 2 or scores.shape[1] != n_classes:
        raise ValueError(
            f"{method} gave shape {scores.shape} for {n_classes} classes: wanted "
            "one column for each class (an SVC: decision_function_shape='ovr')."
        )
    if method == "decision_function":
        _check_shape(estimator)
        return np.eye(n_classes)[scores.argmax(axis=1)]
    return scores


def _check_shape(estimator: Any) -> None:
    """Refuse decisions between pairs of classes; of three classes there are as many pairs."""
    get_params = getattr(estimator, "get_params", dict)
    shapes = {str(v) for k, v in get_params().items() if k.endswith("decision_function_shape")}
    if "ovo" in shapes:
        raise ValueError(
            "decision_function compares pairs of classes, but one column for each class is wanted: "
            "set decision_function_shape='ovr', or use response_method='predict'."
        )
