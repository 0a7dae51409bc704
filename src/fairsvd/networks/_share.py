"""Weights that a copy of a network shares with the network, as long as nothing changes them."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.frozen import FrozenEstimator
from torch import nn

__all__ = ["own_weights", "share_weights"]


def share_weights(module: nn.Module, network: Any) -> None:
    """Let a copy of the user's network refer to the same weights, which halves its memory.

    An edit reads the weights of the module that it is given and never changes them. The copy has
    run before; a weight that this changed, because the network changes its own weights, is not
    shared. Buffers are not shared either.

    Parameters
    ----------
    module : nn.Module
        The copy; gradients that came with it are dropped.
    network : object
        What the user passed: a module, a frozen module or a frozen skorch net. Nothing is shared
        with any other.
    """
    module.zero_grad(set_to_none=True)
    inner = network.estimator if isinstance(network, FrozenEstimator) else network
    source = inner if isinstance(inner, nn.Module) else getattr(inner, "module_", None)
    if source is not module and (source is inner or isinstance(network, FrozenEstimator)):
        _share(module, source)


def _share(module: nn.Module, source: Any) -> None:
    if not isinstance(source, nn.Module):
        return
    theirs = dict(source.named_parameters())
    for name, parameter in module.named_parameters():
        other = theirs.get(name)
        if other is not None and _alike(parameter, other):
            parameter.data = other.data


def _alike(mine: nn.Parameter, other: nn.Parameter) -> bool:
    kinds = [(type(p), p.dtype, p.device, p.layout, p.shape) for p in (mine, other)]
    if kinds[0] != kinds[1] or mine.stride() != other.stride() or other.is_inference():
        return False
    return torch.equal(mine, other)


def own_weights(module: nn.Module) -> None:
    """Give a module its own copy of every weight, one after the other, and no gradients."""
    module.zero_grad(set_to_none=True)
    for parameter in module.parameters():
        parameter.data = parameter.data.clone()
