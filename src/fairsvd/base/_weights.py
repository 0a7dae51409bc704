"""The weights of the rows of a fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..metrics import read_weights, scale_weights

__all__ = ["Passed", "read_fit_weights"]


@dataclass(frozen=True)
class Passed:
    """All rows as they were passed, of which those of weight 0 are left out.

    Attributes
    ----------
    labels : ndarray of shape (n_passed,)
    kept : ndarray of shape (n_rows,), int64
        Where the remaining rows were among them, ascending.
    """

    labels: NDArray[Any]
    kept: NDArray[np.int64]

    def within(self, positions: Any) -> NDArray[np.int64]:
        """Turn positions among the passed rows into those among the remaining ones."""
        place = np.full(len(self.labels), -1, dtype=np.int64)
        place[self.kept] = np.arange(len(self.kept))
        found = place[np.asarray(positions)]
        return found[found >= 0]


def read_fit_weights(sample_weight: Any, y: NDArray[Any]) -> tuple[Tensor | None, Passed | None]:
    """Read weights; a row of weight 0 is none.

    Parameters
    ----------
    sample_weight : array-like of shape (n,) or None
    y : ndarray of shape (n,)
        Labels.

    Returns
    -------
    weights : Tensor of shape (n_rows,), float64, or None
        Of the remaining rows, above 0. Integers stand for copies of a row and stay as they are;
        others are scaled to a mean of 1, so that what depends on the number of rows gets theirs.
        None: all weigh the same.
    passed : Passed or None
        None: no row is left out.

    Raises
    ------
    ValueError
        As of :func:`fairsvd.metrics.read_weights`.
    """
    if sample_weight is None:
        return None, None
    weights = scale_weights(read_weights(sample_weight, len(y)))
    kept = np.flatnonzero(weights)
    passed = None if len(kept) == len(y) else Passed(y, kept)
    weights = weights[kept]
    alike = bool(np.allclose(weights, 1.0, rtol=0, atol=1e-12))
    return None if alike else torch.as_tensor(weights), passed
