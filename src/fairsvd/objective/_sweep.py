"""Every threshold at once: counts of a margin cut at each of its values, by one sort."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cuts", "sweep"]

# Elements of one chunk of the table of counts, 256 KiB of int64: what stays in the cache, and in
# memory that the process keeps; more made a sweep three times as slow, by page faults.
CHUNK = 2**15


@dataclass(frozen=True)
class Cuts:
    """Some of the thresholds of a sweep.

    Attributes
    ----------
    thresholds : ndarray of shape (n_cuts,), float64
        Rows above are predicted to be of class 1.
    counts : ndarray of shape (n_cuts, n_parts, n_groups, 2, 2), int64
        Indexed [cut, part, group, true, predicted].
    """

    thresholds: NDArray[np.float64]
    counts: NDArray[np.int64]


def sweep(
    margins: NDArray[Any],
    y: NDArray[np.int64],
    groups: NDArray[np.int64],
    parts: NDArray[np.int64],
    n_groups: int,
    n_parts: int,
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

    Yields
    ------
    cuts : Cuts
        From the highest threshold to the lowest; at least one each.
    """
    # The order of equal margins does not matter: there is no cut between them.
    order = np.argsort(-margins)
    margins = np.asarray(margins, dtype=np.float64)[order]
    n_cells = n_parts * n_groups * 2
    cells = ((parts * n_groups + groups) * 2 + y)[order]
    totals = np.bincount(cells, minlength=n_cells)
    above = np.concatenate([[margins[0] + 1], margins])
    below = np.concatenate([margins, [margins[-1] - 1]])
    distinct = above != below
    thresholds = np.where(np.arange(len(above)) == 0, above, (above + below) / 2)
    thresholds[-1] = below[-1]
    size = max(1, CHUNK // n_cells)
    reached = np.zeros(n_cells, dtype=np.int64)
    for start in range(0, len(above), size):
        # Cut i predicts positive the i rows of highest margin.
        block = cells[max(start - 1, 0) : start + size - 1]
        # Cells first: every later sum over cells then runs along the cuts, which are many.
        positive = np.zeros((n_cells, min(size, len(above) - start)), dtype=np.int64)
        first = 1 if start == 0 else 0
        positive[block, np.arange(first, first + len(block))] = 1
        np.cumsum(positive, axis=1, out=positive)
        positive += reached[:, None]
        reached = positive[:, -1].copy()
        chosen = distinct[start : start + size]
        if not chosen.any():
            # A long run of equal margins, say of a constant network.
            continue
        if not chosen.all():
            positive = positive[:, chosen]
        counts = np.empty((n_cells, 2, positive.shape[1]), dtype=np.int64)
        np.subtract(totals[:, None], positive, out=counts[:, 0])
        counts[:, 1] = positive
        counts = counts.reshape(n_parts, n_groups, 2, 2, -1)
        yield Cuts(thresholds[start : start + size][chosen], np.moveaxis(counts, -1, 0))
