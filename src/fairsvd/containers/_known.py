"""Turn any container of rows into a pandas object, a numpy array or a list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["as_known", "count_rows", "is_frame"]

NUMPY_FLOATS = ("torch.float16", "torch.float32", "torch.float64")


def is_frame(X: Any) -> bool:
    """Tell whether X is a pandas DataFrame, without importing pandas."""
    return hasattr(X, "iloc") and hasattr(X, "columns")


def count_rows(data: Any) -> int:
    """Count the rows of anything that has a length or a shape."""
    try:
        # First, since a user's Dataset may have the shape of one image as ``shape``.
        return len(data)
    except TypeError:  # sparse matrices
        return int(data.shape[0])


def as_known(data: Any, name: str) -> Any:
    """Turn other packages' containers into pandas objects, and tensors into arrays.

    Parameters
    ----------
    data : object
        A frame or column of polars, pyarrow, or any package that narwhals knows or that speaks
        Arrow's protocol; a tensor; a masked array.
    name : str
        What messages call it.

    Returns
    -------
    data : object
        A DataFrame or Series of pandas; an array, in which masked values are NaN or None, in the
        machine's byte order and of a type that torch knows; or the object itself, if it is neither.

    Raises
    ------
    ValueError
        If the rows are not in memory yet (a lazy frame), or have no rows to read (an iterator).
    """
    if isinstance(data, np.ma.MaskedArray):
        return _plain_array(_unmasked(data))
    if isinstance(data, np.ndarray):
        return data if isinstance(data, np.memmap) else _plain_array(np.asarray(data))
    if data is None or isinstance(data, (list, tuple, str, bytes)):
        return data
    if hasattr(data, "detach"):
        return _from_tensor(data, name)
    if isinstance(data, Iterator):
        raise ValueError(f"{name} is an iterator ({type(data).__name__}): pass list({name}).")
    return _from_other(data, name)


def _plain_array(array: Any) -> Any:
    """Return numbers in the machine's byte order, and no wider than 64 bits."""
    if array.dtype.names and array.ndim == 1:
        import pandas as pd

        return pd.DataFrame(array)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    if array.dtype.kind == "c" and array.dtype.itemsize > 16:
        return array.astype(np.complex128)
    if array.dtype.kind == "T":
        return array.astype(object)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _unmasked(data: Any) -> Any:
    values, mask = np.ma.getdata(data), np.ma.getmaskarray(data)
    if values.dtype.names or not mask.any():
        return values
    number = values.dtype.kind in "fc"
    values = values.copy() if number else values.astype(object)
    values[mask] = np.nan if number else None
    return values


def _from_tensor(data: Any, name: str) -> Any:
    """Copy a tensor to an array; bfloat16 and smaller floats, which numpy lacks, to float32."""
    if getattr(data, "is_nested", False):
        raise ValueError(f"{name} is a nested tensor: pass rows of one shape.")
    if str(getattr(data, "layout", "torch.strided")) != "torch.strided":
        raise ValueError(f"{name} is a sparse tensor: pass {name}.to_dense().")
    if getattr(data, "is_meta", False):
        raise ValueError(f"{name} is a tensor on the device 'meta', which holds no numbers.")
    values = data.detach().cpu()
    values = values.dequantize() if values.is_quantized else values
    if values.is_floating_point() and str(values.dtype) not in NUMPY_FLOATS:
        values = values.float()
    return values.resolve_conj().resolve_neg().numpy()


def _from_other(data: Any, name: str) -> Any:
    """Turn what narwhals knows, or what speaks a protocol of tables, into pandas."""
    import narwhals as nw
    import pandas as pd

    if hasattr(data, "dask") and hasattr(data, "npartitions"):
        raise ValueError(f"{name} is a {type(data).__name__} of dask: pass {name}.compute().")
    if hasattr(data, "iloc"):
        return data
    native = nw.from_native(data, pass_through=True, allow_series=True)
    if isinstance(native, nw.LazyFrame):
        raise ValueError(
            f"{name} is a {type(data).__name__}, whose rows are not computed yet: pass "
            f"{name}.collect(), or what makes a table of it in its package."
        )
    if isinstance(native, nw.Series):
        return _make_column(native).rename(native.name or None)
    if not isinstance(native, nw.DataFrame):
        if (
            hasattr(data, "to_pylist")
            and hasattr(data, "__arrow_c_array__")
            and (not hasattr(data, "columns"))
        ):
            return pd.Series(data.to_pylist(), dtype=object)
        if not hasattr(data, "__arrow_c_stream__"):
            return data
        native = nw.from_arrow(data, backend="pyarrow")
    return pd.DataFrame({column: _make_column(native[column]) for column in native.columns})


def _make_column(column: Any) -> pd.Series[Any]:
    import pandas as pd

    numeric = column.dtype.is_numeric() and not column.dtype.is_decimal()
    if numeric and not column.is_null().any():
        return pd.Series(column.to_numpy())
    # Objects, so that an integer beside a missing value stays one.
    return pd.Series(column.to_list(), dtype=object)
