"""The lowest of many values."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["lowest"]


def lowest(flat: Tensor, count: int) -> Tensor:
    """Mark the ``count`` lowest values; the first of equal ones, so that masks are nested.

    Selects instead of sorting, which would be the slowest step for a large network.
    """
    if count == 0:
        return torch.zeros_like(flat, dtype=torch.bool)
    last = flat.kthvalue(count).values
    marked = flat < last
    equal = torch.nonzero(flat == last).flatten()
    marked[equal[: count - int(marked.sum())]] = True
    return marked
