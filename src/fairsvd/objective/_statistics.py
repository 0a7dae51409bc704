"""Every statistic that is a ratio of counted rows, in one table: a statistic is a line."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._counts import divide, positive_counts, sum_slices, total_counts

__all__ = ["OF_ALL_CLASSES", "STATISTICS", "Statistic", "class_mean", "statistic", "statistic_rows"]


class Statistic(NamedTuple):
    """A ratio of two weighted sums of counts.

    Attributes
    ----------
    top, bottom : tuple of 4 int
        Weights of true positives, false positives, false negatives and true negatives.
    best : float
        The value of the best classifier, or the better of 0 and 1 for those concerned.
    """

    top: tuple[int, int, int, int]
    bottom: tuple[int, int, int, int]
    best: float


# fmt: off
STATISTICS = {
    #                                  TP FP FN TN    TP FP FN TN
    "selection_rate":       Statistic((1, 1, 0, 0), (1, 1, 1, 1), 1.0),
    "tpr":                  Statistic((1, 0, 0, 0), (1, 0, 1, 0), 1.0),
    "fpr":                  Statistic((0, 1, 0, 0), (0, 1, 0, 1), 0.0),
    "tnr":                  Statistic((0, 0, 0, 1), (0, 1, 0, 1), 1.0),
    "fnr":                  Statistic((0, 0, 1, 0), (1, 0, 1, 0), 0.0),
    "ppv":                  Statistic((1, 0, 0, 0), (1, 1, 0, 0), 1.0),
    "npv":                  Statistic((0, 0, 0, 1), (0, 0, 1, 1), 1.0),
    "false_discovery_rate": Statistic((0, 1, 0, 0), (1, 1, 0, 0), 0.0),
    "false_omission_rate":  Statistic((0, 0, 1, 0), (0, 0, 1, 1), 0.0),
    "accuracy":             Statistic((1, 0, 0, 1), (1, 1, 1, 1), 1.0),
    "f1":                   Statistic((2, 0, 0, 0), (2, 1, 1, 0), 1.0),
    # A mean of two ratios, see below; the weights say which rows count.
    "balanced_accuracy":    Statistic((1, 0, 0, 1), (1, 1, 1, 1), 1.0),
}
# fmt: on

# Of these there is one value for all classes together; of the others one for each class.
OF_ALL_CLASSES = ("accuracy", "balanced_accuracy")


def statistic(counts: NDArray[Any], name: str, pos: int | None) -> NDArray[np.float64]:
    """Compute a statistic of every group.

    Parameters
    ----------
    counts : ndarray of shape (..., n_groups, n_classes, n_classes)
        Rows, or sums of weights, indexed [group, true, predicted].
    name : str
        One of ``STATISTICS``.
    pos : int or None
        With two classes the code of the positive one, then ``C = 1``. None, and more than two
        classes: every class against the rest, ``C = n_classes``. Accuracy, and balanced accuracy,
        the mean of the recalls of all classes, have ``C = 1`` always.

    Returns
    -------
    values : ndarray of shape (..., n_groups, C), float64
        In [0, 1]; NaN where the denominator is 0.
    """
    if name in OF_ALL_CLASSES:
        right = np.diagonal(counts, axis1=-2, axis2=-1)
        if name == "balanced_accuracy":
            return class_mean(divide(right, sum_slices(counts, -1)))[..., None]
        return divide(sum_slices(right, -1)[..., None], total_counts(counts))
    cells, line = _cells(counts, pos), STATISTICS[name]
    return divide(_weigh(cells, line.top), _weigh(cells, line.bottom))


def statistic_rows(
    counts: NDArray[Any], name: str, pos: int | None, squares: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """Count the rows that a statistic is measured on.

    A statistic that is no plain share of rows gets the number of rows that would give a share of
    that size the same standard error; so does a sum of weights.

    Parameters
    ----------
    counts, name, pos
        As for :func:`statistic`.
    squares : ndarray of the shape of ``counts``, optional
        Sums of the squared weights; None: all weights are 1.

    Returns
    -------
    rows : ndarray of shape (..., n_groups, C), float64
    """
    weighted, squares = squares is not None, counts if squares is None else squares
    if name == "balanced_accuracy":
        total, square = sum_slices(counts, -1), sum_slices(squares, -1)
        # A share of p on this many rows has the variance of the mean of shares of p.
        error = class_mean(divide(square, total**2)) / np.maximum((total > 0).sum(axis=-1), 1)
        plain = divide(np.ones_like(error), error)
        recall = divide(np.diagonal(counts, axis1=-2, axis2=-1), total)
        variance = class_mean(recall * (1 - recall) * divide(square, total**2))
        variance = variance / np.maximum((total > 0).sum(axis=-1), 1)
        value = class_mean(recall)
        return np.where(variance > 0, divide(value * (1 - value), variance), plain)[..., None]
    line = STATISTICS[name]
    cells, own = (
        _whole_cells(table) if name == "accuracy" else _cells(table, pos)
        for table in (counts, squares)
    )
    bottom = _weigh(cells, line.bottom)
    counted = tuple(int(w > 0) for w in line.bottom)
    plain = divide(_weigh(cells, counted) ** 2, _weigh(own, counted))
    if max(line.bottom) == 1 and not weighted:
        return plain
    value = divide(_weigh(cells, line.top), bottom)
    weights = zip(own, line.top, line.bottom, strict=True)
    spread = np.sum([part * (t - value * b) ** 2 for part, t, b in weights], axis=0)
    return np.where(spread > 0, divide(value * (1 - value) * bottom**2, spread), plain)


def class_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over the last axis, skipping NaN; NaN if all are."""
    defined = ~np.isnan(values)
    return divide(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))


def _cells(counts: NDArray[Any], pos: int | None) -> tuple[NDArray[Any], ...]:
    """Count true positives, false positives, false negatives and true negatives."""
    selected, positive, hit = positive_counts(counts, pos)
    rest = total_counts(counts) - selected - positive + hit
    return hit, selected - hit, positive - hit, rest


def _whole_cells(counts: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Count right and wrong rows, as true positives and false positives."""
    right = sum_slices(np.diagonal(counts, axis1=-2, axis2=-1), -1)[..., None]
    return right, total_counts(counts) - right, 0 * right, 0 * right


def _weigh(cells: tuple[NDArray[Any], ...], weights: tuple[int, ...]) -> NDArray[Any]:
    parts = [cell if w == 1 else w * cell for cell, w in zip(cells, weights, strict=True) if w]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
