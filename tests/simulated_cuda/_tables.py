"""Device guard, hooks and pinned memory, where torch's C++ looks for those of CUDA (torch 2.13)."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from ._pinned import is_pinned_address

# Places in the registry of device guards, one a device type.
CUDA, PRIVATE_USE, N_DEVICE_TYPES = 1, 20, 21
# Places in the table of virtual functions of CUDAHooks, in the order of their declaration.
IS_BUILT, IS_AVAILABLE, HAS_PRIMARY_CONTEXT, INIT = 2, 3, 4, 5
IS_PINNED_PTR, GET_PINNED_MEMORY_ALLOCATOR, HAS_CUDA = 11, 12, 16
# More than the class has.
N_HOOKS = 64

_KEPT: list[Any] = []
_Address = ctypes.c_void_p


def write() -> None:
    """Make C++ believe in a CUDA accelerator: autograd then starts a thread for the device."""
    libraries = f"{torch.__path__[0]}/lib"
    c10 = ctypes.CDLL(f"{libraries}/libc10.so")
    _write_guard(c10)
    _write_hooks(c10, ctypes.CDLL(f"{libraries}/libtorch_cpu.so"))


def _write_guard(c10: ctypes.CDLL) -> None:
    """Register the guard that Python may implement, meant for PrivateUse1, and move it to CUDA."""
    kind = torch._C._autograd.DeviceType.CUDA
    guard = type("Guard", (torch._C._acc.DeviceGuard,), {"type_": lambda _: kind})()
    torch._C._acc.register_python_privateuseone_device_guard(guard)
    registry = "_ZN3c104impl26device_guard_impl_registryE"
    guards = (_Address * N_DEVICE_TYPES).in_dll(c10, registry)
    guards[CUDA], guards[PRIVATE_USE] = guards[PRIVATE_USE], None
    _KEPT.append(guard)


def _write_hooks(c10: ctypes.CDLL, cpu: ctypes.CDLL) -> None:
    """Replace some virtual functions of the hooks, in a copy of their table."""
    find_hooks = cpu._ZN2at6detail12getCUDAHooksEv
    find_hooks.restype = _Address
    hooks = _Address.from_address(find_hooks())
    table = (_Address * N_HOOKS)(*(_Address * N_HOOKS).from_address(hooks.value))
    true = ctypes.CFUNCTYPE(ctypes.c_bool, _Address)(lambda _: True)
    is_pinned = ctypes.CFUNCTYPE(ctypes.c_bool, _Address, _Address)(
        lambda _, address: is_pinned_address(address)
    )
    host = _host_allocator(c10)
    allocator = ctypes.CFUNCTYPE(_Address, _Address)(lambda _: host)
    calls = {IS_PINNED_PTR: is_pinned, GET_PINNED_MEMORY_ALLOCATOR: allocator}
    for place in (IS_BUILT, IS_AVAILABLE, HAS_PRIMARY_CONTEXT, INIT, HAS_CUDA):
        calls[place] = true
    for place, call in calls.items():
        table[place] = ctypes.cast(call, _Address).value
    _KEPT.extend([table, true, is_pinned, allocator])
    hooks.value = ctypes.addressof(table)


def _host_allocator(c10: ctypes.CDLL) -> int:
    find = c10._ZN3c1012GetAllocatorERKNS_10DeviceTypeE
    find.restype = _Address
    of_cpu = ctypes.c_int8(0)
    return find(ctypes.byref(of_cpu))
