"""Host memory that is called pinned, so that copies from it count as asynchronous."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MOST = 4096

# By address, and kept, so that no address comes twice while it is called pinned.
_STORAGES: dict[int, torch.UntypedStorage] = {}
_pin_memory = torch.Tensor.pin_memory


def is_pinned_address(address: int) -> bool:
    """Tell whether the memory at an address is called pinned."""
    return address in _STORAGES


def is_pinned(tensor: Tensor) -> bool:
    """Tell whether a tensor's memory is called pinned."""
    return is_pinned_address(tensor.untyped_storage().data_ptr())


def pin(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """In the place of ``Tensor.pin_memory``: remember where the copy lies."""
    result = _pin_memory(tensor, *args, **kwargs)
    storage = result.untyped_storage()
    _STORAGES.setdefault(storage.data_ptr(), storage)
    while len(_STORAGES) > MOST:
        del _STORAGES[next(iter(_STORAGES))]
    return result
