"""Measures of probabilities, each with the influence of every row, which gives its standard error.

All take the truth (0 or 1), the probability of 1 and the weight of every row; they return the value
and an array of influences, of weighted mean 0: how the value changes with a row's share of the
weight. The standard error is sqrt(sum (weight * influence)**2) / sum(weight).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtr

__all__ = [
    "ScoreMeasure",
    "auc",
    "average_precision",
    "brier",
    "calibration_error",
    "calibration_intercept",
    "calibration_slope",
    "log_loss",
    "standard_error",
]

Array = NDArray[np.float64]
ScoreMeasure = Callable[[Array, Array, Array], tuple[float, Array]]

# Bins of the calibration error, and rows that a bin has at least on average.
BINS, BIN_ROWS = 15, 10
# Newton steps of a calibration line; where it does not converge, both labels are separated.
NEWTON_STEPS = 50
# Probabilities of 0 and 1 are moved by this before a logarithm, as in scikit-learn.
EPS = np.finfo(np.float64).eps


def standard_error(influence: Array, weights: Array) -> float:
    """Compute the standard error of a value from the influences of its rows."""
    return float(np.sqrt(((weights * influence) ** 2).sum()) / weights.sum())


def _undefined(truth: Array) -> tuple[float, Array]:
    return float("nan"), np.full(len(truth), np.nan)


def auc(truth: Array, scores: Array, weights: Array) -> tuple[float, Array]:
    """Area under the ROC curve; ties count half. The influences are DeLong's placements."""
    positive = weights * truth
    negative = weights - positive
    total = positive.sum(), negative.sum()
    if not min(total) > 0:
        return _undefined(truth)
    _, place = np.unique(scores, return_inverse=True)
    below, above = (np.bincount(place, weights=mass) for mass in (negative, positive))
    # Share of the negatives below, and of the positives above, each distinct score.
    lower = (np.cumsum(below) - below / 2) / total[1]
    higher = 1 - (np.cumsum(above) - above / 2) / total[0]
    value = float((above * lower).sum() / total[0])
    of_positive = (lower[place] - value) / total[0]
    of_negative = (higher[place] - value) / total[1]
    return value, weights.sum() * np.where(truth > 0, of_positive, of_negative)


def average_precision(truth: Array, scores: Array, weights: Array) -> tuple[float, Array]:
    """Mean precision at the positives, with the sum of scikit-learn (no interpolation)."""
    positive = weights * truth
    total = positive.sum()
    if not total > 0:
        return _undefined(truth)
    _, place = np.unique(scores, return_inverse=True)
    hits = np.bincount(place, weights=positive)
    # Of the rows at or above each distinct score.
    found = np.cumsum(hits[::-1])[::-1]
    chosen = np.cumsum(np.bincount(place, weights=weights)[::-1])[::-1]
    # At scores whose rows all weigh nothing, and none above them, nothing is chosen.
    safe = np.where(chosen > 0, chosen, 1.0)
    precision = found / safe
    value = float((hits * precision).sum() / total)
    # A row changes the precision at every score up to its own.
    per_row = np.cumsum(hits / safe)[place]
    lost = np.cumsum(hits / safe * precision)[place]
    own = truth * (precision[place] - value)
    return value, weights.sum() / total * (own + truth * per_row - lost)


def _mean(losses: Array, weights: Array) -> tuple[float, Array]:
    value = float((weights * losses).sum() / weights.sum())
    return value, losses - value


def brier(truth: Array, scores: Array, weights: Array) -> tuple[float, Array]:
    """Mean squared difference between label and probability."""
    return _mean((scores - truth) ** 2, weights)


def log_loss(truth: Array, scores: Array, weights: Array) -> tuple[float, Array]:
    """Mean negative logarithm of the label's probability."""
    of_label = np.where(truth > 0, scores, 1 - scores)
    return _mean(-np.log(np.clip(of_label, EPS, 1 - EPS)), weights)


def calibration_error(truth: Array, scores: Array, weights: Array) -> tuple[float, Array]:
    """Average the calibration error of bins of equal mass, less what noise adds to it.

    After arXiv:1909.10155. Deviation: the absolute value of a bin's noisy difference is on average
    that of a folded normal distribution, whose mean has a closed form, instead of a simulation.
    Equal scores share a bin, so that the value does not depend on the order of the rows.
    """
    number = min(BINS, max(1, len(truth) // BIN_ROWS))
    _, place = np.unique(scores, return_inverse=True)
    mass = np.bincount(place, weights=weights)
    middle = (np.cumsum(mass) - mass / 2) / weights.sum()
    bins = np.minimum((number * middle).astype(np.int64), number - 1)[place]

    def sums(values: Array) -> Array:
        return np.bincount(bins, weights=values, minlength=number).astype(np.float64)

    of_bins = sums(weights)
    filled = np.where(of_bins > 0, of_bins, 1.0)
    rate, off = sums(weights * truth) / filled, sums(weights * (truth - scores)) / filled
    noise = np.sqrt(rate * (1 - rate) * sums(weights**2)) / filled
    ratio = off / np.where(noise > 0, noise, 1.0)
    folded = noise * np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2) + off * (1 - 2 * ndtr(-ratio))
    seen = np.where(noise > 0, 2 * np.abs(off) - folded, np.abs(off))
    value = float(max(0.0, (of_bins * seen).sum() / weights.sum()))
    return value, np.sign(off)[bins] * (truth - scores - off[bins])


def _calibration_line(
    truth: Array, scores: Array, weights: Array, free: tuple[int, ...]
) -> tuple[Array, Array]:
    """Fit a logistic regression on the logit of the scores, with some of its coefficients free.

    Returns the free coefficients and every row's influence on them, (n, n_free); NaN where one
    label is missing or the labels are separated.
    """
    line = np.column_stack([np.ones_like(scores), logit(np.clip(scores, EPS, 1 - EPS))])
    coefficients, own = np.array([0.0, 1.0]), list(free)
    part, total = line[:, own], weights.sum()
    missing = np.full(len(own), np.nan), np.full((len(truth), len(own)), np.nan)
    if not 0 < (weights * truth).sum() < total:
        return missing
    for _ in range(NEWTON_STEPS):
        rate = expit(line @ coefficients)
        slope = part.T @ (weights * (truth - rate)) / total
        curve = (part * (weights * rate * (1 - rate))[:, None]).T @ part / total
        if _is_singular(curve):
            return missing
        step = np.linalg.solve(curve, slope)
        # A far start of a steep line would overshoot.
        coefficients[own] += step * min(1.0, 2.0 / np.abs(step).max()) if step.any() else 0.0
        if np.abs(step).max() < 1e-10:
            return coefficients[own], np.linalg.solve(curve, (part * (truth - rate)[:, None]).T).T
    return missing


def _is_singular(curve: Array) -> bool:
    """Tell whether a curvature, (1, 1) or (2, 2), is too flat to solve with."""
    if len(curve) == 1:
        return bool(curve[0, 0] == 0)
    # No eigenvalue is negative: trace ** 2 / determinant bounds the condition, and spares almost
    # every step the singular values, which would be most of its time.
    (a, b), (_, d) = curve.tolist()
    if (a + d) ** 2 < 1e11 * (a * d - b * b):
        return False
    return bool(np.linalg.cond(curve) > 1e12)


def calibration_slope(truth: Array, scores: Array, weights: Array) -> tuple[float, Array]:
    """Slope of a logistic regression of the label on the logit of its probability."""
    values, influence = _calibration_line(truth, scores, weights, (0, 1))
    return float(values[1]), influence[:, 1]


def calibration_intercept(truth: Array, scores: Array, weights: Array) -> tuple[float, Array]:
    """Intercept of that regression with its slope held at 1: calibration in the large."""
    values, influence = _calibration_line(truth, scores, weights, (0,))
    return float(values[0]), influence[:, 0]
