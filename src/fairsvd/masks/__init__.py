"""Masks on named tensors: learned straight through, or set by scores."""

from __future__ import annotations

from ._harden import harden, removed_fraction, share_of
from ._packed import PackedMasks, packed
from ._scores import curvature_scores, lowest_masks, magnitude_scores, random_scores
from ._variables import START, MaskBlock, MaskVariables, mask_variables

__all__ = [
    "START",
    "MaskBlock",
    "MaskVariables",
    "PackedMasks",
    "curvature_scores",
    "harden",
    "lowest_masks",
    "magnitude_scores",
    "mask_variables",
    "packed",
    "random_scores",
    "removed_fraction",
    "share_of",
]
