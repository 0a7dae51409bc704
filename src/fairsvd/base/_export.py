"""Export of the edited network as a skorch net, with the threshold folded in."""

from __future__ import annotations

import copy
from typing import Any

import torch
from numpy.typing import NDArray
from skorch import NeuralNet, NeuralNetBinaryClassifier, NeuralNetClassifier
from torch import Tensor, nn

from ..networks import (
    PROBABILITIES,
    AdoptedNetwork,
    OutputKey,
    ShiftedNetwork,
    copied,
    first_parameter,
    raw_output,
)

__all__ = ["Scores", "net_around", "net_on"]


class Scores(nn.Module):
    """A network wrapped so that it takes rows of any precision and returns its scores alone.

    Parameters
    ----------
    network : nn.Module
    key : str, int or None
        Where the scores are in the network's output.
    """

    def __init__(self, network: nn.Module, key: OutputKey) -> None:
        super().__init__()
        self.network, self.key = network, key
        self.training = network.training

    def forward(self, X: Tensor | None = None, **inputs: Tensor) -> Tensor:
        """Map rows to scores (n, n_outputs), in the precision of rows that are no integers."""
        if X is None or not X.is_floating_point():
            return raw_output(self.network, inputs if X is None else X, self.key)
        dtype = first_parameter(self.network).dtype
        return raw_output(self.network, X.to(dtype), self.key).to(X.dtype)


def net_around(module: nn.Module, adopted: AdoptedNetwork, classes: NDArray[Any]) -> Any:
    """Put a trained module into a skorch net that predicts with it and can train it further.

    Parameters
    ----------
    module : nn.Module
    adopted : AdoptedNetwork
        Tells the form of the module's output and the net it came from, whose settings, history and
        callbacks are kept. Without such a net a new one is made; it takes tensors only and so gets
        the scores alone.
    classes : ndarray of shape (n_classes,)
        The class of each output.

    Returns
    -------
    net : skorch net, initialised
        ``predict`` returns class codes, as skorch does; ``partial_fit`` continues from these
        weights and from the current point of the learning rate's schedule.
    """
    template = adopted.net
    if template is None:
        returns_tensor = adopted.output_key is None or isinstance(module, ShiftedNetwork)
        # skorch does not convert rows, which mostly are in single precision.
        if not returns_tensor or first_parameter(module).dtype != torch.float32:
            module = Scores(module, None if returns_tensor else adopted.output_key)
        return _new_net(module, adopted.kind, len(classes))
    net = _copied(template, module)
    if isinstance(net, NeuralNetBinaryClassifier):
        net.threshold = 0.5  # the threshold is in the module
    elif isinstance(net, NeuralNetClassifier):
        _name_classes(net, classes, frozen=adopted.frozen)
    _forget_best(net)
    return _on_its_device(net, template)


def _on_its_device(net: NeuralNet, template: NeuralNet) -> NeuralNet:
    _follow_device(net)
    _renew_optimizer(net, template)
    return net


def _copied(template: NeuralNet, module: nn.Module) -> NeuralNet:
    """Copy a net around another module, without its own and without its optimizers.

    skorch's own copy would pickle the module, and replace the device None by the CPU.
    """
    memo: dict[int, Any] = {id(template.module_): module}
    if isinstance(template.module, nn.Module):
        # The next initialize() would start from this instance.
        memo[id(template.module)] = _loadable(module)
    memo |= {id(getattr(template, f"{name}_")): None for name in template._optimizers}
    net: NeuralNet = object.__new__(type(template))
    net.__dict__.update(copy.deepcopy(vars(template), memo))
    return net


def _loadable(module: nn.Module) -> nn.Module:
    """Return the module, or a copy on the CPU of one that lies on a GPU.

    skorch maps what a net has trained to the devices of the machine that loads it, but not the
    instance that it was given; it moves that one to its device in initialize().
    """
    on_cpu = first_parameter(module).device.type == "cpu"
    return module if on_cpu else copied(module).cpu()


def net_on(module: nn.Module, net: NeuralNet) -> NeuralNet:
    """Copy a net around its module that was moved; the optimizers forget their steps."""
    return _on_its_device(_copied(net, module), net)


def _name_classes(net: NeuralNetClassifier, classes: NDArray[Any], *, frozen: bool) -> None:
    if net.classes is not None and not frozen:
        # The net was trained here on codes, in our order and not in that of the user's list.
        net.classes = classes.tolist()
    elif not hasattr(net, "classes_"):
        net.classes = list(range(len(classes)))  # parameters from a file have no classes


def _follow_device(net: NeuralNet) -> None:
    """Make the net send its batches to the device that the edit moved the module to."""
    device = next(net.module_.parameters()).device
    if net.device is not None and torch.device(net.device) != device:
        net.device = str(device)
        net.criterion_ = net.criterion_.to(device)


def _forget_best(net: NeuralNet) -> None:
    """Forget the best epoch so far, which belongs to the unedited network.

    Otherwise its checkpoint would be restored after a training that does not beat it.
    """
    for epoch in net.history:
        epoch.update({key: False for key in epoch if str(key).endswith("_best")})
    for _, callback in net.callbacks_:
        callback.initialize()


def _renew_optimizer(net: NeuralNet, template: NeuralNet) -> None:
    """Make optimizers for the new weights, with the settings that schedules have reached."""
    groups = {name: getattr(template, f"{name}_").param_groups for name in net._optimizers}
    net.initialize_optimizer()
    for name, before in groups.items():
        # A wrapped network has other parameter names, so an extra group may hold unmatched ones.
        for new, old in zip(getattr(net, f"{name}_").param_groups, before, strict=False):
            new.update({key: value for key, value in old.items() if key != "params"})


def _new_net(module: nn.Module, kind: str, n_classes: int) -> Any:
    if kind == "sigmoids" and not isinstance(module, ShiftedNetwork):
        module = ShiftedNetwork(module, kind, 0.0)  # its columns add up to 1
    device = str(next(module.parameters()).device)
    shared = {"train_split": None, "verbose": 0, "device": device}
    if kind == "one_logit":
        net = NeuralNetBinaryClassifier(module, **shared)
    elif kind == "one_probability":
        net = NeuralNetBinaryClassifier(module, criterion=nn.BCELoss, **shared)
    else:
        criterion = nn.NLLLoss if kind in PROBABILITIES else nn.CrossEntropyLoss
        classes = list(range(n_classes))
        net = NeuralNetClassifier(module, criterion=criterion, classes=classes, **shared)
    net.initialize()
    net.module = _loadable(module)
    return net
