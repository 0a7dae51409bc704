"""Scores by which entries of U and V are removed without learning, and their masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..layers import Factors
from ..masks import share_of

__all__ = ["curvature_scores", "lowest_masks", "magnitude_scores", "random_scores"]


def curvature_scores(
    values: Mapping[str, Tensor],
    protect: Mapping[str, Tensor],
    sacrifice: Mapping[str, Tensor],
    tradeoff: float,
) -> dict[str, Tensor]:
    """Predicted loss change when an entry is set to zero, for one side against the other.

    ``1/2 u^2 (h_protect - tradeoff * h_sacrifice)``: low where removal costs the protected rows
    little and the others much (the form of FairPrune, arXiv:2203.02110, on SVD factors).

    Parameters
    ----------
    values, protect, sacrifice : mapping of name to Tensor
        Entries, and the curvature of both sides' loss in them; same shapes.
    tradeoff : float
        At least 0.
    """
    return {
        name: 0.5 * u.square() * (protect[name] - tradeoff * sacrifice[name])
        for name, u in values.items()
    }


def magnitude_scores(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Absolute values: small entries go first."""
    return {name: u.abs() for name, u in values.items()}


def random_scores(values: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Uniform draws: the control."""
    return {
        name: torch.rand(u.shape, generator=generator).to(u.device) for name, u in values.items()
    }


def lowest_masks(
    scores: Mapping[str, Tensor],
    fraction: float,
    kept: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Remove the lowest scores of every layer, its U and V ranked together.

    Parameters
    ----------
    scores : mapping of "layer/U" and "layer/V" to Tensor
    fraction : float in [0, 1]
        Share of each layer's entries that is removed, rounded down.
    kept : mapping of name to boolean Tensor, optional
        Entries removed before (False) stay removed and count.

    Returns
    -------
    masks : dict of name to boolean Tensor
        True where an entry is kept.
    """
    layers = dict.fromkeys(name.rpartition("/")[0] for name in scores)
    masks: dict[str, Tensor] = {}
    for layer in layers:
        keys = [f"{layer}/U", f"{layer}/V"]
        flat = torch.cat([scores[key].flatten() for key in keys])
        if kept is not None:
            gone = torch.cat([~kept[key].flatten() for key in keys])
            flat = flat.masked_fill(gone, -torch.inf)
        mask = ~_lowest(flat, share_of(fraction, len(flat)))
        parts = torch.split(mask, [scores[key].numel() for key in keys])
        for key, part in zip(keys, parts, strict=True):
            masks[key] = part.reshape(scores[key].shape)
    return masks


def _lowest(flat: Tensor, count: int) -> Tensor:
    """Mark the ``count`` lowest values; of equal ones the first, so that masks are nested.

    A selection: sorting the entries of a large network takes longer than everything else.
    """
    if count == 0:
        return torch.zeros_like(flat, dtype=torch.bool)
    last = flat.kthvalue(count).values
    lowest = flat < last
    equal = torch.nonzero(flat == last).flatten()
    lowest[equal[: count - int(lowest.sum())]] = True
    return lowest


def entries(factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """Entries of U and V under the names that masks use."""
    return {f"{n}/{side}": getattr(f, side) for n, f in factors.items() for side in "UV"}
