"""Say what went into a network that failed, whatever error its forward raised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..exceptions import GroupError, ImageFileError, NetworkError

__all__ = ["explaining"]

# What says by itself what is wrong. A warning that was made an error keeps its class.
CLEAR = (NetworkError, GroupError, ImageFileError, Warning, torch.OutOfMemoryError)

# Of a message longer than this the beginning is shown; all of it is in the chained error.
LONGEST = 600


@contextmanager
def explaining() -> Iterator[None]:
    """Turn an error that a network raised within the block into one that says what it got.

    An error of any class counts, if it was raised while a module ran or a gradient was computed.
    Other errors, interrupts and the errors of this package pass unchanged.

    Raises
    ------
    NetworkError
        Chained to the error of the network.
    """
    try:
        yield
    except CLEAR:
        raise
    except Exception as error:
        message = _explain(error)
        if message is None:
            raise
        raise NetworkError(message) from error


class _Call(NamedTuple):
    """A module that was running, and the tensors that it got."""

    module: nn.Module
    inputs: list[Tensor]


def _explain(error: Exception) -> str | None:
    """Describe the call that failed; None if no network was running."""
    frames = list(_frames(error.__traceback__))
    calls = [call for frame in frames if (call := _call_of(frame)) is not None]
    said = f"{type(error).__name__}: {error}"
    said = said if len(said) <= LONGEST else said[:LONGEST] + " (and so on)"
    if calls:
        return _describe(calls, said)
    in_gradient = any(_module_of(frame).startswith("torch.autograd") for frame in frames)
    if not in_gradient:
        return None
    if type(error).__module__.startswith("torch.utils.checkpoint"):
        return (
            "the network ran, but it computes activations again for the gradient "
            "(torch.utils.checkpoint), when its weights are no longer those of the edit. Turn "
            f"checkpointing off in the network that you pass. {said}"
        )
    return (
        "the network ran, but no gradient of its loss could be computed. Its forward may change a "
        f"tensor in place after a layer has read it: replace x += y by x = x + y. {said}"
    )


def _frames(trace: TracebackType | None) -> Iterator[FrameType]:
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _call_of(frame: FrameType) -> _Call | None:
    """Read a frame of torch's in which a module was called with tensors."""
    if frame.f_code.co_name != "_call_impl" or not _module_of(frame).startswith("torch."):
        return None
    local = frame.f_locals
    module = local.get("self")
    inputs = list(_tensors((local.get("args", ()), local.get("kwargs", {}))))
    return _Call(module, inputs) if isinstance(module, nn.Module) and inputs else None


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)


def _describe(calls: list[_Call], said: str) -> str:
    outer, inner = calls[0], calls[-1]
    if isinstance(outer.module, nn.modules.loss._Loss):
        return (
            f"the criterion {type(outer.module).__name__} failed on {_shapes(outer.inputs)}: the "
            f"output of the network and the targets do not fit it. It said: {said}"
        )
    rows = tuple(outer.inputs[0].shape[1:])
    place = ""
    if inner.module is not outer.module:
        # A container would print all that it holds.
        name = type(inner.module).__name__ if any(inner.module.children()) else repr(inner.module)
        place += f", in {name}, which got {_shapes(inner.inputs)}"
    place += _other_dtype(inner) or _other_dtype(outer)
    return (
        f"the network {type(outer.module).__name__} failed on rows of X of shape {rows} each "
        f"({_shapes(outer.inputs)}){place}. Pass X as the network was trained on it (same columns, "
        f"same scaling, values that it knows). The network said: {said}"
    )


def _other_dtype(call: _Call) -> str:
    parameters = (p.dtype for p in call.module.parameters() if p.is_floating_point())
    dtype, rows = next(parameters, None), call.inputs[0].dtype
    if dtype is None or dtype == rows or not rows.is_floating_point:
        return ""
    return (
        f" and has parameters of the dtype {str(dtype).removeprefix('torch.')} (convert the "
        "network by module.float() or double(), and the rows nowhere in its forward: its copy is "
        "edited in one of these)"
    )


def _shapes(tensors: Iterable[Tensor]) -> str:
    return ", ".join(
        f"{tuple(each.shape)} {str(each.dtype).removeprefix('torch.')}" for each in tensors
    )
