"""The edited network as a module or a skorch net of its own, the threshold folded in."""

from __future__ import annotations

import copy
from typing import Any

from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from torch import nn

__all__ = ["net_around"]


def net_around(module: nn.Module, kind: str, template: Any, n_classes: int) -> Any:
    """Put a trained module into a skorch net that predicts with it and can train it further.

    Parameters
    ----------
    module : nn.Module
    kind : str
        What it returns.
    template : skorch net or None
        The net that the module came from: its settings, history and callbacks are kept.
    n_classes : int

    Returns
    -------
    net : skorch net, initialised
        ``predict`` gives class codes, as skorch does; ``partial_fit`` goes on with the weights.
    """
    if template is None:
        return _new_net(module, kind, n_classes)
    net = copy.deepcopy(template)
    net.module_ = module
    if isinstance(net.module, nn.Module):
        # An instance is what the next initialize() would start from.
        net.module = module
    if isinstance(net, NeuralNetBinaryClassifier):
        net.threshold = 0.5  # the threshold is in the module
    net.initialize_optimizer()
    return net


def _new_net(module: nn.Module, kind: str, n_classes: int) -> Any:
    device = str(next(module.parameters()).device)
    shared = {"train_split": None, "verbose": 0, "device": device}
    if kind == "one_logit":
        return NeuralNetBinaryClassifier(module, **shared).initialize()
    if kind == "one_probability":
        net = NeuralNetBinaryClassifier(module, criterion=nn.BCELoss, **shared)
        return net.initialize()
    criterion = nn.NLLLoss if kind == "probabilities" else nn.CrossEntropyLoss
    classes = list(range(n_classes))
    return NeuralNetClassifier(module, criterion=criterion, classes=classes, **shared).initialize()
