"""Networks that are called by the names of their inputs, such as those of transformers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn

from .._messages import listed
from ..arrays import Fields
from ..exceptions import NetworkError

__all__ = ["Inputs", "call", "called_by_fields", "count_inputs", "fields_of", "take_packed"]

# A batch as a network takes it: one tensor, or tensors by the names of the network's arguments.
Inputs: TypeAlias = Tensor | Mapping[str, Tensor]

# Kinds of a function's parameters that are passed by name.
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Unpacking:
    """A forward pre-hook that calls a network by names with what a packed batch holds.

    A hook, not a module around the network, so that layers and entries of the state keep their
    names. The network can be called as before, too.

    Parameters
    ----------
    fields : Fields
    """

    def __init__(self, fields: Fields) -> None:
        self.fields = fields

    def __call__(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Replace a packed batch, the only argument, by the inputs that it holds."""
        if kwargs or len(args) != 1:
            return None
        return (), self.fields.unpack(args[0])


def take_packed(module: nn.Module, fields: Fields) -> None:
    """Let a network take packed batches of these fields and of no others, in place.

    Raises
    ------
    NetworkError
        Its forward has not the arguments that the fields name.
    """
    _check_arguments(module, fields)
    called_by_fields(module)
    module.register_forward_pre_hook(Unpacking(fields), with_kwargs=True)


def fields_of(module: nn.Module) -> Fields | None:
    """Return the fields of which a network takes packed batches; None if it does not."""
    hooks = module._forward_pre_hooks.values()
    return next((hook.fields for hook in hooks if isinstance(hook, Unpacking)), None)


def called_by_fields(module: nn.Module) -> nn.Module:
    """Let a network and its parts be called by names only, as their owner knows them; in place."""
    for part in module.modules():
        for number, hook in list(part._forward_pre_hooks.items()):
            if isinstance(hook, Unpacking):
                del part._forward_pre_hooks[number]
                part._forward_pre_hooks_with_kwargs.pop(number, None)
    return module


def call(module: nn.Module, X: Inputs) -> Any:
    """Run a network on a batch."""
    return module(**X) if isinstance(X, Mapping) else module(X)


def count_inputs(X: Inputs) -> int:
    """Count the rows of a batch."""
    return len(next(iter(X.values())) if isinstance(X, Mapping) else X)


def _check_arguments(module: nn.Module, fields: Fields) -> None:
    parameters = inspect.signature(module.forward).parameters.values()
    named = [each for each in parameters if each.kind in NAMED]
    taken = [each.name for each in named]
    # What a forward takes besides, by **kwargs, are options; a misspelt input would be lost there.
    unknown = [name for name in fields.names if named and name not in taken]
    needed = [each.name for each in named if each.default is each.empty]
    missing = [name for name in needed if name not in fields.names]
    if not unknown and not missing:
        return
    problem = f"does not take {unknown}" if unknown else f"needs {missing}, too"
    raise NetworkError(
        f"X has the inputs [{listed(fields.names)}], but the forward of {type(module).__name__} "
        f"{problem}: it takes [{listed(taken, 20)}]. Name the inputs as it does."
    )
