"""Batches of a tuning: stratified by cell, or all rows in a new order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..arrays import LabelledRows, to_device

__all__ = ["Batch", "CellBatches", "RowBatches", "cell_shares"]


@dataclass(frozen=True)
class Batch:
    """The rows of one step, on the device of the network.

    Attributes
    ----------
    X : Tensor of shape (n, ...)
    y, groups : Tensor of shape (n,), int64
    loss_weights : Tensor of shape (n,)
        Weights that give each cell its share of the cross-entropy; mean 1.
    gap_weights : Tensor of shape (n,)
        Weights that give each cell its true share of the rows; mean 1.
    targets : Tensor of shape (n, n_classes), optional
        Probabilities to imitate instead of the labels.
    """

    X: Tensor
    y: Tensor
    groups: Tensor
    loss_weights: Tensor
    gap_weights: Tensor
    targets: Tensor | None = None


def cell_shares(counts: NDArray[Any], balance: str | None) -> NDArray[np.float64]:
    """Compute the share of the loss that each (label, group) cell gets.

    Parameters
    ----------
    counts : ndarray of shape (n_classes, n_groups)
        Rows in each cell.
    balance : {"cells", "classes"} or None
        "cells": every cell that has rows gets the same share. "classes": every class gets the
        same share, split among its cells by their rows. None: cells share by their rows.

    Returns
    -------
    shares : ndarray of shape (n_classes, n_groups), adding up to 1
    """
    counts = np.asarray(counts, dtype=np.float64)
    if balance == "cells":
        shares = (counts > 0).astype(np.float64)
    elif balance == "classes":
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    else:
        shares = counts
    return shares / shares.sum()


class CellBatches:
    """Endless batches that hold equally many rows of every (label, group) cell.

    So every step sees the small cells; weights restore the shares. If there are more cells than
    ``batch_size``, each batch holds one row of that many cells. A batch has at most as many rows as
    there are.

    Parameters
    ----------
    rows : LabelledRows
    n_classes, n_groups : int
    batch_size : int
        Rows per batch; rounded down to a multiple of the number of cells.
    balance : {"cells", "classes"} or None
        See :func:`cell_shares`.
    generator : torch.Generator
    device : torch.device
    dtype : torch.dtype
        Of X and of the weights.
    """

    def __init__(
        self,
        rows: LabelledRows,
        n_classes: int,
        n_groups: int,
        *,
        batch_size: int,
        balance: str | None,
        generator: torch.Generator,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        cells = rows.cells(n_groups)
        counts = torch.bincount(cells, minlength=n_classes * n_groups)
        table = counts.reshape(n_classes, n_groups).numpy()
        self.rows, self.generator, self.device, self.dtype = rows, generator, device, dtype
        self.order = torch.argsort(cells, stable=True)
        self.present = torch.nonzero(counts).flatten()
        self.counts = counts[self.present]
        self.starts = counts.cumsum(0)[self.present] - self.counts
        batch_size = min(batch_size, len(rows))
        self.n_cells = min(len(self.present), batch_size)
        self.per_cell = max(1, batch_size // len(self.present))
        present, scale = self.present.numpy(), len(self.present)
        self.loss_shares = torch.as_tensor(cell_shares(table, balance).flat[present] * scale)
        self.gap_shares = torch.as_tensor(cell_shares(table, None).flat[present] * scale)

    def __iter__(self) -> Iterator[Batch]:
        """Draw batches with replacement, for ever."""
        while True:
            cells = self._draw_cells()
            draws = torch.rand(len(cells), generator=self.generator, dtype=torch.float64)
            within = (draws * self.counts[cells]).long()
            yield self._read(self.order[self.starts[cells] + within], cells)

    def _draw_cells(self) -> Tensor:
        cells = torch.arange(len(self.present))
        if self.n_cells < len(cells):
            cells = torch.randperm(len(cells), generator=self.generator)[: self.n_cells]
        return cells.repeat_interleave(self.per_cell)

    def _read(self, positions: Tensor, cells: Tensor) -> Batch:
        rows, device, dtype = self.rows, self.device, self.dtype
        return Batch(
            to_device(rows.X.for_training(positions.numpy(), self.generator), device, dtype),
            to_device(rows.y[positions], device),
            to_device(rows.groups[positions], device),
            to_device(self.loss_shares[cells], device, dtype),
            to_device(self.gap_shares[cells], device, dtype),
        )


class RowBatches:
    """Endless batches of all rows, in a new order in every pass over them.

    Parameters
    ----------
    rows : LabelledRows
    batch_size : int
        Rows per batch; the last batch of a pass has the rest.
    generator : torch.Generator
    device : torch.device
    dtype : torch.dtype
        Of X and of the weights, which are all 1.
    """

    def __init__(
        self,
        rows: LabelledRows,
        *,
        batch_size: int,
        generator: torch.Generator,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.rows, self.batch_size, self.generator = rows, batch_size, generator
        self.device, self.dtype = device, dtype

    @property
    def per_epoch(self) -> int:
        """Count the batches of one pass over the rows."""
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Go through the rows for ever."""
        while True:
            order = torch.randperm(len(self.rows), generator=self.generator)
            for positions in order.split(self.batch_size):
                # A row alone has no deviation to be normalised by; the first one keeps it company.
                alone = len(positions) == 1 < len(order)
                yield self._read(torch.cat([positions, order[:1]]) if alone else positions)

    def _read(self, positions: Tensor) -> Batch:
        rows, device = self.rows, self.device
        ones = torch.ones(len(positions), device=device, dtype=self.dtype)
        return Batch(
            to_device(rows.X.for_training(positions.numpy(), self.generator), device, self.dtype),
            to_device(rows.y[positions], device),
            to_device(rows.groups[positions], device),
            ones,
            ones,
        )
