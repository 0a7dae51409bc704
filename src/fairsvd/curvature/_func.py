"""Per-row gradients of any layer through ``torch.func``: slow, general, the reference."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.overrides import TorchFunctionMode

from ._checks import find_target
from ._precision import wide_logits

__all__ = ["gradients_by_row", "per_sample_gradients"]


def per_sample_gradients(
    module: nn.Module,
    names: Sequence[str],
    x: Tensor,
    cotangents: Tensor,
    to_logits: Callable[[Tensor], Tensor],
    autocast: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Differentiate (cotangent . logits) of each row with respect to the weights of some layers.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode; not changed.
    names : sequence of str
        Layers with a parameter ``weight``, or projections of attention layers (``attn.in_proj``).
    x : Tensor of shape (n, ...)
        Rows.
    cotangents : Tensor of shape (n, n_classes)
        Derivative of what is to be differentiated with respect to the logits of each row.
    to_logits : callable
        Maps the output of the module to logits (n, n_classes).
    autocast : torch.dtype or None, default=None
        Precision of the forward and backward passes; None for that of the module.

    Returns
    -------
    gradients : dict of str to Tensor of shape (n, *weight.shape)
    """
    weights = {name: find_target(module, name).parameter for name in names}
    found = gradients_by_row(module, [*weights.values()], x, cotangents, to_logits, autocast)
    return {name: found[weight] for name, weight in weights.items()}


def gradients_by_row(
    module: nn.Module,
    parameters: Sequence[str],
    x: Tensor,
    cotangents: Tensor,
    to_logits: Callable[[Tensor], Tensor],
    autocast: torch.dtype | None,
) -> dict[str, Tensor]:
    """Do the same by the names of parameters."""
    weights = {name: module.get_parameter(name).detach() for name in parameters}

    def weighted_logit(weights: dict[str, Tensor], row: Tensor, cotangent: Tensor) -> Tensor:
        forward = partial(functional_call, module, weights)
        logits = wide_logits(forward, row[None], to_logits, autocast)
        return torch.dot(logits[0], cotangent)

    with warnings.catch_warnings(), _NoFastPath():
        # What torch cannot run for many rows at once it runs row by row, and says so.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        return vmap(grad(weighted_logit), in_dims=(None, 0, 0))(weights, x, cotangents)


class _NoFastPath(TorchFunctionMode):
    """Keeps torch's transformer layers off their fast path, in this thread only.

    It has no derivatives and cannot be run for many rows at once.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a function as it is."""
        return func(*args, **(kwargs or {}))
