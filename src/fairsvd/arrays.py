"""Rows of X as tensors: the only file that knows which types X may have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

__all__ = ["Batches", "LabelledRows", "as_batches", "is_dataset"]


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
    """

    fetch: Callable[[NDArray[np.int64]], Tensor]
    index: NDArray[np.int64]
    dtype: torch.dtype = torch.float32

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.index)

    def __getitem__(self, positions: Any) -> Tensor:
        """Read the rows at ``positions`` (a slice or an integer array) as one tensor."""
        return self.fetch(self.index[positions]).to(self.dtype)

    def blocks(self, size: int) -> Iterator[Tensor]:
        """Yield all rows in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def subset(self, positions: Any) -> Batches:
        """Restrict to some rows without reading any."""
        return Batches(self.fetch, self.index[positions], self.dtype)

    def astype(self, dtype: torch.dtype) -> Batches:
        """Hand out another dtype."""
        return Batches(self.fetch, self.index, dtype)

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(self[:1].shape[1:])


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
        """Yield (x, y, groups) on ``device``, ``size`` rows at a time, in order."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            yield (
                self.X[rows].to(device),
                self.y[rows].to(device),
                self.groups[rows].to(device),
            )


def is_dataset(X: Any) -> bool:
    """Tell whether X is a map-style torch ``Dataset`` rather than an array."""
    return isinstance(X, Dataset)


def as_batches(X: Any, dtype: torch.dtype = torch.float32) -> Batches:
    """Read X row by row as tensors.

    Parameters
    ----------
    X : ndarray, DataFrame, Tensor, lazy array or Dataset
        A table (n, d), images (n, C, H, W), anything with ``len`` that takes an integer array as
        an index, or a map-style dataset whose item is x or a tuple that begins with x.
    dtype : torch.dtype, default=torch.float32
        Of the tensors handed out.

    Returns
    -------
    batches : Batches
    """
    if isinstance(X, TensorDataset):
        X = X.tensors[0]
    elif is_dataset(X):
        return Batches(partial(_from_dataset, X), np.arange(len(X)), dtype)
    if hasattr(X, "iloc"):
        X = X.to_numpy()
    read = _from_tensor if isinstance(X, Tensor) else _from_array
    return Batches(partial(read, X), np.arange(len(X)), dtype)


# Named functions, not closures: rows travel to worker processes by pickle.
def _from_tensor(X: Tensor, rows: NDArray[np.int64]) -> Tensor:
    return X[torch.as_tensor(rows)]


def _from_array(X: Any, rows: NDArray[np.int64]) -> Tensor:
    array = np.asarray(X[rows])
    # torch warns when it is given memory that it must not write to (a read-only memory map).
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _from_dataset(dataset: Any, rows: NDArray[np.int64]) -> Tensor:
    fetch = getattr(dataset, "__getitems__", None)
    items = fetch(rows.tolist()) if fetch else [dataset[int(row)] for row in rows]
    first = [item[0] if isinstance(item, (tuple, list)) else item for item in items]
    return torch.stack([torch.as_tensor(x) for x in first])
