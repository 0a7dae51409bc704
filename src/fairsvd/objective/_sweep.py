"""Counts of a margin that is cut at every threshold at once, by one sort."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cuts", "as_pairs", "or_infinite", "pooled", "quantiles", "sweep"]

# Elements of one chunk of the table of counts: 512 KiB of int64 stay in the cache, and in memory
# that the process keeps. Half as many took a tenth longer, an eighth two thirds longer.
CHUNK = 2**16


@dataclass(frozen=True)
class Cuts:
    """Some of the thresholds of a sweep.

    Attributes
    ----------
    thresholds : ndarray of shape (n_cuts,), float64
        Rows above are predicted to be of class 1.
    counts : ndarray of shape (n_cuts, n_parts, n_groups, 2, 2), int64, or float64 of weighted rows
        Indexed [cut, part, group, true, predicted].
    """

    thresholds: NDArray[np.float64]
    counts: NDArray[Any]


def sweep(
    margins: NDArray[Any],
    y: NDArray[np.int64],
    groups: NDArray[np.int64],
    parts: NDArray[np.int64],
    n_groups: int,
    n_parts: int,
    weights: NDArray[np.float64] | None = None,
) -> Iterator[Cuts]:
    """Cut the margins between every two neighbouring values, and beyond both ends.

    O(n log n) for the sort plus O(n) for each (part, group, label) cell; memory is bounded by
    chunks of cuts.

    Parameters
    ----------
    margins : ndarray of shape (n,)
    y, groups, parts : ndarray of shape (n,), int64
        Codes in {0, 1}, [0, n_groups) and [0, n_parts).
    n_groups, n_parts : int
    weights : ndarray of shape (n,), float64, optional
        How often each row counts; None: once.

    Yields
    ------
    cuts : Cuts
        From the highest threshold to the lowest; each holds at least one.
    """
    margins = np.asarray(margins, dtype=np.float64)
    order = _falling(margins)
    margins = margins.take(order)
    n_cells = n_parts * n_groups * 2
    codes = np.arange(n_cells + 1, dtype=np.min_scalar_type(n_cells))
    cells = codes[(parts * n_groups + groups) * 2 + y]
    # Row i lies above cut i but not above cut i - 1; no row lies above the first cut.
    added = np.concatenate([codes[-1:], cells.take(order)])
    mass = None if weights is None else np.concatenate([[0.0], weights.take(order)])
    # In the order of the sums below, so that weights leave no rest at the last cut.
    totals = np.bincount(added, mass, minlength=n_cells + 1)[:n_cells, None]
    thresholds, distinct = _between(margins)
    size = max(1, CHUNK // n_cells)
    reached = np.zeros((n_cells, 1), dtype=np.int64 if mass is None else np.float64)
    for start in range(0, len(added), size):
        # Cuts last in memory: later sums over cells then run along the cuts, which are many.
        hits = added[start : start + size] == codes[:-1, None]
        if mass is None:
            positive: NDArray[Any] = np.cumsum(hits, axis=1, dtype=np.int64)
            positive += reached
        else:
            weighted = hits * mass[start : start + size]
            weighted[:, :1] += reached
            positive = np.cumsum(weighted, axis=1)
        reached = positive[:, -1:].copy()
        chosen = np.flatnonzero(distinct[start : start + size])
        if not len(chosen):
            # A long run of equal margins, say of a constant network.
            continue
        counts = np.empty((2, n_cells, len(chosen)), dtype=positive.dtype)
        # The indices are in range; numpy would check them by writing to a copy first.
        positive.take(chosen, axis=1, out=counts[1], mode="clip")
        np.subtract(totals, counts[1], out=counts[0])
        table = counts.reshape(2, n_parts, n_groups, 2, -1).transpose(4, 1, 2, 3, 0)
        yield Cuts(thresholds[start : start + size][chosen], table)


def _falling(margins: NDArray[np.float64]) -> NDArray[np.int64]:
    """Sort margins, the highest first; equal ones in any order, as no cut separates them.

    Numpy sorts 16-bit integers by counting, so each margin's position between the ends is sorted
    first, in two halves. The final sort of the margins themselves then costs almost nothing, and
    makes the order exact whatever the positions were. A single argsort took three times as long
    with AVX-512, and as long with AVX2.
    """
    high = margins.max()
    with np.errstate(over="ignore"):
        spread = high - margins.min()
    order = np.arange(len(margins))
    if 0 < spread < np.inf:
        places = ((high - margins) / spread * (2**32 - 1)).astype(np.uint32)
        for half in (places.astype(np.uint16), (places >> 16).astype(np.uint16)):
            order = order.take(np.argsort(half.take(order), kind="stable"))
    return order.take(np.argsort(-margins.take(order), kind="stable"))


def _between(margins: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the cuts of falling margins, one more than these, and which separate values."""
    above = np.concatenate([[margins[0] + 1], margins])
    below = np.concatenate([margins, [margins[-1] - 1]])
    thresholds = (above + below) / 2
    thresholds[0], thresholds[-1] = above[0], below[-1]
    return thresholds, above != below


def pooled(counts: NDArray[Any]) -> NDArray[Any]:
    """Add up the parts of tables [cut, part, group, true, predicted]."""
    return counts[:, 0] if counts.shape[1] == 1 else counts.sum(axis=1)


def or_infinite(gaps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Let a gap that cannot be measured exceed every limit."""
    return np.where(np.isnan(gaps), np.inf, gaps)


def as_pairs(table: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Expand a table [group, true, predicted] to two vectors for a user's function."""
    n_classes = table.shape[-1]
    flat = table.sum(axis=0).ravel()
    true, predicted = np.divmod(np.arange(n_classes**2), n_classes)
    return np.repeat(true, flat), np.repeat(predicted, flat)


def quantiles(
    values: NDArray[np.float64], shares: NDArray[np.float64], weights: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Compute quantiles as numpy does; of weighted values those of values that are repeated."""
    if weights is None:
        return np.asarray(np.quantile(values, shares))
    order = np.argsort(values, kind="stable")
    ends = np.cumsum(weights[order])
    places = shares * max(ends[-1] - 1, 0.0)
    first = np.floor(places)
    low, high = (
        values[order][np.minimum(np.searchsorted(ends, at, side="right"), len(values) - 1)]
        for at in (first, first + 1)
    )
    return np.asarray(low + (places - first) * (high - low))
