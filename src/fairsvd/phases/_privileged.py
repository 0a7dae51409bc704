"""The privileged group: the one that the untouched network serves best."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base import EditData
from ..objective import count_table, shift_logits

__all__ = ["find_privileged", "privileged_group"]


def find_privileged(data: EditData) -> int | None:
    """Find the untouched network's privileged group on the judged rows; None without groups."""
    if not data.has_groups:
        return None
    judge = data.judge
    predicted = shift_logits(data.untouched, data.margin).argmax(dim=1).numpy()
    return privileged_group(judge.y, predicted, judge.groups, data.n_groups, judge.weights)


def privileged_group(
    y: NDArray[np.int64],
    predicted: NDArray[np.int64],
    groups: NDArray[np.int64],
    n_groups: int,
    weights: NDArray[np.float64] | None = None,
) -> int:
    """Find the group whose mean recall over the classes leads most over the rest pooled."""
    n_classes = 1 + max(y.max(), predicted.max())
    counts = count_table(y, predicted, groups, n_classes, n_groups, weights)
    right, total = np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=2)
    leads = _recall(right, total) - _recall(right.sum(axis=0) - right, total.sum(axis=0) - total)
    return int(np.nanargmax(leads)) if np.isfinite(leads).any() else 0


def _recall(right: NDArray[Any], total: NDArray[Any]) -> NDArray[np.float64]:
    """Average the recall over the classes that have rows, for counts (n_groups, n_classes)."""
    seen = total > 0
    rates = np.divide(right, total, out=np.zeros(total.shape), where=seen)
    sums, n_seen = rates.sum(axis=1), seen.sum(axis=1)
    return np.divide(sums, n_seen, out=np.full(len(sums), np.nan), where=n_seen > 0)
