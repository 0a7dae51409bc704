"""Checks of ImageFrame's arguments and of row indices."""

from __future__ import annotations

import os
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._messages import did_you_mean, listed
from ._pixels import MODES

__all__ = ["as_row_indices", "check_arguments", "height_and_width", "rows_alone"]


def check_arguments(data: Any, path: Any, mode: Any, n_jobs: Any, **functions: Any) -> None:
    """Refuse a table without paths, unknown settings, and transforms that cannot be called."""
    _check_table(data, path)
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    whole = isinstance(n_jobs, Integral) and not isinstance(n_jobs, bool)
    if n_jobs is not None and not (whole and n_jobs):
        raise ValueError(f"n_jobs must be a number of processes, -1 for all, or None; got {n_jobs}")
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise ValueError(f"{name} must be callable, got {type(function).__name__}")


def _check_table(data: Any, path: Any) -> None:
    if not (hasattr(data, "iloc") and hasattr(data, "columns")):
        raise ValueError(
            f"data must be a DataFrame with a column of paths, got {type(data).__name__}: "
            'pd.DataFrame({"path": paths})'
        )
    names = list(data.columns)
    if names.count(path) != 1:
        hint = did_you_mean(path, names)
        raise ValueError(
            f"path={path!r} is not one column of data, which has "
            f"[{listed(names, show=repr)}].{hint}"
        )
    values = data[path].tolist()
    invalid = [i for i, each in enumerate(values) if not isinstance(each, (str, os.PathLike))]
    if invalid:
        raise ValueError(
            f"data[{path!r}] must hold strings or paths, got {values[invalid[0]]!r} in "
            f"row {invalid[0]}, counted from 0"
        )


def height_and_width(size: Any) -> tuple[int, int] | None:
    """Read ``size``: one number of pixels, or two."""
    if size is None:
        return None
    both = (size, size) if isinstance(size, Integral) else tuple(np.ravel(size).tolist())
    whole = [isinstance(each, Integral) and not isinstance(each, bool) for each in both]
    if len(both) != 2 or not all(whole) or min(both) < 1:
        raise ValueError(f"size must be a number of pixels or (height, width), got {size!r}")
    return int(both[0]), int(both[1])


def rows_alone(key: tuple[Any, ...]) -> Any:
    """Return ``rows`` of ``frame[rows, ...]``, the form that scikit-learn uses."""
    if not key or any(each is not Ellipsis and each != slice(None) for each in key[1:]):
        raise IndexError("an ImageFrame is indexed by rows only; read() gives an array to slice.")
    return key[0]


def as_row_indices(key: Any) -> NDArray[Any]:
    """Read row indices or a mask; an empty list selects no rows."""
    rows = np.asarray(key)
    return rows if rows.size else rows.astype(np.int64)
