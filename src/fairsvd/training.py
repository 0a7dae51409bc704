"""The tuning loop of all methods: cell-stratified batches, and a pause at every candidate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .arrays import LabelledRows, to_device

__all__ = ["Batch", "CellBatches", "RowBatches", "cell_shares", "tune"]

B = TypeVar("B")

# Parameters of more bytes (64 MiB) are updated one by one, as soon as their gradients are there.
LARGE_BYTES = 2**26


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


def tune(
    loss: Callable[[B], Tensor],
    parameters: Sequence[Tensor],
    batches: Iterable[B],
    *,
    n_steps: int,
    learning_rate: float | Sequence[float],
    every: int,
    schedule: str = "constant",
    optimizer: str = "adam",
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    update_masks: Sequence[Tensor | None] | None = None,
    after_step: Callable[[], None] | None = None,
    progress: Callable[[], None] | None = None,
) -> Iterator[int]:
    """Minimise a loss over ``parameters``, pausing at every candidate.

    Parameters
    ----------
    loss : callable
        Maps a batch to a scalar Tensor.
    parameters : sequence of Tensor
        Leaves that require gradients; changed in place.
    batches : iterable
        Endless batches: from :class:`CellBatches`, or of whatever type ``loss`` takes.
    n_steps : int
    learning_rate : float or sequence of float
        One rate for all parameters, or one for each.
    every : int
        Steps between two candidates; the last step always is a candidate.
    schedule : {"constant", "cosine"}, default="constant"
        "cosine": the rates fall to 0 along half a cosine wave.
    optimizer : {"adam", "sgd"}, default="adam"
    momentum : float in [0, 1), default=0.9
        Of "sgd".
    weight_decay : float, default=0.0
    update_masks : sequence of Tensor or None, optional
        For each parameter a tensor in [0, 1] that broadcasts to it and multiplies its *update*.
        Where it is 0 the parameter keeps its bits, whatever the optimiser does with momentum,
        second moments and weight decay. None: not masked.
    after_step : callable, optional
        Called after each update (a projection, say).
    progress : callable, optional
        Called once per step.

    Yields
    ------
    step : int
        Steps made so far; the caller reads the parameters before it asks for the next.
    """
    masks = update_masks or [None] * len(parameters)
    rates = learning_rate if isinstance(learning_rate, Sequence) else [learning_rate] * len(masks)
    each = list(zip(parameters, rates, masks, strict=True))
    large = sum(parameter.nbytes for parameter in parameters) > LARGE_BYTES
    updates = [
        _Update.make(part, optimizer, momentum, weight_decay)
        for part in ([[one] for one in each] if large else [each])
    ]
    hooks = []
    if large:
        hooks = [
            p.register_post_accumulate_grad_hook(u)
            for p, u in zip(parameters, updates, strict=True)
        ]
    try:
        # No variable holds a batch, so its rows are freed before the next batch is read.
        for step, value in zip(range(1, n_steps + 1), map(loss, batches), strict=False):
            if schedule == "cosine":
                left = (1 + math.cos(math.pi * (step - 1) / n_steps)) / 2
                for update in updates:
                    update.slow_down(left)
            value.backward()
            if not large:
                updates[0]()
            if after_step is not None:
                after_step()
            if progress is not None:
                progress()
            if step % every == 0 or step == n_steps:
                yield step
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class _Update:
    """Updates some parameters from their gradients, which it then clears.

    Called with one parameter as soon as its gradient is there, it keeps a large network's gradients
    from being held all at once; what each parameter gets is the same.
    """

    optimizer: torch.optim.Optimizer
    rates: list[float]
    masked: list[tuple[Tensor, Tensor]]

    @classmethod
    def make(
        cls,
        part: Sequence[tuple[Tensor, float, Tensor | None]],
        name: str,
        momentum: float,
        weight_decay: float,
    ) -> _Update:
        parameters, rates = [p for p, _, _ in part], [rate for _, rate, _ in part]
        optimizer = _make_optimizer(name, parameters, rates, momentum, weight_decay)
        optimizer.zero_grad(set_to_none=True)
        own_rates = [group["lr"] for group in optimizer.param_groups]
        return cls(optimizer, own_rates, [(p, mask) for p, _, mask in part if mask is not None])

    def slow_down(self, share: float) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share

    def __call__(self, *_: Tensor) -> None:
        before = [parameter.detach().clone() for parameter, _ in self.masked]
        self.optimizer.step()
        for (parameter, mask), old in zip(self.masked, before, strict=True):
            _mask_update(parameter, old, mask)
        self.optimizer.zero_grad(set_to_none=True)


def _make_optimizer(
    name: str,
    parameters: Sequence[Tensor],
    rates: Sequence[float],
    momentum: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    settings: dict[str, Any] = {"weight_decay": weight_decay, "fused": fused}
    # One group for each rate: a fused step is a call for each group.
    groups: Any = [
        {"params": [p for p, r in zip(parameters, rates, strict=True) if r == each], "lr": each}
        for each in dict.fromkeys(rates)
    ]
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=momentum, **settings)
    return torch.optim.Adam(groups, **settings)


def _mask_update(parameter: Tensor, old: Tensor, mask: Tensor) -> None:
    """Undo the share of an update that its mask blocks: exactly all at 0 and nothing at 1."""
    with torch.no_grad():
        parameter.copy_(torch.lerp(old, parameter, mask.expand_as(parameter).to(parameter)))
