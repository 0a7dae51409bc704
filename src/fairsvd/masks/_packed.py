"""Boolean masks of large networks, kept as bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

__all__ = ["PackedMasks", "packed"]

# Masks of fewer entries in all (4 MiB of booleans) are kept as they are.
FEW_ENTRIES = 2**22

BITS = 8


class PackedMasks(Mapping[str, Tensor]):
    """Boolean masks that take a bit an entry; each is unpacked whenever it is read.

    Parameters
    ----------
    masks : mapping of name to boolean Tensor
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.shapes = {name: mask.shape for name, mask in masks.items()}
        self.bits = {name: _pack(mask) for name, mask in masks.items()}

    def __getitem__(self, name: str) -> Tensor:
        """Unpack one mask."""
        shape, bits = self.shapes[name], self.bits[name]
        places = torch.arange(BITS, dtype=torch.uint8, device=bits.device)
        entries = (bits.unsqueeze(1) >> places).bitwise_and_(1)
        return entries.view(torch.bool).flatten()[: shape.numel()].view(shape)

    def __iter__(self) -> Iterator[str]:
        """List the names."""
        return iter(self.shapes)

    def __len__(self) -> int:
        """Count the masks."""
        return len(self.shapes)


def _pack(mask: Tensor) -> Tensor:
    flat = mask.flatten().to(torch.uint8)
    missing = -len(flat) % BITS
    rows = torch.nn.functional.pad(flat, (0, missing)).view(-1, BITS)
    bits = rows[:, 0].clone()
    for place in range(1, BITS):
        bits |= rows[:, place] << place
    return bits


def packed(masks: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Pack boolean masks of many entries; return few as they are."""
    few = sum(mask.numel() for mask in masks.values()) < FEW_ENTRIES
    return masks if few else PackedMasks(masks)
