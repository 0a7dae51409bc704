"""Weights from masked factors, differentiable in the mask variables and the singular values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..layers import Factors
from ..masks import MaskBlock

__all__ = ["rebuild"]


class Rebuild(torch.autograd.Function):
    """Multiply out masked factors; a mask's gradient passes to its variable unchanged.

    The backward pass masks the factors again, so that neither pass holds more than one layer's
    masked factors: what a step keeps are the weights alone.
    """

    @staticmethod
    def forward(
        ctx: Any, variables: Tensor, block: MaskBlock, layers: dict[str, Factors], *S: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the weight of each layer."""
        ctx.save_for_backward(variables, *S)
        ctx.block, ctx.layers = block, layers
        kept = block.cut(variables > 0)
        weights = []
        for (name, f), values in zip(layers.items(), S, strict=True):
            left = (f.U * kept[f"{name}/U"]).mul_(values.unsqueeze(1))
            weights.append((left @ (f.V * kept[f"{name}/V"]).mT).reshape(f.shape))
            del left
        return tuple(weights)

    @staticmethod
    def backward(ctx: Any, *of_weights: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the variables and of each layer's singular values."""
        variables, *S = ctx.saved_tensors
        kept, gradient = ctx.block.cut(variables > 0), torch.empty_like(variables)
        parts = ctx.block.cut(gradient)
        of_values: list[Tensor | None] = []
        for (name, f), values, of_weight, needed in zip(
            ctx.layers.items(), S, of_weights, ctx.needs_input_grad[3:], strict=True
        ):
            of_product = of_weight.reshape(len(f.U), f.U.shape[1], f.V.shape[1])
            U = f.U * kept[f"{name}/U"]
            of_left = of_product @ (f.V * kept[f"{name}/V"])
            of_values.append((of_left * U).sum(dim=1) if needed else None)
            torch.mul(of_left.mul_(values.unsqueeze(1)), f.U, out=parts[f"{name}/U"])
            del of_left
            right = U.mul_(values.unsqueeze(1)).mT @ of_product
            torch.mul(right.mT, f.V, out=parts[f"{name}/V"])
            del U, right
        return gradient, None, None, *of_values


def rebuild(block: MaskBlock, factors: dict[str, Factors]) -> dict[str, Tensor]:
    """Multiply out the layers whose mask variables a block holds.

    Parameters
    ----------
    block : MaskBlock
        Its names are "layer/U" and "layer/V".
    factors : dict of layer name to Factors
        With nothing removed.

    Returns
    -------
    weights : dict of parameter name to Tensor
    """
    names = dict.fromkeys(name.rpartition("/")[0] for name in block.shapes)
    layers = {name: factors[name] for name in names}
    weights = Rebuild.apply(block.leaf, block, layers, *(f.S for f in layers.values()))
    return {f.parameter: w for f, w in zip(layers.values(), weights, strict=True)}
