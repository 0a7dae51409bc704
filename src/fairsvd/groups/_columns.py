"""Split sensitive features in any container into columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..containers import as_known, is_frame, restore_missing
from ..exceptions import GroupError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["describe", "split_columns"]


def describe(values: Any) -> str:
    """Name the type of sensitive features, and their shape if they have one."""
    shape = getattr(values, "shape", None)
    return type(values).__name__ + (f" of shape {tuple(shape)}" if shape is not None else "")


def split_columns(values: Any) -> tuple[list[pd.Series[Any]], list[Any]]:
    """Split sensitive features into columns, and their names (None if unnamed).

    Parameters
    ----------
    values : array-like of shape (n,) or (n, n_columns), or mapping of name to column
        In any container.

    Raises
    ------
    GroupError
        If they are no columns.
    """
    import pandas as pd

    values = _as_table(values)
    if is_frame(values):
        return [values.iloc[:, k] for k in range(values.shape[1])], list(values.columns)
    if hasattr(values, "iloc"):
        return [values], [values.name]
    # Objects, so that numpy does not turn ["a", None] or ["a", nan] into strings.
    array = np.asarray(values, dtype=object if isinstance(values, (list, tuple)) else None)
    if array.ndim not in (1, 2):
        raise GroupError(
            f"sensitive_features is a {describe(values)}: wanted one value per row, or a table "
            "with one column per attribute (1-D or 2-D array, list, Series, DataFrame, tensor)."
        )
    # pandas has no columns of bytes.
    array = array.astype(object) if array.dtype.kind == "S" else restore_missing(array)
    columns = [array] if array.ndim == 1 else list(array.T)
    # pandas cannot hash half precision.
    half = array.dtype == np.float16
    return [pd.Series(c.astype(float) if half else c) for c in columns], [None] * len(columns)


def _as_table(values: Any) -> Any:
    """Make a table of a dictionary of columns, and of an index."""
    import pandas as pd

    if isinstance(values, Mapping):
        try:
            return pd.DataFrame({name: as_known(column, name) for name, column in values.items()})
        except ValueError as error:
            raise GroupError(
                f"sensitive_features is a {type(values).__name__} of columns that make no table "
                f"({error}): wanted columns of one length."
            ) from error
    if isinstance(values, pd.Index):
        names = [None if name is None else str(name) for name in values.names]
        frame = values.to_frame(index=False)
        return frame if values.nlevels > 1 else frame.iloc[:, 0].rename(names[0])
    if isinstance(values, (list, tuple)) and len(values) and hasattr(values[0], "detach"):
        return np.asarray(values)
    return as_known(values, "sensitive_features")
