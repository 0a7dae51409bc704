"""Scores that decide which entries to remove without learning, and the masks they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ._harden import share_of
from ._lowest import lowest

__all__ = ["curvature_scores", "lowest_masks", "magnitude_scores", "random_scores"]


def curvature_scores(
    values: Mapping[str, Tensor],
    protect: Mapping[str, Tensor],
    sacrifice: Mapping[str, Tensor],
    weight: float,
) -> dict[str, Tensor]:
    """Predict the loss change if an entry is set to zero, one side's against the other's.

    ``1/2 u^2 (h_protect - weight * h_sacrifice)`` is low where removal costs the protected rows
    little and the others much (the form of FairPrune, arXiv:2203.02110, on entries of any kind).

    Parameters
    ----------
    values, protect, sacrifice : mapping of name to Tensor
        The entries, and the curvature of each side's loss in them; same shapes.
    weight : float
        At least 0.
    """
    return {
        name: 0.5 * u.square() * (protect[name] - weight * sacrifice[name])
        for name, u in values.items()
    }


def magnitude_scores(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Score entries by their absolute values, so that small ones go first."""
    return {name: u.abs() for name, u in values.items()}


def random_scores(values: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Score entries by uniform draws, as a control."""
    return {
        name: torch.rand(u.shape, generator=generator).to(u.device) for name, u in values.items()
    }


def lowest_masks(
    scores: Mapping[str, Tensor],
    fraction: float,
    kept: Mapping[str, Tensor] | None = None,
    block_of: Callable[[str], str] = lambda name: name,
) -> dict[str, Tensor]:
    """Remove the entries of the lowest scores of every block; a block is ranked together.

    Parameters
    ----------
    scores : mapping of name to Tensor
    fraction : float in [0, 1]
        Share of each block's entries to remove, rounded down.
    kept : mapping of name to boolean Tensor, optional
        False marks entries removed before: they stay removed and count.
    block_of : callable, optional
        Maps a name to its block; by default every tensor is a block.

    Returns
    -------
    masks : dict of name to boolean Tensor
        True where an entry is kept.
    """
    blocks: dict[str, list[str]] = {}
    for name in scores:
        blocks.setdefault(block_of(name), []).append(name)
    masks: dict[str, Tensor] = {}
    for names in blocks.values():
        flat = torch.cat([scores[name].flatten() for name in names])
        if kept is not None:
            removed = torch.cat([~kept[name].flatten() for name in names])
            flat = flat.masked_fill(removed, -torch.inf)
        mask = ~lowest(flat, share_of(fraction, len(flat)))
        parts = torch.split(mask, [scores[name].numel() for name in names])
        for name, part in zip(names, parts, strict=True):
            masks[name] = part.reshape(scores[name].shape)
    return {name: masks[name] for name in scores}
