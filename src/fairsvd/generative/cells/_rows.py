"""Read, take and stack rows of tables and images in any container."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...containers import as_known, is_frame

__all__ = ["as_array", "check_asked", "columns", "read_rows", "stack", "take"]


def check_asked(n: Any, conditions: Sequence[Any] | None) -> None:
    """Check how many rows are to be drawn, and that there is one cell for each if any is given.

    Raises
    ------
    ValueError
    """
    if not isinstance(n, Integral) or isinstance(n, bool) or n < 0:
        raise ValueError(f"n={n!r}: wanted a number of rows, an integer of at least 0.")
    if conditions is not None and len(conditions) != n:
        raise ValueError(f"conditions has {len(conditions)} entries: pass one for each of {n}.")


def read_rows(X: Any) -> Any:
    """Check rows of a table or of images; all but DataFrames become arrays.

    Raises
    ------
    ValueError
        If X is sparse or complex, does not have 2 or 4 dimensions, has no rows, infinite values,
        or several columns of one name.
    """
    X = as_known(X, "X")
    if hasattr(X, "toarray") or (is_frame(X) and any("Sparse" in str(d) for d in X.dtypes)):
        raise ValueError(
            "X is sparse: generated rows are dense; pass X.toarray() or a dense table."
        )
    if not is_frame(X):
        X = _read_array(X)
    elif X.columns.has_duplicates:
        repeated = X.columns[X.columns.duplicated()].unique().tolist()
        raise ValueError(f"X has several columns named {repeated}: give each a unique name.")
    if X.ndim == 2 and X.shape[1] == 0:
        # In scikit-learn's words, which its estimator checks match.
        raise ValueError(f"X has 0 feature(s) (shape={X.shape}) while a minimum of 1 is required.")
    if X.ndim not in (2, 4) or 0 in X.shape:
        raise ValueError(
            f"X has the shape {tuple(X.shape)}: pass a table (n, n_columns) or images "
            "(n, channels, height, width) with at least one row."
        )
    _check_finite(X)
    return X


def _read_array(X: Any) -> NDArray[Any]:
    array = np.asarray(X.detach().cpu() if hasattr(X, "detach") else X)
    # numpy would turn all numbers of a mixed list into strings.
    array = (
        np.asarray(X, dtype=object) if array.dtype.kind in "US" and isinstance(X, list) else array
    )
    if array.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: X is {array.dtype}, pass real numbers.")
    if array.ndim == 4 and array.dtype.kind not in "biuf":
        raise ValueError(f"X holds images of the dtype {array.dtype}: pass real numbers.")
    return array


def _check_finite(X: Any) -> None:
    columns = [X.iloc[:, k] for k in range(X.shape[1])] if is_frame(X) else [X]
    for k, column in enumerate(columns):
        dtype = column.dtype
        if getattr(dtype, "kind", "O") != "f":
            continue
        values = np.asarray(column)
        if np.isinf(values.astype(np.float64) if values.dtype == object else values).any():
            name = repr(X.columns[k]) if is_frame(X) else "X"
            raise ValueError(f"{name} holds infinite values: replace them or mark them missing.")
        if values.ndim == 4 and np.isnan(values).any():
            raise ValueError("X holds images with NaN: fill them first.")


def take(data: Any, rows: NDArray[Any]) -> Any:
    """Return rows by position; a DataFrame or Series gets a new index."""
    if hasattr(data, "iloc"):
        return data.iloc[rows].reset_index(drop=True)
    return data[rows]


def stack(parts: Sequence[Any]) -> Any:
    """Stack tables, columns or arrays of one type on top of each other."""
    if len(parts) == 1:
        return parts[0]
    if hasattr(parts[0], "iloc"):
        import pandas as pd

        return pd.concat(parts, ignore_index=True)
    return np.concatenate(parts)


def columns(X: Any, positions: Sequence[int]) -> Any:
    """Return columns by position."""
    return X.iloc[:, list(positions)] if is_frame(X) else X[:, list(positions)]


def as_array(labels: Sequence[Any]) -> NDArray[Any]:
    """Make a 1-D array of labels without converting any, such as tuples or mixed types."""
    kinds = {type(label) for label in labels}
    if len(kinds) == 1 and tuple not in kinds:
        return np.asarray(labels)
    out = np.empty(len(labels), dtype=object)
    for k, label in enumerate(labels):
        out[k] = label
    return out
