"""A network's own copy, with plain weights: what was computed from others is made permanent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from .._messages import listed
from ..exceptions import NetworkError
from ._copy import copied, unwrapped
from ._usable import check_usable

__all__ = ["first_parameter", "make_plain", "plain_copy"]


def first_parameter(module: nn.Module) -> Tensor:
    """Return a parameter whose dtype and device are the network's; a scalar if it has none."""
    floating = (each for each in module.parameters() if each.is_floating_point())
    return next(floating, torch.zeros(()))


def plain_copy(network: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Copy a network in evaluation mode, and make its weights plain parameters.

    Wrappers are left out. Weight normalisation, spectral normalisation, other parametrisations and
    pruning are made permanent: their result becomes the weight. Half precision becomes single.

    Parameters
    ----------
    network : nn.Module
        Not changed.

    Returns
    -------
    module : nn.Module
    notes : tuple of str
        What was changed, for the user.

    Raises
    ------
    NetworkError
        The network cannot be copied or edited; the message says what to do.
    """
    check_usable(unwrapped(network))
    module = copied(unwrapped(network), unwrap=True)
    notes = make_plain(module)
    if unwrapped(network) is not network:
        notes = (*notes, f"The network was taken out of its {type(network).__name__}.")
    return module, notes


def make_plain(module: nn.Module) -> tuple[str, ...]:
    """Set evaluation mode and make computed weights plain parameters, in place.

    Returns
    -------
    notes : tuple of str
    """
    try:
        module.eval()  # or else the spectral norm would take a step
    except Exception as error:
        raise NetworkError(
            f"network {type(module).__name__} has no evaluation mode ({error}): pass a module "
            "with eval() and train()."
        ) from error
    return (*_made_permanent(module), *_widened(module))


def _made_permanent(module: nn.Module) -> Iterator[str]:
    """Replace every computed weight by its value; yield a note on what was replaced."""
    names = []
    with torch.no_grad():
        for prefix, part in list(module.named_modules()):
            for name in _computed(part):
                names.append(".".join(filter(None, [prefix, name])))
    if names:
        yield (
            f"Computed weights ({listed(names, 4, longest=None)}) were made permanent in the "
            "edited copy: normalisation, parametrisation and pruning hold no longer while it is "
            "edited."
        )


def _computed(part: nn.Module) -> Iterator[str]:
    """Replace the computed tensors of one module and yield their names."""
    if parametrize.is_parametrized(part):
        _own_class(part)
        for name, originals in list(part.parametrizations.items()):  # type: ignore[operator, union-attr]
            learned = any(True for _ in originals.parameters())
            parametrize.remove_parametrizations(part, name, leave_parametrized=True)
            if learned and name in part._buffers:
                # Several originals leave a buffer if no gradients are recorded.
                value = part.get_buffer(name)
                delattr(part, name)
                part.register_parameter(name, nn.Parameter(value))
            yield name
    for hook in list(part._forward_pre_hooks.values()):
        kind: Any = hook
        if isinstance(kind, WeightNorm):
            remove_weight_norm(part, kind.name)
            yield kind.name
        elif isinstance(kind, SpectralNorm):
            remove_spectral_norm(part, kind.name)
            yield kind.name
        elif isinstance(kind, prune.BasePruningMethod):
            name = str(kind._tensor_name)
            prune.remove(part, name)
            yield name


def _own_class(part: nn.Module) -> None:
    """Give a parametrised module a class of its own.

    A parametrisation is a property of the class, which a copy shares with the original: to remove
    it from one would take it from both.
    """
    kind = type(part)
    names = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
    part.__class__ = type(kind.__name__, kind.__bases__, names)


def _widened(module: nn.Module) -> Iterator[str]:
    """Convert half precision to single; yield a note if there was any."""
    found = set()
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point() and tensor.dtype.itemsize < 4:
            found.add(str(tensor.dtype).removeprefix("torch."))
            tensor.data = tensor.data.float()
            tensor.grad = None
    if found:
        yield (
            f"The network is in {' and '.join(sorted(found))}; its copy is edited, predicts and is "
            "exported in float32. Convert what to_module() returns, if needed."
        )
