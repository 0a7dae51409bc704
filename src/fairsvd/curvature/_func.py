"""Per-row gradients of any layer through ``torch.func``: slow, general, the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ._precision import wide_logits

__all__ = ["per_sample_gradients"]


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
        Layers with a parameter ``weight``.
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
    weights = {f"{name}.weight": module.get_parameter(f"{name}.weight").detach() for name in names}

    def weighted_logit(weights: dict[str, Tensor], row: Tensor, cotangent: Tensor) -> Tensor:
        forward = partial(functional_call, module, weights)
        logits = wide_logits(forward, row[None], to_logits, autocast)
        return torch.dot(logits[0], cotangent)

    gradients = vmap(grad(weighted_logit), in_dims=(None, 0, 0))(weights, x, cotangents)
    return {name: gradients[f"{name}.weight"] for name in names}
