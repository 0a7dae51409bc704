"""Per-row gradients of any layer through ``torch.func``: general but slow."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.overrides import TorchFunctionMode

from ._precision import wide_logits

__all__ = ["gradients_by_row"]


def gradients_by_row(
    module: nn.Module,
    parameters: Sequence[str],
    x: Tensor,
    cotangents: Tensor,
    to_logits: Callable[[Tensor], Tensor],
    autocast: torch.dtype | None,
) -> dict[str, Tensor]:
    """Differentiate (cotangent . logits) of each row with respect to some parameters.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode; not changed.
    parameters : sequence of str
        Names of the parameters.
    x : Tensor of shape (n, ...)
        Rows.
    cotangents : Tensor of shape (n, n_classes)
        Derivative of each row's loss in its logits.
    to_logits : callable
        Maps the output of the module to logits (n, n_classes).
    autocast : torch.dtype or None
        Precision of the forward and backward passes; None for that of the module.

    Returns
    -------
    gradients : dict of str to Tensor of shape (n, *parameter.shape)
    """
    weights = {name: module.get_parameter(name).detach() for name in parameters}

    def weighted_logit(weights: dict[str, Tensor], row: Tensor, cotangent: Tensor) -> Tensor:
        forward = partial(functional_call, module, weights)
        logits = wide_logits(forward, row[None], to_logits, autocast)
        return torch.dot(logits[0], cotangent)

    with warnings.catch_warnings(), _NoFastPath():
        # torch warns about operations that it can only run row by row.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        return vmap(grad(weighted_logit), in_dims=(None, 0, 0))(weights, x, cotangents)


class _NoFastPath(TorchFunctionMode):
    """Keeps torch's transformer layers off their fast path, in this thread only.

    The fast path has no derivatives and does not run under vmap.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a function unchanged."""
        return func(*args, **(kwargs or {}))
