"""Estimators around networks: pickles that load without a GPU, and clones."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ._copy import copied

__all__ = ["Portable", "is_usable"]

# Name of the state's entry that says what lay where.
ON_DEVICES = "_on_devices"


class Portable:
    """Mixin of estimators with a parameter ``network``; it goes before scikit-learn's classes.

    A pickle holds all tensors as those of the CPU, and loads on any machine. Where the device that
    a tensor lay on is there when the pickle is loaded, the tensor lies on it again; else it stays
    on the CPU.
    """

    network: Any

    def __getstate__(self) -> Any:
        """Return the attributes, with tensors of a GPU replaced by copies on the CPU."""
        state = super().__getstate__()
        # Nothing can lie on a GPU that was not used. In a forked child it cannot be read either.
        if not torch.cuda.is_initialized():
            return state
        state, moved = _on_host(state)
        return {**state, ON_DEVICES: moved}

    def __setstate__(self, state: Any) -> None:
        """Take attributes, and move tensors back to where they lay, if that is here."""
        for tensor, device in state.pop(ON_DEVICES, ()):
            if is_usable(device):
                tensor.data = tensor.data.to(device)
        super().__setstate__(state)  # type: ignore[misc]

    def __sklearn_clone__(self) -> Any:
        """Clone with a copy of the network, also of one that copy.deepcopy refuses."""
        if not isinstance(self.network, nn.Module):
            return super().__sklearn_clone__()  # type: ignore[misc]
        # Not by copy.copy, which would send what is fitted through the CPU.
        stand_in = object.__new__(type(self))
        vars(stand_in).update(vars(self), network=_ToCopy(self.network))
        return super(Portable, stand_in).__sklearn_clone__()  # type: ignore[misc]


class _ToCopy:
    """Stands for a network while its estimator is cloned."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __sklearn_clone__(self) -> nn.Module:
        return copied(self.network)


def is_usable(device: Any) -> bool:
    """Tell whether tensors can be made on a device here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        return False
    return True


def _on_host(state: Any) -> tuple[Any, list[tuple[Tensor, str]]]:
    """Copy a state to the CPU; list the copies that lay elsewhere, with their devices."""
    memo: dict[int, Any] = {}
    with _CopiesToHost():
        here = copy.deepcopy(state, memo)
    # Where copy.deepcopy keeps what it copied, so that no id comes twice.
    originals = memo.get(id(memo), [])
    lay_there = [each for each in originals if isinstance(each, Tensor) and each.is_cuda]
    return here, [(memo[id(tensor)], str(tensor.device)) for tensor in lay_there]


class _CopiesToHost(TorchFunctionMode):
    """While it holds, copies of a GPU's tensors are made on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Of what is no leaf, such as an activation that was kept, torch makes no copy itself.
        if func is Tensor.__deepcopy__ and (args[0].is_cuda or not args[0].is_leaf):
            tensor, memo = args
            if id(tensor) not in memo:
                here = tensor.detach().cpu().requires_grad_(tensor.requires_grad)
                memo[id(tensor)] = here
            return memo[id(tensor)]
        # By this an nn.Parameter copies its numbers.
        if func is Tensor.clone and args[0].is_cuda:
            return args[0].detach().cpu()
        return func(*args, **(kwargs or {}))
