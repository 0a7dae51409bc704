"""Passes of a network with other entries of its state, in parts, in float16 with scaled gradients.

A float16 is 0 below 6e-8, as many gradients are. The usual loss scale is one number of a whole
training, found by trial; here each backward pass is scaled by its own largest gradient in the
logits, on the device and without waiting for it, so that equal steps give equal bits in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

__all__ = ["AUTOCAST", "in_parts", "run_pass", "with_state"]

# Types of the passes of an edit under the editor's ``precision``.
AUTOCAST = {"full": None, "mixed": torch.bfloat16, "mixed_float16": torch.float16}

# The largest gradient in the logits after scaling: 2^8 below the largest float16, since gradients
# may grow on their way, and 2^32 above the smallest.
LARGEST = 2.0**8

# Of the scale; below its inverse a float32 may vanish too.
MOST = 2.0**100


def run_pass(
    run: Callable[[Mapping[str, Tensor], torch.dtype | None], Tensor],
    module: nn.Module,
    state: Mapping[str, Tensor],
    dtype: torch.dtype | None,
    *,
    alone: bool,
) -> Tensor:
    """Run a pass of an edit in a precision, in float16 with scaled gradients.

    Parameters
    ----------
    run : callable
        Maps a state, and the type to run in, to logits in float32 or wider.
    module : nn.Module
    state : mapping of name to Tensor
        Entries of the module's state.
    dtype : torch.dtype or None
    alone : bool
        Whether all gradients come in by the logits, and none ends in the rows.

    Returns
    -------
    logits : Tensor
        In float16 their gradients are those without a scale; one that overflowed is 0. Where a
        gradient would pass by the scale on one side, the pass is in full precision.
    """
    if dtype != torch.float16 or not torch.is_grad_enabled():
        return run(state, dtype)
    kept = (p for name, p in module.named_parameters() if name not in state)
    if not alone or any(parameter.requires_grad for parameter in kept):
        return run(state, None)
    if not any(value.requires_grad for value in state.values()):
        return run(state, dtype)
    scale = torch.ones((), device=next(iter(state.values())).device)
    entries = {
        name: _Unscaled.apply(value, scale) if value.requires_grad else value
        for name, value in state.items()
    }
    logits: Tensor = _Scaled.apply(run(entries, dtype), scale)
    return logits


def in_parts(run: Callable[[Tensor], Tensor], X: Tensor, most: int | None) -> Tensor:
    """Run a pass over rows in parts whose activations are not kept, but computed again backward.

    Whatever the loss makes of the logits of all rows, its gradients are those of one pass over
    them, up to rounding.

    Parameters
    ----------
    run : callable
        Maps rows to logits (n, n_classes), each row by itself.
    X : Tensor of shape (n, ...)
    most : int or None
        Rows of a part; None: one pass.
    """
    if most is None or len(X) <= most or not torch.is_grad_enabled():
        return run(X)
    parts = X.tensor_split(-(-len(X) // most))
    return torch.cat([checkpoint(run, part, use_reentrant=False) for part in parts])


class _Around(nn.Module):
    """Wraps a call that runs the module, so that the call is one forward pass."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, call: Callable[[], Tensor]) -> Tensor:
        """Run the call."""
        return call()


def with_state(
    module: nn.Module, state: Mapping[str, Tensor], call: Callable[[], Tensor]
) -> Tensor:
    """Replace entries of the module's state once for all its runs within the call."""
    entries = {f"module.{name}": value for name, value in state.items()}
    logits: Tensor = functional_call(_Around(module), entries, (call,))
    return logits


class _Scaled(torch.autograd.Function):
    """Passes values on and gradients scaled; sets the scale, a power of two."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, scale: Tensor) -> Tensor:
        ctx.scale = scale
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        largest = gradients[0].abs().amax()
        ctx.scale.copy_(torch.exp2(torch.log2(LARGEST / largest).floor()).clamp_(1 / MOST, MOST))
        return gradients[0] * ctx.scale, None


class _Unscaled(torch.autograd.Function):
    """Passes values on and takes the scale out of gradients, which come later than it is set."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: Tensor) -> Tensor:
        ctx.scale = scale
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return (gradients[0] / ctx.scale).nan_to_num_(0.0, 0.0, 0.0), None
