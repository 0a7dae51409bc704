"""Conformance constraints: the bounds that a set of rows keeps along its principal directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.utils import gen_batches

__all__ = ["ConformanceConstraints", "densest"]

# Half the width of the bounds, in standard deviations.
WIDTH = 4.0
# Least standard deviation, as a share of a column's range: a direction without any is a sum that
# equals a constant, and a difference of this size counts as much as anything can.
LEAST = 1e-3
# Bandwidth of the Gaussian kernel, as a share of a column's range.
BANDWIDTH = 0.1
# Rows among which the density is measured; with all of them the time would grow with the square.
MOST = 2000
BLOCK = 1000
# Rows that a covariance needs for each of its columns.
ROWS_PER_COLUMN = 5


@dataclass(frozen=True)
class ConformanceConstraints:
    """Bounds on linear projections of rows.

    Attributes
    ----------
    directions : ndarray of shape (d, d), float64
        Unit eigenvectors of the covariance, in columns.
    centers, spreads : ndarray of shape (d,), float64
        Mean and standard deviation of the rows along each.
    importance : ndarray of shape (d,), float64
        Weights of the constraints, which sum to 1 and fall with the spread.

    Notes
    -----
    After Fariha et al. (arXiv:2003.01289). The bounds are four standard deviations from the mean
    along each eigenvector, and its weight is proportional to 1 / log(2 + spread). Deviation: the
    eigenvectors are those of the covariance, instead of the second moments with a column of ones.

    Examples
    --------
    >>> import numpy as np
    >>> from fairsvd.conformance import ConformanceConstraints
    >>> t = np.linspace(0, 1, 50)
    >>> rules = ConformanceConstraints.of(np.column_stack([t, 2 * t]))
    >>> rules.violation([[0.5, 1.0], [1.0, 0.5]]).round(2).tolist()
    [0.0, 0.58]
    """

    directions: NDArray[np.float64]
    centers: NDArray[np.float64]
    spreads: NDArray[np.float64]
    importance: NDArray[np.float64]

    @classmethod
    def of(cls, rows: NDArray[np.float64]) -> Self:
        """Learn the constraints that rows keep.

        Parameters
        ----------
        rows : ndarray of shape (n, d), float64
            At least one row; columns on comparable scales.
        """
        mean = rows.mean(axis=0)
        covariance = (rows - mean).T @ (rows - mean) / len(rows)
        variances, directions = np.linalg.eigh(covariance)
        spreads = np.sqrt(np.maximum(variances, LEAST**2))
        importance = 1 / np.log(2 + spreads)
        return cls(directions, mean @ directions, spreads, importance / importance.sum())

    def violation(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Measure how far rows are outside the bounds: 0 inside all, towards 1 far outside.

        Parameters
        ----------
        rows : ndarray of shape (n, d), float64

        Returns
        -------
        violation : ndarray of shape (n,), in [0, 1)
        """
        excess = np.maximum(np.abs(self._scores(rows)) - WIDTH, 0)
        violation: NDArray[np.float64] = -np.expm1(-excess) @ self.importance
        return violation

    def distance(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the mean squared standard score of rows (n,), which tells rows inside apart."""
        distance: NDArray[np.float64] = np.square(self._scores(rows)) @ self.importance
        return distance

    def _scores(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        scores: NDArray[np.float64] = (rows @ self.directions - self.centers) / self.spreads
        return scores


def densest(
    rows: NDArray[np.float64], share: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Select the share of rows in the densest places, and at least five for each column.

    The density is a Gaussian kernel's at each row without itself, among at most 2,000 drawn rows.

    Parameters
    ----------
    rows : ndarray of shape (n, d), float64
        Columns of range 1.
    share : float in (0, 1]
    rng : numpy.random.Generator
    """
    kept = min(len(rows), max(int(np.ceil(share * len(rows))), ROWS_PER_COLUMN * rows.shape[1]))
    if kept == len(rows):
        return rows
    among = np.arange(len(rows))
    if len(rows) > MOST:
        among = rng.choice(len(rows), size=MOST, replace=False)
    density = np.empty(len(rows))
    for block in gen_batches(len(rows), BLOCK):
        squares = euclidean_distances(rows[block], rows[among], squared=True)
        squares[np.arange(len(rows))[block, None] == among] = np.inf
        density[block] = logsumexp(-squares / (2 * BANDWIDTH**2), axis=1)
    return rows[np.argsort(-density, kind="stable")[:kept]]
