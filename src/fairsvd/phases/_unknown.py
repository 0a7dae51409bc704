"""Validation rows without a group: counted in every group by its probability given the label."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..arrays import LabelledRows
from ..objective import GapJudge, Judge

__all__ = ["can_guess", "with_unknown"]


def can_guess(judge: Judge) -> bool:
    """Tell whether a judge can count a row in several groups.

    A function of the user's takes whole rows, and what compares with the untouched network, or
    resamples rows, has counted those with a group.
    """
    constraint = judge.constraint
    return isinstance(judge, GapJudge) and constraint.swept and not constraint.compares


def with_unknown(judge: Judge, rows: LabelledRows, cells: NDArray[np.float64]) -> Judge:
    """Add validation rows without a group to those of a judge, once for each group.

    A rule is chosen on few rows of a small group. The rows whose group is not known tell more of
    it: on average a share p(group | label, features) of such a row is the group's.

    Parameters
    ----------
    judge : Judge
    rows : LabelledRows
        The rows; their groups are not looked at.
    cells : ndarray of shape (n_rows, n_cells), float64
        Their probabilities of the (label, group) cells.

    Returns
    -------
    judge : Judge
        Its rows are those of the given one, then all new rows as of each group.
    """
    n, n_groups, y = len(rows), judge.n_groups, rows.y.numpy()
    of_label = cells.reshape(n, judge.n_classes, n_groups)[np.arange(n), y]
    total = of_label.sum(axis=1, keepdims=True)
    shares = np.divide(of_label, total, out=np.full_like(of_label, 1 / n_groups), where=total > 0)
    times = np.ones(n) if rows.weights is None else rows.weights.numpy()
    known = np.ones(len(judge.y)) if judge.weights is None else judge.weights
    return replace(
        judge,
        y=np.concatenate([judge.y, np.tile(y, n_groups)]),
        groups=np.concatenate([judge.groups, np.repeat(np.arange(n_groups), n)]),
        parts=np.concatenate([judge.parts, np.zeros(n * n_groups, dtype=np.int64)]),
        weights=np.concatenate([known, (times[:, None] * shares).T.ravel()]),
    )
