"""Drawing synthetic rows from a generator of any kind: by name, conditional or plain."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from ..._rng import seeded_globally
from ...groups import is_frame
from ..cells import (
    CellGenerator,
    Column,
    CopulaGenerator,
    ImageCodec,
    SmoothedGenerator,
    SmoteGenerator,
    cast_numbers,
    make_codec,
    stacked,
    take,
)

__all__ = ["NAMED_GENERATORS", "CellRequest", "conditional", "draw_cells", "fresh_generator"]

NAMED_GENERATORS = ("copula", "smoothed", "smote", "hyper")


def fresh_generator(generator: Any, seed: int) -> Any:
    """Make a generator from a name, or copy the one given; what was passed in stays as it is.

    Parameters
    ----------
    generator : str or object with ``fit`` and ``sample``
    seed : int
        Its ``random_state``, unless it has one of its own.
    """
    if isinstance(generator, str):
        return _by_name(generator)(random_state=seed)
    made = clone(generator, safe=False)
    if getattr(made, "random_state", seed) is None:
        made.random_state = seed
    return made


def _by_name(name: str) -> Callable[..., Any]:
    if name == "hyper":
        from ..hyper import HyperGenerator

        return HyperGenerator
    return {"copula": CopulaGenerator, "smoothed": SmoothedGenerator, "smote": SmoteGenerator}[name]


def _parameters(method: Any) -> list[str]:
    try:
        return list(inspect.signature(method).parameters)
    except ValueError:  # written in C
        return []


def conditional(generator: Any) -> bool:
    """Tell whether a generator draws rows of a cell that is asked for."""
    return "conditions" in _parameters(generator.sample)


@dataclass(frozen=True)
class CellRequest:
    """Real rows, and how many synthetic ones are wanted of each cell.

    Attributes
    ----------
    X : DataFrame or ndarray
        Real rows, each in a cell.
    y : ndarray
        Their labels.
    groups : ndarray or None
        Their group labels; tuples for intersections.
    cells : ndarray of shape (n,), int64
        Position of their cells in ``keys``.
    drawn : ndarray of shape (n_cells,), int64
        Rows that are wanted of every cell.
    keys : list
        Names of the cells: (label, group), or labels where there are no groups.
    """

    X: Any
    y: NDArray[Any]
    groups: NDArray[Any] | None
    cells: NDArray[np.int64]
    drawn: NDArray[np.int64]
    keys: list[Any]


def draw_cells(generator: Any, request: CellRequest, seed: int) -> tuple[Any, Any]:
    """Fit a generator on real rows and draw synthetic ones.

    Parameters
    ----------
    generator : object
        As of :func:`fresh_generator`.
    request : CellRequest
    seed : int
        Of numpy's, torch's and Python's global generators, for generators that are not ours;
        they are restored.

    Returns
    -------
    generator : object or dict
        Fitted; cell -> generator where one was fitted for each.
    rows : DataFrame or ndarray
        As X, in the order of the cells.
    """
    if isinstance(generator, CellGenerator):
        return generator, _conditional_rows(generator, request)
    with seeded_globally(seed):
        if conditional(generator):
            rows = _rows_of(_conditional_rows(generator, request))
            return generator, _conformed(rows, request.X, int(request.drawn.sum()))
        return _rows_by_cell(generator, request)


def _conditional_rows(generator: Any, request: CellRequest) -> Any:
    generator.fit(request.X, request.y, sensitive_features=request.groups)
    cells = np.repeat(np.arange(len(request.keys)), request.drawn).tolist()
    return generator.sample(len(cells), conditions=[request.keys[cell] for cell in cells])


def _rows_by_cell(generator: Any, request: CellRequest) -> tuple[dict[Any, Any], Any]:
    fitted, parts = {}, []
    for cell in np.flatnonzero(request.drawn).tolist():
        own, n = clone(generator, safe=False), int(request.drawn[cell])
        own.fit(take(request.X, np.flatnonzero(request.cells == cell)))
        parts.append(_conformed(_rows_of(own.sample(n)), request.X, n))
        fitted[request.keys[cell]] = own
    return fitted, stacked(parts)


def _rows_of(sampled: Any) -> Any:
    """Take the rows of what ``sample`` gives: scikit-learn's mixtures give components too."""
    return sampled[0] if isinstance(sampled, tuple) else sampled


def _conformed(rows: Any, X: Any, n: int) -> Any:
    """Bring rows from a foreign generator to the columns and dtypes of X.

    Raises
    ------
    ValueError
        Their number, their columns or a category do not fit.
    """
    rows = rows.detach().cpu().numpy() if hasattr(rows, "detach") else rows
    rows = rows if is_frame(rows) else np.asarray(rows)
    wanted = (n, *X.shape[1:])
    if tuple(rows.shape) != wanted:
        raise ValueError(
            f"generator.sample gave rows of shape {tuple(rows.shape)}, wanted {wanted}: one row "
            "for each asked for, columns as in the X of fit."
        )
    codec = make_codec(X)
    if isinstance(codec, ImageCodec):
        return _cast(rows.astype(np.float64), codec.columns[0])
    if is_frame(rows) and is_frame(X):
        rows = _aligned(rows, X)
    values = [rows.iloc[:, k] if is_frame(rows) else rows[:, k] for k in range(wanted[1])]
    real = [X.iloc[:, k] if is_frame(X) else X[:, k] for k in range(wanted[1])]
    names = list(X.columns) if is_frame(X) else list(range(wanted[1]))
    columns = [
        _conformed_column(*column)
        for column in zip(values, real, codec.columns, names, strict=True)
    ]
    return codec.assemble(columns, n)


def _aligned(rows: Any, X: Any) -> Any:
    if list(rows.columns) == list(X.columns):
        return rows
    if sorted(map(str, rows.columns)) != sorted(map(str, X.columns)):
        raise ValueError(
            f"generator.sample gave the columns {list(rows.columns)}, wanted {list(X.columns)}."
        )
    return rows[list(X.columns)]


def _conformed_column(values: Any, real: Any, column: Column, name: Any) -> Any:
    import pandas as pd

    numeric = pd.api.types.is_numeric_dtype(real.dtype) and not pd.api.types.is_bool_dtype(
        real.dtype
    )
    if numeric:
        kind = "number" if pd.api.types.is_float_dtype(real.dtype) else "integer"
        numbers = pd.to_numeric(pd.Series(values)).to_numpy(np.float64, na_value=np.nan)
        return _cast(numbers, Column(kind, real.dtype))
    known = pd.Series(real).dropna().unique()
    series = pd.Series(values).reset_index(drop=True)
    if column.kind in ("category", "rank"):
        strange = series[series.notna() & ~series.isin(known)]
        if len(strange):
            raise ValueError(
                f"generator.sample gave {strange.iloc[0]!r} in column {name!r}, where fit saw "
                f"{list(known[:10])}: a generator must not make new categories."
            )
    return series.astype(real.dtype).array


def _cast(numbers: NDArray[np.float64], column: Column) -> Any:
    """Cast numbers to a dtype, those beyond its range to its ends."""
    base = getattr(column.dtype, "numpy_dtype", column.dtype)
    if column.kind == "integer":
        ends = np.iinfo(base)
        # The largest 64-bit integer is no float: the next lower one is.
        numbers = np.clip(
            numbers, ends.min, np.nextafter(float(ends.max), 0) if base.itemsize == 8 else ends.max
        )
    return cast_numbers(numbers, column)
