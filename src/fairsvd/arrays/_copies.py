"""Rows drawn as often as their weights say."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["draw_order", "repeat_rows"]


def repeat_rows(weights: Tensor, offset: float) -> Tensor:
    """Repeat each row as often as its weight says, rounded down or up; as many rows in all.

    Parameters
    ----------
    weights : Tensor of shape (n,), floating
        Above 0; only their ratios matter.
    offset : float in [0, 1)
        Where the roundings begin. If it is drawn evenly, a row occurs on average exactly as often
        as its weight, scaled to a mean of 1, says (systematic sampling).

    Returns
    -------
    positions : Tensor of shape (n,), int64
        Ascending.
    """
    n = len(weights)
    ends = weights.double().cumsum(dim=0)
    ends = ends * (n / ends[-1])
    ends[-1] = n  # whatever was rounded on the way
    copies = torch.diff((ends + offset).floor(), prepend=ends.new_zeros(1)).long()
    return torch.repeat_interleave(torch.arange(n), copies)


def draw_order(n: int, weights: Tensor | None, generator: torch.Generator | None) -> Tensor:
    """Draw the order of a pass over n rows: each once, or as often as its weight says."""
    order = torch.randperm(n, generator=generator)
    if weights is None:
        return order
    offset = float(torch.rand((), generator=generator, dtype=torch.float64))
    return repeat_rows(weights, offset)[order]
