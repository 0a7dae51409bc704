"""Networks that cannot be edited, and what their owner can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ..exceptions import NetworkError

__all__ = ["check_usable"]

# Packages of layers whose weights are integers.
QUANTISED = (
    "torch.ao.nn.quantized",
    "torch.ao.nn.intrinsic.quantized",
    "torch.ao.nn.sparse.quantized",
    "torch.ao.quantization",
    "torch.nn.quantized",
    "bitsandbytes",
)


def check_usable(module: nn.Module, *, trained: bool = True) -> None:
    """Refuse a network whose weights are not there, or cannot be read as numbers and changed.

    Parameters
    ----------
    module : nn.Module
    trained : bool, default=True
        Whether the network came trained; False: lazy layers are welcome.

    Raises
    ------
    NetworkError
        Names the part and says what to do.
    """
    for name, part in module.named_modules():
        for is_bad, reason in PARTS:
            if is_bad(part):
                raise NetworkError(f"network: {_place(name, part)} {reason}")
    for name, tensor in _tensors(module):
        for is_bad_tensor, reason in TENSORS:
            if is_bad_tensor(tensor) and (trained or is_bad_tensor is not is_lazy):
                raise NetworkError(f"network: its {name!r} {reason}")


def _place(name: str, part: nn.Module) -> str:
    kind = type(part).__name__
    return f"its part {name!r}, a {kind}," if name else f"{kind}"


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for prefix, part in module.named_modules():
        for name, tensor in chain(part._parameters.items(), part._buffers.items()):
            if tensor is not None:
                yield ".".join(filter(None, [prefix, name])), tensor


def _is_quantised(part: nn.Module) -> bool:
    return type(part).__module__.startswith(QUANTISED)


def _is_exported(part: nn.Module) -> bool:
    return any(kind.__module__.startswith("torch.export.") for kind in type(part).__mro__)


def _is_sharded(part: nn.Module) -> bool:
    return any("FullyShardedDataParallel" in kind.__name__ for kind in type(part).__mro__)


Check = Callable[[nn.Module], bool]

PARTS: tuple[tuple[Check, str], ...] = (
    (
        lambda part: isinstance(part, torch.jit.ScriptModule),
        "is compiled by torch.jit, so its layers cannot be edited. Pass the nn.Module that it was "
        "scripted or traced from, with the same state_dict.",
    ),
    (
        _is_exported,
        "comes from torch.export, so its layers cannot be edited. Pass the nn.Module that was "
        "exported, with the same state_dict.",
    ),
    (
        _is_quantised,
        "belongs to a quantised network, whose weights cannot be edited. Pass the network in "
        "floating point, and quantise what to_module() returns.",
    ),
    (
        _is_sharded,
        "is spread over processes. Gather the full state_dict and load it into a plain module.",
    ),
)

TENSORS: tuple[tuple[Callable[[Tensor], bool], str], ...] = (
    (
        is_lazy,
        "has no shape yet, since a lazy layer gets it in its first pass: the network was never "
        "trained. Call it on a batch of rows, then train it; or pass a skorch net, not frozen, "
        "which is trained here.",
    ),
    (
        lambda tensor: tensor.is_meta,
        "is on the device 'meta' and holds no numbers. Call module.to_empty(device='cpu') and load "
        "the trained state_dict first.",
    ),
    (
        lambda tensor: tensor.is_quantized,
        "is quantised. Pass the network in floating point, and quantise what to_module() returns.",
    ),
    (
        is_traceable_wrapper_subclass,
        "is no plain tensor (quantised, sparse or spread over devices). Pass the network with "
        "plain tensors in floating point.",
    ),
    (
        lambda tensor: tensor.layout != torch.strided,
        "is sparse. Store it as a dense tensor, by to_dense().",
    ),
    (
        lambda tensor: tensor.is_complex() and isinstance(tensor, nn.Parameter),
        "holds complex numbers. Pass a network of real ones.",
    ),
)
