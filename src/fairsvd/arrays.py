"""Rows of X as tensors: the only file that knows which types X may have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from ._rng import seeded_globally
from .datasets import ImageFrame

__all__ = [
    "Batches",
    "LabelledRows",
    "LazyRows",
    "as_batches",
    "is_dataset",
    "is_lazy",
    "to_device",
]

# What the rows of a block may take; where rows are wide, a block holds fewer of them.
BLOCK_BYTES = 2**26

# Up to so many times the wanted rows, slices are read, not row numbers: HDF5 is slow with these.
SURPLUS = 2

# What an object raises that does not take a kind of index.
NOT_TAKEN = (TypeError, IndexError, ValueError, KeyError, AttributeError, NotImplementedError)


@dataclass(frozen=True)
class Batches:
    """Random access to rows of X; a row is read when it is asked for, never before.

    Attributes
    ----------
    fetch : callable
        Maps an int64 array of row numbers to a tensor (n, ...) of any dtype.
    index : ndarray of shape (n_rows,), int64
        The rows of X that belong to this object, in order.
    dtype : torch.dtype
        Of the tensors handed out.
    row_shape : tuple of int, optional
        Shape of one row where it is known without reading any.
    most : int, optional
        Rows that are read at a time at most, and never kept for another pass.
    fetch_augmented : callable, optional
        Maps row numbers and a seed to rows as a step of training is to see them.
    stamp : callable, optional
        Maps row numbers to what tells those rows from others without reading them.
    channels_last : bool, default=False
        Hand images out with their channels last in memory; shapes stay as they are.
    """

    fetch: Callable[[NDArray[np.int64]], Tensor]
    index: NDArray[np.int64]
    dtype: torch.dtype = torch.float32
    row_shape: tuple[int, ...] | None = None
    most: int | None = None
    fetch_augmented: Callable[[NDArray[np.int64], int], Tensor] | None = None
    stamp: Callable[[NDArray[np.int64]], Any] | None = None
    channels_last: bool = False

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.index)

    def __getitem__(self, positions: Any) -> Tensor:
        """Read the rows at ``positions`` (a slice or an integer array) as one tensor."""
        return self._handed_out(self.fetch(self.index[positions]))

    def for_training(self, positions: Any, generator: torch.Generator) -> Tensor:
        """Read rows for a step of training: augmented, with draws from ``generator``, or plain."""
        if self.fetch_augmented is None:
            return self[positions]
        seed = int(torch.randint(2**31, (), generator=generator))
        return self._handed_out(self.fetch_augmented(self.index[positions], seed))

    def _handed_out(self, rows: Tensor) -> Tensor:
        if not self.channels_last:
            return rows.to(self.dtype)
        # Not by ``to``: of grey images, whose order is both at once, it changes nothing.
        turned = torch.empty_like(rows, dtype=self.dtype, memory_format=torch.channels_last)
        return turned.copy_(rows)

    def blocks(self, size: int) -> Iterator[Tensor]:
        """Yield all rows in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def block_size(self, most: int) -> int:
        """Count the rows of a block of bounded memory: ``most``, or fewer where rows are wide."""
        row_bytes = math.prod(self.item_shape) * self.dtype.itemsize
        return max(1, min(most, self.most or most, BLOCK_BYTES // max(1, row_bytes)))

    def subset(self, positions: Any) -> Batches:
        """Restrict to some rows without reading any."""
        return replace(self, index=self.index[positions])

    def astype(self, dtype: torch.dtype) -> Batches:
        """Hand out another dtype."""
        return replace(self, dtype=dtype)

    def with_channels_last(self) -> Batches:
        """Hand out images (n, C, H, W) in the order (n, H, W, C) in memory."""
        return replace(self, channels_last=True)

    def held(self) -> Batches:
        """Read all rows once and keep them, for many passes, where one block can hold them."""
        if len(self) > self.block_size(len(self)):
            return self
        rows = torch.cat(list(self.blocks(1024)))
        return Batches(partial(_from_held, rows), np.arange(len(rows)), self.dtype)

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(self[:1].shape[1:]) if self.row_shape is None else self.row_shape


@dataclass(frozen=True)
class LabelledRows:
    """Rows with their class and group codes.

    Attributes
    ----------
    X : Batches
    y : Tensor of shape (n_rows,), int64
        Codes in [0, n_classes).
    groups : Tensor of shape (n_rows,), int64
        Codes in [0, n_groups).
    """

    X: Batches
    y: Tensor
    groups: Tensor

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.y)

    def subset(self, positions: NDArray[np.int64]) -> LabelledRows:
        """Restrict to some rows without reading any."""
        chosen = torch.as_tensor(positions)
        return LabelledRows(self.X.subset(positions), self.y[chosen], self.groups[chosen])

    def batches(self, size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (x, y, groups) on ``device`` in order, ``size`` rows at a time or fewer."""
        size = self.X.block_size(size)
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            X, y, groups = (to_device(part[rows], device) for part in (self.X, self.y, self.groups))
            yield X, y, groups


class LazyRows:
    """Rows of a lazy array, which is asked for slices, or for sorted rows without repeats.

    Parameters
    ----------
    X : lazy array
        As :func:`is_lazy` tells, of numbers.
    columns : sequence of int, optional
        Those of a table that are handed out. Default: all.
    """

    def __init__(self, X: Any, columns: Any = None) -> None:
        self.X, self.columns = X, columns
        self.dtype = np.dtype(X.dtype).newbyteorder("=")
        width = X.shape[1:] if columns is None else (len(columns),)
        self.shape = (len(X), *map(int, width))
        self.slices = self._takes(slice(0, 1))
        self.lists = self._takes(np.zeros(1, dtype=np.int64))
        if not (self.slices or self.lists):
            raise ValueError(
                f"X is a {type(X).__name__} whose X[0:1] and X[[0]] are not of the shape "
                f"{(1, *X.shape[1:])}: it must give rows for slices or sorted integer arrays."
            )

    def _takes(self, key: Any) -> bool:
        try:
            return np.shape(self.X[key]) == (1, *self.X.shape[1:])
        except NOT_TAKEN:
            return False

    def __len__(self) -> int:
        """Count the rows."""
        return self.shape[0]

    def __getitem__(self, key: tuple[slice, Any]) -> Any:
        """Read one column ``[:, k]``, or leave columns out ``[:, [...]]`` without reading."""
        _, columns = key
        own = range(self.X.shape[1]) if self.columns is None else self.columns
        if isinstance(columns, (list, np.ndarray)):
            return LazyRows(self.X, [own[k] for k in columns])
        one, size = LazyRows(self.X, [own[columns]]), max(1, BLOCK_BYTES // 8 // self.X.shape[1])
        turns = np.split(np.arange(len(self)), range(size, len(self), size))
        return np.concatenate([one.read(rows).numpy()[:, 0] for rows in turns])

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """Read rows, in any order and with repeats, never as views: a network may change them."""
        wanted, back = np.unique(rows, return_inverse=True)
        dtype = torch.from_numpy(np.empty(0, self.dtype)).dtype
        values = torch.empty((len(wanted), *self.shape[1:]), dtype=dtype)
        array, start = values.numpy(), 0
        for n, key, inside in self._keys(wanted):
            found = np.asarray(self.X[key])[inside].reshape(n, *self.X.shape[1:])
            array[start : start + n] = found if self.columns is None else found[:, self.columns]
            start += n
        return values if np.array_equal(wanted, rows) else values[torch.from_numpy(back)]

    def _keys(self, wanted: NDArray[np.int64]) -> Iterator[tuple[int, Any, Any]]:
        """Yield how many rows, what to ask for, and which of what comes is wanted."""
        n, span = len(wanted), int(wanted[-1] - wanted[0]) + 1
        dense = span <= SURPLUS * n
        if self.lists and not (dense and self.slices):
            yield n, wanted, slice(None)
            return
        if dense:
            cuts = np.searchsorted(wanted, np.arange(wanted[0] + n, wanted[-1] + 1, n))
        else:
            cuts = np.flatnonzero(np.diff(wanted) > 1) + 1
        for part in np.split(wanted, cuts):
            if len(part):
                yield len(part), slice(int(part[0]), int(part[-1]) + 1), part - part[0]


def is_dataset(X: Any) -> bool:
    """Tell whether X is a map-style torch ``Dataset`` rather than an array."""
    return isinstance(X, Dataset)


def is_lazy(X: Any) -> bool:
    """Tell whether X is an array of which rows are to be read, never the whole.

    That is a memory map, or whatever has ``shape``, ``dtype``, ``len`` and an index and is not
    known to be in memory: an HDF5 or zarr array, or a class of the user's. An ``ImageFrame``, which
    never reads by accident, counts as none.
    """
    known = isinstance(X, (np.ndarray, np.generic, Tensor, Dataset, LazyRows, ImageFrame))
    # Tables of pandas and sparse matrices.
    if known or hasattr(X, "iloc") or hasattr(X, "tocsr"):
        return isinstance(X, np.memmap)
    return all(hasattr(X, name) for name in ("shape", "dtype", "__len__", "__getitem__"))


def as_batches(X: Any, dtype: torch.dtype = torch.float32, most: int | None = None) -> Batches:
    """Read X row by row as tensors.

    Parameters
    ----------
    X : ndarray, DataFrame, Tensor, lazy array, ImageFrame or Dataset
        A table (n, d), images (n, C, H, W), anything with ``len`` that takes an integer array as
        an index, or a map-style dataset whose item is x or a tuple that begins with x. Rows of a
        lazy array or a dataset are checked as they are read.
    dtype : torch.dtype, default=torch.float32
        Of the tensors handed out.
    most : int, optional
        Files of an ImageFrame that are read at a time at most. Default: as memory allows.

    Returns
    -------
    batches : Batches
    """
    if isinstance(X, ImageFrame):
        return _of_frame(X, dtype, most)
    if isinstance(X, TensorDataset):
        X = X.tensors[0]
    elif is_lazy(X):
        X = LazyRows(X)
    elif hasattr(X, "iloc"):
        X = X.to_numpy()
    return Batches(partial(_reader(X), X), np.arange(len(X)), dtype)


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


# Named functions, not closures: rows travel to worker processes by pickle.
def _reader(X: Any) -> Callable[[Any, NDArray[np.int64]], Tensor]:
    if isinstance(X, LazyRows):
        return _from_lazy
    if is_dataset(X):
        return _from_dataset
    return _from_tensor if isinstance(X, Tensor) else _from_array


def _from_tensor(X: Tensor, rows: NDArray[np.int64]) -> Tensor:
    return _checked(X[torch.as_tensor(rows)], rows)


def _from_held(X: Tensor, rows: NDArray[np.int64]) -> Tensor:
    if len(rows) and bool((np.diff(rows) == 1).all()):
        # A copy, too, since a network may change its input in place.
        return X[rows[0] : rows[-1] + 1].clone()
    return X[torch.as_tensor(rows)]


def _from_lazy(X: LazyRows, rows: NDArray[np.int64]) -> Tensor:
    return _checked(X.read(rows), rows)


def _from_frame(X: ImageFrame, rows: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(X.read(rows))


def _augmented(X: ImageFrame, rows: NDArray[np.int64], seed: int) -> Tensor:
    # The user's function draws from the global generators.
    with seeded_globally(seed):
        return torch.from_numpy(X.read(rows, augmented=True))


def _from_array(X: Any, rows: NDArray[np.int64]) -> Tensor:
    array = np.asarray(X[rows])
    # torch warns when it is given memory that it must not write to (a read-only memory map).
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _from_dataset(dataset: Any, rows: NDArray[np.int64]) -> Tensor:
    fetch = getattr(dataset, "__getitems__", None)
    items = fetch(rows.tolist()) if fetch else [dataset[row] for row in rows.tolist()]
    if isinstance(items[0], (tuple, list)):
        items = [item[0] for item in items]
    if isinstance(items[0], np.ndarray):
        # Several times faster than one tensor an item.
        return _checked(torch.from_numpy(np.array(items)), rows)
    return _checked(torch.stack([torch.as_tensor(x) for x in items]), rows)


def _checked(values: Tensor, rows: NDArray[np.int64]) -> Tensor:
    if values.is_complex():
        raise ValueError("X holds complex numbers; pass real ones.")
    # A sum is finite only where every term is, and costs the least; not so the other way round.
    if values.is_floating_point() and not bool(values.sum().isfinite()):
        bad = ~values.reshape(len(values), -1).isfinite().all(dim=1).cpu().numpy()
        if bad.any():
            row = rows[bad].min()
            raise ValueError(f"X has NaN or infinite values in row {row}, counted from 0: drop it.")
    return values


def to_device(
    tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None = None
) -> Tensor:
    """Move a tensor, or hand it back where nothing is to be done.

    To a CUDA device it goes through pinned memory, so that the program need not wait for the copy.
    """
    tensor = tensor.to(dtype=dtype or tensor.dtype)
    to_cuda = torch.device(device).type == "cuda" and tensor.device.type == "cpu"
    return tensor.pin_memory().to(device, non_blocking=True) if to_cuda else tensor.to(device)
