"""Monotone maps that calibrate probabilities: one factor of the logits, or an isotonic regression.

An isotonic map is flat in places. Adding a millionth of the probability itself makes it strictly
monotone, so that it keeps the order of rows, and what lies above a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import StratifiedKFold

__all__ = ["CALIBRATIONS", "OWN_SHARE", "CalibrationMap", "best_factor"]

Array = NDArray[np.float64]

CALIBRATIONS = ("temperature", "isotonic")
# Range of the logarithm of a temperature.
WIDEST = 5.0
# Share of the probability itself in an isotonic map.
OWN_SHARE = 1e-6
FOLDS = 5


@dataclass(frozen=True)
class CalibrationMap:
    """What maps logits to calibrated probabilities.

    Attributes
    ----------
    method : {"temperature", "isotonic"}
    factor : float, default=1.0
        Of the logits: 1 / temperature.
    points, values : ndarray of shape (n_points,), float64
        Probabilities of the second class, and what they become; straight lines between. Empty:
        nothing is mapped but by the factor.
    """

    method: str
    factor: float = 1.0
    points: Array = field(default_factory=lambda: np.empty(0))
    values: Array = field(default_factory=lambda: np.empty(0))

    @classmethod
    def fit(cls, method: str, logits: Array, y: NDArray[np.int64], weights: Array | None) -> Self:
        """Fit a map to the labels of some rows.

        Parameters
        ----------
        method : {"temperature", "isotonic"}
        logits : ndarray of shape (n, n_classes), float64
            Of two classes for "isotonic".
        y : ndarray of shape (n,), int64
            Codes of the classes, at least two of them.
        weights : ndarray of shape (n,), float64, or None
        """
        weights = np.ones(len(y)) if weights is None else weights
        if method == "temperature":
            return cls(method, best_factor(logits, y, weights))
        chances = softmax(logits, axis=1)[:, 1]
        fitted = IsotonicRegression(y_min=0, y_max=1).fit(chances, y, sample_weight=weights)
        points, values = (np.asarray(each) for each in (fitted.X_thresholds_, fitted.y_thresholds_))
        return cls(method, 1.0, points.astype(np.float64), values.astype(np.float64))

    def shares(self, logits: Array) -> Array:
        """Map logits (n, n_classes) to probabilities, float64."""
        shares: Array = softmax(self.factor * logits, axis=1)
        if not len(self.points):
            return shares
        mapped = np.interp(shares[:, 1], self.points, self.values)
        mapped += OWN_SHARE * (shares[:, 1] - mapped)
        return np.stack([1 - mapped, mapped], axis=1)

    def of_margin(self, margin: float) -> float:
        """Map a margin of two classes to the probability of the second."""
        return float(self.shares(np.array([[0.0, margin]]))[0, 1])

    def __str__(self) -> str:
        if self.method == "temperature":
            return f"a temperature of {1 / self.factor:.3g}"
        return f"an isotonic map of {len(np.unique(self.values))} levels"

    @classmethod
    def cross_fitted(
        cls, method: str, logits: Array, y: NDArray[np.int64], weights: Array | None
    ) -> Array:
        """Map every row by what was fitted on the other folds (at most 5).

        Parameters
        ----------
        method, logits, y, weights
            As of :meth:`fit`; at least two rows of every class that occurs.

        Returns
        -------
        shares : ndarray of shape (n, n_classes), float64
        """
        mapped = np.empty_like(logits)
        counts = np.bincount(y)
        folds = StratifiedKFold(int(min(FOLDS, counts[counts > 0].min())), shuffle=False)
        for train, test in folds.split(logits, y):
            own = None if weights is None else weights[train]
            mapped[test] = cls.fit(method, logits[train], y[train], own).shares(logits[test])
        return mapped


def best_factor(logits: Array, y: NDArray[np.int64], weights: Array) -> float:
    """Find the factor of the logits with the smallest log loss.

    Parameters
    ----------
    logits : ndarray of shape (n, n_classes), float64
    y : ndarray of shape (n,), int64
    weights : ndarray of shape (n,), float64

    Returns
    -------
    factor : float
        From exp(-5) to exp(5); one over the temperature.
    """
    places = np.arange(len(y))

    def loss(exponent: float) -> float:
        of_label = log_softmax(np.exp(exponent) * logits, axis=1)[places, y]
        return float(-(weights * of_label).sum())

    best = minimize_scalar(loss, bounds=(-WIDEST, WIDEST), method="bounded").x
    return float(np.exp(best))
