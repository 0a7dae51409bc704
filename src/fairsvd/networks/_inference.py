"""Logits and features of many rows, each independent of the rows beside it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..arrays import Batches, to_device
from ._outputs import OutputKey, to_logits

__all__ = ["all_features", "all_logits", "fast_logits"]

# Matrix products of another number of rows round differently; in blocks of one constant size a
# row's output is a function of the row alone. (Where a layer's width is no multiple of 4, the
# alignment in memory, and with it the last bit, also depends on the row's place in the block.)
BLOCK = 64

# For a small network on a table most of the time goes into the calls: it gets larger blocks, which
# a single row, padded to one, hardly notices.
SMALL_BLOCK, SMALL_NETWORK = 512, 2**16

# What a network makes of a block of images is to stay in a CPU's cache, and in memory that the
# process keeps: judging in blocks of 1,024 rows took two to five times as long.
IMAGE_BLOCK_BYTES, FEWEST_IMAGES = 3 * 2**17, 4


def block_rows(module: nn.Module, X: Batches) -> int:
    """Give the size of the blocks, which depends on the network and the shape of a row only."""
    if len(X.item_shape) > 1:
        return BLOCK
    size = sum(parameter.numel() for parameter in module.parameters())
    return SMALL_BLOCK if size <= SMALL_NETWORK else BLOCK


def _placed(module: nn.Module, X: Tensor) -> Tensor:
    parameter = next(module.parameters(), torch.zeros(()))
    return to_device(X, parameter.device, parameter.dtype)


def _in_blocks(run: Callable[[Tensor], Tensor], X: Batches, size: int) -> Tensor:
    parts = []
    with torch.no_grad():
        for block in X.blocks(size):
            missing = size - len(block)
            padded = torch.cat([block, block[-1:].expand(missing, *block.shape[1:])])
            parts.append(run(padded)[: len(block)].cpu())
            del block, padded  # before the next is read
    return torch.cat(parts)


def all_logits(
    module: nn.Module,
    X: Batches,
    kind: str,
    state: Mapping[str, Tensor] | None = None,
    key: OutputKey = None,
) -> Tensor:
    """Logits (n_rows, n_classes) on the CPU; a row's never depend on the rows beside it.

    ``state`` stands in for entries of the module's state, which is not changed; ``kind`` and
    ``key`` say how to read what it returns (:func:`to_logits`).
    """

    def run(x: Tensor) -> Tensor:
        x = _placed(module, x)
        output = functional_call(module, dict(state), (x,)) if state else module(x)
        return to_logits(output, kind, key)

    return _in_blocks(run, X, block_rows(module, X))


def all_features(module: nn.Module, X: Batches, layer: str) -> Tensor:
    """Collect what enters ``layer`` for every row, flattened to (n_rows, width)."""
    thread, target = threading.get_ident(), module.get_submodule(layer)

    def run(x: Tensor) -> Tensor:
        entered: list[Tensor] = []

        def note(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            # The same network may be running in another thread.
            if threading.get_ident() == thread:
                entered.append(inputs[0])

        handle = target.register_forward_pre_hook(note)
        try:
            module(_placed(module, x))
        finally:
            handle.remove()
        return entered[-1].reshape(len(x), -1)

    return _in_blocks(run, X, block_rows(module, X))


def fast_logits(run: Callable[[Tensor], Tensor], X: Batches, size: int = 1024) -> Tensor:
    """Logits in large blocks, for scoring candidates: equal up to rounding.

    The blocks come from where X lies; ``run`` takes them to its device (``arrays.to_device``).
    Images on a CPU come in smaller ones.
    """
    parts, done = [], 0
    most = X.block_size(size)
    rows = _few_images(X, most) if len(X.item_shape) > 1 else most
    with torch.no_grad():
        while done < len(X):
            logits = run(X[done : done + rows])
            parts.append(logits.cpu())
            done += rows
            if logits.device.type != "cpu":
                rows = most
    return torch.cat(parts)


def _few_images(X: Batches, most: int) -> int:
    row_bytes = math.prod(X.item_shape) * X.dtype.itemsize
    return min(most, max(FEWEST_IMAGES, IMAGE_BLOCK_BYTES // row_bytes))
