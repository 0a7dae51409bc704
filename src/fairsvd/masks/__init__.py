"""Masks on named tensors: learned straight through, or set by scores."""

from __future__ import annotations

from ._scores import curvature_scores, lowest_masks, magnitude_scores, random_scores
from ._straight_through import (
    START,
    clamp_masks,
    harden,
    mask_variables,
    removed_fraction,
    share_of,
    straight_through,
)

__all__ = [
    "START",
    "clamp_masks",
    "curvature_scores",
    "harden",
    "lowest_masks",
    "magnitude_scores",
    "mask_variables",
    "random_scores",
    "removed_fraction",
    "share_of",
    "straight_through",
]
