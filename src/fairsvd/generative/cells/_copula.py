"""Gaussian copula of every (label, group) cell; cells borrow from their label and the table."""

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
    add_ridge,
    borrowing_weights,
    factorise,
    level_scores,
    pairwise_correlation,
    shrink,
    undo_steps,
)

__all__ = ["CopulaGenerator"]

# Largest width: beyond it a correlation matrix takes 8 MB, and its factor seconds.
MOST_COLUMNS = 1024


class CopulaGenerator(CellGenerator):
    """Gaussian copula of every (label, group) cell; small cells borrow from larger ones.

    Every column keeps its distribution within the cell; the columns depend on each other like
    normal variables. It works on mixed tables, and on images of up to 1,024 values, although
    :class:`SmoothedGenerator` draws sharper images.

    Parameters
    ----------
    prior_rows : float >= 0, default=5
        Strength of borrowing for the distribution of a column, in rows. In a cell of n rows a
        share n / (n + prior_rows) comes from the cell and the rest from its label, which borrows
        from the whole table in the same way. 0: no borrowing.
    random_state : int, RandomState instance or None, default=None

    Attributes
    ----------
    cells_ : list
        ``(label, group)`` of every cell that can be drawn.
    correlations_ : dict
        Cell -> ndarray of shape (n_columns, n_columns): correlation of the normal scores after
        shrinkage. Numbers and ordered columns come first, then categories, each in order of X.

    Notes
    -----
    Steps: (1) Every value becomes the normal score of its middle position in the cell's
    distribution of that column. (2) The correlation of the scores in the cell is shrunk towards
    that of its label, and that towards the table's, each by Schaefer and Strimmer's (2005) analytic
    amount. So a cell of two rows has its label's correlations and one of thousands its own; the
    table's has a ridge of d / (n + d) for d columns. (3) Correlated normal draws are mapped back,
    after their correlations are raised by what categories and tied values hide.

    The way back is linear between observed values, so numbers stay within the table's range and
    ties keep their share. Categories take observed values only; unordered ones are placed on a
    line near the rows that they occur with, which keeps one dimension of their dependence. Missing
    values follow the pattern of a random row of the cell, which keeps their rate and shows which
    columns lack a value together.

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
                f"X has {width} columns or values per row: the copula estimates a correlation for "
                f"every pair and takes at most {MOST_COLUMNS}. Use generator='smoothed' or 'smote'."
            )
        rng = stage_rng(resolve_seed(self.random_state), "edit")
        columns = [SortedColumn.of(column) for column in rows.numbers.T]
        scores = self._normal_scores(columns, cells)
        self._orders = [
            np.argsort(place, kind="stable")
            for place in level_scores(np.nan_to_num(scores), rows.codes, rng)
        ]
        ranks = [_rank(c, order) for c, order in zip(rows.codes.T, self._orders, strict=True)]
        self._columns = [*columns, *map(SortedColumn.of, ranks)]
        scores = np.hstack([scores, self._normal_scores(self._columns[len(columns) :], cells)])
        self.correlations_ = _cell_correlations(scores, cells)

    def _weights(self, cells: Cells, cell: int) -> NDArray[np.float64]:
        return borrowing_weights(cells.codes, cells.labels, cell, float(self.prior_rows))

    def _normal_scores(self, columns: list[SortedColumn], cells: Cells) -> NDArray[np.float64]:
        """Compute the normal score of every value within its cell; NaN where missing."""
        scores = np.full((len(cells.codes), len(columns)), np.nan)
        for cell in range(len(cells)):
            weights, members = self._weights(cells, cell), cells.members(cell)
            for k, column in enumerate(columns):
                margin, rows = column.margin(weights), members[column.place[members] >= 0]
                if margin is not None:
                    position = margin.middle_of(column.values[column.place[rows]])
                    scores[rows, k] = ndtri(position)
        return scores

    def _draw(self, cell: int, n: int, rng: np.random.Generator) -> Encoded:
        weights = self._weights(self._cells, cell)
        margins = [column.margin(weights) for column in self._columns]
        kept = np.array([1.0 if margin is None else margin.kept for margin in margins])
        factor = factorise(undo_steps(self.correlations_[self._cells.keys[cell]], kept))
        u = ndtr(rng.standard_normal((n, len(factor))) @ factor.T)
        numbers, codes = self._map_numbers(margins, u), self._map_codes(margins, u)
        pattern = self._codec.encoded.take(rng.choice(self._cells.members(cell), size=n))
        return Encoded(
            np.where(np.isnan(pattern.numbers), np.nan, numbers),
            np.where(pattern.codes < 0, -1, codes),
        )

    def _map_numbers(
        self, margins: list[Margin | None], u: NDArray[np.float64]
    ) -> NDArray[np.float64]:
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

    def _map_codes(self, margins: list[Margin | None], u: NDArray[np.float64]) -> NDArray[np.int64]:
        first = self._codec.encoded.numbers.shape[1]
        out = np.full((len(u), len(self._orders)), -1, dtype=np.int64)
        for k, order in enumerate(self._orders):
            margin = margins[first + k]
            if margin is not None:
                out[:, k] = order[margin.step(u[:, first + k]).astype(np.int64)]
        return out


def _rank(codes: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute the rank of every code in an order; NaN where missing."""
    rank = np.argsort(order, kind="stable").astype(np.float64)
    return np.append(rank, np.nan)[codes]


def _cell_correlations(scores: NDArray[np.float64], cells: Cells) -> dict[Any, NDArray[np.float64]]:
    """Correlate within cells, shrunk towards their label and then the table."""
    in_cell = cells.codes >= 0
    table = add_ridge(pairwise_correlation(scores[in_cell]), int(in_cell.sum()))
    row_labels = np.where(in_cell, cells.labels[cells.codes], -1)
    of_label = {}
    for label in np.unique(cells.labels).tolist():
        rows = scores[row_labels == label]
        of_label[label] = shrink(pairwise_correlation(rows), table, len(rows))
    correlations = {}
    for cell, key in enumerate(cells.keys):
        rows, target = scores[cells.members(cell)], of_label[int(cells.labels[cell])]
        correlations[key] = shrink(pairwise_correlation(rows), target, len(rows))
    return correlations
