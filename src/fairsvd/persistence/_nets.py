"""skorch nets: their parameters, their network and their history."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from skorch import NeuralNet
from skorch.exceptions import DeviceWarning
from skorch.history import History
from torch import nn

from .._rng import seeded_globally
from ..networks import is_usable
from ._kind import LEFT_OUT, Kind, Node, Reader, Writer
from ._names import path_of

__all__ = ["NETS"]

# What a training leaves in a net beside its modules and its history.
FITTED = ("classes_inferred_",)


def _write_net(value: NeuralNet, writer: Writer) -> dict[str, Node]:
    """Write a net; what is written first is read first."""
    params = value.get_params(deep=False)
    module = params.pop("module")
    node: dict[str, Node] = {"path": path_of(type(value))}
    if value.initialized_:
        node["module_"] = writer.node(value.module_, ".module_")
    node["params"] = writer.pairs(params)
    node["module"] = writer.or_reason(module, ".module")
    if value.initialized_:
        fitted = {name: vars(value)[name] for name in FITTED if name in vars(value)}
        node["history"] = writer.node(_plain(list(value.history)), ".history")
        node["rates"] = writer.node(_rates(value), ".optimizer")
        node["fitted"] = writer.pairs(fitted)
    return node


def _rates(net: NeuralNet) -> dict[str, Any]:
    """Return the settings that schedules have reached in each optimizer."""
    return {
        name: [
            {key: each for key, each in group.items() if key != "params"}
            for group in getattr(net, f"{name}_").param_groups
        ]
        for name in net._optimizers
    }


def _plain(value: Any) -> Any:
    """Turn numpy's numbers into Python's: a history has one for each batch."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value


def _read_net(node: dict[str, Node], reader: Reader) -> NeuralNet:
    kind = reader.names.find(node["path"], NeuralNet)
    network = reader.value(node["module_"], ".module_") if "module_" in node else None
    params = reader.pairs(node["params"])
    module = _module_of(node["module"], reader, network)
    if isinstance(module, nn.Module):
        # Settings of a constructor that is not called again.
        params = {k: v for k, v in params.items() if not k.startswith("module__")}
    net: NeuralNet = kind(module, **{**params, "device": _device_here(params.get("device"))})
    if network is not None:
        _initialize(net, network)
        net.history_ = History(reader.value(node["history"]))
        for name, groups in reader.value(node["rates"]).items():
            for group, saved in zip(getattr(net, f"{name}_").param_groups, groups, strict=False):
                group.update(saved)
        vars(net).update(reader.pairs(node["fitted"]))
    return net


def _module_of(node: Node, reader: Reader, network: nn.Module | None) -> Any:
    """Return the net's module parameter, which may be a class, a function or a module.

    Where its code may not be used, the caller's network lends its class, else the net's own network
    takes its place.
    """
    lacks_code = node["kind"] == LEFT_OUT or (
        node["kind"] == "code" and not reader.names.knows(node["path"])
    )
    if not lacks_code:
        return reader.value(node, ".module")
    parts = [] if reader.network is None else reader.network.modules()
    lent: list[Any] = [type(part) for part in parts if path_of(type(part)) == node.get("path")]
    stand_in = [*lent, network][0]
    return reader.value(node, ".module") if stand_in is None else stand_in


def _device_here(device: Any) -> Any:
    """Return the device, or the CPU if this machine has no such device."""
    return device if is_usable(device) else "cpu"


def _initialize(net: NeuralNet, network: nn.Module) -> None:
    """Initialise a net around a network, without a draw from the global generators."""
    module, arguments = net.module, net.get_params_for("module")
    with seeded_globally(0), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeviceWarning)
        net.initialize()
    if isinstance(module, nn.Module) and not arguments and module is network:
        return
    net.module_ = network
    with seeded_globally(0):
        net.initialize_optimizer()


NETS = (Kind("net", lambda v: isinstance(v, NeuralNet), _write_net, _read_net, shared=True),)
