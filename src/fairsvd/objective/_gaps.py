"""The only copy of the gap arithmetic: rates of groups, gaps and ratios between them.

Everything starts from one table of counts, so that thresholds, bootstrap draws and candidates
are leading dimensions of one array and cost no Python loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._counts import divide, positive_counts, sum_slices, total_counts
from ._gap_names import GAPS, compared
from ._soft_gap import soft_gap
from ._statistics import STATISTICS, statistic

__all__ = ["GAPS", "Rates", "gap", "rates", "ratio", "soft_gap"]


class Rates(NamedTuple):
    """Rates of every group, NaN where a group has no row to measure one on.

    Attributes
    ----------
    selection : ndarray of shape (..., n_groups, C), float64
        Share of a group's rows predicted positive.
    tpr, fpr : ndarray of shape (..., n_groups, C), float64
        The same among a group's positive and among its negative rows.
    accuracy : ndarray of shape (..., n_groups, 1), float64
        Share of a group's rows predicted right.
    """

    selection: NDArray[np.float64]
    tpr: NDArray[np.float64]
    fpr: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def _rate(counts: NDArray[Any], which: str, pos: int | None) -> NDArray[np.float64]:
    if which == "accuracy":
        right = sum_slices(np.diagonal(counts, axis1=-2, axis2=-1), -1)
        return divide(right[..., None], total_counts(counts))
    if which != "selection" and counts.shape[-1] == 2 and pos is not None:
        # Only rows of one true class: this is most of the time of a gap at every threshold.
        true = counts[..., pos if which == "tpr" else 1 - pos, :]
        return divide(true[..., pos : pos + 1], sum_slices(true, -1)[..., None])
    selected, positive, hit = positive_counts(counts, pos)
    if which == "selection":
        return divide(selected, total_counts(counts))
    if which == "tpr":
        return divide(hit, positive)
    return divide(selected - hit, total_counts(counts) - positive)


def rate_rows(counts: NDArray[Any], pos: int | None = None) -> Rates:
    """Count the rows that every rate of :func:`rates` is measured on, in arrays of its shapes."""
    _, positive, _ = positive_counts(counts, pos)
    total = total_counts(counts)
    everybody = np.broadcast_to(total, positive.shape)
    fields = (everybody, positive, total - positive, total)
    return Rates(*(rows.astype(np.float64) for rows in fields))


def rates(counts: NDArray[Any], pos: int | None = None) -> Rates:
    """Compute the rates of every group from a table of counts.

    Parameters
    ----------
    counts : ndarray of shape (..., n_groups, n_classes, n_classes)
        Indexed [group, true, predicted], as of :func:`count_table`; any leading dimensions. Sums
        of weights or of probabilities may stand in for counts.
    pos : int or None, default=None
        With two classes the code of the positive one, then ``C = 1``. None, and more than two
        classes: every class against the rest, ``C = n_classes``.

    Returns
    -------
    rates : Rates
        Four arrays of shape (..., n_groups, C), in [0, 1], NaN where the denominator is 0.
    """
    return Rates(*(_rate(counts, which, pos) for which in Rates._fields))


def _reduce(values: NDArray[np.float64], ufunc: np.ufunc) -> NDArray[np.float64]:
    """Reduce over the groups, the last axis but one; ``fmax`` and ``fmin`` skip NaN."""
    result = values[..., 0, :]
    for k in range(1, values.shape[-2]):
        result = ufunc(result, values[..., k, :])
    return result


def _extremes(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the largest and smallest rate over groups; NaN where fewer than two have one."""
    high, low = _reduce(values, np.fmax), _reduce(values, np.fmin)
    missing = np.isnan(values)
    if values.shape[-2] < 2 or missing.any():
        too_few = _reduce((~missing).astype(np.int64), np.add) < 2
        high = np.where(too_few, np.nan, high)
    return high, low


def _compared_rates(counts: NDArray[Any], name: str, pos: int | None) -> list[NDArray[np.float64]]:
    """Compute the rates (..., n_groups, C) whose spreads over groups make up a gap."""
    if name in STATISTICS:
        return [statistic(counts, name, pos)]
    values = [_rate(counts, which, pos) for which in compared(name)]
    return [averaged(*values)] if name == "signed_average_odds" else values


def averaged(tpr: NDArray[np.float64], fpr: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average both rates within each group; a rate that fewer than two groups have is left out."""
    both = (tpr + fpr) / 2
    if not np.isnan(both).any():
        return both
    comparable = [
        (_reduce((~np.isnan(v)).astype(np.int64), np.add) >= 2)[..., None, :] for v in (tpr, fpr)
    ]
    return np.where(comparable[0] & comparable[1], both, np.where(comparable[0], tpr, fpr))


def _mean(values: list[NDArray[np.float64]] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over the first axis, skipping NaN; NaN where nothing is left."""
    stack = np.asarray(values)
    if len(stack) == 1:
        return stack[0]
    seen = ~np.isnan(stack)
    if seen.all():
        return stack.sum(axis=0) / len(stack)
    return divide(np.where(seen, stack, 0.0).sum(axis=0), seen.sum(axis=0))


def _combine(values: list[NDArray[np.float64]], ufunc: np.ufunc | None) -> NDArray[np.float64]:
    """Combine the TPR's value with the FPR's, then average over the classes."""
    combined = _mean(values) if ufunc is None else ufunc(*values)
    return _mean(combined.transpose(-1, *range(combined.ndim - 1)))


def gap(counts: NDArray[Any], name: str, pos: int | None = None) -> NDArray[np.float64]:
    """Measure a gap between groups: the largest minus the smallest rate.

    Parameters
    ----------
    counts : ndarray of shape (..., n_groups, n_classes, n_classes)
        As for :func:`rates`.
    name : {"demographic_parity", "equal_opportunity", "equalized_odds", "average_odds", \
            "signed_average_odds", "accuracy_parity"} or one of ``STATISTICS``
        The rates compared: selection; TPR; the larger of the gaps in TPR and in FPR; the mean of
        these two gaps; the mean of TPR and FPR; accuracy; or the statistic of that name.
    pos : int or None, default=None
        As for :func:`rates`. Over several classes the gaps are averaged.

    Returns
    -------
    gap : ndarray of shape (...), float64
        Difference of rates, in [0, 1]. NaN where no rate of no class can be compared, that is,
        fewer than two groups have a row to measure it on.

    Raises
    ------
    ValueError
        If ``name`` is unknown.

    Notes
    -----
    Groups without a row for a rate are skipped (fairlearn counts that rate as 0), and so is,
    for the three kinds of odds, whichever of TPR and FPR cannot be compared. Average odds of
    two groups is AIF360's average absolute odds difference (arXiv:1810.01943), signed average odds
    the absolute value of its average odds difference: there the gaps in TPR and FPR cancel where
    they point opposite ways. Equalized odds takes the worse of both gaps, as fairlearn does.
    """
    return gap_of_rates(_compared_rates(counts, name, pos), name)


def gap_of_rates(values: Sequence[NDArray[np.float64]], name: str) -> NDArray[np.float64]:
    """Measure a gap from the rates (..., n_groups, C) that it compares."""
    extremes = [_extremes(rate) for rate in values]
    return combine_spreads([high - low for high, low in extremes], name)


def combine_spreads(spreads: list[NDArray[np.float64]], name: str) -> NDArray[np.float64]:
    """Combine the spreads (..., C) of the compared rates into a gap (...)."""
    return _combine(spreads, np.fmax if name == "equalized_odds" else None)


def ratio(counts: NDArray[Any], name: str, pos: int | None = None) -> NDArray[np.float64]:
    """Measure a ratio between groups: the smallest over the largest rate.

    Parameters
    ----------
    counts, name, pos
        As for :func:`gap`; equalized odds is the smaller of both ratios, average odds their mean,
        signed average odds the ratio of the means of TPR and FPR.

    Returns
    -------
    ratio : ndarray of shape (...), float64
        In [0, 1], 1 means equal. NaN where nothing can be compared, and where the largest rate is
        0, as in fairlearn 0.15.

    Raises
    ------
    ValueError
        If ``name`` is unknown.

    Notes
    -----
    Where only one of the ratios of TPR and FPR exists, it is the result. Fairlearn's
    ``equalized_odds_ratio`` does the same if the FPR's is missing, but answers NaN if the TPR's is.
    """
    extremes = [_extremes(rate) for rate in _compared_rates(counts, name, pos)]
    worse = np.fmin if name == "equalized_odds" else None
    return _combine([divide(low, high) for high, low in extremes], worse)
