"""The precision of the forward and backward passes, and that of everything else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

__all__ = ["autocasting", "wide_logits", "widened_dtype"]


def autocasting(
    device: torch.device, dtype: torch.dtype | None
) -> AbstractContextManager[object, bool | None]:
    """Enter a lower precision, or with None leave any that the caller may have entered."""
    if dtype is None and not torch.is_autocast_enabled(device.type):
        return nullcontext()
    # Without the cache of cast weights: torch.func would find its own wrappers there later.
    return torch.autocast(device.type, dtype, enabled=dtype is not None, cache_enabled=False)


def widened_dtype(dtype: torch.dtype) -> torch.dtype:
    """Give the dtype of sums: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def wide_logits(
    forward: Callable[[Tensor], Tensor],
    x: Tensor,
    to_logits: Callable[[Tensor], Tensor],
    autocast: torch.dtype | None,
) -> Tensor:
    """Run a network in some precision and make its logits in at least float32."""
    with autocasting(x.device, autocast):
        output = forward(x)
    logits: Tensor = _widened(to_logits(_widened(output)))
    return logits


def _widened(output: Any) -> Any:
    # What is no tensor is for to_logits to take apart.
    return output.to(widened_dtype(output.dtype)) if isinstance(output, Tensor) else output
