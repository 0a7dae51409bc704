"""Base of the cell generators: cells, conditions, encoding and random streams."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from ..._messages import listed
from ..._rng import resolve_seed, stage_rng
from ...containers import label_codes
from ...exceptions import GroupError
from ...groups import cell_codes, encode_groups
from ._codec import Encoded, ImageCodec, make_codec
from ._rows import check_asked, read_rows, stack, take

__all__ = ["CellGenerator", "Cells", "cell_of_rows"]

# How many numbers are drawn at a time: 128 MB of float64.
BLOCK = 2**24


class Cells:
    """The (label, group) cells that occur among some rows.

    Attributes
    ----------
    keys : list
        ``(label, group)`` of every cell that occurs; only the label if there are no groups.
    codes : ndarray of shape (n,), int64
        Position of every row's cell in ``keys``; -1 where the group is missing.
    labels : ndarray of shape (n_cells,), int64
        Position of every cell's label among the labels.
    """

    def __init__(self, y: Any, groups: NDArray[np.int64], group_labels: Sequence[Any]) -> None:
        classes, y_codes = label_codes(y)
        if len(y_codes) != len(groups):
            raise ValueError(f"X has {len(groups)} rows but y has {len(y_codes)}: pass one a row.")
        n_groups = max(1, len(group_labels))
        crossed = cell_codes(y_codes, groups, n_groups)
        present = np.unique(crossed[crossed >= 0])
        self.codes = np.where(crossed < 0, -1, np.searchsorted(present, crossed))
        self.labels = present // n_groups
        pairs = [(classes[c // n_groups], c % n_groups) for c in present]
        self.keys = [(label, group_labels[g]) if group_labels else label for label, g in pairs]

    def __len__(self) -> int:
        """Count the cells."""
        return len(self.keys)

    def members(self, cell: int) -> NDArray[np.int64]:
        """Return the rows of a cell."""
        return np.flatnonzero(self.codes == cell)

    def counts(self) -> NDArray[np.int64]:
        """Count the rows of every cell."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self))

    def shares(self) -> NDArray[np.float64]:
        """Return every cell's share of the rows that have a cell."""
        return self.counts() / self.counts().sum()

    def positions(self, conditions: Sequence[Any]) -> NDArray[np.int64]:
        """Find the cells of a sequence of keys.

        Raises
        ------
        GroupError
            If ``fit`` saw no rows of one of them.
        """
        place = {key: k for k, key in enumerate(self.keys)}
        unknown = {key for key in conditions if key not in place}
        if unknown:
            raise GroupError(
                f"conditions ask for [{listed(sorted(map(str, unknown)), show=repr)}], but fit saw "
                f"only rows of [{listed(self.keys, show=repr)}]: ask for these cells."
            )
        return np.array([place[key] for key in conditions], dtype=np.int64)


def cell_of_rows(
    n_rows: int, y: Any, sensitive_features: Any, missing: str = "ignore"
) -> tuple[Cells, tuple[str, ...]]:
    """Find the cell of every row, and the names of the sensitive columns.

    Parameters
    ----------
    n_rows : int
    y : array-like of shape (n_rows,) or None
        None: all rows have the same label.
    sensitive_features : array-like or None
        None: no groups.
    missing : {"raise", "ignore", "own_group"}, default="ignore"
    """
    y = np.zeros(n_rows, dtype=np.int64) if y is None else y
    if sensitive_features is None:
        return Cells(y, np.zeros(n_rows, dtype=np.int64), ()), ()
    groups = encode_groups(sensitive_features, n_rows, missing=missing)
    return Cells(y, groups.codes, groups.labels), groups.names


class CellGenerator(BaseEstimator, metaclass=ABCMeta):
    """Base class of generators that draw rows of a given (label, group) cell.

    A subclass implements :meth:`_learn` and :meth:`_draw` on encoded rows.

    Attributes
    ----------
    cells_ : list
        ``(label, group)`` of every cell that can be drawn; labels alone without groups.
    n_features_in_, feature_names_in_
        As in scikit-learn.
    """

    __metadata_request__fit: ClassVar[dict[str, bool]] = {"sensitive_features": True}
    _parameter_constraints: ClassVar[dict[str, Any]] = {"random_state": ["random_state"]}

    random_state: Any

    @abstractmethod
    def _learn(self, rows: Encoded, cells: Cells) -> None:
        """Learn from the encoded rows."""

    @abstractmethod
    def _draw(self, cell: int, n: int, rng: np.random.Generator) -> Encoded:
        """Draw ``n`` encoded rows of a cell."""

    def fit(self, X: Any, y: Any = None, *, sensitive_features: Any = None) -> Self:
        """Learn the rows of every cell.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, n_columns), or images (n, C, H, W)
            Any column types, missing values included.
        y : array-like of shape (n,), optional
            Labels. None: all rows have the same label.
        sensitive_features : array-like of shape (n,) or (n, n_attributes), optional
            Groups; several columns are intersected. Rows without a group belong to no
            cell.

        Returns
        -------
        self : object
        """
        self._validate_params()
        X = read_rows(X)
        cells, _ = cell_of_rows(len(X), y, sensitive_features)
        codec = make_codec(X)
        validate_data(self, X, skip_check_array=True)
        self._codec, self._cells = codec, cells
        self._learn(codec.encoded, cells)
        self.cells_ = list(cells.keys)
        return self

    def sample(self, n: int, conditions: Sequence[Any] | None = None) -> Any:
        """Draw rows.

        Parameters
        ----------
        n : int
            Number of rows.
        conditions : sequence of n cells, optional
            Entries of ``cells_``, one for each row. None: cells are drawn by share in ``fit``.

        Returns
        -------
        X : DataFrame or ndarray of n rows
            Same type, columns and dtypes as the X of ``fit``. Equal seeds give equal rows, in
            repeated calls too.

        Raises
        ------
        ValueError
            If ``n`` is no number of rows, ``conditions`` has another length, or a cell that ``fit``
            did not see.
        """
        check_is_fitted(self, "cells_")
        rng = stage_rng(resolve_seed(self.random_state), "sample")
        check_asked(n, conditions)
        drawn = (
            rng.choice(len(self._cells), size=n, p=self._cells.shares())
            if conditions is None
            else self._cells.positions(conditions)
        )
        order = np.argsort(drawn, kind="stable")
        counts = np.bincount(drawn, minlength=len(self._cells))
        parts = [
            self._codec.decode(self._draw(cell, size, rng))
            for cell, count in enumerate(counts)
            for size in self._block_sizes(count)
        ]
        if not parts:
            return self._codec.decode(self._codec.encoded.take(np.arange(0)))
        return take(stack(parts), np.argsort(order, kind="stable"))

    def _block_sizes(self, count: int) -> list[int]:
        """Split a number of rows into blocks of bounded memory."""
        size = max(1, BLOCK // max(1, self._codec.encoded.numbers.shape[1]))
        return [min(size, count - start) for start in range(0, count, size)]

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn which inputs the generator takes."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        return tags

    @property
    def _is_image(self) -> bool:
        return isinstance(self._codec, ImageCodec)
