"""The rows of a fit as cells of (label, group), with numbers on one scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..containers import is_frame
from ..groups import cell_codes
from ._constraints import ConformanceConstraints, densest

__all__ = ["Columns", "Rows", "learn_constraints"]


@dataclass(frozen=True)
class Rows:
    """The rows of a fit.

    Attributes
    ----------
    X : DataFrame or ndarray of shape (n, n_features)
    y : ndarray of shape (n,)
        Labels.
    codes, groups : ndarray of shape (n,), int64
        Codes of label and group; the latter are 0 without sensitive features.
    group_labels : list
        Empty without sensitive features.
    n_classes : int
    """

    X: Any
    y: NDArray[Any]
    codes: NDArray[np.int64]
    groups: NDArray[np.int64]
    group_labels: list[Any]
    n_classes: int

    @property
    def n_groups(self) -> int:
        """Count the groups; 1 without sensitive features."""
        return max(1, len(self.group_labels))

    @property
    def cells(self) -> NDArray[np.int64]:
        """Number the (label, group) cell of every row."""
        return cell_codes(self.codes, self.groups, self.n_groups)

    @property
    def sensitive(self) -> NDArray[Any] | None:
        """Give every row's group code, or None without sensitive features."""
        return self.groups if self.group_labels else None

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """Select rows by position."""
        X = self.X.iloc[rows] if is_frame(self.X) else self.X[rows]
        parts = (each[rows] for each in (self.y, self.codes, self.groups))
        y, codes, groups = parts
        return replace(self, X=X, y=y, codes=codes, groups=groups)

    def key(self, cell: int, classes: NDArray[Any]) -> tuple[Any, Any]:
        """Name a cell: (label, group)."""
        label, group = divmod(cell, self.n_groups)
        return classes.tolist()[label], self.group_labels[group]


@dataclass(frozen=True)
class Columns:
    """The columns of a table that constraints are about: numbers of more than two values.

    Attributes
    ----------
    places : list of int
    low, span : ndarray of shape (d,), float64
        Smallest value of each column and the range, 1 for a constant one.
    """

    places: list[int]
    low: NDArray[np.float64]
    span: NDArray[np.float64]

    @classmethod
    def of(cls, X: Any) -> Self:
        """Find the columns of a table.

        Raises
        ------
        ValueError
            If it has no column of numbers.
        """
        places = _numeric_places(X)
        if not places:
            raise ValueError(
                f"X has no column of numbers ({X.shape[1]} columns in all): conformance "
                "constraints are bounds on sums of numbers. Pass at least one, or use "
                "fairsvd.interop.resample_by_weight with weights of your own."
            )
        values = _take(X, places)
        several = [k for k in range(len(places)) if len(np.unique(values[:, k])) > 2]
        several = several or list(range(len(places)))
        values = values[:, several]
        low, span = values.min(axis=0), np.ptp(values, axis=0)
        return cls([places[k] for k in several], low, np.where(span > 0, span, 1.0))

    def scaled(self, X: Any) -> NDArray[np.float64]:
        """Select the columns, scaled to the range 1 that they had in the fit."""
        return (_take(X, self.places) - self.low) / self.span


def _numeric_places(X: Any) -> list[int]:
    if not is_frame(X):
        return list(range(X.shape[1]))
    return [k for k, dtype in enumerate(X.dtypes) if getattr(dtype, "kind", "O") in "iuf"]


def _take(X: Any, places: list[int]) -> NDArray[np.float64]:
    columns = X.iloc[:, places] if is_frame(X) else X[:, places]
    return np.asarray(columns, dtype=np.float64)


def learn_constraints(
    rows: NDArray[np.float64],
    cells: NDArray[np.int64],
    density: float,
    rng: np.random.Generator,
) -> dict[int, ConformanceConstraints]:
    """Learn the constraints of every cell on its densest rows.

    Parameters
    ----------
    rows : ndarray of shape (n, d), float64
        Columns of range 1.
    cells : ndarray of shape (n,), int64
    density : float in (0, 1]
        Share of a cell's rows.
    rng : numpy.random.Generator

    Returns
    -------
    constraints : dict of int to ConformanceConstraints
        For every cell that has rows.
    """
    return {
        cell: ConformanceConstraints.of(densest(rows[cells == cell], density, rng))
        for cell in np.unique(cells).tolist()
    }
