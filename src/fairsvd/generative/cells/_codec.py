"""Encode tables of any column types, and images, as numbers and category codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...containers import is_frame

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Codec", "Column", "Encoded", "ImageCodec", "TableCodec", "cast_numbers", "make_codec"]

# A column with at most so many distinct values is a flag: values in between mean nothing.
FEW_VALUES = 2


@dataclass(frozen=True)
class Encoded:
    """Rows of a table as two matrices.

    Attributes
    ----------
    numbers : ndarray of shape (n, n_numbers), float
        Numbers, dates and ranks of ordered categories; NaN where missing.
    codes : ndarray of shape (n, n_categories), int64
        Categories, flags and constant columns; -1 where missing.
    """

    numbers: NDArray[Any]
    codes: NDArray[np.int64]

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.numbers)

    def take(self, rows: NDArray[np.int64]) -> Encoded:
        """Return the rows at some positions, as a copy."""
        return Encoded(self.numbers[rows].astype(np.float64), self.codes[rows])


@dataclass(frozen=True)
class Column:
    """The encoding of one column as numbers or codes.

    Attributes
    ----------
    kind : {"number", "integer", "rank", "category"}
    dtype : dtype
        Dtype of the column, numpy's or pandas'.
    palette : array or None
        For ranks and categories: the values that occur, in the order of their codes, and last a
        missing value if there is one, which the code -1 then reads.
    low, high : float
        Smallest and largest number or rank that occurs.
    missing : object
        The missing value in a column of Python objects.
    """

    kind: str
    dtype: Any
    palette: Any = None
    low: float = 0.0
    high: float = 0.0
    missing: Any = None

    @property
    def n_levels(self) -> int:
        """Count the values of a category or of ranks."""
        return int(self.high) + 1

    def restore(self, values: NDArray[Any]) -> Any:
        """Turn numbers or codes into values of the column's type."""
        if self.kind == "category":
            return self.palette.take(values)
        clipped = np.clip(values, self.low, self.high)
        if self.kind == "rank":
            known = ~np.isnan(clipped)
            return self.palette.take(
                np.where(known, np.rint(np.nan_to_num(clipped)), -1).astype(int)
            )
        return cast_numbers(clipped, self)


def cast_numbers(values: NDArray[np.float64], column: Column) -> Any:
    """Cast float64 numbers within the range of ``column.dtype`` to that dtype; NaN is missing."""
    import pandas as pd

    values = np.rint(values) if column.kind == "integer" else values
    dtype, known = column.dtype, ~np.isnan(values)
    if isinstance(dtype, np.dtype) and dtype.kind == "O":
        whole = np.int64 if column.kind == "integer" else np.float64
        out = np.where(known, values, 0).astype(whole).astype(object)
        out[~known] = column.missing
        return out
    if getattr(dtype, "kind", "") in "mM":
        ticks = np.where(known, values, 0).astype(np.int64)
        ticks[~known] = np.iinfo(np.int64).min  # not-a-time in pandas and numpy
        return pd.Series(ticks).astype(dtype).array
    return (
        values.astype(dtype)
        if isinstance(dtype, np.dtype)
        else pd.Series(values).astype(dtype).array
    )


def _as_numbers(series: pd.Series) -> NDArray[np.float64] | None:
    """Read numbers and dates as float64 with NaN; return None for other types."""
    from pandas.api import types

    if types.is_datetime64_any_dtype(series.dtype) or types.is_timedelta64_dtype(series.dtype):
        ticks = series.to_numpy(dtype="int64", copy=True) if not series.hasnans else None
        ticks = series.array.asi8 if ticks is None else ticks
        return np.where(series.isna(), np.nan, ticks.astype(np.float64))
    if types.is_object_dtype(series.dtype):
        series = series.infer_objects()
    numeric = types.is_numeric_dtype(series.dtype) and not types.is_bool_dtype(series.dtype)
    if not numeric or types.is_complex_dtype(series.dtype):
        return None
    return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))


def _is_whole(series: pd.Series, numbers: NDArray[np.float64]) -> bool:
    from pandas.api import types

    if types.is_object_dtype(series.dtype):
        first = series[series.notna()].iloc[0]
        return isinstance(first, (int, np.integer)) and bool(
            (numbers % 1 == 0)[series.notna()].all()
        )
    return not types.is_float_dtype(series.dtype)


def _inner_limits(low: int, high: int) -> tuple[float, float]:
    """Return the floats nearest to two integers within their range."""
    first, last = float(low), float(high)
    first = np.nextafter(first, np.inf) if int(first) < low else first
    last = np.nextafter(last, -np.inf) if int(last) > high else last
    return float(first), float(last)


def _number_column(series: pd.Series, numbers: NDArray[np.float64]) -> Column:
    kind = "integer" if _is_whole(series, numbers) else "number"
    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    if kind == "integer" and max(abs(low), abs(high)) >= 2**53:
        # Not every integer of that size is a float, and rounding may leave the range.
        known = series.dropna().astype("int64") if series.dtype.kind in "mM" else series.dropna()
        low, high = _inner_limits(int(known.min()), int(known.max()))
    lacking = np.flatnonzero(np.isnan(numbers))
    missing = series.iloc[lacking[0]] if len(lacking) else None
    return Column(kind, series.dtype, None, low, high, missing)


def _encode_categories(series: pd.Series) -> tuple[Column, NDArray[np.int64]]:
    """Encode categories by appearance, and ordered ones by rank among those that occur."""
    import pandas as pd

    ordered = isinstance(series.dtype, pd.CategoricalDtype) and series.dtype.ordered
    keys = series.cat.codes.where(series.notna()) if ordered else series
    codes, _ = pd.factorize(keys, sort=bool(ordered), use_na_sentinel=True)
    levels, first = np.unique(codes, return_index=True)
    # Missing values have the code -1, which comes first; move its row to the end.
    rows = np.roll(first, -1) if len(levels) and levels[0] < 0 else first
    n_levels = int((levels >= 0).sum())
    kind = "rank" if ordered and n_levels > FEW_VALUES else "category"
    palette = series.array.take(rows)
    return Column(kind, series.dtype, palette, 0.0, n_levels - 1.0), codes.astype(np.int64)


def _encode_column(series: pd.Series) -> tuple[Column, NDArray[Any]]:
    numbers = _as_numbers(series)
    if numbers is not None and series.nunique() > FEW_VALUES:
        return _number_column(series, numbers), numbers
    column, codes = _encode_categories(series)
    return column, (np.where(codes < 0, np.nan, codes) if column.kind == "rank" else codes)


@dataclass(frozen=True)
class TableCodec:
    """Encoding of a table, learned from its rows.

    Attributes
    ----------
    columns : tuple of Column
    names : Index or None
        Column names of a DataFrame; None for arrays.
    dtype : dtype or None
        Dtype of an array; None for a DataFrame.
    encoded : Encoded
        The rows that it was learned from.
    """

    columns: tuple[Column, ...]
    names: Any
    dtype: Any
    encoded: Encoded

    def of_kind(self, *kinds: str) -> list[Column]:
        """Return the columns of some kinds in their order."""
        return [column for column in self.columns if column.kind in kinds]

    def decode(self, rows: Encoded) -> Any:
        """Turn encoded rows into a table of the original type."""
        numbers, codes = iter(rows.numbers.T), iter(rows.codes.T)
        values = [c.restore(next(codes if c.kind == "category" else numbers)) for c in self.columns]
        return self.assemble(values, len(rows))

    def assemble(self, values: Sequence[Any], n_rows: int) -> Any:
        """Put columns side by side."""
        if self.names is None:
            out = np.empty((n_rows, len(values)), dtype=self.dtype)
            for k, column in enumerate(values):
                out[:, k] = column
            return out
        import pandas as pd

        table = pd.concat([pd.Series(v) for v in values], axis=1)
        return table.set_axis(self.names, axis=1)


@dataclass(frozen=True)
class ImageCodec:
    """Encoding of images (n, C, H, W) as one number per value, in their dtype."""

    columns: tuple[Column, ...]
    shape: tuple[int, ...]
    encoded: Encoded

    def of_kind(self, *kinds: str) -> list[Column]:
        """Return the columns of some kinds: one for all values, which share dtype and range."""
        return [column for column in self.columns if column.kind in kinds]

    def decode(self, rows: Encoded) -> NDArray[Any]:
        """Turn encoded rows into images."""
        values = self.columns[0].restore(rows.numbers)
        return np.asarray(values).reshape(len(rows), *self.shape)


Codec = TableCodec | ImageCodec


def _series_of(X: Any) -> list[pd.Series]:
    import pandas as pd

    if is_frame(X):
        return [X.iloc[:, k].reset_index(drop=True) for k in range(X.shape[1])]
    return [pd.Series(column) for column in X.T]


def _image_codec(X: NDArray[Any]) -> ImageCodec:
    kind = "number" if X.dtype.kind == "f" else "integer"
    column = Column(kind, X.dtype, None, float(X.min()), float(X.max()))
    flat = X.reshape(len(X), -1)
    return ImageCodec((column,), X.shape[1:], Encoded(flat, np.empty((len(X), 0), dtype=np.int64)))


def make_codec(X: Any) -> Codec:
    """Learn the encoding of the columns of X.

    Parameters
    ----------
    X : DataFrame or ndarray of shape (n, n_columns), or images (n, C, H, W)
        At least one row. Numbers (also dates and durations) stay numbers unless they take at most
        two values; ordered categories become ranks; anything else becomes categories.

    Returns
    -------
    codec : TableCodec or ImageCodec
    """
    if getattr(X, "ndim", 2) == 4:
        return _image_codec(X)
    encoded = [_encode_column(series) for series in _series_of(X)]
    columns = tuple(column for column, _ in encoded)

    def stack(category: bool, dtype: Any) -> NDArray[Any]:
        parts = [values for c, values in encoded if (c.kind == "category") == category]
        return np.stack(parts, axis=1).astype(dtype) if parts else np.empty((len(X), 0), dtype)

    rows = Encoded(stack(False, np.float64), stack(True, np.int64))
    frame = is_frame(X)
    return TableCodec(columns, X.columns if frame else None, None if frame else X.dtype, rows)
