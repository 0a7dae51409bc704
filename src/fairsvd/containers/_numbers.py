"""Columns of a table as numbers that torch knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._messages import listed
from ._known import is_frame

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["as_numbers"]

ADVICE = (
    "pass numbers only, for example through sklearn.preprocessing.OneHotEncoder (categories) or "
    "as days since a date, or leave the column out."
)


def as_numbers(X: Any, name: str = "X") -> Any:
    """Convert the columns of a table to numbers where they can be, and name one that cannot.

    Parameters
    ----------
    X : DataFrame or ndarray
        Categories, strings and objects that stand for numbers are converted, as scikit-learn does;
        so are nullable, Arrow and sparse columns. A missing value becomes NaN.
    name : str, default="X"
        What messages call it.

    Returns
    -------
    X : DataFrame or ndarray
        The same object if all its columns are numbers already.

    Raises
    ------
    ValueError
        If a column holds no numbers; the message names it.
    """
    if is_frame(X):
        return _frame_of_numbers(X, name)
    if not isinstance(X, np.ndarray) or X.ndim != 2 or X.dtype.kind not in "USOMmV":
        return X
    if X.dtype.kind in "MmV":
        what = {"M": "dates", "m": "durations"}.get(X.dtype.kind, "records")
        raise ValueError(f"{name} holds {what}: {ADVICE}")
    try:
        return X.astype(np.float64)
    except TypeError:
        return X  # scikit-learn says in its words what is no number at all
    except OverflowError as error:
        raise ValueError(f"{name} holds an integer that no float can hold: {ADVICE}") from error
    except ValueError:
        columns = [_column_of_numbers(X[:, k], f"in column {k}", name) for k in range(X.shape[1])]
        return np.stack(columns, axis=1)


def _frame_of_numbers(X: Any, name: str) -> pd.DataFrame:
    done = [isinstance(dtype, np.dtype) and dtype.kind in "biuf" for dtype in X.dtypes]
    done = [ok and _is_plain(dtype) for ok, dtype in zip(done, X.dtypes, strict=True)]
    if X.columns.has_duplicates:
        repeated = X.columns[X.columns.duplicated()].unique()
        raise ValueError(
            f"{name} has several columns named {listed(repeated, show=repr)}: give each its own."
        )
    if all(done):
        return X
    import pandas as pd

    columns = {
        k: X.iloc[:, k]
        if ok
        else _series_of_numbers(X.iloc[:, k], f"in column {X.columns[k]!r}", name)
        for k, ok in enumerate(done)
    }
    return pd.DataFrame(columns, index=X.index).set_axis(X.columns, axis=1)


def _is_plain(dtype: np.dtype[Any]) -> bool:
    return dtype.isnative and dtype.itemsize <= 8


def _series_of_numbers(column: pd.Series[Any], where: str, name: str) -> NDArray[Any]:
    """Read a column of any dtype as a numpy column of numbers."""
    from pandas.api import types

    dtype = column.dtype
    dates = (types.is_datetime64_any_dtype, types.is_timedelta64_dtype)
    if any(test(dtype) for test in dates) or isinstance(
        dtype, (types.PeriodDtype, types.IntervalDtype)
    ):
        raise ValueError(f"{name} holds {dtype} {where}: {ADVICE}")
    if types.is_complex_dtype(dtype):
        raise ValueError(f"Complex data not supported: {name} holds {dtype} {where}.")
    if isinstance(dtype, np.dtype) and dtype.kind in "biuf":
        return column.to_numpy().astype(dtype.newbyteorder("=") if dtype.itemsize <= 8 else float)
    if types.is_numeric_dtype(dtype) and not isinstance(dtype, np.dtype):
        plain = getattr(dtype, "numpy_dtype", getattr(dtype, "subtype", np.dtype(float)))
        whole = plain.kind in "biuf" and not column.isna().any()
        return column.to_numpy(dtype=plain if whole else np.float64, na_value=np.nan)
    return _column_of_numbers(column.to_numpy(dtype=object, na_value=np.nan), where, name)


def _column_of_numbers(column: NDArray[Any], where: str, name: str) -> NDArray[np.float64]:
    try:
        return column.astype(np.float64)
    except (TypeError, ValueError) as error:
        value = next(v for v in column.tolist() if not _is_number(v))
        raise ValueError(f"{name} holds {listed([value], show=repr)} {where}: {ADVICE}") from error


def _is_number(value: Any) -> bool:
    try:
        np.array([value, None], dtype=object)[:1].astype(np.float64)
    except (TypeError, ValueError):
        return False
    return True
