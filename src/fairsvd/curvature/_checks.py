"""Checks of the curvature's arguments, and the reading of a weight as c matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._messages import did_you_mean, listed
from ..networks import layer_weights
from ._kernels import Kernel, LinearKernel, make_kernel
from ._record import Use
from ._rows import Rows
from ._sums import Factors

__all__ = [
    "Target",
    "check_factors",
    "check_inputs",
    "check_logits",
    "check_options",
    "check_seen",
    "find_target",
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
            f"autocast must be torch.bfloat16, torch.float16 or None, got {autocast!r}. Use None "
            "for the precision of the module."
        )


@dataclass(frozen=True)
class Target:
    """A weight whose curvature is measured.

    Attributes
    ----------
    parameter : str
        Name of the weight in the module.
    value : Tensor
        The parameter; another tensor if the layer computes its weight in every pass.
    blocks : int
        Number of matrices in the weight.
    kernel : Kernel or None
        The computation of the layer or attention; None if only ``torch.func`` can differentiate it.
    layers : tuple of nn.Module
        The layers that run the weight like this.
    """

    parameter: str
    value: Tensor
    blocks: int
    kernel: Kernel | None
    layers: tuple[nn.Module, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (c, m, n) of the weight as matrices."""
        m = self.value.shape[0] // self.blocks
        return self.blocks, m, self.value.numel() // (self.blocks * m)


def find_target(module: nn.Module, name: str) -> Target:
    """Find a layer's weight; the error names the nearest layers."""
    listed = layer_weights(module).get(name)
    if listed is not None and name not in dict(module.named_modules()):
        # A projection inside an attention layer is a linear map for each block.
        c, m, n = listed.matrices().shape
        return Target(listed.parameter, listed.value, c, LinearKernel(m, n))
    layer = find_layer(module, name)
    kernel = make_kernel(layer)
    weight = _read_weight(name, layer, nn.Parameter if kernel is None else Tensor)
    blocks = int(getattr(layer, "groups", 1))
    if listed is None or kernel is None:
        parameter = f"{name}.weight".lstrip(".") if listed is None else listed.parameter
        return Target(parameter, weight, blocks, kernel, () if kernel is None else (layer,))
    sharing = (part for part in module.modules() if part._parameters.get("weight") is weight)
    layers = tuple(part for part in sharing if make_kernel(part) == kernel)
    return Target(listed.parameter, weight, blocks, kernel, layers)


def find_layer(module: nn.Module, name: str) -> nn.Module:
    """Find a layer; the error names the nearest ones."""
    layers = dict(module.named_modules(remove_duplicate=False))
    if name not in layers:
        names = [*layers, *layer_weights(module)]
        hint = (
            did_you_mean(name, names)
            or f" Its layers are [{listed(sorted(filter(None, names)), 5, repr)}]."
        )
        raise ValueError(f"factors: the module has no layer {name!r}.{hint}")
    return layers[name]


def _read_weight(name: str, layer: nn.Module, kind: type[Tensor]) -> Tensor:
    """Return the weight of a layer if it can be read as matrices and differentiated."""
    weight = getattr(layer, "weight", None)
    if isinstance(weight, kind) and weight.is_floating_point() and weight.dim() >= 2:
        return weight
    raise ValueError(
        f"factors: layer {name!r} is a {type(layer).__name__} without a floating-point parameter "
        "'weight' of at least two dimensions. nn.Linear, nn.Conv2d, the projections of "
        "nn.MultiheadAttention and any other layer with such a parameter are supported. Leave "
        "this layer out."
    )


def check_factors(
    name: str, factors: Sequence[Tensor], shape: tuple[int, int, int], like: Tensor
) -> Factors:
    """Convert the factors of a layer to the dtype and device of its sums and check their shapes."""
    # Contiguous, since products with a slice of a larger matrix take up to a quarter longer.
    U, S, V = (each.detach().to(like).contiguous() for each in factors)
    c, m, n = shape
    rank = S.shape[-1]
    expected = [(c, m, rank), (c, rank), (c, n, rank)]
    shapes = [tuple(each.shape) for each in (U, S, V)]
    if shapes != expected:
        raise ValueError(
            f"factors[{name!r}]: U, S, V must have the shapes {expected} (weight.reshape{shape}), "
            f"got {shapes}."
        )
    return Factors(U, S, V)


def check_logits(logits: Tensor, rows: Rows, *, labelled: bool) -> None:
    """Refuse logits unless there is one row of at least two classes for every label."""
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
    """Refuse layers that never ran, since their curvature would wrongly be zero."""
    if missing and any_rows:
        raise ValueError(
            f"factors: the layers [{listed(sorted(missing), show=repr)}] never ran while the "
            "module was evaluated. Leave them out."
        )


def check_inputs(name: str, uses: Sequence[Use], n_rows: int) -> list[Tensor]:
    """Return the recorded inputs if each has one entry per row and was not changed since."""
    for use in uses:
        if not use.keeps_rows(n_rows):
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
