"""Which layers are edited, and at which rank."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable
from numbers import Integral
from typing import Any

from torch import nn

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
    """Find the weight of every linear, convolution and attention layer, by name, each once.

    Of several layers that share one weight the first stands for all. Names are those of
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
        A layer has no weight of its own.
    """
    known = layer_weights(module)
    found = {}
    for name in names:
        if name not in known:
            raise NetworkError(
                f"the layer {name!r} has no weight that could be edited: it is computed from "
                "other tensors, as by a weight normalisation. Take that off "
                "(torch.nn.utils.parametrize.remove_parametrizations) and pass the network again."
            )
        found[name] = known[name]
    return found


def first_name(module: nn.Module, layer: str) -> str:
    """Name the layer that stands for all that share a layer's weight."""
    parameter = chosen_weights(module, [layer])[layer].parameter
    return next(n for n, w in editable_layers(module).items() if w.parameter == parameter)


def layer_parameters(module: nn.Module, layer: str) -> dict[str, nn.Parameter]:
    """Find a layer's parameters by their names in the network; of several names the first."""
    own = {id(parameter) for parameter in module.get_submodule(layer).parameters()}
    return {name: each for name, each in module.named_parameters() if id(each) in own}


def select_layers(module: nn.Module, layers: Any, output_layer: str) -> list[str]:
    """Resolve the ``layers`` parameter to names, in the network's order.

    Parameters
    ----------
    module : nn.Module
    layers : {"hidden", "all"}, list of str or re.Pattern
        "hidden" leaves out the layer that makes the logits, and any that shares its weight. A
        pattern is searched in the names.
    output_layer : str
        Name of the layer that makes the logits.

    Raises
    ------
    NetworkError
        A name does not exist, or nothing is left to edit.
    """
    names = list(editable_layers(module))
    if isinstance(layers, re.Pattern):
        chosen = [name for name in names if layers.search(name)]
    elif isinstance(layers, str):
        known = layer_weights(module)
        last = known.get(output_layer)
        spared = "" if layers == "all" or last is None else last.parameter
        chosen = [name for name in names if known[name].parameter != spared]
    else:
        chosen = _named(module, names, layers)
    if not chosen:
        raise NetworkError(
            f"layers={layers!r} leaves no Linear or Conv2d layer to edit; the network has "
            f"{names} and {output_layer!r} makes the logits. Use layers='all' to edit that too."
        )
    return chosen


def _named(module: nn.Module, names: list[str], wanted: Iterable[str]) -> list[str]:
    known, chosen = layer_weights(module), set()
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.0)
            raise NetworkError(
                f"layers names {name!r}, which is no Linear or Conv2d layer and no projection of "
                f"an attention layer of the network; the nearest names are {near}."
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
        A float is a fraction of a layer's full rank, at least 1; an int is absolute, capped by
        the layer's full rank; None is the full rank.

    Raises
    ------
    ValueError
        An int is above every layer's full rank.
    """
    full = {name: full_rank(weight) for name, weight in chosen_weights(module, names).items()}
    if rank is None:
        return full
    if not isinstance(rank, Integral):  # numpy's float32 is no float
        return {name: max(1, round(rank * r)) for name, r in full.items()}
    if rank > max(full.values()):
        raise ValueError(
            f"rank={rank} is above the full rank of every layer ({full}). Use an int up to "
            f"{max(full.values())}, a float in (0, 1] for a fraction, or None for full rank."
        )
    if rank == 1:
        warnings.warn(
            "rank=1 (an int) keeps one singular direction; for the full rank use 1.0 or None.",
            RankWarning,
            stacklevel=2,
        )
    return {name: min(int(rank), r) for name, r in full.items()}
