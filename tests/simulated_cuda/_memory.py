"""The same memory under two names: tensors that say cpu and tensors that say cuda."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

# As DLPack numbers devices. In its struct the device (type, index) comes after a pointer.
CPU, CUDA = 1, 2
DEVICE_OFFSET = 8

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]

# By id of an alias: the alias, which keeps the id taken, and the tensor that it stands for.
Aliases = dict[int, tuple[Tensor, Tensor]]


def relabelled(tensor: Tensor, kind: int) -> Tensor:
    """Give a tensor over the same memory that says it lies on the other device."""
    capsule = torch._C._to_dlpack(tensor.resolve_conj().resolve_neg())
    address = _pointer(capsule, b"dltensor") + DEVICE_OFFSET
    device = (ctypes.c_int32 * 2).from_address(address)
    device[0], device[1] = kind, 0
    return torch._C._from_dlpack(capsule)


def is_there(value: Any) -> bool:
    """Tell whether a value is a tensor on the device."""
    return isinstance(value, Tensor) and value.device.type == "cuda"


def brought(value: Any, aliases: Aliases) -> Any:
    """Replace tensors and devices in an operator's arguments by ones that say cpu."""
    if is_there(value):
        alias = relabelled(value, CPU) if value.numel() else _empty_like(value)
        aliases[id(alias)] = (alias, value)
        return alias
    if isinstance(value, torch.device):
        if (value.index or 0) > 0:
            raise RuntimeError("CUDA error: invalid device ordinal")
        return torch.device("cpu")
    if isinstance(value, (list, tuple)):
        return type(value)(brought(each, aliases) for each in value)
    return value


def _empty_like(value: Tensor) -> Tensor:
    """An empty tensor may be an ``out`` that is to grow, which memory of a capsule cannot."""
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)


def sent(value: Any, aliases: Aliases) -> Any:
    """Replace tensors in an operator's result by ones that say cuda; an argument stays itself."""
    if isinstance(value, (list, tuple)):
        return type(value)(sent(each, aliases) for each in value)
    if not isinstance(value, Tensor):
        return value
    _, argument = aliases.get(id(value), (value, None))
    if argument is None:
        return relabelled(value, CUDA)
    if argument.shape != value.shape:
        argument.set_(relabelled(value, CUDA))
    return argument
