"""Measures of the probabilities of validation rows, and the map that calibrates them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..metrics import MEASURES, CalibrationMap, Rows, measure_groups

__all__ = ["Scores", "check_calibrate", "measure_calibrated", "measure_scores", "say_calibrated"]

# Measures by name: values, errors and rows (3, n_groups + 1), all rows together last.
Scores: TypeAlias = dict[str, NDArray[np.float64]]
# Measures of the order of rows, which a strictly monotone map keeps.
ORDER = ("auc", "average_precision")


def check_calibrate(method: str, y: NDArray[np.int64], classes: NDArray[Any]) -> None:
    """Check that a map of an editor's probabilities can be fitted to the validation rows.

    Parameters
    ----------
    method : {"temperature", "isotonic"}
    y : ndarray of shape (n,), int64
        Codes of the classes of the validation rows.
    classes : ndarray of shape (n_classes,)

    Raises
    ------
    ValueError
        There are too few rows of a class, or more than two classes for "isotonic".
    """
    if method == "isotonic" and len(classes) > 2:
        raise ValueError(
            f"calibrate='isotonic' is for two classes, got {len(classes)}: a map of each class "
            "alone would change which is the largest. Pass calibrate='temperature'."
        )
    counts = np.bincount(y, minlength=len(classes))
    if counts.min() < 2:
        few = classes.tolist()[int(counts.argmin())]
        raise ValueError(
            f"calibrate={method!r} needs at least 2 validation rows of every class, and there are "
            f"{counts.min()} of {few!r}: pass more rows, a larger validation=, or calibrate=None."
        )


def measure_scores(rows: Rows, shares: NDArray[np.float64]) -> Scores:
    """Measure probabilities: values, errors and rows (3, n_groups + 1), all rows together last."""
    whole = replace(rows, shares=shares)
    return {
        name: np.column_stack([measure_groups(name, whole), measure_groups(name, whole.overall)])
        for name, line in MEASURES.items()
        if line.of_scores is not None
    }


def measure_calibrated(
    calibration: CalibrationMap, logits: NDArray[np.float64], rows: Rows
) -> Scores:
    """Measure calibrated probabilities as other rows would show them.

    The map fits its own rows too well, so every row is mapped by what the other folds give. The
    maps of the folds differ, so the order of rows is measured under the one map.
    """
    crossed = CalibrationMap.cross_fitted(calibration.method, logits, rows.y, rows.weights)
    found = measure_scores(rows, crossed)
    own = measure_scores(rows, calibration.shares(logits))
    return {**found, **{name: own[name] for name in ORDER}}


def say_calibrated(calibration: CalibrationMap) -> str:
    """Say what maps the probabilities, and how the report measures them."""
    return (
        f"predict_proba is calibrated on the validation rows by {calibration} (calibrate="
        f"{calibration.method!r}), one map for all groups. The measures of probabilities after the "
        "edit are cross-fitted: each row under a map that was fitted without it."
    )
