"""What a judge does with counts of the (group, true, predicted) table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["as_pairs", "or_infinite", "pooled"]


def pooled(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Add the counts of both parts, which may be one already."""
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
