"""Rows in the memory of a device, so that steps and candidates do not send them again."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._batches import Batches, to_device

__all__ = ["hold_on", "read_ahead"]

# Rows may take this share of a device's free memory; the rest is for networks and activations.
SHARE = 1 / 4

# Rows that are read and sent at a time.
BLOCK = 1024


class Resident:
    """All rows of some batches on a device, read when the first one is requested.

    A copy in another process reads them again, so that no rows travel with a task.

    Parameters
    ----------
    source : Batches
    device : torch.device
    """

    def __init__(self, source: Batches, device: torch.device) -> None:
        self.source, self.device = source, device
        self.held: Tensor | None = None
        self.lock = threading.Lock()
        # Where each row of X is among those held.
        self.place = np.zeros(int(source.index.max(initial=-1)) + 1, dtype=np.int64)
        self.place[source.index] = np.arange(len(source))

    def __call__(self, rows: NDArray[np.int64]) -> Tensor:
        """Return rows by their numbers, as a copy: a network may change its input in place."""
        places = self.place[rows]
        if len(places) and bool((np.diff(places) == 1).all()):
            return self.rows[places[0] : places[-1] + 1].clone()
        return self.take(to_device(torch.from_numpy(places), self.device))

    def take(self, places: Tensor) -> Tensor:
        """Return rows by their places, which are on the device already."""
        return self.rows.index_select(0, places)

    @property
    def rows(self) -> Tensor:
        """The rows: integers as they are, numbers with fractions in the type they are used in."""
        with self.lock:
            if self.held is None:
                self.held = self._read()
            return self.held

    def _read(self) -> Tensor:
        source = self.source
        first = source.fetch(source.index[:1])
        if not first.is_floating_point():
            source = replace(source, dtype=first.dtype)
        held = torch.empty((len(source), *first.shape[1:]), dtype=source.dtype, device=self.device)
        for start in range(0, len(source), BLOCK):
            block = source[start : start + BLOCK]
            held[start : start + BLOCK] = to_device(block, self.device)
        return held

    def __getstate__(self) -> dict[str, Any]:
        """Leave the rows out."""
        return {"source": self.source, "device": self.device}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read the rows again when they are requested."""
        self.__init__(**state)  # type: ignore[misc]


def hold_on(X: Batches, device: torch.device) -> Batches:
    """Keep rows in the memory of a CUDA device, if they take up a small part of what is free.

    Parameters
    ----------
    X : Batches
    device : torch.device
        Of the network; on another kind of device rows stay where they are.

    Returns
    -------
    X : Batches
        Gives the same rows by the same positions.
    """
    if device.type != "cuda" or X.home == device:
        return X
    shape = tuple(X.item_shape)
    n_bytes = len(X) * math.prod(shape) * X.dtype.itemsize
    if n_bytes > SHARE * torch.cuda.mem_get_info(device)[0]:
        return X
    return replace(X, fetch=Resident(X, device), row_shape=shape, home=device)


def read_ahead(
    X: Batches,
    positions: Sequence[Tensor],
    seeds: Sequence[int | None],
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[Tensor]:
    """Yield the rows of several steps on a device.

    If the device holds them, the positions of all steps are sent at once, and nothing else.

    Parameters
    ----------
    X : Batches
    positions : sequence of Tensor, int64, on the CPU
        Of the rows of each step.
    seeds : sequence of int or None
        See :meth:`Batches.draw_seed`.
    device : torch.device
    dtype : torch.dtype
        Of rows that are no integers.
    """
    if X.fetch_augmented is None and X.home == device:
        held: Resident = X.fetch  # type: ignore[assignment]
        places = torch.from_numpy(held.place[X.index[torch.cat(list(positions)).numpy()]])
        for part in to_device(places, device).split([len(each) for each in positions]):
            yield to_device(X.handed_out(held.take(part)), device, dtype)
        return
    for each, seed in zip(positions, seeds, strict=True):
        yield to_device(X.for_step(each.numpy(), seed), device, dtype)
