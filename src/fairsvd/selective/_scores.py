"""Scores of how parameters react to bias, and to the shift from real to synthetic rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral

import torch
from torch import Tensor, nn

from ..arrays import LabelledRows, to_device
from ..base import EditData
from ..masks import share_of
from ..objective import shift_logits

__all__ = [
    "Gradients",
    "compute_mean_gradients",
    "count_needed",
    "count_of",
    "pool",
    "random_order",
    "select_items",
    "trainable",
]

Gradients = dict[str, Tensor]


def trainable(module: nn.Module) -> list[str]:
    """Name the floating-point parameters, in the module's order."""
    return [name for name, value in module.named_parameters() if value.is_floating_point()]


def compute_mean_gradients(
    module: nn.Module, data: EditData, rows: LabelledRows, weights: Sequence[Tensor]
) -> list[Gradients]:
    """Sum the gradients of every row's cross-entropy, weighted in one way or in several.

    The cross-entropy is taken at the operating threshold, in evaluation mode, at the untouched
    network. Memory holds one gradient per weighting and one batch.

    Parameters
    ----------
    module : nn.Module
    data : EditData
        Holds the device, the precision, the threshold and ``batch_size``.
    rows : LabelledRows
    weights : sequence of Tensor of shape (n_rows,)
        A weighting whose weights add up to 1 gives a mean.

    Returns
    -------
    gradients : list of dict of parameter name to Tensor
        One for each weighting.
    """
    current = dict(module.named_parameters())
    names = trainable(module)
    leaves = {name: current[name].detach().clone().requires_grad_() for name in names}
    sums = [{name: torch.zeros_like(current[name]) for name in names} for _ in weights]
    start = 0
    for X, y, _ in rows.batches(data.batch_size, data.device):
        logits = shift_logits(
            data.forward(module, leaves, to_device(X, data.device, data.dtype)), data.margin
        )
        losses = nn.functional.cross_entropy(logits, y, reduction="none")
        for number, (total, weight) in enumerate(zip(sums, weights, strict=True)):
            gradients = torch.autograd.grad(
                losses,
                list(leaves.values()),
                weight[start : start + len(y)].to(losses),
                retain_graph=number + 1 < len(sums),
                allow_unused=True,
            )
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    total[name] += gradient
        start += len(y)
    return sums


def pool(values: Tensor, granularity: str) -> Tensor:
    """Average the values of each item, keeping the number of dimensions.

    A unit is an entry of the first dimension: an output's incoming weights, or one entry of a
    bias or of a normalisation.
    """
    if granularity == "element" or (granularity == "unit" and values.ndim < 2):
        return values
    dims = tuple(range(1 if granularity == "unit" else 0, values.ndim))
    return values.mean(dim=dims, keepdim=True) if dims else values


def _ranks(flat: Tensor) -> Tensor:
    """Rank every value in ascending order; equal ones keep their order."""
    places = torch.empty(len(flat), dtype=torch.int64, device=flat.device)
    places[torch.argsort(flat, stable=True)] = torch.arange(len(flat), device=flat.device)
    return places


def count_needed(domain: Mapping[str, Tensor], bias: Mapping[str, Tensor]) -> Tensor:
    """Compute for every item the smallest k for which it is in both sets.

    The two sets are the k items of smallest ``domain`` and the k of largest ``bias``.

    Parameters
    ----------
    domain, bias : mapping of name to Tensor
        Scores of items, in the same order.

    Returns
    -------
    needed : Tensor of shape (n_items,), int64
        At least 1.
    """
    flat = [torch.cat([value.flatten() for value in part.values()]) for part in (domain, bias)]
    return torch.maximum(_ranks(flat[0]), _ranks(-flat[1])) + 1


def random_order(n_items: int, generator: torch.Generator) -> Tensor:
    """Put items into a random order: a control."""
    return torch.randperm(n_items, generator=generator) + 1


def count_of(top_k: int | float, n_items: int, granularity: str) -> int:
    """Turn ``top_k`` into a number of items.

    Raises
    ------
    ValueError
        It is an integer above the number of items.
    """
    if not isinstance(top_k, Integral):
        return max(1, share_of(float(top_k), n_items))
    if top_k > n_items:
        raise ValueError(
            f"top_k={top_k}, but at granularity={granularity!r} the network has {n_items} items to "
            "choose from: pass at most as many, or a share in (0, 1]."
        )
    return int(top_k)


def select_items(
    needed: Tensor, count: int, shapes: Mapping[str, torch.Size], values: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Mark the items whose ``needed`` is at most ``count``; if there are none, the smallest.

    Parameters
    ----------
    needed : Tensor of shape (n_items,)
    count : int
    shapes : mapping of name to torch.Size
        Shapes of the pooled values.
    values : mapping of name to Tensor
        The parameters that the masks are for.

    Returns
    -------
    masks : dict of name to boolean Tensor
        Of the parameters' shapes; True where a parameter may change.
    """
    flat = needed <= max(count, int(needed.min()))
    parts = torch.split(flat, [shape.numel() for shape in shapes.values()])
    return {
        name: part.reshape(shape).expand_as(values[name])
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }
