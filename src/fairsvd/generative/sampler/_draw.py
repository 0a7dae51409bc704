"""Draw synthetic rows from a generator: named, conditional or plain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from ..._messages import listed
from ..._rng import seeded_globally
from ..._signature import takes
from ...containers import is_frame
from ..cells import (
    CellGenerator,
    Column,
    CopulaGenerator,
    ImageCodec,
    SmoothedGenerator,
    SmoteGenerator,
    cast_numbers,
    make_codec,
    stack,
    take,
)

__all__ = ["NAMED_GENERATORS", "CellRequest", "draw_cells", "fresh_generator", "takes_conditions"]

NAMED_GENERATORS = ("copula", "smoothed", "smote", "hyper")


def fresh_generator(generator: Any, seed: int, device: Any = None) -> Any:
    """Make a generator from a name, or copy the given one.

    Parameters
    ----------
    generator : str or object with ``fit`` and ``sample``
    seed : int
        Its ``random_state``, unless the given generator has one.
    device : str, torch.device or None, default=None
        Its ``device``, if it takes one and none is set.
    """
    named = isinstance(generator, str)
    fresh = _by_name(generator)() if named else clone(generator, safe=False)
    for name, value in (("random_state", seed), ("device", device)):
        # Where the attribute is lacking, the generator has no such parameter.
        if getattr(fresh, name, value) is None:
            setattr(fresh, name, value)
    return fresh


def _by_name(name: str) -> Callable[..., Any]:
    if name == "hyper":
        from ..hyper import HyperGenerator

        return HyperGenerator
    return {"copula": CopulaGenerator, "smoothed": SmoothedGenerator, "smote": SmoteGenerator}[name]


def takes_conditions(generator: Any) -> bool:
    """Tell whether a generator can draw rows of given cells."""
    try:
        return takes(generator.sample, "conditions")
    except ValueError:  # written in C
        return False


@dataclass(frozen=True)
class CellRequest:
    """Real rows, and the number of synthetic rows to draw for each cell.

    Attributes
    ----------
    X : DataFrame or ndarray
        Real rows; each belongs to a cell.
    y : ndarray
        Their labels.
    groups : ndarray or None
        Their group labels; tuples for intersections of attributes.
    cells : ndarray of shape (n,), int64
        Positions of their cells in ``keys``.
    drawn : ndarray of shape (n_cells,), int64
        Number of rows to draw for every cell.
    keys : list
        Names of the cells: (label, group), or labels without groups.
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
        From :func:`fresh_generator`.
    request : CellRequest
    seed : int
        Seed of numpy's, torch's and Python's global generators, which foreign generators may
        use; their states are restored.

    Returns
    -------
    generator : object or dict
        Fitted; a dict cell -> generator if every cell has its own.
    rows : DataFrame or ndarray
        Of the type of X, in the order of the cells.
    """
    if isinstance(generator, CellGenerator):
        return generator, _draw_conditionally(generator, request)
    with seeded_globally(seed):
        if takes_conditions(generator):
            rows = _rows_of(_draw_conditionally(generator, request))
            return generator, _conform(rows, request.X, int(request.drawn.sum()))
        return _draw_by_cell(generator, request)


def _draw_conditionally(generator: Any, request: CellRequest) -> Any:
    generator.fit(request.X, request.y, sensitive_features=request.groups)
    cells = np.repeat(np.arange(len(request.keys)), request.drawn).tolist()
    return generator.sample(len(cells), conditions=[request.keys[cell] for cell in cells])


def _draw_by_cell(generator: Any, request: CellRequest) -> tuple[dict[Any, Any], Any]:
    fitted, parts = {}, []
    for cell in np.flatnonzero(request.drawn).tolist():
        copy, n = clone(generator, safe=False), int(request.drawn[cell])
        copy.fit(take(request.X, np.flatnonzero(request.cells == cell)))
        parts.append(_conform(_rows_of(copy.sample(n)), request.X, n))
        fitted[request.keys[cell]] = copy
    return fitted, stack(parts)


def _rows_of(sampled: Any) -> Any:
    """Return the rows from ``sample``; scikit-learn's mixtures return components too."""
    return sampled[0] if isinstance(sampled, tuple) else sampled


def _conform(rows: Any, X: Any, n: int) -> Any:
    """Convert rows of a foreign generator to the columns and dtypes of X.

    Raises
    ------
    ValueError
        If their number, their columns or a category do not fit.
    """
    rows = rows.detach().cpu().numpy() if hasattr(rows, "detach") else rows
    rows = rows if is_frame(rows) else np.asarray(rows)
    shape = (n, *X.shape[1:])
    if tuple(rows.shape) != shape:
        raise ValueError(
            f"generator.sample gave rows of shape {tuple(rows.shape)}, wanted {shape}: as many "
            "rows as requested, columns as in the X of fit."
        )
    codec = make_codec(X)
    if isinstance(codec, ImageCodec):
        return _cast(rows.astype(np.float64), codec.columns[0])
    if is_frame(rows) and is_frame(X):
        rows = _align(rows, X)
    values = [rows.iloc[:, k] if is_frame(rows) else rows[:, k] for k in range(shape[1])]
    real = [X.iloc[:, k] if is_frame(X) else X[:, k] for k in range(shape[1])]
    names = list(X.columns) if is_frame(X) else list(range(shape[1]))
    columns = [
        _conform_column(*column) for column in zip(values, real, codec.columns, names, strict=True)
    ]
    return codec.assemble(columns, n)


def _align(rows: Any, X: Any) -> Any:
    if list(rows.columns) == list(X.columns):
        return rows
    if sorted(map(str, rows.columns)) != sorted(map(str, X.columns)):
        raise ValueError(
            f"generator.sample gave the columns [{listed(rows.columns, show=repr)}], wanted "
            f"[{listed(X.columns, show=repr)}]."
        )
    return rows[list(X.columns)]


def _conform_column(values: Any, real: Any, column: Column, name: Any) -> Any:
    import pandas as pd

    numeric = pd.api.types.is_numeric_dtype(real.dtype) and not pd.api.types.is_bool_dtype(
        real.dtype
    )
    if numeric:
        kind = "number" if pd.api.types.is_float_dtype(real.dtype) else "integer"
        numbers = pd.to_numeric(pd.Series(values)).to_numpy(np.float64, na_value=np.nan)
        return _cast(numbers, Column(kind, real.dtype))
    levels = pd.Series(real).dropna().unique()
    series = pd.Series(values).reset_index(drop=True)
    if column.kind in ("category", "rank"):
        new = series[series.notna() & ~series.isin(levels)]
        if len(new):
            raise ValueError(
                f"generator.sample gave {new.iloc[0]!r} in column {name!r}, where fit saw "
                f"{listed(levels)}: a generator must not make new categories."
            )
    return series.astype(real.dtype).array


def _cast(numbers: NDArray[np.float64], column: Column) -> Any:
    """Cast numbers to a dtype, clipped to its range."""
    base = getattr(column.dtype, "numpy_dtype", column.dtype)
    if column.kind == "integer":
        ends = np.iinfo(base)
        # The largest 64-bit integer is not a float, so the next lower float is used.
        numbers = np.clip(
            numbers, ends.min, np.nextafter(float(ends.max), 0) if base.itemsize == 8 else ends.max
        )
    return cast_numbers(numbers, column)
