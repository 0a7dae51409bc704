"""Trainable mask variables, stored in few tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["START", "MaskBlock", "MaskVariables", "mask_variables"]

# An entry is kept while its variable is positive. From one half few steps reach zero, but one
# noisy gradient alone removes nothing.
START = 0.5

# Layers share a block of at most so many bytes (16 MiB): a step has one update, one clamp and one
# comparison for each block, and a large network's gradients are not all held at once.
BLOCK_BYTES = 2**24


@dataclass(frozen=True)
class MaskBlock:
    """The mask variables of some tensors.

    Attributes
    ----------
    shapes : dict of name to torch.Size
        Of the tensors, in the order in which their variables are stored.
    leaf : Tensor of shape (n,), or (n / r, r) if lean
        All variables; requires gradients and is changed in place.
    """

    shapes: dict[str, torch.Size]
    leaf: Tensor

    def cut(self, flat: Tensor) -> dict[str, Tensor]:
        """View a tensor (n,) as one of each name's shape."""
        parts = flat.flatten().split([shape.numel() for shape in self.shapes.values()])
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in named}


@dataclass(frozen=True)
class MaskVariables:
    """Mask variables of an edit, one for each entry that may be removed.

    Attributes
    ----------
    blocks : list of MaskBlock
    """

    blocks: list[MaskBlock]

    @property
    def leaves(self) -> list[Tensor]:
        """The tensors that an optimiser changes."""
        return [block.leaf for block in self.blocks]

    def by_name(self) -> dict[str, Tensor]:
        """View the variables in the shapes of the tensors that they mask, without gradients."""
        return {n: v for block in self.blocks for n, v in block.cut(block.leaf.detach()).items()}

    def straight_through(self) -> dict[str, Tensor]:
        """Return the 0/1 masks by name; gradients pass to the variables unchanged."""
        masks: dict[str, Tensor] = {}
        for block in self.blocks:
            hard = (block.leaf.detach() > 0).to(block.leaf.dtype)
            masks |= block.cut(hard + (block.leaf - block.leaf.detach()))
        return masks

    def clamp(self) -> None:
        """Keep variables in [-1, 1], in place, so that a removed entry can come back."""
        with torch.no_grad():
            for leaf in self.leaves:
                leaf.clamp_(-1, 1)


def mask_variables(units: Iterable[Mapping[str, Tensor]], *, lean: bool = False) -> MaskVariables:
    """Make one trainable mask variable for every entry of every tensor.

    Parameters
    ----------
    units : iterable of mapping of name to Tensor
        What is masked; the tensors of a unit, which have one type, stay in one block.
    lean : bool, default=False
        Store the variables in bfloat16, a unit in a block, as a matrix with a column for each place
        in the last dimension, which all tensors of the unit then share.
    """
    groups: list[list[Mapping[str, Tensor]]] = []
    for unit in units:
        if lean or not groups or not _fits([*groups[-1], unit]):
            groups.append([])
        groups[-1].append(unit)
    blocks = []
    for group in groups:
        values = {name: value for unit in group for name, value in unit.items()}
        first = next(iter(values.values()))
        n = sum(value.numel() for value in values.values())
        shape, dtype = ((-1, first.shape[-1]), torch.bfloat16) if lean else ((n,), first.dtype)
        leaf = torch.full((n,), START, dtype=dtype, device=first.device).view(shape)
        leaf.requires_grad_()
        blocks.append(MaskBlock({name: value.shape for name, value in values.items()}, leaf))
    return MaskVariables(blocks)


def _fits(group: list[Mapping[str, Tensor]]) -> bool:
    values = [value for unit in group for value in unit.values()]
    alike = len({(value.dtype, value.device) for value in values}) == 1
    return alike and sum(value.nbytes for value in values) <= BLOCK_BYTES
