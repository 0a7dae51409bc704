"""Inputs and output gradients of chosen layers, for one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

__all__ = ["Use", "evaluating", "recording"]


class Use(NamedTuple):
    """One call of a layer: its input and the input's version then, its output's shape and place."""

    x: Tensor
    version: int
    shape: torch.Size
    edge: GradientEdge


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for a block, then each part back into its own mode."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def recording(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Use]]]:
    """Record every use of some layers inside the block.

    Parameters
    ----------
    layers : mapping of str to nn.Module

    Yields
    ------
    uses : dict of str to list of Use
        Filled as the layers run. The hooks are gone when the block ends, however it ends.
    """
    uses: dict[str, list[Use]] = {name: [] for name in layers}
    handles = []
    try:
        for name, layer in layers.items():
            # First in the row: hooks of the user's may change the output afterwards.
            handle = layer.register_forward_hook(_Hook(uses[name]), prepend=True, with_kwargs=True)
            handles.append(handle)
        yield uses
    finally:
        for handle in handles:
            handle.remove()


class _Hook:
    def __init__(self, uses: list[Use]) -> None:
        self.uses = uses

    def __call__(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        x: Tensor = args[0] if args else kwargs["input"]
        begins_graph = not output.requires_grad
        if begins_graph:
            output.requires_grad_()
        # An edge, not the tensor: a following in-place ReLU changes what the tensor stands for.
        self.uses.append(Use(x.detach(), x._version, output.shape, get_gradient_edge(output)))
        # Nor may a leaf of the graph be changed in place, so its copy goes on.
        return output.clone() if begins_graph else None
