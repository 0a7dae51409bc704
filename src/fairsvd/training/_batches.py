"""Batches of a tuning: stratified by cell, or all rows in a new order."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..arrays import LabelledRows, draw_order, read_ahead, to_device

__all__ = ["AHEAD", "Batch", "CellBatches", "RowBatches", "cell_shares"]

# The draws of this many steps are made at once, so that they travel to a device in one copy.
AHEAD = 32

T = TypeVar("T")


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
    memory : dict
        What losses have computed from all but X and the targets; batches that differ in these two
        alone share it.
    """

    X: Tensor
    y: Tensor
    groups: Tensor
    loss_weights: Tensor
    gap_weights: Tensor
    targets: Tensor | None = None
    memory: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    def remembered(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Compute a value that depends on labels, groups and weights alone, or recall it."""
        if key not in self.memory:
            self.memory[key] = compute()
        value: T = self.memory[key]
        return value


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


# Labels, groups and both weights of a batch, and what losses have computed from them.
Labels = tuple[list[Tensor], dict[Hashable, Any]]


class CellBatches:
    """Endless batches that hold equally many rows of every (label, group) cell.

    So every step sees the small cells; weights restore the shares. If there are more cells than
    ``batch_size``, each batch holds one row of that many cells. A batch has at most as many rows as
    there are. Within a cell a row is drawn as often as its weight says.

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
        table = rows.count_cells(n_classes, n_groups).numpy()
        self.rows, self.generator, self.device, self.dtype = rows, generator, device, dtype
        self.order = torch.argsort(cells, stable=True)
        self.present = torch.nonzero(counts).flatten()
        self.counts = counts[self.present]
        self.starts = counts.cumsum(0)[self.present] - self.counts
        # Of the rows in their order: the weight of each and of all before it.
        self.reached = None if rows.weights is None else rows.weights[self.order].cumsum(0)
        batch_size = min(batch_size, len(rows))
        self.n_cells = min(len(self.present), batch_size)
        self.per_cell = max(1, batch_size // len(self.present))
        present, scale = self.present.numpy(), len(self.present)
        loss, gap = (cell_shares(table, each).flat[present] * scale for each in (balance, None))
        self.columns = (
            to_device(self.present // n_groups, device),
            to_device(self.present % n_groups, device),
            to_device(torch.as_tensor(loss), device, dtype),
            to_device(torch.as_tensor(gap), device, dtype),
        )

    def __iter__(self) -> Iterator[Batch]:
        """Draw batches with replacement, for ever."""
        same = self._same_for_all()
        while True:
            cells, positions, seeds = zip(*(self._draw() for _ in range(AHEAD)), strict=True)
            labels = [same] * AHEAD if same else self._send_labels(cells)
            rows = read_ahead(self.rows.X, positions, seeds, self.device, self.dtype)
            for (y, groups, of_loss, of_gap), memory in labels:
                # Nothing here holds the rows, so that they are freed before the next are read.
                yield Batch(next(rows), y, groups, of_loss, of_gap, memory=memory)

    def _draw(self) -> tuple[Tensor, Tensor, int | None]:
        cells = self._draw_cells()
        draws = torch.rand(len(cells), generator=self.generator, dtype=torch.float64)
        return cells, self.order[self._place(cells, draws)], self.rows.X.draw_seed(self.generator)

    def _place(self, cells: Tensor, draws: Tensor) -> Tensor:
        """Find the rows of cells, by their place in the order, for draws from [0, 1)."""
        starts, counts = self.starts[cells], self.counts[cells]
        if self.reached is None:
            return starts + (draws * counts).long()
        ends = torch.cat([self.reached.new_zeros(1), self.reached])
        before, upto = ends[starts], ends[starts + counts]
        found = torch.searchsorted(self.reached, before + draws * (upto - before), right=True)
        # Rounding may step over the end of a cell.
        return found.clamp(min=starts, max=starts + counts - 1)

    def _draw_cells(self) -> Tensor:
        cells = torch.arange(len(self.present))
        if self.n_cells < len(cells):
            cells = torch.randperm(len(cells), generator=self.generator)[: self.n_cells]
        return cells.repeat_interleave(self.per_cell)

    def _same_for_all(self) -> Labels | None:
        """Make the labels of batches that hold every cell, which are equal, or None."""
        if self.n_cells < len(self.present):
            return None
        return next(self._send_labels([self._draw_cells()]))

    def _send_labels(self, cells: Sequence[Tensor]) -> Iterator[Labels]:
        sent = to_device(torch.cat(list(cells)), self.device).split([len(each) for each in cells])
        for each in sent:
            yield [column[each] for column in self.columns], {}


class RowBatches:
    """Endless batches of all rows, in a new order in every pass over them.

    Parameters
    ----------
    rows : LabelledRows
        In every pass a row occurs as often as its own weight says, rounded down or up at random.
    batch_size : int
        Rows per batch; the last batch of a pass has the rest.
    generator : torch.Generator
    device : torch.device
    dtype : torch.dtype
        Of X and of the weights.
    weights : Tensor of shape (n_rows,), optional
        Further weight of each row in the cross-entropy; None: all are 1.
    """

    def __init__(
        self,
        rows: LabelledRows,
        *,
        batch_size: int,
        generator: torch.Generator,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        weights: Tensor | None = None,
    ) -> None:
        self.weights = weights
        self.rows, self.batch_size, self.generator = rows, batch_size, generator
        self.device, self.dtype = device, dtype

    @property
    def per_epoch(self) -> int:
        """Count the batches of one pass over the rows."""
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Go through the rows for ever."""
        rows, device = self.rows, self.device
        y, groups = to_device(rows.y, device), to_device(rows.groups, device)
        weights = None if self.weights is None else to_device(self.weights, device, self.dtype)
        ones = torch.ones(min(self.batch_size, len(rows)) + 1, device=device, dtype=self.dtype)
        while True:
            steps: list[Tensor] = []
            seeds: list[int | None] = []
            while len(steps) < AHEAD:
                steps += self._draw_pass()
                seeds += [rows.X.draw_seed(self.generator) for _ in range(len(steps) - len(seeds))]
            sent = to_device(torch.cat(steps), device).split([len(step) for step in steps])
            X = read_ahead(rows.X, steps, seeds, device, self.dtype)
            for at in sent:
                alike = ones[: len(at)]
                of_loss = alike if weights is None else weights[at]
                yield Batch(next(X), y[at], groups[at], of_loss, alike)

    def _draw_pass(self) -> list[Tensor]:
        order = draw_order(len(self.rows), self.rows.weights, self.generator)
        steps = list(order.split(self.batch_size))
        if len(steps[-1]) == 1 < len(order):
            # A row alone has no deviation to be normalised by; the first one keeps it company.
            steps[-1] = torch.cat([steps[-1], order[:1]])
        return steps
