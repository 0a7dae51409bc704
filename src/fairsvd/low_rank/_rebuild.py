"""Weights from masked factors, differentiable in the mask variables and the singular values.

What is masked and scaled on the way is computed again in the backward pass, in the same order as
autograd would have, so that the values are the same to the bit and less is held between the passes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..layers import Factors
from ..masks import MaskBlock

__all__ = ["masked_product", "rebuild"]


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
            of_left = torch.matmul(of_product, f.V * kept[f"{name}/V"], out=parts[f"{name}/U"])
            U = f.U * kept[f"{name}/U"]
            of_values.append((of_left * U).sum(dim=1) if needed else None)
            of_left.mul_(values.unsqueeze(1)).mul_(f.U)
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


class MaskedProduct(torch.autograd.Function):
    """Multiply out factors with fixed masks, differentiably in the singular values alone."""

    @staticmethod
    def forward(ctx: Any, S: Tensor, f: Factors, keep_u: Tensor, keep_v: Tensor) -> Tensor:
        """Return the weight."""
        ctx.factors, ctx.kept = f, (keep_u, keep_v)
        left = (f.U * keep_u).mul_(S.unsqueeze(1))
        return (left @ (f.V * keep_v).mT).reshape(f.shape)

    @staticmethod
    def backward(ctx: Any, of_weight: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the singular values."""
        f, (keep_u, keep_v) = ctx.factors, ctx.kept
        of_product = of_weight.reshape(len(f.U), f.U.shape[1], f.V.shape[1])
        of_left = of_product @ (f.V * keep_v)
        return of_left.mul_(f.U).mul_(keep_u).sum(dim=1), None, None, None


def masked_product(factors: Factors, keep_u: Tensor, keep_v: Tensor) -> Tensor:
    """Multiply out factors without the entries that masks remove.

    Parameters
    ----------
    factors : Factors
        With nothing removed; only the singular values may require gradients.
    keep_u, keep_v : boolean Tensor of the shapes of U and V
        True where an entry is kept.
    """
    weight: Tensor = MaskedProduct.apply(factors.S, factors, keep_u, keep_v)
    return weight
