"""Compute logits and features of many rows, each independent of the other rows."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..arrays import Batches, to_device
from ._finite import check_finite
from ._plain import first_parameter
from ._room import fewer_rows
from ._scores import OutputKey, check_rows, checked_logits

__all__ = ["all_features", "all_logits", "entering", "fast_logits"]

# Matrix products round differently for other numbers of rows; in blocks of constant size a row's
# output depends on the row alone. (If a layer's width is not a multiple of 4, the alignment in
# memory, and with it the last bit, also depends on the row's place in the block.)
BLOCK = 64

# A small network on a table spends most of its time on calls, so it gets larger blocks. Padding a
# single row to such a block takes little time.
SMALL_BLOCK, SMALL_NETWORK = 512, 2**16

# A GPU needs many rows to be busy: as many as a block of judging has (see Batches.block_size), but
# not fewer than BLOCK, however large they are.
CUDA_BLOCK, CUDA_BLOCK_BYTES = 1024, 2**26

# Bytes that may be on their way to a device, or wait there to be read, until the program waits for
# the device: what is on its way lies in pinned memory of the host.
WAITING_BYTES = 2**30

# The activations of a block of images should fit into a CPU's cache and into memory that the
# process keeps: judging in blocks of 1,024 rows took two to five times as long.
IMAGE_BLOCK_BYTES, FEWEST_IMAGES = 3 * 2**17, 4

# Rows of a block that a device's memory holds, of networks for which it lacked some.
_FITTING: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def block_rows(module: nn.Module, X: Batches) -> int:
    """Return the size of the blocks, which depends only on the network and the shape of a row."""
    if first_parameter(module).device.type == "cuda":
        row_bytes = math.prod(X.item_shape) * X.dtype.itemsize
        return min(CUDA_BLOCK, max(BLOCK, CUDA_BLOCK_BYTES // row_bytes))
    if len(X.item_shape) > 1:
        return BLOCK
    size = sum(parameter.numel() for parameter in module.parameters())
    return SMALL_BLOCK if size <= SMALL_NETWORK else BLOCK


def _in_blocks(run: Callable[[Tensor], Tensor], module: nn.Module, X: Batches) -> Tensor:
    """Run blocks of one size, in the network's dtype and on its device; the result is the CPU's."""
    X = X.astype(first_parameter(module).dtype)
    while True:
        size = min(block_rows(module, X), _FITTING.get(module, sys.maxsize))
        try:
            return _in_blocks_of(size, run, first_parameter(module).device, X)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        # For later calls too: they are to give a row the same result.
        _FITTING[module] = fewer_rows(size, "Predictions run in blocks of")


def _in_blocks_of(
    size: int, run: Callable[[Tensor], Tensor], device: torch.device, X: Batches
) -> Tensor:
    done: list[Tensor] = []
    waiting: list[Tensor] = []
    n_bytes = 0
    with torch.no_grad():
        for block in X.blocks(size):
            n_rows = len(block)
            # Padded there, so that a single row is not sent as many.
            block = to_device(block, device)
            block = torch.cat([block, block[-1:].expand(size - n_rows, *block.shape[1:])])
            waiting.append(run(block)[:n_rows])
            n_bytes += block.nbytes + waiting[-1].nbytes
            del block  # free the memory before the next block is read
            if device.type == "cpu" or n_bytes > WAITING_BYTES:
                done.append(torch.cat(waiting).cpu())
                waiting, n_bytes = [], 0
    if waiting:
        done.append(torch.cat(waiting).cpu())
    return done[0] if len(done) == 1 else torch.cat(done)


def all_logits(
    module: nn.Module,
    X: Batches,
    kind: str,
    state: Mapping[str, Tensor] | None = None,
    key: OutputKey = None,
) -> Tensor:
    """Compute logits (n_rows, n_classes) on the CPU, each row independent of the others.

    ``state`` replaces entries of the module's state for the call; ``kind`` and ``key`` describe the
    output (:func:`to_logits`).

    Raises
    ------
    NetworkError
        Logits are not finite, or are not one row for every row of X.
    """

    def run(x: Tensor) -> Tensor:
        output = functional_call(module, dict(state), (x,)) if state else module(x)
        return checked_logits(output, kind, key, len(x))

    logits = _in_blocks(run, module, X)
    check_finite(logits, X, module)
    return logits


@contextmanager
def entering(module: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """Collect the inputs of ``layer`` from the passes of this thread within the block."""
    thread = threading.get_ident()
    collected: list[Tensor] = []

    def collect(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # Another thread may run the same network.
        if threading.get_ident() == thread:
            collected.append(inputs[0])

    handle = module.get_submodule(layer).register_forward_pre_hook(collect)
    try:
        yield collected
    finally:
        handle.remove()


def all_features(module: nn.Module, X: Batches, layer: str) -> Tensor:
    """Collect the input of ``layer`` for every row, flattened to (n_rows, width)."""

    def run(x: Tensor) -> Tensor:
        with entering(module, layer) as collected:
            module(x)
        features = collected[-1].reshape(len(x), -1)
        return features.to(torch.promote_types(features.dtype, torch.float32))

    features = _in_blocks(run, module, X)
    check_finite(features, X, module, "features")
    return features


def fast_logits(run: Callable[[Tensor], Tensor], X: Batches, size: int = 1024) -> Tensor:
    """Compute logits in large blocks, for scoring candidates; equal up to rounding.

    The blocks are on the device of X; ``run`` moves them to its own (``arrays.to_device``). Images
    on a CPU come in smaller blocks.
    """
    parts, done = [], 0
    most = X.block_size(size)
    rows = _few_images(X, most) if len(X.item_shape) > 1 else most
    with torch.no_grad():
        while done < len(X):
            try:
                parts.append(_run_block(run, X[done : done + rows]))
            except torch.OutOfMemoryError:
                if rows == 1:
                    raise
                too_many = rows
            else:
                done += rows
                if parts[-1].device.type != "cpu":
                    rows = most
                continue
            rows = most = fewer_rows(too_many, "Candidates are judged in blocks of")
    # Once for all blocks, since the program waits for a device here.
    return torch.cat(parts).cpu()


def _run_block(run: Callable[[Tensor], Tensor], block: Tensor) -> Tensor:
    """Run a block; a single row twice, since some networks squeeze away its dimension."""
    n_rows = len(block)
    block = torch.cat([block, block]) if n_rows == 1 else block
    logits = run(block)
    check_rows(logits, len(block))
    return logits[:n_rows]


def _few_images(X: Batches, most: int) -> int:
    row_bytes = math.prod(X.item_shape) * X.dtype.itemsize
    return min(most, max(FEWEST_IMAGES, IMAGE_BLOCK_BYTES // row_bytes))
