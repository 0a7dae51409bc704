"""Rows of arrays that are not in memory: HDF5, zarr, memory maps, the user's own classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..datasets import ImageFrame
from ._batches import BLOCK_BYTES

__all__ = ["LazyRows", "is_lazy"]

# Slices are read if they span at most this many times the requested rows, else row numbers, with
# which HDF5 is slow.
SURPLUS = 2

# Exceptions that an object raises if it does not take a kind of index.
NOT_TAKEN = (TypeError, IndexError, ValueError, KeyError, AttributeError, NotImplementedError)


class LazyRows:
    """Rows of a lazy array, read by slices or by sorted row numbers without repeats.

    Parameters
    ----------
    X : lazy array
        An array of numbers for which :func:`is_lazy` is true.
    columns : sequence of int, optional
        Columns of a table to return. Default: all.
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
        positions = range(self.X.shape[1]) if self.columns is None else self.columns
        if isinstance(columns, (list, np.ndarray)):
            return LazyRows(self.X, [positions[k] for k in columns])
        one = LazyRows(self.X, [positions[columns]])
        size = max(1, BLOCK_BYTES // 8 // self.X.shape[1])
        turns = np.split(np.arange(len(self)), range(size, len(self), size))
        return np.concatenate([one.read(rows).numpy()[:, 0] for rows in turns])

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """Read rows, in any order and with repeats, never as views: a network may change them."""
        unique_rows, back = np.unique(rows, return_inverse=True)
        dtype = torch.from_numpy(np.empty(0, self.dtype)).dtype
        values = torch.empty((len(unique_rows), *self.shape[1:]), dtype=dtype)
        array, start = values.numpy(), 0
        for n, key, inside in self._keys(unique_rows):
            part = np.asarray(self.X[key])[inside].reshape(n, *self.X.shape[1:])
            array[start : start + n] = part if self.columns is None else part[:, self.columns]
            start += n
        return values if np.array_equal(unique_rows, rows) else values[torch.from_numpy(back)]

    def _keys(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, Any, Any]]:
        """Yield a number of rows, the index to read, and where the rows are in the result."""
        n, span = len(rows), int(rows[-1] - rows[0]) + 1
        dense = span <= SURPLUS * n
        if self.lists and not (dense and self.slices):
            yield n, rows, slice(None)
            return
        if dense:
            cuts = np.searchsorted(rows, np.arange(rows[0] + n, rows[-1] + 1, n))
        else:
            cuts = np.flatnonzero(np.diff(rows) > 1) + 1
        for part in np.split(rows, cuts):
            if len(part):
                yield len(part), slice(int(part[0]), int(part[-1]) + 1), part - part[0]


def is_lazy(X: Any) -> bool:
    """Tell whether X is an array to be read by rows, never as a whole.

    That is a memory map, or any object with ``shape``, ``dtype``, ``len`` and an index that is not
    known to be in memory: an HDF5 or zarr array, or the user's own class. An ``ImageFrame`` does
    not count, since it never reads by accident.
    """
    excluded = isinstance(X, (np.ndarray, np.generic, Tensor, Dataset, LazyRows, ImageFrame))
    # The two attributes belong to pandas tables and sparse matrices.
    if excluded or hasattr(X, "iloc") or hasattr(X, "tocsr"):
        return isinstance(X, np.memmap)
    return all(hasattr(X, name) for name in ("shape", "dtype", "__len__", "__getitem__"))
