"""Rows as tensors: random access to X, and rows with their labels and groups."""

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

from .._messages import listed
from ..groups import cell_codes
from ._copies import repeat_rows
from ._fields import Fields

__all__ = ["BLOCK_BYTES", "Batches", "LabelledRows", "to_device"]

# Limit in bytes of the rows of a block; a block of wide rows holds fewer of them.
BLOCK_BYTES = 2**26


@dataclass(frozen=True)
class Batches:
    """Random access to rows of X; a row is read only when it is requested.

    Attributes
    ----------
    fetch : callable
        Maps an int64 array of row numbers to a tensor (n, ...) of any dtype.
    index : ndarray of shape (n_rows,), int64
        The rows of X that belong to this object, in order.
    dtype : torch.dtype
        Type of the returned tensors.
    row_shape : tuple of int, optional
        Shape of one row, if it is known without reading any.
    most : int, optional
        Maximum number of rows to read at a time; more are never kept for another pass.
    fetch_augmented : callable, optional
        Maps row numbers and a seed to augmented rows for a training step.
    stamp : callable, optional
        Maps row numbers to a value that identifies those rows, without reading them.
    channels_last : bool, default=False
        Return images with their channels last in memory; shapes do not change.
    home : torch.device, optional
        The device in whose memory all rows are, see :func:`fairsvd.arrays.hold_on`.
    fields : Fields, optional
        The inputs of which a row consists, packed into one tensor.
    """

    fetch: Callable[[NDArray[np.int64]], Tensor]
    index: NDArray[np.int64]
    dtype: torch.dtype = torch.float32
    row_shape: tuple[int, ...] | None = None
    most: int | None = None
    fetch_augmented: Callable[[NDArray[np.int64], int], Tensor] | None = None
    stamp: Callable[[NDArray[np.int64]], Any] | None = None
    channels_last: bool = False
    home: torch.device | None = None
    fields: Fields | None = None

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.index)

    def __getitem__(self, positions: Any) -> Tensor:
        """Read the rows at ``positions`` (a slice or an integer array) as one tensor.

        Raises
        ------
        ValueError
            A value is finite as stored and infinite in ``dtype``.
        """
        index = self.index[positions]
        return self.handed_out(self.fetch(index), index)

    def for_training(self, positions: Any, generator: torch.Generator) -> Tensor:
        """Read rows for a training step: augmented, with draws from ``generator``, or plain."""
        return self.for_step(positions, self.draw_seed(generator))

    def draw_seed(self, generator: torch.Generator) -> int | None:
        """Draw the seed of a step's augmentation; None, and no draw, for plain rows."""
        if self.fetch_augmented is None:
            return None
        return int(torch.randint(2**31, (), generator=generator))

    def for_step(self, positions: Any, seed: int | None) -> Tensor:
        """Read rows for a training step: augmented, with draws from a seed, or plain."""
        if self.fetch_augmented is None or seed is None:
            return self[positions]
        index = self.index[positions]
        return self.handed_out(self.fetch_augmented(index, seed), index)

    def handed_out(self, rows: Tensor, index: NDArray[np.int64] | None = None) -> Tensor:
        """Convert rows as read to the type and the order in memory that are asked for.

        ``index`` has their numbers, for the message if a value is infinite in that type; None: they
        were checked before.
        """
        if not self.channels_last:
            handed_out = rows.to(self.dtype)
        else:
            # Not by ``to``: grey images count as having either order, so it would change nothing.
            turned = torch.empty_like(rows, dtype=self.dtype, memory_format=torch.channels_last)
            handed_out = turned.copy_(rows)
        narrower = rows.is_floating_point() and rows.dtype.itemsize > self.dtype.itemsize
        if index is not None and narrower:
            _check_range(rows, handed_out, index)
        return handed_out

    def blocks(self, size: int) -> Iterator[Tensor]:
        """Yield all rows in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def block_size(self, most: int) -> int:
        """Return how many rows a block of bounded memory holds: ``most``, or fewer wide ones."""
        row_bytes = math.prod(self.item_shape) * self.dtype.itemsize
        return max(1, min(most, self.most or most, BLOCK_BYTES // max(1, row_bytes)))

    def subset(self, positions: Any) -> Batches:
        """Restrict to some rows without reading any."""
        return replace(self, index=self.index[positions])

    def astype(self, dtype: torch.dtype) -> Batches:
        """Return rows in another dtype; integers, which a network looks up, stay integers."""
        return replace(self, dtype=dtype) if self.dtype.is_floating_point else self

    def like(self, fitted: torch.dtype) -> Batches:
        """Return rows as integers if those of the fit were.

        Raises
        ------
        ValueError
            If those of the fit were integers and these have fractions.
        """
        if fitted.is_floating_point:
            return self
        first = self.fetch(self.index[:1])
        if first.is_floating_point() and bool((first % 1 != 0).any()):
            raise ValueError(
                "X holds numbers with fractions, but the network looks integers up in an "
                "Embedding, as those of fit: pass integers."
            )
        return self.astype(fitted)

    def with_channels_last(self) -> Batches:
        """Return images (n, C, H, W) in the order (n, H, W, C) in memory."""
        return replace(self, channels_last=True)

    @property
    def is_continuous(self) -> bool:
        """Tell whether something lies between two rows: none holds numbers that are looked up."""
        return self.dtype.is_floating_point and (self.fields is None or self.fields.is_continuous)

    def held(self) -> Batches:
        """Read all rows once and keep them for many passes, if one block can hold them."""
        if self.home is not None or len(self) > self.block_size(len(self)):
            return self
        rows = torch.cat(list(self.blocks(1024)))
        fetch, index = partial(_from_held, rows), np.arange(len(rows))
        return Batches(fetch, index, self.dtype, fields=self.fields)

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
    weights : Tensor of shape (n_rows,), float64, optional
        Weight of every row, above 0; None: all rows weigh the same.
    """

    X: Batches
    y: Tensor
    groups: Tensor
    weights: Tensor | None = None

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.y)

    def subset(self, positions: NDArray[np.int64]) -> LabelledRows:
        """Restrict to some rows without reading any."""
        chosen = torch.as_tensor(positions)
        weights = None if self.weights is None else self.weights[chosen]
        return LabelledRows(self.X.subset(positions), self.y[chosen], self.groups[chosen], weights)

    def cells(self, n_groups: int) -> Tensor:
        """Give the number of every row's (label, group) cell; -1 without a group."""
        return cell_codes(self.y, self.groups, n_groups)

    def count_cells(self, n_classes: int, n_groups: int) -> Tensor:
        """Count the rows of every cell, (n_classes, n_groups), but for rows without a group.

        Weights are added up, in float64.
        """
        cells = self.cells(n_groups)
        known = cells >= 0
        weights = None if self.weights is None else self.weights[known]
        counts = torch.bincount(cells[known], weights, minlength=n_classes * n_groups)
        return counts.reshape(n_classes, n_groups)

    def count_labels(self, n_classes: int) -> Tensor:
        """Count the rows of every class, (n_classes,); weights are added up, in float64."""
        return torch.bincount(self.y, self.weights, minlength=n_classes)

    def repeated(self, n_groups: int) -> LabelledRows:
        """Return rows without weights: as many, each as often as its weight says.

        Every cell keeps its share of the weight, but for one row.
        """
        if self.weights is None:
            return self
        order = torch.argsort(self.cells(n_groups), stable=True)
        positions = order[repeat_rows(self.weights[order], 0.5)].sort().values
        return replace(self.subset(positions.numpy()), weights=None)

    def batches(self, size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (x, y, groups) on ``device`` in order, ``size`` rows at a time or fewer."""
        size = self.X.block_size(size)
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            X, y, groups = (to_device(part[rows], device) for part in (self.X, self.y, self.groups))
            yield X, y, groups


def _check_range(rows: Tensor, narrowed: Tensor, index: NDArray[np.int64]) -> None:
    """Refuse rows that became infinite in a narrower dtype."""
    # A finite sum proves finite terms, at the lowest cost; an infinite one may be an overflow.
    if bool(narrowed.sum().isfinite()):
        return
    bad = torch.nonzero(narrowed.isinf() & rows.isfinite()).tolist()
    if not bad:
        return
    row, *place = bad[0]
    numbers = sorted({int(index[each[0]]) for each in bad})
    dtype = str(narrowed.dtype).removeprefix("torch.")
    column = f" in column {place[0]}" if len(place) == 1 else ""
    raise ValueError(
        f"X has values that are infinite in {dtype}, the network's dtype: "
        f"{float(rows[tuple(bad[0])]):.3g}{column} of row {int(index[row])}. Such rows, of those "
        f"read so far (counted from 0): {listed(numbers, 5)}. Scale X as it "
        "was for training, or drop them."
    )


def _from_held(X: Tensor, rows: NDArray[np.int64]) -> Tensor:
    if len(rows) and bool((np.diff(rows) == 1).all()):
        # A copy, since a network may change its input in place.
        return X[rows[0] : rows[-1] + 1].clone()
    return X[torch.as_tensor(rows)]


def to_device(
    tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None = None
) -> Tensor:
    """Move a tensor, or return it unchanged if nothing has to be done.

    A copy to a CUDA device goes through pinned memory, so that the program does not wait for it.
    Integers keep their type: as rows they are numbers of entries that a network looks up.
    """
    tensor = tensor.to(dtype=dtype if dtype and tensor.is_floating_point() else tensor.dtype)
    to_cuda = torch.device(device).type == "cuda" and tensor.device.type == "cpu"
    return tensor.pin_memory().to(device, non_blocking=True) if to_cuda else tensor.to(device)
