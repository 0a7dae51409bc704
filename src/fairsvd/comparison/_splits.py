"""The folds of a comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model_selection import JointStratifiedKFold
from ._problem import Problem

__all__ = ["make_splits"]

Split = tuple[NDArray[np.int64], NDArray[np.int64]]


def make_splits(cv: Any, problem: Problem) -> list[Split]:
    """List the rows to fit on and to test on of every fold, ascending.

    Raises
    ------
    ValueError
        If there are no folds, or one has no rows on a side.
    """
    if cv is None or isinstance(cv, (int, np.integer)):
        n_splits = 5 if cv is None else int(cv)
        cv = JointStratifiedKFold(n_splits, shuffle=True, random_state=problem.seed)
    y = problem.classes[problem.codes]
    if isinstance(cv, JointStratifiedKFold):
        splits = cv.split(problem.X, y, sensitive_features=problem.sensitive)
    else:
        splits = cv.split(np.zeros((len(y), 1)), y) if hasattr(cv, "split") else iter(cv)
    every = np.arange(len(y))
    # Indexing an array of all rows accepts masks as well as row numbers.
    sides = [(np.sort(every[train]), np.sort(every[test])) for train, test in splits]
    if not sides or any(not len(side) for split in sides for side in split):
        raise ValueError("cv makes no split, or one with an empty side: both need rows.")
    return sides
