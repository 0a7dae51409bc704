"""Select the layers to edit, and their ranks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from numbers import Integral
from typing import Any

from torch import nn

from .._messages import did_you_mean, listed
from .._warn import warn
from ..exceptions import NetworkError, RankWarning
from ..networks import LayerWeight, layer_weights
from ._factors import full_rank

__all__ = [
    "chosen_weights",
    "editable_layers",
    "first_name",
    "layer_parameters",
    "resolve_ranks",
    "select_layers",
]


def editable_layers(module: nn.Module) -> dict[str, LayerWeight]:
    """Find the distinct weights of all linear, convolution and attention layers, by name.

    Of several layers that share one weight only the first is listed. Names are those of
    :func:`fairsvd.networks.layer_weights`.
    """
    first: dict[str, str] = {}
    weights = layer_weights(module)
    for name, weight in weights.items():
        first.setdefault(weight.parameter, name)
    return {name: weight for name, weight in weights.items() if first[weight.parameter] == name}


def chosen_weights(module: nn.Module, names: Iterable[str]) -> dict[str, LayerWeight]:
    """Look up the weights of some layers.

    Raises
    ------
    NetworkError
        If a layer has no weight of its own.
    """
    weights = layer_weights(module)
    chosen = {}
    for name in names:
        if name not in weights:
            raise NetworkError(
                f"the layer {name!r} has no weight to edit: it is computed from other tensors, for "
                "example by a weight normalisation. Remove that "
                "(torch.nn.utils.parametrize.remove_parametrizations) and pass the network again."
            )
        chosen[name] = weights[name]
    return chosen


def first_name(module: nn.Module, layer: str) -> str:
    """Return the name of the first layer that shares a layer's weight."""
    parameter = chosen_weights(module, [layer])[layer].parameter
    return next(n for n, w in editable_layers(module).items() if w.parameter == parameter)


def layer_parameters(module: nn.Module, layer: str) -> dict[str, nn.Parameter]:
    """Find a layer's parameters by their (first) names in the network."""
    ids = {id(parameter) for parameter in module.get_submodule(layer).parameters()}
    return {name: each for name, each in module.named_parameters() if id(each) in ids}


def select_layers(module: nn.Module, layers: Any, output_layer: str) -> list[str]:
    """Resolve the ``layers`` parameter to names, in the network's order.

    Parameters
    ----------
    module : nn.Module
    layers : {"hidden", "all"}, list of str or re.Pattern
        "hidden" omits the layer that makes the logits and any that shares its weight. A pattern
        is searched in the names.
    output_layer : str
        Name of the layer that makes the logits.

    Raises
    ------
    NetworkError
        If a name does not exist, or no layer is selected.
    """
    names = list(editable_layers(module))
    if isinstance(layers, re.Pattern):
        chosen = [name for name in names if layers.search(name)]
    elif isinstance(layers, str):
        weights = layer_weights(module)
        last = weights.get(output_layer)
        omitted = "" if layers == "all" or last is None else last.parameter
        chosen = [name for name in names if weights[name].parameter != omitted]
    else:
        chosen = _select_by_name(module, names, layers)
    if not chosen:
        raise NetworkError(
            f"layers={layers!r} leaves no Linear or Conv2d layer to edit; the network has "
            f"[{listed(names, show=repr)}] and {output_layer!r} makes the logits. Use "
            "layers='all' to edit that too."
        )
    return chosen


def _select_by_name(module: nn.Module, names: list[str], layers: Iterable[str]) -> list[str]:
    weights, chosen = layer_weights(module), set()
    for name in layers:
        if name not in weights:
            raise NetworkError(
                f"layers names {name!r}, which is no Linear or Conv2d layer and no projection of "
                "an attention layer of the network: it has "
                f"[{listed(names, show=repr)}].{did_you_mean(name, names)}"
            )
        chosen.add(first_name(module, name))
    return [name for name in names if name in chosen]


def resolve_ranks(module: nn.Module, names: list[str], rank: float | None) -> dict[str, int]:
    """Resolve the ``rank`` parameter to one rank for each layer.

    Parameters
    ----------
    module : nn.Module
    names : list of str
    rank : int, float in (0, 1] or None
        A float is a fraction of a layer's full rank, and gives at least 1; an int is absolute,
        capped at the layer's full rank; None is the full rank.

    Raises
    ------
    ValueError
        If an int is above every layer's full rank.
    """
    full = {name: full_rank(weight) for name, weight in chosen_weights(module, names).items()}
    if rank is None:
        return full
    if not isinstance(rank, Integral):  # numpy's float32 is not a float
        return {name: max(1, round(rank * r)) for name, r in full.items()}
    if rank > max(full.values()):
        raise ValueError(
            f"rank={rank} is above the full rank of every layer ({full}). Use an int up to "
            f"{max(full.values())}, a float in (0, 1] for a fraction, or None for full rank."
        )
    if rank == 1:
        warn(
            "rank=1 (an int) keeps one singular direction; for the full rank use 1.0 or None.",
            RankWarning,
        )
    return {name: min(int(rank), r) for name, r in full.items()}
