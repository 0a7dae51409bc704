"""Masks from learned variables, and what they remove."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ._lowest import lowest

__all__ = ["harden", "removed_fraction", "share_of"]


def share_of(fraction: float, total: int) -> int:
    """Return how many of ``total`` entries a share is, rounded down.

    0.29 of 100 is 29, although the product of the floats is slightly smaller.
    """
    return min(total, math.floor(fraction * total + 1e-6))


def harden(variables: Mapping[str, Tensor], max_removed: float | None = None) -> dict[str, Tensor]:
    """Turn variables into boolean masks, True where an entry is kept.

    Parameters
    ----------
    variables : mapping of name to Tensor
    max_removed : float in [0, 1], optional
        Cap on the share of removed entries over all tensors together; the lowest variables are
        removed first. None: no cap.

    Returns
    -------
    masks : dict of name to boolean Tensor
    """
    kept = {name: variable.detach() > 0 for name, variable in variables.items()}
    if max_removed is None:
        return kept
    allowed = share_of(max_removed, sum(mask.numel() for mask in kept.values()))
    if count_removed(kept) <= allowed:
        return kept
    # Only what would be removed competes, so that little is ordered and copied.
    values = [variable.detach()[~kept[name]] for name, variable in variables.items()]
    still = ~lowest(torch.cat(values), allowed)
    parts = still.split([len(each) for each in values])
    for mask, part in zip(kept.values(), parts, strict=True):
        mask[~mask] = part
    return kept


def count_removed(masks: Mapping[str, Tensor]) -> int:
    """Count the entries that are removed, over all masks together; a device is waited for once."""
    if not masks:
        return 0
    kept = torch.stack([mask.count_nonzero() for mask in masks.values()]).sum()
    return sum(mask.numel() for mask in masks.values()) - int(kept)


def removed_fraction(masks: Mapping[str, Tensor]) -> float:
    """Compute the share of entries removed over all masks together, in [0, 1]."""
    total = sum(mask.numel() for mask in masks.values())
    return count_removed(masks) / total if total else 0.0
