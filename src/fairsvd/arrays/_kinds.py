"""A reader of rows for each kind of X."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from .._messages import listed
from .._rng import seeded_globally
from ..containers import as_known, as_numbers, is_frame
from ..datasets import ImageFrame, TextFrame
from ._batches import Batches
from ._fields import Fields, as_input
from ._lazy import LazyRows, is_lazy

__all__ = ["as_batches", "is_dataset", "read_array_rows", "read_first"]


def is_dataset(X: Any) -> bool:
    """Tell whether X is a map-style torch ``Dataset`` rather than an array."""
    return isinstance(X, Dataset)


def as_batches(
    X: Any,
    dtype: torch.dtype = torch.float32,
    most: int | None = None,
    fields: Fields | None = None,
) -> Batches:
    """Read X row by row as tensors.

    Parameters
    ----------
    X : ndarray, DataFrame, Tensor, lazy array, ImageFrame, TextFrame or Dataset
        A table (n, d), images (n, C, H, W), anything with ``len`` that takes an integer array as
        an index, or a map-style dataset whose item is x or a tuple that begins with x. Rows of a
        lazy array or a dataset are checked as they are read.
    dtype : torch.dtype, default=torch.float32
        Type of the returned tensors.
    most : int, optional
        Maximum number of files of an ImageFrame to read at a time. Default: as memory allows.
    fields : Fields, optional
        Inputs that each item of a dataset names (:func:`read_first`), and their types. Default: an
        item is one array; of a TextFrame, its own.

    Returns
    -------
    batches : Batches
    """
    if isinstance(X, ImageFrame):
        return _of_frame(X, dtype, most)
    if isinstance(X, TextFrame) and fields is None:
        fields = Fields.of(X[0])
    if fields is not None:
        return _of_fields(X, fields, dtype)
    if isinstance(X, TensorDataset):
        X = _plain_tensor(X.tensors[0])
    elif is_lazy(X):
        X = LazyRows(X)
    elif is_frame(X):
        X = as_numbers(X)
        # Of booleans beside numbers pandas would make objects.
        X = X.to_numpy(dtype=np.result_type(*X.dtypes))
    return Batches(partial(_reader(X), X), np.arange(len(X)), dtype)


def _plain_tensor(X: Tensor) -> Any:
    """Detach a tensor; one of a type that torch cannot index by rows becomes an array."""
    strided = X.layout == torch.strided and not X.is_quantized
    unsigned = X.dtype in (torch.uint16, torch.uint32, torch.uint64)
    return X.detach() if strided and not unsigned else as_known(X, "X")


def _of_frame(X: ImageFrame, dtype: torch.dtype, most: int | None) -> Batches:
    return Batches(
        partial(_from_frame, X),
        np.arange(len(X)),
        dtype,
        row_shape=X.shape[1:],
        most=most,
        fetch_augmented=partial(_augmented, X) if X.augment is not None else None,
        stamp=X.stamp,
    )


def _of_fields(X: Any, fields: Fields, dtype: torch.dtype) -> Batches:
    """Read rows of several inputs; integers stay what they are."""
    read = _from_text if isinstance(X, TextFrame) else _from_items
    dtype = dtype if fields.dtype.is_floating_point else fields.dtype
    return Batches(partial(read, X, fields), np.arange(len(X)), dtype, fields=fields)


def read_first(X: Any) -> Tensor | Fields:
    """Read the first row of a dataset: as a tensor (1, ...), or which inputs it names."""
    rows = np.arange(min(1, len(X)))
    items = _items(X, rows)
    if isinstance(items[0], Mapping):
        return Fields.of(items[0])
    return _checked(_stacked(items, X), rows)


# Named functions, not closures: rows travel to worker processes by pickle.
def _reader(X: Any) -> Callable[[Any, NDArray[np.int64]], Tensor]:
    if isinstance(X, LazyRows):
        return _from_lazy
    if is_dataset(X):
        return _from_dataset
    return _from_tensor if isinstance(X, Tensor) else read_array_rows


def _from_tensor(X: Tensor, rows: NDArray[np.int64]) -> Tensor:
    return _checked(X[torch.as_tensor(rows)], rows)


def _from_lazy(X: LazyRows, rows: NDArray[np.int64]) -> Tensor:
    return _checked(X.read(rows), rows)


def _from_frame(X: ImageFrame, rows: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(X.read(rows))


def _augmented(X: ImageFrame, rows: NDArray[np.int64], seed: int) -> Tensor:
    # The user's function draws from the global generators.
    with seeded_globally(seed):
        return torch.from_numpy(X.read(rows, augmented=True))


def read_array_rows(X: Any, rows: NDArray[np.int64]) -> Tensor:
    array = np.asarray(X[rows])
    # torch warns when it is given memory that it must not write to (a read-only memory map).
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _from_dataset(dataset: Any, rows: NDArray[np.int64]) -> Tensor:
    return _checked(_stacked(_items(dataset, rows), dataset), rows)


def _from_items(dataset: Any, fields: Fields, rows: NDArray[np.int64]) -> Tensor:
    """Read items that name their inputs."""
    items = _items(dataset, rows)
    for row, item in zip(rows, items, strict=True):
        if not isinstance(item, Mapping) or set(item) != set(fields.names):
            what = list(item) if isinstance(item, Mapping) else type(item).__name__
            raise ValueError(
                f"X is a {type(dataset).__name__} whose item {row} holds {what}, but the first "
                f"one {list(fields.names)}: every item must name the same inputs."
            )
    inputs = {}
    for name in fields.names:
        values = [as_input(name, item[name]) for item in items]
        shapes = {tuple(value.shape) for value in values}
        if len(shapes) > 1:
            raise ValueError(
                f"X is a {type(dataset).__name__} whose input {name!r} has rows of the shapes "
                f"{listed(sorted(shapes))}: pad them to one length."
            )
        inputs[name] = torch.stack(values)
    return _checked(fields.pack(inputs), rows)


def _from_text(X: TextFrame, fields: Fields, rows: NDArray[np.int64]) -> Tensor:
    inputs = {name: torch.from_numpy(values[rows]) for name, values in X.inputs.items()}
    return _checked(fields.pack(inputs), rows)


def _items(dataset: Any, rows: NDArray[np.int64]) -> list[Any]:
    """Read items, without what follows x in a tuple."""
    fetch = getattr(dataset, "__getitems__", None)
    items = fetch(rows.tolist()) if fetch else [dataset[row] for row in rows.tolist()]
    return [item[0] if isinstance(item, (tuple, list)) else item for item in items]


def _stacked(items: list[Any], dataset: Any) -> Tensor:
    try:
        if isinstance(items[0], np.ndarray):
            # Several times faster than one tensor per item.
            values = torch.from_numpy(as_known(np.array(items), "X"))
        else:
            values = torch.stack([torch.as_tensor(x).detach() for x in items])
        if values.ndim > 1:
            return values
        error: Exception = ValueError("a single number is no row, and a list stands for (x, label)")
    except (TypeError, ValueError, RuntimeError) as failure:
        error = failure
    if isinstance(items[0], Mapping):
        raise ValueError(
            f"X is a {type(dataset).__name__} whose items name their inputs ({list(items[0])}), "
            "but those of fit were single arrays: pass such rows."
        ) from error
    kinds = {f"{type(x).__name__} of shape {tuple(np.shape(x))}" for x in items[:100]}
    raise ValueError(
        f"X is a {type(dataset).__name__} whose items hold {listed(sorted(kinds))}, which make no "
        f"batch ({error}): an item must be an array or tensor of numbers, of one shape for all "
        "rows, or a tuple that begins with it (of images: end the transform with ToTensor)."
    ) from error


def _checked(values: Tensor, rows: NDArray[np.int64]) -> Tensor:
    if values.is_complex():
        raise ValueError("X holds complex numbers; pass real ones.")
    # A finite sum proves finite terms, at the lowest cost; an infinite one may be an overflow.
    if values.is_floating_point() and not bool(values.sum().isfinite()):
        bad = ~values.reshape(len(values), -1).isfinite().all(dim=1).cpu().numpy()
        if bad.any():
            row = rows[bad].min()
            raise ValueError(f"X has NaN or infinite values in row {row}, counted from 0: drop it.")
    return values
