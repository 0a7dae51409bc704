"""The precision of the forward and backward passes, and of the sums."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

__all__ = ["autocasting", "sum_dtype", "wide_logits"]


def autocasting(
    device: torch.device, dtype: torch.dtype | None
) -> AbstractContextManager[object, bool | None]:
    """Enter a lower precision, or with None leave one that the caller has entered."""
    if dtype is None and not torch.is_autocast_enabled(device.type):
        return nullcontext()
    # Without the cache of cast weights, where torch.func would later find its own wrappers.
    return torch.autocast(device.type, dtype, enabled=dtype is not None, cache_enabled=False)


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def wide_logits(
    forward: Callable[[Tensor], Tensor],
    x: Tensor,
    to_logits: Callable[[Tensor], Tensor],
    autocast: torch.dtype | None,
) -> Tensor:
    """Run a network in some precision and compute its logits in at least float32."""
    with autocasting(x.device, autocast):
        output = forward(x)
    logits: Tensor = _widen(to_logits(_widen(output)))
    return logits


def _widen(output: Any) -> Any:
    # to_logits handles outputs that are not tensors.
    return output.to(sum_dtype(output.dtype)) if isinstance(output, Tensor) else output
