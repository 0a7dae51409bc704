"""Bounds that hold with a stated confidence: of rates, of their differences and of their ratios.

A limit on a gap is met if every difference between two groups meets it. To promise that, each
difference is tested at the full level: the promise is wrong only if the test of a difference that
is too large errs (an intersection-union test), so that nothing is divided among the pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta

from ._counts import divide, positive_counts, sum_slices, total_counts
from ._gap_names import compared
from ._statistics import OF_ALL_CLASSES, STATISTICS

__all__ = ["Bounded", "bound_gap", "bound_ratio", "bound_shares", "bound_statistic", "rows_needed"]

# The statistics that the gaps' rates are.
SHARES = {"selection": "selection_rate", "tpr": "tpr", "fpr": "fpr", "accuracy": "accuracy"}

# A promise that would need more times the rows than this needs too many.
MOST_TIMES = 1e4


class Bounded(NamedTuple):
    """Values with one-sided bounds, each of which holds with the confidence 1 - tail.

    Attributes
    ----------
    value, low, high : ndarray of shape (n_groups, C), float64
        In [0, 1]; without rows the value is 1/2, between 0 and 1.
    """

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def bound_shares(hits: NDArray[Any], rows: NDArray[Any], tail: float) -> Bounded:
    """Bound binomial probabilities exactly, as Clopper and Pearson do.

    Parameters
    ----------
    hits, rows : ndarray
        Need not be integers.
    tail : float in (0, 1)
        Chance that a bound is wrong.
    """
    hits, rows = np.asarray(hits, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    value = np.where(rows > 0, divide(hits, rows), 0.5)
    missed = rows - hits
    # Where a parameter would be 0 the bound is the end of the range.
    low = beta.ppf(tail, np.where(hits > 0, hits, 1.0), missed + 1)
    high = beta.isf(tail, hits + 1, np.where(missed > 0, missed, 1.0))
    return Bounded(value, np.where(hits > 0, low, 0.0), np.where(missed > 0, high, 1.0))


def bound_statistic(counts: NDArray[Any], name: str, pos: int | None, tail: float) -> Bounded:
    """Bound a statistic of every group; see ``objective.statistic`` for the arguments."""
    if name == "balanced_accuracy":
        recalls = bound_shares(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1), tail)
        return _mean_of(recalls)
    if name == "f1":
        selected, positive, hit = positive_counts(counts, pos)
        # A function of the share of true positives among all rows but the true negatives.
        return Bounded(
            *(2 * j / (1 + j) for j in bound_shares(hit, selected + positive - hit, tail))
        )
    if name == "accuracy":
        right = sum_slices(np.diagonal(counts, axis1=-2, axis2=-1), -1)[..., None]
        return bound_shares(right, total_counts(counts), tail)
    selected, positive, hit = positive_counts(counts, pos)
    cells = hit, selected - hit, positive - hit, total_counts(counts) - selected - positive + hit
    line = STATISTICS[name]
    top, bottom = (
        sum(w * cell for w, cell in zip(weights, cells, strict=True)) for weights in line[:2]
    )
    return bound_shares(np.asarray(top), np.asarray(bottom), tail)


def _mean_of(shares: Bounded) -> Bounded:
    """Bound the mean over the last axis of independent shares by the method of variances."""
    n = shares.value.shape[-1]
    mean = shares.value.mean(axis=-1, keepdims=True)
    below, above = (
        np.sqrt(((end - shares.value) ** 2).sum(axis=-1, keepdims=True)) / n
        for end in (shares.low, shares.high)
    )
    return Bounded(mean, np.maximum(mean - below, 0.0), np.minimum(mean + above, 1.0))


def _largest(found: Bounded, factor: float = 1.0) -> NDArray[np.float64]:
    """Bound from above the largest ``factor * value_a - value_b`` over pairs of groups, (C,).

    The bounds of both values are put together by the method of variance estimates recovery.
    """
    value, low, high = found
    ahead = factor * value[:, None] - value[None]
    error = (factor * (high - value))[:, None] ** 2 + (value - low)[None] ** 2
    # A group without rows may have any value, and the method's estimate is none.
    unseen = high - low == 1
    upper = np.where(
        unseen[:, None] | unseen[None],
        factor * high[:, None] - low[None],
        ahead + np.sqrt(error),
    )
    upper[np.diag_indices(len(value))] = -np.inf
    return np.asarray(upper.max(axis=(0, 1)))


def bound_gap(counts: NDArray[Any], name: str, pos: int | None, confidence: float) -> float:
    """Bound a gap from above.

    Parameters
    ----------
    counts : ndarray of shape (n_groups, n_classes, n_classes)
        Rows by [group, true, predicted]. They must not have been used for any choice.
    name : str
        One of ``GAPS`` or ``STATISTICS``.
    pos : int or None
        As for :func:`gap`.
    confidence : float in (0, 1)

    Returns
    -------
    upper : float
        The true gap is larger with a chance of at most 1 - confidence; up to 1. A group without
        rows for a rate may have any.

    Notes
    -----
    Rates are bounded exactly (Clopper and Pearson), which makes the bound of their difference
    conservative (method of variance estimates recovery, Zou and Donner 2008). Means over several
    classes, and over TPR and FPR for average odds, divide the chance of error among their parts.
    """
    tail = 1 - confidence
    classes = counts.shape[-1] if counts.shape[-1] > 2 or pos is None else 1
    if name in STATISTICS:
        tail = tail if name in OF_ALL_CLASSES else tail / classes
        return float(min(1.0, _largest(bound_statistic(counts, name, pos, tail)).mean()))
    names = [SHARES[rate] for rate in compared(name)]
    tail = tail / (classes if names != ["accuracy"] else 1)
    if name == "average_odds":
        tail = tail / len(names)
    found = [bound_statistic(counts, each, pos, tail) for each in names]
    if name == "signed_average_odds":
        pair = Bounded(*(np.stack(each, axis=-1) for each in zip(*found, strict=True)))
        found = [Bounded(*(each[..., 0] for each in _mean_of(pair)))]
    spreads = np.stack([_largest(each) for each in found])
    of_classes = spreads.max(axis=0) if name == "equalized_odds" else spreads.mean(axis=0)
    return float(min(1.0, of_classes.mean()))


def bound_ratio(counts: NDArray[Any], name: str, pos: int | None, confidence: float) -> float:
    """Bound the ratio of a statistic's smallest to its largest value from below, in [0, 1].

    The ratio is at least r if no group's value is smaller than r times another one's, which is
    tested for every pair; arguments as for :func:`bound_gap`.
    """
    classes = counts.shape[-1] if counts.shape[-1] > 2 or pos is None else 1
    tail = (1 - confidence) / (1 if name in OF_ALL_CLASSES else classes)
    found = bound_statistic(counts, name, pos, tail)

    def of_class(k: int) -> float:
        own = Bounded(*(each[:, k : k + 1] for each in found))

        def excess(ratio: float) -> float:
            return float(_largest(own, ratio)[0])

        if excess(0.0) > 0:
            return 0.0
        return 1.0 if excess(1.0) <= 0 else float(brentq(excess, 0.0, 1.0, xtol=1e-9))

    return float(np.mean([of_class(k) for k in range(found.value.shape[-1])]))


def rows_needed(meets: Callable[[float], bool], n_rows: int) -> float:
    """Find how many rows a promise would take if they showed the same rates.

    Parameters
    ----------
    meets : callable
        Tells whether the promise could be given on so many times the rows.
    n_rows : int

    Returns
    -------
    needed : float
        Infinite if even ten thousand times the rows would not do.
    """
    if not meets(MOST_TIMES):
        return float("inf")
    low, high = 1.0 / max(n_rows, 1), MOST_TIMES
    while high / low > 1.01:
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if meets(middle) else (middle, high)
    return float(np.ceil(high * n_rows))
