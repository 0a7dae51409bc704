"""The edited network as a module or a skorch net of its own, the threshold folded in."""

from __future__ import annotations

import copy
from typing import Any

from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from torch import Tensor, nn

from ..networks import AdoptedNetwork, OutputKey, ShiftedNetwork, raw_output

__all__ = ["net_around"]


class Scores(nn.Module):
    """A network of which the tensor of scores alone is returned.

    Parameters
    ----------
    network : nn.Module
    key : str or int
        Where in what the network returns the scores are.
    """

    def __init__(self, network: nn.Module, key: OutputKey) -> None:
        super().__init__()
        self.network, self.key = network, key
        self.training = network.training

    def forward(self, X: Tensor) -> Tensor:
        """Map rows to scores (n, n_outputs)."""
        return raw_output(self.network, X, self.key)


def net_around(module: nn.Module, adopted: AdoptedNetwork, n_classes: int) -> Any:
    """Put a trained module into a skorch net that predicts with it and can train it further.

    Parameters
    ----------
    module : nn.Module
    adopted : AdoptedNetwork
        What it returns, and the net that it came from: whose settings, history and callbacks are
        kept. A new net, which takes tensors only, gets the scores alone.
    n_classes : int

    Returns
    -------
    net : skorch net, initialised
        ``predict`` gives class codes, as skorch does; ``partial_fit`` goes on with the weights.
    """
    template = adopted.net
    if template is None:
        whole = adopted.output_key is None or isinstance(module, ShiftedNetwork)
        module = module if whole else Scores(module, adopted.output_key)
        return _new_net(module, adopted.kind, n_classes)
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
