"""Copies of networks, also of those that copy.deepcopy refuses."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from ..exceptions import NetworkError

__all__ = ["copied", "unwrapped"]

# Held by a module but no part of its numbers; a copy may share them.
SHARED = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Barrier,
    threading.Condition,
    threading.Event,
    threading.Semaphore,
    threading.local,
    ModuleType,
)


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the network inside wrappers that only change how it runs (see :func:`_inside`)."""
    while (inner := _inside(module)) is not None:
        module = inner
    return module


def _inside(module: nn.Module) -> nn.Module | None:
    """Return what torch.compile or a data-parallel wrapper holds; None for other modules."""
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return module.module
    # The class of compiled modules is private and slow to import.
    if type(module).__module__.startswith("torch._dynamo"):
        inner = getattr(module, "_orig_mod", None)
        return inner if isinstance(inner, nn.Module) else None
    return None


def copied(module: nn.Module, *, unwrap: bool = False) -> nn.Module:
    """Copy a network.

    Tensors that are no leaves (a normalised weight, an activation that was kept) are copied without
    their history, those made in inference mode become ordinary ones, and locks are shared.

    Parameters
    ----------
    module : nn.Module
        Not changed.
    unwrap : bool, default=False
        Whether to leave out wrappers that only change how a part runs.

    Raises
    ------
    NetworkError
        Something else in it cannot be copied; the message names it.
    """
    memo: dict[int, Any] = {}
    parts = list(module.modules())
    for part in parts:
        for value in _held(vars(part)):
            if isinstance(value, nn.Parameter):
                own = value.detach().clone()
                memo[id(value)] = nn.Parameter(own, requires_grad=value.requires_grad)
            elif isinstance(value, Tensor):
                memo[id(value)] = value.detach().clone()
            else:
                memo[id(value)] = value
    try:
        if unwrap:
            # Inner ones first, so that the copies of outer ones hold no wrapper.
            for part in reversed(parts):
                if (inner := unwrapped(part)) is not part:
                    memo[id(part)] = copy.deepcopy(inner, memo)
        return copy.deepcopy(module, memo)
    except Exception as error:
        raise NetworkError(_not_copied(module, error)) from error


def _held(value: Any) -> Iterator[Any]:
    """Yield what copy.deepcopy refuses, in containers of any depth."""
    if isinstance(value, Tensor):
        if not value.is_leaf or value.is_inference():
            yield value
    elif isinstance(value, SHARED):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _held(each)
    elif isinstance(value, (list, tuple, set)):
        for each in value:
            yield from _held(each)


def _not_copied(module: nn.Module, error: Exception) -> str:
    place = ", ".join(_refused(module)) or "something in it"
    return (
        f"network cannot be copied, and an edit needs a copy: {place} is refused by copy.deepcopy "
        f"({type(error).__name__}: {error}). Take it out of the module, make it when the forward "
        "needs it, or give the module a __deepcopy__."
    )


def _refused(module: nn.Module) -> Iterator[str]:
    """Name the attributes of a module's parts that cannot be copied on their own."""
    ours = {"_parameters", "_buffers", "_modules"}
    for name, part in module.named_modules():
        for attribute, value in vars(part).items():
            if attribute in ours:
                continue
            try:
                copy.deepcopy(value, {id(held): held for held in _held(value)})
            except Exception:  # whatever the value's own copying raises
                yield repr(".".join(filter(None, [name, attribute])))
