"""Find sensitive columns in X's columns, X's index or y's index."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._messages import listed
from ..containers import as_known, is_frame
from ..exceptions import GroupError

__all__ = ["Located", "drop_sensitive", "find_sensitive"]


class Located(NamedTuple):
    """Sensitive columns found by name or position.

    Attributes
    ----------
    values : ndarray of shape (n_rows, n_columns), object
        Their values, in the order of the request.
    names : tuple of str
        Names of these columns.
    source : {"columns of X", "index of X", "index of y"}
        Where they were found.
    X : array-like
        X without the columns, if they were found among its columns; else X unchanged.
    """

    values: NDArray[np.object_]
    names: tuple[str, ...]
    source: str
    X: Any


def _as_list(columns: Any) -> list[Hashable]:
    several = isinstance(columns, (list, tuple)) or getattr(columns, "ndim", 0) == 1
    keys = list(columns) if several else [columns]
    if not keys or any(
        isinstance(key, bool) or not isinstance(key, (str, int, np.integer)) for key in keys
    ):
        raise GroupError(
            f"sensitive_columns={columns!r}: wanted a column's name (string), its position "
            "(integer), or a list of these with at least one entry."
        )
    return keys


def _metadata(X: Any) -> Any:
    """Return the DataFrame that an ImageFrame keeps beside its images; None for other data."""
    # An ndarray's `data` is its memory buffer.
    data = None if isinstance(X, np.ndarray) or is_frame(X) else getattr(X, "data", None)
    return data if is_frame(data) else None


def _width(X: Any) -> int:
    """Count the columns of a table; 0 for other data, such as images."""
    shape: tuple[Any, ...] = tuple(getattr(X, "shape", ()))
    return int(shape[1]) if len(shape) == 2 else 0


def _column_positions(X: Any, keys: list[Any]) -> list[int] | None:
    """Find columns of X; None if X lacks one of them."""
    names = list(X.columns) if is_frame(X) else []
    width = _width(X)
    positions = []
    for key in keys:
        if isinstance(key, str) and key in names:
            positions.append(_only_place(names, key))
        elif not isinstance(key, str) and -width <= key < width:
            _check_position(names, key)
            positions.append(int(key) % width)
        else:
            return None
    if len(set(positions)) < len(positions):
        raise GroupError(f"sensitive_columns={keys} name a column twice: name each once.")
    return positions


def _only_place(names: list[Any], key: str) -> int:
    """Refuse a name that several columns have: one of them would stay among the features."""
    places = [k for k, name in enumerate(names) if isinstance(name, str) and name == key]
    if len(places) > 1:
        raise GroupError(
            f"X has {len(places)} columns named {key!r} (positions {listed(places)}), which "
            "sensitive_columns names: drop or rename all but one, or the others would stay among "
            "the features."
        )
    return places[0]


def _check_position(names: list[Any], key: int) -> None:
    """Refuse a position that is also the label of another column."""
    labels = [name for name in names if isinstance(name, (int, np.integer))]
    if key in labels and names[key] != key:
        raise GroupError(
            f"sensitive_columns={key} is a position, where X has the column {names[key]!r}, but X "
            f"also has a column with the label {key}: give the columns names "
            "(X.columns = X.columns.astype(str)) and pass a name."
        )


def _index_names(data: Any) -> list[Any]:
    # A list has a method called "index".
    index: Any = getattr(data, "index", None)
    return list(index.names) if hasattr(index, "get_level_values") else []


def _object_columns(columns: Sequence[Any], n_rows: int) -> NDArray[np.object_]:
    """Put columns side by side without changing the type of any value."""
    values = np.empty((n_rows, len(columns)), dtype=object)
    for k, column in enumerate(columns):
        values[:, k] = np.asarray(column, dtype=object)
    return values


def _from_columns(X: Any, positions: list[int]) -> Located:
    table = X.iloc if is_frame(X) else X
    rest = table[:, [k for k in range(_width(X)) if k not in positions]]
    names = tuple(str(X.columns[k] if is_frame(X) else k) for k in positions)
    values = _object_columns([table[:, k] for k in positions], X.shape[0])
    return Located(values, names, "columns of X", rest)


def _not_found_error(X: Any, y: Any, keys: list[Any]) -> GroupError:
    named = is_frame(X)
    columns = f"[{listed(X.columns, 20, repr)}]" if named else f"{_width(X)} without names"
    return GroupError(
        f"sensitive_columns={keys} were not found together in one place. Columns of X: {columns};"
        f" index names of X: {_index_names(X)}; index names of y: {_index_names(y)}. Give names "
        "(or positions of columns of X) that are all in one of these, put the attribute into the "
        "index of y (y.index.name = ...), or pass sensitive_features."
    )


def find_sensitive(X: Any, y: Any, columns: Any) -> Located:
    """Find sensitive columns in X's columns, else X's index, else y's index.

    Parameters
    ----------
    X : DataFrame, ImageFrame or array-like
        Of an ImageFrame the columns of its DataFrame are searched.
    y : Series, DataFrame or array-like
        Its index may hold the sensitive attributes.
    columns : str, int or list of these
        Strings are names, integers positions of columns of X; all must be in the same place.

    Returns
    -------
    located : Located
        The values, their names and source, and X without the columns if they were among them.

    Raises
    ------
    GroupError
        If the columns are not all found in one place (it lists what X and y have), or one of them
        is named twice or has a name that several columns have.

    Notes
    -----
    Rows are matched by position, never by index label, as the labels of a group index repeat.
    """
    if (metadata := _metadata(X)) is not None:
        return find_sensitive(metadata, y, columns)._replace(X=X)
    keys, X, y = _as_list(columns), as_known(X, "X"), as_known(y, "y")
    X_table = np.asarray(X, dtype=object) if isinstance(X, (list, tuple)) else X
    positions = _column_positions(X_table, keys)
    if positions is not None:
        return _from_columns(X_table, positions)
    for source, data in (("index of X", X), ("index of y", y)):
        names = _index_names(data)
        if all(isinstance(key, str) and key in names for key in keys):
            levels = [data.index.get_level_values(names.index(key)) for key in keys]
            values = _object_columns(levels, len(data.index))
            return Located(values, tuple(str(key) for key in keys), source, X)
    raise _not_found_error(X, y, keys)


def drop_sensitive(X: Any, columns: Any, n_features: int | None = None) -> Any:
    """Remove the sensitive columns that X has, for use at prediction time.

    Parameters
    ----------
    X : DataFrame or array-like
        With or without the columns.
    columns : str, int or list of these
        As given to :func:`find_sensitive` when they were found among the columns of X.
    n_features : int or None, default=None
        Number of columns that must remain; None removes whatever is found.

    Returns
    -------
    X : same type
        Without the columns; unchanged if removing them would not leave ``n_features`` columns
        (the caller then reports a wrong width).
    """
    keys = _as_list(columns)
    if _metadata(X) is not None:
        return X
    X = as_known(X, "X")
    X = np.asarray(X) if isinstance(X, (list, tuple)) else X
    if is_frame(X):
        keys = [key for key in keys if not isinstance(key, str) or key in list(X.columns)]
    if n_features is not None and _width(X) != n_features + len(keys):
        return X
    positions = _column_positions(X, keys)
    return X if not positions else _from_columns(X, positions).X
