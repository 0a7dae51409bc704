"""Masks that need no measurement: everything, the output layer, whole blocks of the network."""

from __future__ import annotations

from collections.abc import Sequence
from re import Pattern
from typing import Any

import torch
from torch import Tensor, nn

from .._messages import did_you_mean

__all__ = ["make_block_masks"]

Mask = dict[str, Tensor]


def make_block_masks(
    module: nn.Module, kind: str, blocks: Any, output_layer: str
) -> list[tuple[dict[str, Any], Mask]]:
    """Make the masks of one kind, each with its entries of ``history_``.

    Parameters
    ----------
    module : nn.Module
    kind : {"all", "head", "blocks"}
    blocks : None, list of str or re.Pattern
        Names of submodules that are tuned together; None: every top-level one by itself.
    output_layer : str
        Name of the layer that makes the logits.
    """
    if kind == "all":
        return [({}, _mask(module, [""]))]
    if kind == "head":
        return [({}, _mask(module, [output_layer]))]
    if blocks is None:
        return [({"block": name}, _mask(module, [name])) for name in _top_level(module)]
    names = _named(module, blocks)
    return [({"block": ", ".join(names)}, _mask(module, names))]


def _mask(module: nn.Module, blocks: Sequence[str]) -> Mask:
    """Mark the parameters of some submodules; "" is the whole module."""
    inside = {
        id(parameter) for block in blocks for parameter in module.get_submodule(block).parameters()
    }
    return {
        name: torch.full_like(value, id(value) in inside, dtype=torch.bool)
        for name, value in module.named_parameters()
        if value.is_floating_point()
    }


def _top_level(module: nn.Module) -> list[str]:
    """Name the outermost submodules with parameters; go down a level if there is only one."""
    part, prefix = module, ""
    while True:
        children = {
            f"{prefix}{name}": child
            for name, child in part.named_children()
            if next(child.parameters(), None) is not None
        }
        if len(children) != 1:
            return list(children) or [prefix.removesuffix(".")]
        ((name, part),) = children.items()
        prefix = f"{name}."


def _named(module: nn.Module, blocks: Any) -> list[str]:
    submodules = [name for name, part in module.named_modules() if name]
    if isinstance(blocks, Pattern):
        names = [name for name in submodules if blocks.search(name)]
        if not names:
            raise ValueError(f"blocks={blocks.pattern!r} matches no submodule: {submodules}.")
        return names
    names = [blocks] if isinstance(blocks, str) else list(blocks)
    for name in names:
        if name not in submodules:
            hint = did_you_mean(name, submodules)
            raise ValueError(f"blocks names {name!r}, which is no submodule: {submodules}.{hint}")
    if not names:
        raise ValueError("blocks is empty: name at least one submodule.")
    return names
