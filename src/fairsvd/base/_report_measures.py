"""Every measure of every group, for the report of a fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..metrics import MEASURES, Compared, GroupValues, effective_counts, measure_counts

__all__ = ["compare"]


def compare(
    counts: NDArray[Any],
    squares: NDArray[np.float64] | None,
    scores: Mapping[str, NDArray[np.float64]],
    labels: Sequence[Any],
    pos: int | None,
) -> Compared:
    """Measure every group, and all rows together.

    Parameters
    ----------
    counts : ndarray of shape (n_groups, n_classes, n_classes)
        Rows, or weights, by [group, true, predicted].
    squares : ndarray of the same shape, optional
        Squared weights; None: all weights are 1.
    scores : mapping of str to ndarray of shape (3, n_groups + 1)
        Measures of probabilities: values, errors and rows, all rows together last.
    labels : sequence
        Labels of the groups.
    pos : int or None
        Code of the positive class of two.
    """
    both = _with_overall(counts), None if squares is None else _with_overall(squares)
    found = {
        name: measure_counts(name, both[0], pos, both[1])
        if line.of_scores is None
        else GroupValues(*scores[name])
        for name, line in MEASURES.items()
        if line.of_scores is None or name in scores
    }
    n = len(labels)
    own = {name: GroupValues(*(each[:n] for each in v)) for name, v in found.items()}
    overall = {name: GroupValues(*(each[-1:] for each in v)) for name, v in found.items()}
    effective = None if squares is None else effective_counts(counts, squares)
    return Compared(own, overall, labels, pos, counts, effective)


def _with_overall(counts: NDArray[Any]) -> NDArray[Any]:
    """Add the rows of all groups as one more group."""
    return np.concatenate([counts, counts.sum(axis=0, keepdims=True)])
