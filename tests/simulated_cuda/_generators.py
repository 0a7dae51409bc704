"""Generators of the device, which give other numbers than the host's do for the same seed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch

# Any number: that of the device and the host must differ, as Philox and the Mersenne twister do.
OTHER_NUMBERS = 0x5DEECE66D

# By address in C++, and kept, so that no address comes twice.
_THERE: dict[int, torch._C.Generator] = {}
_LOCK = threading.RLock()


class _AnyGenerator(type(torch._C.Generator)):
    """C++ makes generators of its own kind too: they are instances as well."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, torch._C.Generator)


class Generator(torch._C.Generator, metaclass=_AnyGenerator):
    """In the place of ``torch.Generator``, and on cuda too."""

    # As what it is pickled: another process has the real one there.
    __module__ = "torch"

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls, "cpu")
        if torch.device(device).type == "cuda":
            _THERE[made._cdata] = made
        return made

    @property
    def device(self) -> torch.device:
        """The device for which the generator draws."""
        return torch.device("cuda", 0) if self._cdata in _THERE else torch.device("cpu")

    def manual_seed(self, seed: int) -> Generator:
        """Seed, on the device with another number."""
        return super().manual_seed(seed ^ OTHER_NUMBERS if self._cdata in _THERE else seed)


def check_there(generators: Iterable[torch._C.Generator]) -> None:
    """Refuse a generator of the host for an operator of the device."""
    if any(each._cdata not in _THERE for each in generators):
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")


def with_own_stream(call: Callable[[], Any]) -> Any:
    """Make a call that draws from the device's default generator, on the host."""
    with _LOCK:
        host, own = torch.default_generator, torch.cuda.default_generators[0]
        before = host.get_state()
        host.set_state(own.get_state())
        try:
            return call()
        finally:
            own.set_state(host.get_state())
            host.set_state(before)
