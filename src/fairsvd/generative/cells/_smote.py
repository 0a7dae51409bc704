"""SMOTE within a cell: draw rows between a real row and one of its neighbours."""

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

__all__ = ["SmoteGenerator", "embed_rows", "find_neighbours"]


def embed_rows(rows: Encoded) -> Any:
    """Embed rows in the space in which neighbours are searched.

    Parameters
    ----------
    rows : Encoded
        n rows of one cell.

    Returns
    -------
    space : ndarray or sparse matrix of shape (n, width)
        Numbers in units of their spread, 0 (the mean) where missing; two different categories
        are one such unit apart. Sparse if there are categories, which may be many.
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


def find_neighbours(space: Any, rows: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Find the k nearest other rows of some rows, shape (n, k)."""
    search = NearestNeighbors(n_neighbors=k + 1).fit(space)
    near = search.kneighbors(space[rows], return_distance=False)
    itself = near == rows[:, None]
    # With more than k duplicates a row may not find itself; then drop the farthest.
    itself[~itself.any(axis=1), -1] = True
    return np.asarray(near[~itself].reshape(len(rows), k))


class SmoteGenerator(CellGenerator):
    """SMOTE for mixed tables and images, within (label, group) cells.

    Parameters
    ----------
    n_neighbors : int >= 1, default=5
        Number of neighbours in the cell that a row may be mixed with; fewer in a smaller cell.
    random_state : int, RandomState instance or None, default=None

    Attributes
    ----------
    cells_ : list
        ``(label, group)`` of every cell that can be drawn.

    Notes
    -----
    Chawla et al. (2002), :arxiv:`1106.1813`, with SMOTE-NC's distance: numbers are in units of
    their spread in the cell, and two different categories are one such unit apart. Deviations: a
    category is the neighbour's with the probability that equals the mixing share of the numbers,
    instead of a majority vote, which would remove the cell's rare categories; ordered categories
    are mixed as ranks. Values are missing where the drawn row lacks them, and its values are kept
    where the neighbour's are missing.

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
        """Do nothing: neighbours are searched when rows are drawn."""

    def _draw(self, cell: int, n: int, rng: np.random.Generator) -> Encoded:
        members = self._cells.members(cell)
        if len(members) < 2:
            raise GroupError(
                f"The cell {self._cells.keys[cell]} has {len(members)} row: SMOTE needs at "
                "least two. Use generator='copula' or 'smoothed', or merge groups."
            )
        real = self._codec.encoded.take(members)
        bases = rng.integers(len(members), size=n)
        k = min(self.n_neighbors, len(members) - 1)
        needed, place = np.unique(bases, return_inverse=True)
        near = find_neighbours(embed_rows(real), needed, k)[place]
        others = near[np.arange(n), rng.integers(k, size=n)]
        return _mix(real.take(bases), real.take(others), rng)


def _mix(base: Encoded, other: Encoded, rng: np.random.Generator) -> Encoded:
    part = rng.random((len(base), 1))
    step = np.where(np.isnan(other.numbers), 0, other.numbers - base.numbers)
    replaced = rng.random(base.codes.shape) < part
    codes = np.where(replaced & (base.codes >= 0) & (other.codes >= 0), other.codes, base.codes)
    return Encoded(base.numbers + part * step, codes)
