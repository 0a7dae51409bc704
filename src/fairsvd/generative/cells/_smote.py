"""SMOTE within a cell: rows between a real row and one of its neighbours."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from ...base import positive_int
from ...exceptions import GroupError
from ._base import CellGenerator, Cells
from ._codec import Encoded

__all__ = ["SmoteGenerator", "neighbours_of", "neighbours_space"]


def neighbours_space(rows: Encoded) -> Any:
    """Place rows where neighbours are looked for.

    Parameters
    ----------
    rows : Encoded
        n rows of one cell.

    Returns
    -------
    space : ndarray or sparse matrix of shape (n, width)
        Numbers in units of their spread, 0 (the mean) where missing; a pair of categories that
        differ is one such unit apart. Sparse where there are categories, which may be many.
    """
    known = ~np.isnan(rows.numbers)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, rows.numbers, 0).sum(axis=0) / count
    deviations = np.where(known, rows.numbers - mean, 0)
    spread = np.sqrt((deviations**2).sum(axis=0) / count)
    numbers = deviations / np.where(spread > 0, spread, 1)
    if not rows.codes.shape[1]:
        return numbers
    sizes = np.maximum(rows.codes.max(axis=0) + 1, 1)
    row, column = np.nonzero(rows.codes >= 0)
    place = rows.codes[row, column] + (np.cumsum(sizes) - sizes)[column]
    weight = np.full(len(row), np.sqrt(0.5))
    shape = (len(rows), int(sizes.sum()))
    flags = sparse.csr_matrix((weight, (row, place)), shape=shape)
    return sparse.hstack([sparse.csr_matrix(numbers), flags]).tocsr()


def neighbours_of(space: Any, rows: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Find the k nearest others of some rows, shape (n, k)."""
    search = NearestNeighbors(n_neighbors=k + 1).fit(space)
    found = search.kneighbors(space[rows], return_distance=False)
    own = found == rows[:, None]
    # Among more than k duplicates a row may not find itself; then the farthest is left out.
    own[~own.any(axis=1), -1] = True
    return np.asarray(found[~own].reshape(len(rows), k))


class SmoteGenerator(CellGenerator):
    """SMOTE for mixed tables and images, within (label, group) cells.

    Parameters
    ----------
    n_neighbors : int >= 1, default=5
        Neighbours within the cell that a row may be mixed with; fewer in a cell of fewer rows.
    random_state : int, RandomState instance or None, default=None

    Attributes
    ----------
    cells_ : list
        ``(label, group)`` of every cell that can be drawn.

    Notes
    -----
    Chawla et al. (2002), :arxiv:`1106.1813`, with SMOTE-NC's distance: numbers in units of their
    spread in the cell, two categories that differ are one such unit apart. Departures: a category
    comes from the neighbour with the same probability that numbers are mixed with, not by
    majority vote, which would wipe out the cell's rare categories; ordered categories are mixed
    as ranks. Values are missing where they are in the row drawn, whose values are also kept where
    the neighbour's are missing.

    Examples
    --------
    >>> import numpy as np
    >>> from fairsvd.generative import SmoteGenerator
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> SmoteGenerator(random_state=0).fit(X).sample(4).shape
    (4, 3)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **CellGenerator._parameter_constraints,
        "n_neighbors": [positive_int()],
    }

    def __init__(self, *, n_neighbors: int = 5, random_state: Any = None) -> None:
        self.n_neighbors = n_neighbors
        self.random_state = random_state

    def _learn(self, rows: Encoded, cells: Cells) -> None:
        """Nothing is learned beyond the rows: neighbours are looked for when they are needed."""

    def _draw(self, cell: int, n: int, rng: np.random.Generator) -> Encoded:
        members = self._cells.members(cell)
        if len(members) < 2:
            raise GroupError(
                f"The cell {self._cells.keys[cell]} has {len(members)} row: SMOTE mixes two or "
                "more. Use generator='copula' or 'smoothed', or merge groups."
            )
        own = self._codec.encoded.take(members)
        bases = rng.integers(len(members), size=n)
        k = min(self.n_neighbors, len(members) - 1)
        needed, place = np.unique(bases, return_inverse=True)
        near = neighbours_of(neighbours_space(own), needed, k)[place]
        others = near[np.arange(n), rng.integers(k, size=n)]
        return _mixed(own.take(bases), own.take(others), rng)


def _mixed(base: Encoded, other: Encoded, rng: np.random.Generator) -> Encoded:
    part = rng.random((len(base), 1))
    step = np.where(np.isnan(other.numbers), 0, other.numbers - base.numbers)
    taken = rng.random(base.codes.shape) < part
    codes = np.where(taken & (base.codes >= 0) & (other.codes >= 0), other.codes, base.codes)
    return Encoded(base.numbers + part * step, codes)
