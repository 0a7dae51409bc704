"""Networks that look rows up in a table, which need integers."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNet
from torch import Tensor, nn

from .._rng import seeded_globally
from ..arrays import Batches
from ._copy import copied
from ._plain import first_parameter

__all__ = ["wants_integers"]

LOOKUPS = (nn.Embedding, nn.EmbeddingBag)


def wants_integers(network: Any, X: Batches) -> bool:
    """Tell whether a network takes integer rows as integers only, such as token ids.

    That is so if it has an Embedding, fails on two rows of floats, and does not on the same rows as
    integers (or fails since an integer is beyond its table). Networks that convert their input
    themselves get floats, as all others do.

    Parameters
    ----------
    network : None, skorch net, FrozenEstimator or nn.Module
        Not changed.
    X : Batches
        Rows of whole numbers.
    """
    module = _module_of(network)
    if module is None or not any(isinstance(layer, LOOKUPS) for layer in module.modules()):
        return False
    parameter = first_parameter(module)
    rows = X[:2]
    floats = rows.to(parameter.device, parameter.dtype)
    return _failure(module, floats) is not None and isinstance(
        _failure(module, rows.to(parameter.device, torch.int64)), (type(None), IndexError)
    )


def _module_of(network: Any) -> nn.Module | None:
    """Copy the module of a network in evaluation mode; None if it cannot be had."""
    network = network.estimator if isinstance(network, FrozenEstimator) else network
    try:
        if isinstance(network, nn.Module):
            return copied(network).eval()
        if not isinstance(network, NeuralNet):
            return None
        if getattr(network, "initialized_", False):
            return copied(network.module_).eval()
        with seeded_globally(0):
            return clone(network).initialize().module_.eval()
    except Exception:  # the adoption of the network says what is wrong with it
        return None


def _failure(module: nn.Module, rows: Tensor) -> Exception | None:
    try:
        with torch.no_grad(), seeded_globally(0):
            module(rows)
    except Exception as error:
        return error
    return None
