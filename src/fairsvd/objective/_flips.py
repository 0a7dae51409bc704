"""Bounds of a gap if some rows are counted in another group than their own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._gap_names import GAPS, compared

__all__ = ["FLIPPABLE", "bound_under_flips"]

# A mean of both rates within a group moves with rows of both labels at once.
FLIPPABLE = tuple(name for name in GAPS if name != "signed_average_odds")


def bound_under_flips(
    counts: NDArray[Any], name: str, pos: int | None, flip_rate: float
) -> tuple[float, float]:
    """Bound the gap between the true groups, of which the counted ones are a noisy record.

    Parameters
    ----------
    counts : ndarray of shape (n_groups, n_classes, n_classes)
        Rows, or weights, by [recorded group, true, predicted].
    name : str
        One of ``FLIPPABLE``.
    pos : int or None
        As for :func:`gap`.
    flip_rate : float in [0, 1)
        Of the rows of every recorded group and label at most this share belong to another group.

    Returns
    -------
    low, high : float in [0, 1]
        NaN where fewer than two groups have a rate to compare. For two groups and one rate both
        are reached by some true groups; else they may lie outside what can be reached.

    Notes
    -----
    The worst case over all true groups within the rate, as in arXiv:2002.09343, which limits the
    distance of distributions; here it is rows that move. Nothing is assumed of which rows they are.
    """
    n_classes = counts.shape[-1]
    classes = [pos] if n_classes == 2 and pos is not None else list(range(n_classes))
    which = compared(name)
    if which == ("accuracy",):
        classes = [0]
    bounds = np.array(
        [[_bound_rate(counts, rate, int(k or 0), flip_rate) for k in classes] for rate in which]
    )
    low, high = np.moveaxis(bounds, -1, 0)
    if name == "equalized_odds":
        low, high = np.fmax.reduce(low), np.fmax.reduce(high)
    return _mean(low), _mean(high)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _bound_rate(counts: NDArray[Any], rate: str, k: int, flip_rate: float) -> tuple[float, float]:
    """Bound the largest difference of one rate between two groups."""
    labels = np.arange(counts.shape[-1])
    counted = {"tpr": labels == k, "fpr": labels != k}.get(rate, labels >= 0)
    rows = counts.sum(axis=2)[:, counted]
    hits = (np.diagonal(counts, axis1=1, axis2=2) if rate == "accuracy" else counts[..., k])[
        :, counted
    ]
    known = rows.sum(axis=1) > 0
    if known.sum() < 2:
        return float("nan"), float("nan")
    rows, hits = rows[known], hits[known]
    # In each cell of a group and a label so many rows may be another group's.
    own_hits, own_misses = (
        np.minimum(flip_rate * rows, part).sum(axis=1) for part in (hits, rows - hits)
    )
    n_hits, n_rows = hits.sum(axis=1), rows.sum(axis=1)
    other_hits, other_misses = own_hits.sum() - own_hits, own_misses.sum() - own_misses
    low = (n_hits - own_hits) / (n_rows - own_hits + other_misses)
    high = (n_hits + other_hits) / (n_rows - own_misses + other_hits)
    ahead, sure = high[:, None] - low, low[:, None] - high
    pairs = ~np.eye(len(low), dtype=bool)
    return float(max(0.0, sure[pairs].max())), float(ahead[pairs].max())
