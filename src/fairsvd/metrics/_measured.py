"""Measures of every group, with their standard errors and intervals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from ..objective import STATISTICS, class_mean, count_table, statistic, statistic_rows
from ._registry import MEASURES
from ._score_measures import standard_error

__all__ = ["GroupValues", "Rows", "interval", "measure_counts", "measure_groups"]


@dataclass(frozen=True)
class Rows:
    """Rows to be measured.

    Attributes
    ----------
    y, groups : ndarray of shape (n,), int64
        Codes of classes and groups; rows with the group -1 are left out.
    n_classes, n_groups : int
    pos : int or None
        Code of the positive class of two.
    predicted : ndarray of shape (n,), int64, optional
        Codes of the predicted classes, for measures of counts.
    shares : ndarray of shape (n, n_classes), float64, optional
        Probabilities, for measures of these.
    weights : ndarray of shape (n,), float64, optional
        None: all rows weigh the same.
    soft : bool, default=False
        Whether probabilities, at any threshold, take the place of predicted classes.
    """

    y: NDArray[np.int64]
    groups: NDArray[np.int64]
    n_classes: int
    n_groups: int
    pos: int | None
    predicted: NDArray[np.int64] | None = None
    shares: NDArray[np.float64] | None = None
    weights: NDArray[np.float64] | None = None
    soft: bool = False

    @cached_property
    def counts(self) -> NDArray[Any]:
        """Rows, or weights, of every [group, true, predicted]."""
        return self._table(self.weights)

    @cached_property
    def squares(self) -> NDArray[Any] | None:
        """Squared weights of every [group, true, predicted]; None without weights."""
        return None if self.weights is None else self._table(self.weights**2)

    def _table(self, weights: NDArray[np.float64] | None) -> NDArray[Any]:
        sizes = self.n_classes, self.n_groups
        if self.soft and self.shares is not None:
            columns = np.arange(self.shares.shape[1])
            mass = self.shares if weights is None else weights[:, None] * self.shares
            parts = [self._weigh(np.full(len(self.y), k), mass[:, k]) for k in columns]
            return np.sum(parts, axis=0)
        if self.predicted is None:
            raise ValueError("y_pred=None: measures of counts need predicted labels.")
        if weights is None:
            return count_table(self.y, self.predicted, self.groups, *sizes)
        return self._weigh(self.predicted, weights)

    def _weigh(
        self, predicted: NDArray[np.int64], weights: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Sum weights as ``count_table`` counts rows."""
        known = self.groups >= 0
        cells = (self.groups * self.n_classes + self.y) * self.n_classes + predicted
        shape = (self.n_groups, self.n_classes, self.n_classes)
        total = np.bincount(cells[known], weights=weights[known], minlength=int(np.prod(shape)))
        return total.astype(np.float64).reshape(shape)

    @cached_property
    def of_groups(self) -> list[NDArray[np.int64]]:
        """Positions of the rows of every group."""
        order = np.argsort(self.groups, kind="stable")
        ends = np.searchsorted(self.groups[order], np.arange(self.n_groups + 1))
        return np.split(order, ends)[1:-1]

    @property
    def overall(self) -> Rows:
        """The rows of all groups as one group."""
        return replace(self, groups=np.where(self.groups < 0, -1, 0), n_groups=1)

    def can_measure(self, name: str) -> bool:
        """Tell whether there is what a measure needs."""
        needed = self.predicted if MEASURES[name].of_scores is None else self.shares
        return needed is not None


class GroupValues(NamedTuple):
    """A measure of every group.

    Attributes
    ----------
    values, errors : ndarray of shape (n_groups,), float64
        The value and its standard error; NaN where it cannot be measured.
    rows : ndarray of shape (n_groups,), float64
        The rows on which a share of that size has the same standard error.
    """

    values: NDArray[np.float64]
    errors: NDArray[np.float64]
    rows: NDArray[np.float64]


def measure_groups(name: str, rows: Rows) -> GroupValues:
    """Compute a measure of every group.

    Parameters
    ----------
    name : str
        One of ``MEASURES``.
    rows : Rows

    Returns
    -------
    values : GroupValues
        Several classes give one value, see :class:`Measure`.
    """
    if MEASURES[name].of_scores is None:
        return measure_counts(name, rows.counts, rows.pos, rows.squares)
    found = [_from_scores(name, rows, own) for own in rows.of_groups]
    return GroupValues(*(np.array(column) for column in zip(*found, strict=True)))


def measure_counts(
    name: str, counts: NDArray[Any], pos: int | None, squares: NDArray[Any] | None = None
) -> GroupValues:
    """Compute a measure of counts of every group.

    Parameters
    ----------
    name : str
        One of ``objective.STATISTICS``.
    counts : ndarray of shape (n_groups, n_classes, n_classes)
        Rows, or sums of weights, by [group, true, predicted].
    pos : int or None
        Code of the positive class of two.
    squares : ndarray of the shape of ``counts``, optional
        Sums of the squared weights; None: all weights are 1.

    Returns
    -------
    values : GroupValues
    """
    values, plain = statistic(counts, name, pos), statistic_rows(counts, name, pos, squares)
    mean = class_mean(values)
    if values.shape[-1] == 1:
        number = plain[..., 0]
        return GroupValues(mean, _error(mean, number), number)
    variance = _variance(name, counts, counts if squares is None else squares, values)
    spread = mean * (1 - mean)
    fewest = np.fmin.reduce(plain, axis=-1)
    number = np.where(variance > 0, spread / np.where(variance > 0, variance, 1.0), fewest)
    return GroupValues(mean, np.where(np.isnan(mean), np.nan, np.sqrt(variance)), number)


def _variance(
    name: str, counts: NDArray[Any], squares: NDArray[Any], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute the variance (n_groups,) of the mean over classes, which share their rows."""
    codes = np.arange(counts.shape[-1])
    true, predicted = (axis == codes[:, None, None] for axis in (codes[:, None], codes[None, :]))
    # Of each class [k, true, predicted]: 0 true positive, 1 false positive, 2 false negative, 3.
    kind = np.where(predicted, np.where(true, 0, 1), np.where(true, 2, 3))
    top, bottom = (np.asarray(weights)[kind] for weights in STATISTICS[name][:2])
    below = (counts[:, None] * bottom).sum(axis=(-2, -1))[..., None, None]
    influence = (top - values[..., None, None] * bottom) / np.where(below > 0, below, np.nan)
    of_rows = np.moveaxis(influence, 1, -1)
    return np.asarray((squares * np.nan_to_num(class_mean(of_rows)) ** 2).sum(axis=(-2, -1)))


def _from_scores(name: str, rows: Rows, own: NDArray[np.int64]) -> tuple[float, float, float]:
    line, shares = MEASURES[name], rows.shares
    if shares is None or line.of_scores is None:
        raise ValueError(f"y_score=None: {name} needs probabilities.")
    weights = np.ones(len(own)) if rows.weights is None else rows.weights[own]
    # Rows of weight 0 are as good as absent.
    own, weights = own[weights > 0], weights[weights > 0]
    if not len(own):
        return (float("nan"),) * 3
    y, shares = rows.y[own], shares[own]
    if line.over_classes == "label":
        problems = [(np.ones(len(own)), shares[np.arange(len(own)), y])]
    else:
        of = range(rows.n_classes) if rows.n_classes > 2 else [1 if rows.pos is None else rows.pos]
        problems = [((y == k).astype(np.float64), shares[:, k]) for k in of]
    values, influences = zip(*(line.of_scores(*each, weights) for each in problems), strict=True)
    scale = 0.5 * len(problems) if line.over_classes == "half_sum" and len(problems) > 1 else 1.0
    value = scale * float(class_mean(np.array(values)))
    error = standard_error(scale * class_mean(np.array(influences).T), weights)
    labels = np.bincount(y, weights=weights, minlength=rows.n_classes)
    fewest = labels[labels > 0].min() * weights.sum() / (weights**2).sum()
    number = value * (1 - value) / error**2 if error > 0 and 0 < value < 1 else fewest
    return value, error, float(number)


def _error(values: NDArray[np.float64], number: NDArray[np.float64]) -> NDArray[np.float64]:
    rows = np.where(number > 0, number, np.nan)
    return np.sqrt(np.maximum(values * (1 - values), 0.0) / rows)


def interval(
    name: str, found: GroupValues, level: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute an interval of every group's value.

    A measure in [0, 1] gets Wilson's interval, on the rows that give its standard error; others
    get that of the normal distribution.

    Parameters
    ----------
    name : str
        One of ``MEASURES``.
    found : GroupValues
    level : float in (0, 1)
        Confidence.

    Returns
    -------
    low, high : ndarray of shape (n_groups,), float64
    """
    z = float(norm.isf((1 - level) / 2))
    values, errors, rows = found
    if not MEASURES[name].bounded:
        return values - z * errors, values + z * errors
    n = np.where(rows > 0, rows, np.nan)
    centre = (values + z**2 / (2 * n)) / (1 + z**2 / n)
    spread = np.maximum(values * (1 - values), 0.0)
    half = z / (1 + z**2 / n) * np.sqrt(spread / n + z**2 / (4 * n**2))
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)
