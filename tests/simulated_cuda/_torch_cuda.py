"""The Python side of torch.cuda, which a CPU build has but for what is behind it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from . import _process
from ._counts import note
from ._generators import Generator
from ._pinned import pin

MEMORY = 2**34
PROPERTIES = SimpleNamespace(
    name="simulated", total_memory=MEMORY, major=8, minor=0, multi_processor_count=1
)
# Functions of torch.cuda that always answer the same.
ANSWERS = {
    "_exchange_device": 0,
    "_is_compiled": True,
    "_maybe_exchange_device": 0,
    "current_device": 0,
    "device_count": 1,
    "empty_cache": None,
    "get_device_capability": (8, 0),
    "get_device_name": "simulated",
    "get_device_properties": PROPERTIES,
    "is_available": True,
    "is_bf16_supported": True,
    "max_memory_allocated": 0,
    "mem_get_info": (MEMORY, MEMORY),
    "memory_allocated": 0,
    "set_device": None,
}

_new_storage = torch._C.StorageBase.__new__


def patch() -> None:
    """Replace what asks for a device, for its facts, and for numbers drawn on it."""
    torch.Generator = Generator
    torch.Tensor.pin_memory = pin
    torch.UntypedStorage.__new__ = staticmethod(_storage)
    cuda = torch.cuda
    for name, answer in ANSWERS.items():
        setattr(cuda, name, _always(answer))
    cuda._is_in_bad_fork = _process.is_forked
    cuda.is_initialized = _process.is_started
    cuda.init = cuda._lazy_init = _process.use
    cuda.synchronize = lambda device=None: note("sync", "synchronize")
    cuda.amp.common.amp_definitely_not_available = _always(False)
    _patch_random(Generator("cuda"))


def _always(answer: Any) -> Any:
    return lambda *args, **kwargs: answer


def _patch_random(own: Generator) -> None:
    cuda = torch.cuda

    def seed(number: int) -> None:
        own.manual_seed(number)

    def get_state(device: Any = "cuda") -> torch.Tensor:
        _process.use()
        return own.get_state()

    def set_state(state: torch.Tensor, device: Any = "cuda") -> None:
        own.set_state(state)

    cuda.default_generators, cuda.initial_seed = (own,), own.initial_seed
    cuda.manual_seed = cuda.manual_seed_all = seed
    cuda.get_rng_state, cuda.set_rng_state = get_state, set_state


def _storage(cls: type, *args: Any, device: Any = None, **kwargs: Any) -> Any:
    """In the place of ``UntypedStorage``, which pickle and torch.load make on the device."""
    if device is None:
        return _new_storage(cls, *args, **kwargs)
    if torch.device(device).type == "cuda":
        return torch.empty(args[0], dtype=torch.uint8, device="cuda").untyped_storage()
    return _new_storage(cls, *args, device=device, **kwargs)
