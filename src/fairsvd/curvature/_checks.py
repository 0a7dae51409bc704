"""What the curvature refuses, and how a layer's weight is read as c matrices."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from ._record import Use
from ._rows import Rows
from ._sums import Factors

__all__ = [
    "check_factors",
    "check_logits",
    "check_options",
    "check_seen",
    "find_layer",
    "find_weight",
    "unchanged_inputs",
    "weight_shape",
]


def check_options(
    n_groups: int, hessian: str, max_memory: int, autocast: torch.dtype | None
) -> None:
    """Refuse options outside their ranges."""
    if hessian not in ("fisher", "ggn"):
        raise ValueError(f"hessian must be 'fisher' or 'ggn', got {hessian!r}.")
    if n_groups < 1:
        raise ValueError(f"n_groups must be at least 1, got {n_groups}.")
    if max_memory < 1:
        raise ValueError(f"max_memory must be positive, got {max_memory}.")
    if autocast not in (None, torch.bfloat16, torch.float16):
        raise ValueError(
            f"autocast must be torch.bfloat16, torch.float16 or None, got {autocast!r}. None keeps "
            "the precision of the module."
        )


def find_layer(module: nn.Module, name: str) -> nn.Module:
    """Look a layer up, naming the nearest names where it does not exist."""
    layers = dict(module.named_modules(remove_duplicate=False))
    if name not in layers:
        near = get_close_matches(name, layers) or sorted(layers)[:5]
        raise ValueError(f"factors: the module has no layer {name!r}. Nearest names: {near}.")
    return layers[name]


def find_weight(name: str, layer: nn.Module, *, needs_parameter: bool) -> Tensor:
    """Give the weight of a layer if it can be read as matrices and differentiated."""
    weight = getattr(layer, "weight", None)
    wanted = nn.Parameter if needs_parameter else Tensor
    if isinstance(weight, wanted) and weight.is_floating_point() and weight.dim() >= 2:
        return weight
    raise ValueError(
        f"factors: layer {name!r} is a {type(layer).__name__} without a floating-point parameter "
        "'weight' of at least two dimensions. Supported are nn.Linear and nn.Conv2d, and through "
        "torch.func any layer with such a parameter. Leave this layer out."
    )


def weight_shape(layer: nn.Module, weight: Tensor) -> tuple[int, int, int]:
    """Read a weight as (c, m, n): c groups of a convolution (else 1), outputs, inputs of each."""
    c = int(getattr(layer, "groups", 1))
    m = weight.shape[0] // c
    return c, m, weight.numel() // (c * m)


def check_factors(
    name: str, factors: Sequence[Tensor], shape: tuple[int, int, int], like: Tensor
) -> Factors:
    """Bring the factors of a layer to the dtype and device of its sums and check their shapes."""
    # Contiguous: products with a slice of a larger matrix take up to a quarter longer.
    U, S, V = (each.detach().to(like).contiguous() for each in factors)
    c, m, n = shape
    rank = S.shape[-1]
    wanted = [(c, m, rank), (c, rank), (c, n, rank)]
    got = [tuple(each.shape) for each in (U, S, V)]
    if got != wanted:
        raise ValueError(
            f"factors[{name!r}]: U, S, V must have the shapes {wanted} (weight.reshape{shape}), "
            f"got {got}."
        )
    return Factors(U, S, V)


def check_logits(logits: Tensor, rows: Rows, *, labelled: bool) -> None:
    """Refuse logits that are not one row of at least two classes for every label."""
    if logits.dim() != 2 or len(logits) != len(rows) or logits.shape[1] < 2:
        raise ValueError(
            f"to_logits must return a tensor ({len(rows)}, n_classes) with two or more classes, "
            f"got shape {tuple(logits.shape)}. Map a single logit z to the columns (0, z)."
        )
    low, high = rows.classes
    if not labelled:
        return
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(
            f"batches: y must hold class codes in [0, {logits.shape[1]}), got codes from "
            f"{low} to {high}. Encode the labels or check the network's output width."
        )


def check_seen(missing: set[str], any_rows: bool) -> None:
    """Refuse layers whose forward pass never ran: their curvature would be zero by mistake."""
    if missing and any_rows:
        raise ValueError(
            f"factors: the layers {sorted(missing)} never ran while the module was evaluated (a "
            "parent may use their weights directly, as nn.MultiheadAttention does). Leave them out."
        )


def unchanged_inputs(name: str, uses: Sequence[Use], n_rows: int) -> list[Tensor]:
    """Give the recorded inputs if each still holds one entry a row and what the layer read."""
    for use in uses:
        if len(use.x) != n_rows or use.x.dim() < 2:
            raise ValueError(
                f"Layer {name!r} got an input of shape {tuple(use.x.shape)} for a batch of "
                f"{n_rows} rows. Its first dimension must be the rows; leave the layer out."
            )
        if use.x._version != use.version:
            raise ValueError(
                f"The input of layer {name!r} was changed in place after the layer had read it. "
                "Replace the in-place operation (such as x += y) that follows the layer."
            )
    return [use.x for use in uses]
