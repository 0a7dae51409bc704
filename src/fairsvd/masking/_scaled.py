"""Masked weights times factors of their rows, differentiable in mask variables and factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..masks import MaskBlock

__all__ = ["along_rows", "mask_and_scale"]


def along_rows(values: Tensor, weight: Tensor) -> Tensor:
    """Reshape one value per output unit (n_units,) so that it multiplies a weight's rows."""
    return values.reshape(-1, *[1] * (weight.ndim - 1))


class MaskAndScale(torch.autograd.Function):
    """Mask weights and scale their rows; a mask's gradient passes to its variable unchanged.

    The backward pass masks the weights again instead of keeping them masked.
    """

    @staticmethod
    def forward(
        ctx: Any, variables: Tensor, block: MaskBlock, weights: dict[str, Tensor], *scales: Tensor
    ) -> tuple[Tensor, ...]:
        """Return each weight masked, and scaled if there are factors."""
        ctx.save_for_backward(variables, *scales)
        ctx.block, ctx.weights = block, weights
        masked = [weights[name] * kept for name, kept in block.cut(variables > 0).items()]
        for value, scale in zip(masked, scales, strict=False):
            value.mul_(along_rows(scale, value))
        return tuple(masked)

    @staticmethod
    def backward(ctx: Any, *of_weights: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the variables and of the factors."""
        variables, *scales = ctx.saved_tensors
        kept, gradient = ctx.block.cut(variables > 0), torch.empty_like(variables)
        of_scales = []
        for k, (name, part) in enumerate(ctx.block.cut(gradient).items()):
            weight, of_masked = ctx.weights[name], of_weights[k]
            if scales:
                axes = tuple(range(1, weight.ndim))
                of_scales.append((of_masked * (weight * kept[name])).sum(dim=axes))
                of_masked = of_masked * along_rows(scales[k], weight)
            torch.mul(of_masked, weight, out=part)
        return gradient, None, None, *of_scales


def mask_and_scale(
    block: MaskBlock, weights: Mapping[str, Tensor], scales: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Mask the weights whose variables a block holds, and scale their rows.

    Parameters
    ----------
    block : MaskBlock
    weights : mapping of parameter name to Tensor
        With nothing removed.
    scales : mapping of parameter name to Tensor of shape (n_units,)
        Of every weight, or of none.
    """
    own = {name: weights[name] for name in block.shapes}
    factors = [scales[name] for name in own] if scales else []
    return dict(zip(own, MaskAndScale.apply(block.leaf, block, own, *factors), strict=True))
