"""What the report of a fit on weighted rows has to know beside the sums of weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..metrics import Rows, effective_counts

__all__ = ["Weighted"]


@dataclass(frozen=True)
class Weighted:
    """What sums of weights do not tell of the rows; every array as the counts of a report.

    Attributes
    ----------
    plain : ndarray, int64
        Rows under the chosen network.
    effective : ndarray, int64
        The same in rows of equal weight that tell as much, group by group.
    squares : (ndarray, ndarray), float64
        Squared weights, of the untouched and the chosen network.
    """

    plain: NDArray[np.int64]
    effective: NDArray[np.int64]
    squares: tuple[NDArray[np.float64], NDArray[np.float64]]

    @classmethod
    def of(cls, rows: Rows, before: NDArray[np.int64], after: NDArray[np.int64]) -> Weighted | None:
        """Count rows under both predictions; None if the rows have no weights."""
        old, new = (replace(rows, predicted=codes) for codes in (before, after))
        if old.squares is None or new.squares is None:
            return None
        plain = replace(new, weights=None).counts
        return cls(plain, effective_counts(new.counts, new.squares), (old.squares, new.squares))
