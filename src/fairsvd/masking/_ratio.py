"""Masks of the weights to tune, made from importances."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..masks import lowest_masks

__all__ = ["bias_ratio", "make_hard_masks", "make_soft_masks", "normalise", "reset_mask", "shuffle"]

# Added to the denominator, as in both papers' code.
TINY = 1e-10


def normalise(values: Tensor) -> Tensor:
    """Map a tensor to [0, 1] by its smallest and largest value; a constant one is unchanged.

    Both papers normalise within each parameter tensor; in BMFT's code a constant one is 0/0.
    """
    low, high = values.aminmax()
    return values if low == high else (values - low) / (high - low)


def pool(values: Tensor, granularity: str) -> Tensor:
    """Average an importance over what has one mask value, keeping the number of dimensions."""
    if granularity == "weight":
        return values
    start = 1 if granularity == "unit" else 0
    return values.mean(dim=tuple(range(start, values.ndim)), keepdim=True)


def bias_ratio(
    bias: Mapping[str, Tensor],
    prediction: Mapping[str, Tensor],
    granularity: str,
    *,
    bias_only: bool = False,
) -> dict[str, Tensor]:
    """Divide the importance for the bias by the importance for the prediction.

    Parameters
    ----------
    bias, prediction : mapping of name to Tensor
        Of the weights' shapes, at least 0.
    granularity : {"weight", "unit", "layer"}
    bias_only : bool, default=False
        Leave out the importance for the prediction: a control.

    Returns
    -------
    ratio : dict of name to Tensor
        Of the weight's shape for "weight", one number for each output for "unit", one for "layer",
        with dimensions of size 1 in place of the others.
    """
    ratios = {}
    for name, values in bias.items():
        top, bottom = pool(values, granularity), pool(prediction[name], granularity)
        if granularity != "layer":
            # A layer has a single number, which cannot be normalised.
            top, bottom = normalise(top), normalise(bottom)
        ratios[name] = top if bias_only else top / (bottom + TINY)
    return ratios


def make_hard_masks(ratio: Mapping[str, Tensor], keep: float) -> dict[str, Tensor]:
    """Mark the largest ratios over all tensors together, at least one of them.

    The choice is by rank: if the prediction does not depend on a weight, its ratio is about 1e10,
    which would shift any threshold that is computed from the values.
    """
    total = sum(values.numel() for values in ratio.values())
    share = min(1.0, max(keep, 1 / total))
    negative = {name: -values for name, values in ratio.items()}
    kept = lowest_masks(negative, share, block_of=lambda name: "")
    return {name: ~mask for name, mask in kept.items()}


def make_soft_masks(ratio: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Squash ratios into [0, 1] by the hyperbolic tangent."""
    return {name: torch.tanh(values) for name, values in ratio.items()}


def shuffle(values: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Shuffle the values within each tensor.

    If every tensor is one number, that of a layer, the layers swap their numbers.
    """
    if all(value.numel() == 1 for value in values.values()):
        places = torch.randperm(len(values), generator=generator).tolist()
        swapped = [list(values.values())[place] for place in places]
        return {name: v.reshape_as(values[name]) for name, v in zip(values, swapped, strict=True)}
    shuffled = {}
    for name, value in values.items():
        order = torch.randperm(value.numel(), generator=generator).to(value.device)
        shuffled[name] = value.flatten()[order].reshape(value.shape)
    return shuffled


def reset_mask(ratio: Tensor) -> Tensor:
    """Mark entries of the output layer that drive the bias more than its average entry does.

    This is SWiFT's partial reset: the soft mask is compared with its mean, so a single number is
    kept.
    """
    soft = torch.tanh(ratio)
    return soft > soft.mean()
