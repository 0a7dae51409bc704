"""Where sensitive columns are found: in X's columns, X's index or y's index."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..exceptions import GroupError

__all__ = ["Located", "drop_sensitive", "find_sensitive", "is_frame"]


class Located(NamedTuple):
    """Sensitive columns that were found by name or position.

    Attributes
    ----------
    values : ndarray of shape (n_rows, n_columns), object
        The values, a column for each that was asked for.
    names : tuple of str
        Names of these columns.
    source : {"columns of X", "index of X", "index of y"}
        Where they were found.
    X : array-like
        X without the columns, if they were found among its columns; else X as it came.
    """

    values: NDArray[np.object_]
    names: tuple[str, ...]
    source: str
    X: Any


def _as_list(columns: Any) -> list[Hashable]:
    several = isinstance(columns, (list, tuple)) or getattr(columns, "ndim", 0) == 1
    wanted = list(columns) if several else [columns]
    strange = [
        c for c in wanted if isinstance(c, bool) or not isinstance(c, (str, int, np.integer))
    ]
    if strange or not wanted:
        raise GroupError(
            f"sensitive_columns={columns!r}: wanted a column's name (string), its position "
            "(integer), or a list of these with at least one entry."
        )
    return wanted


def is_frame(X: Any) -> bool:
    """Tell whether X is a pandas DataFrame, without importing pandas."""
    return hasattr(X, "iloc") and hasattr(X, "columns")


def _metadata(X: Any) -> Any:
    """Give the DataFrame beside images, of which a network gets nothing; None for other data."""
    # Of an ndarray that name is its memory.
    data = None if isinstance(X, np.ndarray) or is_frame(X) else getattr(X, "data", None)
    return data if is_frame(data) else None


def _width(X: Any) -> int:
    """Count the columns of a table; 0 for what is no table, such as images."""
    shape: tuple[Any, ...] = tuple(getattr(X, "shape", ()))
    return int(shape[1]) if len(shape) == 2 else 0


def _column_positions(X: Any, wanted: list[Any]) -> list[int] | None:
    """Find columns of X; None where one of them is not there."""
    names = list(X.columns) if is_frame(X) else []
    width = _width(X)
    positions = []
    for column in wanted:
        if isinstance(column, str) and column in names:
            positions.append(names.index(column))
        elif not isinstance(column, str) and -width <= column < width:
            positions.append(int(column) % width)
        else:
            return None
    return positions


def _index_names(data: Any) -> list[Any]:
    # A list has a method of the name "index".
    index: Any = getattr(data, "index", None)
    return list(index.names) if hasattr(index, "get_level_values") else []


def _object_columns(columns: Sequence[Any], n_rows: int) -> NDArray[np.object_]:
    """Stand columns side by side without changing the type of any value."""
    values = np.empty((n_rows, len(columns)), dtype=object)
    for k, column in enumerate(columns):
        values[:, k] = np.asarray(column, dtype=object)
    return values


def _take_columns(X: Any, positions: list[int], keep: list[int]) -> tuple[list[Any], Any]:
    if is_frame(X):
        return [X.iloc[:, k] for k in positions], X.iloc[:, keep]
    return [X[:, k] for k in positions], X[:, keep]


def _from_columns(X: Any, positions: list[int]) -> Located:
    keep = [k for k in range(_width(X)) if k not in positions]
    taken, rest = _take_columns(X, positions, keep)
    names = tuple(str(X.columns[k] if is_frame(X) else k) for k in positions)
    return Located(_object_columns(taken, X.shape[0]), names, "columns of X", rest)


def _not_found(X: Any, y: Any, wanted: list[Any]) -> GroupError:
    columns = list(X.columns) if is_frame(X) else f"{_width(X)} without names"
    return GroupError(
        f"sensitive_columns={wanted} were not found together in one place. Columns of X: {columns};"
        f" index names of X: {_index_names(X)}; index names of y: {_index_names(y)}. Give names "
        "(or positions of columns of X) that are all in one of these, put the attribute into the "
        "index of y (y.index.name = ...), or pass sensitive_features."
    )


def find_sensitive(X: Any, y: Any, columns: Any) -> Located:
    """Find sensitive columns in X's columns, else X's index, else y's index.

    Parameters
    ----------
    X : DataFrame, ImageFrame or array-like
        Integers are positions of its columns; those of an ImageFrame are its DataFrame's.
    y : Series, DataFrame or array-like
        Its index may hold the sensitive attributes.
    columns : str, int or list of these
        Strings are names, integers positions; all of them have to be in the same place.

    Returns
    -------
    located : Located
        The values, their names and source, and X without the columns if they were among them.

    Raises
    ------
    GroupError
        If the columns are not all found in one place; it lists what X and y have.

    Notes
    -----
    Rows are matched by position, never by index label: an index that holds groups repeats.
    """
    if (metadata := _metadata(X)) is not None:
        return find_sensitive(metadata, y, columns)._replace(X=X)
    wanted = _as_list(columns)
    X_table = np.asarray(X, dtype=object) if isinstance(X, (list, tuple)) else X
    positions = _column_positions(X_table, wanted)
    if positions is not None:
        return _from_columns(X_table, positions)
    for source, data in (("index of X", X), ("index of y", y)):
        names = _index_names(data)
        if all(isinstance(c, str) and c in names for c in wanted):
            levels = [data.index.get_level_values(names.index(c)) for c in wanted]
            values = _object_columns(levels, len(data.index))
            return Located(values, tuple(str(c) for c in wanted), source, X)
    raise _not_found(X, y, wanted)


def drop_sensitive(X: Any, columns: Any, n_features: int | None = None) -> Any:
    """Take sensitive columns out of X where they are there, for use at prediction time.

    Parameters
    ----------
    X : DataFrame or array-like
        With or without the columns.
    columns : str, int or list of these
        As given to :func:`find_sensitive` when they were found among the columns of X.
    n_features : int or None, default=None
        Number of columns that are wanted afterwards; None means that whatever is found goes.

    Returns
    -------
    X : same type
        Without the columns; unchanged if it has ``n_features`` columns already, or a width
        that neither form explains (what is wrong then is for the caller to say).
    """
    wanted = _as_list(columns)
    if _metadata(X) is not None:
        return X
    X = np.asarray(X) if isinstance(X, (list, tuple)) else X
    if is_frame(X):
        wanted = [c for c in wanted if not isinstance(c, str) or c in list(X.columns)]
    if n_features is not None and _width(X) != n_features + len(wanted):
        return X
    positions = _column_positions(X, wanted)
    return X if not positions else _from_columns(X, positions).X
