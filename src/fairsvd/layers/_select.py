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
from ._factors import full_rank

__all__ = ["editable_layers", "resolve_ranks", "select_layers", "weight_name"]


def editable_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Find every linear and convolution layer that runs its own weight, by name, each once.

    Of several layers that share one weight the first stands for all. The projection inside an
    attention layer is left out: attention reads its weight without running it.
    """
    found = {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
        and not isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear)
    }
    first = {id(layer.weight): name for name, layer in reversed(found.items())}
    return {name: layer for name, layer in found.items() if first[id(layer.weight)] == name}


def weight_name(layer: str) -> str:
    """Name of a layer's weight; a network that is a single layer has the empty name."""
    return f"{layer}.weight".lstrip(".")


def select_layers(module: nn.Module, layers: Any, output_layer: str) -> list[str]:
    """Resolve the ``layers`` parameter to names, in the network's order.

    Parameters
    ----------
    module : nn.Module
    layers : {"hidden", "all"}, list of str or re.Pattern
        "hidden" leaves out the layer that makes the logits. A pattern is searched in the names.
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
        chosen = [name for name in names if layers == "all" or name != output_layer]
    else:
        chosen = _named(names, layers)
    if not chosen:
        raise NetworkError(
            f"layers={layers!r} leaves no Linear or Conv2d layer to edit; the network has "
            f"{names} and {output_layer!r} makes the logits. Use layers='all' to edit that too."
        )
    return chosen


def _named(names: list[str], wanted: Iterable[str]) -> list[str]:
    wanted = list(wanted)
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.0)
            raise NetworkError(
                f"layers names {name!r}, which is no Linear or Conv2d layer of the network; the "
                f"nearest names are {near}."
            )
    return [name for name in names if name in set(wanted)]


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
    full = {name: full_rank(module.get_submodule(name)) for name in names}
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
