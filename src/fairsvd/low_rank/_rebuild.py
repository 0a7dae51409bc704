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


# Singular vectors that are multiplied at once where masks are learned in half precision, and with
# fixed masks in layers of more entries than LARGE.
COLUMNS, LARGE = 256, 2**22


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
            weight: Tensor | None = None
            for at in _spans(variables, f):
                left = (f.U[..., at] * kept[f"{name}/U"][..., at]).mul_(values[:, None, at])
                right = (f.V[..., at] * kept[f"{name}/V"][..., at]).mT
                weight = left @ right if weight is None else weight.baddbmm_(left, right)
                del left, right
            assert weight is not None
            weights.append(weight.reshape(f.shape))
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
            own = []
            for at in _spans(variables, f):
                U, V, scale = f.U[..., at], f.V[..., at], values[:, None, at]
                of_left = of_product @ (V * kept[f"{name}/V"][..., at])
                masked = U * kept[f"{name}/U"][..., at]
                if needed:
                    own.append((of_left * masked).sum(dim=1))
                _multiply(of_left.mul_(scale), U, parts[f"{name}/U"][..., at])
                del of_left
                of_right = (masked.mul_(scale).mT @ of_product).mT
                _multiply(of_right, V, parts[f"{name}/V"][..., at])
                del masked, of_right
            of_values.append(torch.cat(own, dim=1) if needed else None)
        return gradient, None, None, *of_values


def _spans(variables: Tensor, f: Factors) -> list[slice]:
    """Cut the singular vectors into parts, if memory counts more than time: variables are lean."""
    return [slice(None)] if variables.dtype == f.U.dtype else _parts(f)


def _parts(f: Factors) -> list[slice]:
    return [slice(k, k + COLUMNS) for k in range(0, f.S.shape[1], COLUMNS)]


def _multiply(left: Tensor, right: Tensor, into: Tensor) -> None:
    """Multiply in one launch, or where the result is in half precision in two."""
    if left.dtype == into.dtype:
        torch.mul(left, right, out=into)
    else:
        into.copy_(left.mul_(right))


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
        product: Tensor | None = None
        for at in _fixed_spans(f):
            left = (f.U[..., at] * keep_u[..., at]).mul_(S[:, None, at])
            right = (f.V[..., at] * keep_v[..., at]).mT
            product = left @ right if product is None else product.baddbmm_(left, right)
        assert product is not None, "no layer without singular vectors"
        return product.reshape(f.shape)

    @staticmethod
    def backward(ctx: Any, of_weight: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the singular values."""
        f, (keep_u, keep_v) = ctx.factors, ctx.kept
        of_product = of_weight.reshape(len(f.U), f.U.shape[1], f.V.shape[1])
        of_values = []
        for at in _fixed_spans(f):
            of_left = of_product @ (f.V[..., at] * keep_v[..., at])
            of_values.append(of_left.mul_(f.U[..., at]).mul_(keep_u[..., at]).sum(dim=1))
        return torch.cat(of_values, dim=1), None, None, None


def _fixed_spans(f: Factors) -> list[slice]:
    """Cut the singular vectors of large layers into parts."""
    return _parts(f) if f.U.numel() * f.V.shape[1] > LARGE * f.S.shape[1] else [slice(None)]


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
