"""Many small tensors in few copies to a device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ._batches import BLOCK_BYTES, to_device

__all__ = ["send_together"]


def send_together(tensors: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Yield tensors on a device, in order; neighbours of one type travel in one copy.

    Parameters
    ----------
    tensors : iterable of Tensor
        On the CPU; taken as they are sent, so that at most 64 MiB wait for the others.
    device : torch.device
        On the CPU each tensor is passed on at once.
    """
    if device.type == "cpu":
        yield from tensors
        return
    waiting: list[Tensor] = []
    for tensor in tensors:
        other = bool(waiting) and waiting[0].dtype != tensor.dtype
        if other or sum(each.nbytes for each in waiting) + tensor.nbytes > BLOCK_BYTES:
            yield from _send(waiting, device)
            waiting = []
        waiting.append(tensor)
    yield from _send(waiting, device)


def _send(tensors: list[Tensor], device: torch.device) -> Iterator[Tensor]:
    if tensors:
        sent = to_device(torch.cat([each.flatten() for each in tensors]), device)
        parts = sent.split([each.numel() for each in tensors])
        for part, each in zip(parts, tensors, strict=True):
            yield part.reshape(each.shape)
