"""Gaussian copula of every (label, group) cell, with help from its label and from the table."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from ..._rng import resolve_seed, stage_rng
from ...base import Interval
from ._base import CellGenerator, Cells
from ._codec import Encoded
from ._copula_fit import (
    Margin,
    SortedColumn,
    borrowing_weights,
    factor_of,
    level_scores,
    pairwise_correlation,
    ridged,
    shrunk,
    unstepped,
)

__all__ = ["CopulaGenerator"]

# A correlation for every pair of columns: above this, 8 MB a matrix and seconds a factor.
MOST_COLUMNS = 1024


class CopulaGenerator(CellGenerator):
    """Gaussian copula of every (label, group) cell; small cells borrow from larger ones.

    Every column keeps its own distribution within the cell, whatever its form; the columns depend
    on each other as normal variables do. For mixed tables; for images of up to 1,024 values too,
    though :class:`SmoothedGenerator` draws sharper ones.

    Parameters
    ----------
    prior_rows : float >= 0, default=5
        How many rows' worth a cell borrows for the distribution of a column: with n own rows,
        n / (n + prior_rows) of it are the cell's, the rest is that of its label, which borrows
        from the whole table in the same way. 0: nothing is borrowed there.
    random_state : int, RandomState instance or None, default=None

    Attributes
    ----------
    cells_ : list
        ``(label, group)`` of every cell that can be drawn.
    correlations_ : dict
        Cell -> ndarray of shape (n_columns, n_columns): correlation of the normal scores after
        shrinkage; numbers and ordered columns first, then categories, each in the order of X.

    Notes
    -----
    Steps: (1) every value becomes the normal score of its middle position in the cell's
    distribution of that column; (2) the scores' correlation in the cell is shrunk to that of its
    label, and that to the table's, each by Schaefer and Strimmer's (2005) analytic amount, so
    that a cell of two rows has its label's correlations and one of thousands its own (the
    table's has a ridge of d / (n + d) for d columns); (3) correlated normal draws are mapped
    back, their correlations raised by what categories and values that many rows share hide of
    them. The way back is linear between
    values that occur, so that numbers stay within the table's range, and a value that many rows
    share keeps its share. Ordered and other categories take observed values only; those without
    an order are placed on a line near the rows that they come with, which keeps one dimension of
    their dependence. Missing values have the pattern of a random row of the cell, hence its rate
    exactly, and which columns lack a value together.

    Examples
    --------
    >>> import numpy as np
    >>> from fairsvd.generative import CopulaGenerator
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> CopulaGenerator(random_state=0).fit(X).sample(4).shape
    (4, 3)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **CellGenerator._parameter_constraints,
        "prior_rows": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(self, *, prior_rows: float = 5.0, random_state: Any = None) -> None:
        self.prior_rows = prior_rows
        self.random_state = random_state

    def _learn(self, rows: Encoded, cells: Cells) -> None:
        width = rows.numbers.shape[1] + rows.codes.shape[1]
        if width > MOST_COLUMNS:
            raise ValueError(
                f"X has {width} columns or values a row: the copula estimates a correlation for "
                f"every pair and takes up to {MOST_COLUMNS}. Use generator='smoothed' or 'smote'."
            )
        rng = stage_rng(resolve_seed(self.random_state), "edit")
        columns = [SortedColumn.of(column) for column in rows.numbers.T]
        scores = self._scores(columns, cells)
        self._orders = [
            np.argsort(place, kind="stable")
            for place in level_scores(np.nan_to_num(scores), rows.codes, rng)
        ]
        ranked = [_ranked(c, order) for c, order in zip(rows.codes.T, self._orders, strict=True)]
        self._columns = [*columns, *map(SortedColumn.of, ranked)]
        scores = np.hstack([scores, self._scores(self._columns[len(columns) :], cells)])
        self.correlations_ = _cell_correlations(scores, cells)

    def _weights(self, cells: Cells, cell: int) -> NDArray[np.float64]:
        return borrowing_weights(cells.codes, cells.labels, cell, float(self.prior_rows))

    def _scores(self, columns: list[SortedColumn], cells: Cells) -> NDArray[np.float64]:
        """Give every value its normal score within its cell; NaN where missing."""
        scores = np.full((len(cells.codes), len(columns)), np.nan)
        for cell in range(len(cells)):
            weights, members = self._weights(cells, cell), cells.members(cell)
            for k, column in enumerate(columns):
                margin, own = column.margin(weights), members[column.place[members] >= 0]
                if margin is not None:
                    position = margin.middle_of(column.values[column.place[own]])
                    scores[own, k] = ndtri(position)
        return scores

    def _draw(self, cell: int, n: int, rng: np.random.Generator) -> Encoded:
        weights = self._weights(self._cells, cell)
        margins = [column.margin(weights) for column in self._columns]
        kept = np.array([1.0 if margin is None else margin.kept for margin in margins])
        factor = factor_of(unstepped(self.correlations_[self._cells.keys[cell]], kept))
        u = ndtr(rng.standard_normal((n, len(factor))) @ factor.T)
        numbers, codes = self._numbers(margins, u), self._codes(margins, u)
        pattern = self._codec.encoded.take(rng.choice(self._cells.members(cell), size=n))
        return Encoded(
            np.where(np.isnan(pattern.numbers), np.nan, numbers),
            np.where(pattern.codes < 0, -1, codes),
        )

    def _numbers(self, margins: list[Margin | None], u: NDArray[np.float64]) -> NDArray[np.float64]:
        width = self._codec.encoded.numbers.shape[1]
        ranks = [False] * width
        if not self._is_image:
            kinds = self._codec.of_kind("number", "integer", "rank")
            ranks = [column.kind == "rank" for column in kinds]
        out = np.full((len(u), width), np.nan)
        for k, margin in enumerate(margins[:width]):
            if margin is not None:
                out[:, k] = margin.step(u[:, k]) if ranks[k] else margin.line(u[:, k])
        return out

    def _codes(self, margins: list[Margin | None], u: NDArray[np.float64]) -> NDArray[np.int64]:
        first = self._codec.encoded.numbers.shape[1]
        out = np.full((len(u), len(self._orders)), -1, dtype=np.int64)
        for k, order in enumerate(self._orders):
            margin = margins[first + k]
            if margin is not None:
                out[:, k] = order[margin.step(u[:, first + k]).astype(np.int64)]
        return out


def _ranked(codes: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return every code's rank in an order; NaN where missing."""
    rank = np.argsort(order, kind="stable").astype(np.float64)
    return np.append(rank, np.nan)[codes]


def _cell_correlations(scores: NDArray[np.float64], cells: Cells) -> dict[Any, NDArray[np.float64]]:
    """Correlate within cells; the table helps the labels, which help the cells."""
    known = cells.codes >= 0
    table = ridged(pairwise_correlation(scores[known]), int(known.sum()))
    row_labels = np.where(known, cells.labels[cells.codes], -1)
    of_label = {}
    for label in np.unique(cells.labels).tolist():
        rows = scores[row_labels == label]
        of_label[label] = shrunk(pairwise_correlation(rows), table, len(rows))
    found = {}
    for cell, key in enumerate(cells.keys):
        rows = scores[cells.members(cell)]
        found[key] = shrunk(
            pairwise_correlation(rows), of_label[int(cells.labels[cell])], len(rows)
        )
    return found
