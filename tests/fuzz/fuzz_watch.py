"""What a call must leave as it was, how it may end, and how long it may take."""

from __future__ import annotations

import os
import re
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import sklearn
import torch
import torch._inductor.utils  # sets a variable and a filter, which no call is to be blamed for
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn

import fairsvd
from helpers import global_state

# Where an error of a call may be raised: a file of the package or of scikit-learn.
HOMES = tuple(str(Path(module.__file__).parent) + os.sep for module in (fairsvd, sklearn))

# Files whose errors are those of the user's own rows and functions.
USERS_OWN = ("fuzz_rows.py", "fuzz_calls.py")

# What a message may call what the caller passed, besides the names of parameters.
ARGUMENTS = (
    *("X", "y", "sensitive_features", "groups", "sensitive columns", "path"),
    *("estimator", "network", "net", "image", "images", "dataset", "labels", "not fitted"),
)

# A call takes a second at most; a loaded machine may take ten times as long.
SECONDS = 60


class Hang(BaseException):
    """A call that does not end."""


class Finding(AssertionError):
    """A call that ended otherwise than it may."""


@contextmanager
def time_limit(seconds: int = SECONDS) -> Iterator[None]:
    """Raise :class:`Hang` within the block after some seconds; for the main thread."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def process_state() -> dict[str, Any]:
    """Everything of the process that a call could move."""
    return {
        **global_state(),
        "filters": list(warnings.filters),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "device": torch.get_default_device(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "display": pd.get_option("display.max_rows"),
    }


def frozen(value: Any) -> Any:
    """Make something that compares equal as long as an input is the same to the last bit."""
    if isinstance(value, nn.Module):
        return frozen_network(value)
    if isinstance(value, Tensor):
        return frozen_tensor(value)
    if isinstance(value, np.ndarray):
        content = repr(value.tolist()) if value.dtype.hasobject else value.tobytes()
        hidden = repr(np.ma.getmaskarray(value).tolist()) if np.ma.isMaskedArray(value) else ""
        return type(value), value.dtype, value.shape, value.strides, value.flags, content, hidden
    if isinstance(value, pd.DataFrame):
        columns = [frozen(value.iloc[:, k]) for k in range(value.shape[1])]
        return repr(value.columns), frozen(value.index), columns
    if isinstance(value, (pd.Series, pd.Index)):
        index = repr(value.index.tolist()) if isinstance(value, pd.Series) else ""
        return type(value), value.dtype, value.name, repr(value.tolist()), index
    if isinstance(value, (list, tuple)):
        return type(value), [frozen(each) for each in value]
    if isinstance(value, Mapping):
        return [(key, frozen(each)) for key, each in value.items()]
    if hasattr(value, "module") or hasattr(value, "estimator") or hasattr(value, "steps"):
        return type(value), [(k, frozen(v)) for k, v in vars(value).items() if k != "history_"]
    if hasattr(value, "__dict__") and not isinstance(value, type):
        return type(value), sorted(vars(value))
    return type(value), repr(value)


def frozen_tensor(value: Tensor) -> Any:
    if isinstance(value, nn.parameter.UninitializedTensorMixin):
        return "uninitialised"
    about = value.dtype, value.shape, value.layout, value.requires_grad, value.grad is None
    if value.device.type != "cpu" or value.layout != torch.strided or value.is_quantized:
        return about
    numbers = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
    return about, numbers.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def frozen_network(module: nn.Module) -> Any:
    modes = [(n, m.training, len(m._forward_hooks)) for n, m in module.named_modules()]
    state = [*module.named_parameters(), *module.named_buffers()]
    return type(module), modes, [(name, frozen_tensor(value)) for name, value in state]


def check_end(error: BaseException, parameters: Mapping[str, Any]) -> None:
    """Check that an error is ours or scikit-learn's, by a ``raise`` there, and names an argument.

    What the user's own rows and functions raise may pass as it is; what a network raises may not.

    Raises
    ------
    Finding
    """
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    if Path(last.filename).name in USERS_OWN:
        return
    where = f"{last.filename}:{last.lineno}"
    said = f"{type(error).__name__} at {where}: {str(error)[:300]}"
    if not isinstance(error, (ValueError, TypeError, NotFittedError)):
        raise Finding(f"the class of the error: {said}") from error
    if not where.startswith(HOMES) or not (last.line or "").startswith("raise"):
        ours = next((f for f in reversed(frames) if f.filename.startswith(HOMES[0])), None)
        via = f" (by {Path(ours.filename).name}:{ours.lineno})" if ours else ""
        raise Finding(f"raised elsewhere{via}: {said}") from error
    names = "|".join(map(re.escape, (*ARGUMENTS, *parameters)))
    if not re.search(rf"(?<!\w)({names})(?!\w)", str(error)):
        raise Finding(f"names no argument: {said}") from error


def watched(
    call: Callable[[], Any], inputs: Mapping[str, Any], parameters: Mapping[str, Any]
) -> Any:
    """Run a call, and check its end and what it must leave alone.

    Parameters
    ----------
    call : callable
    inputs : mapping
        What the call must not change, by name.
    parameters : mapping
        Names that the message of an error may have.

    Returns
    -------
    result : object or None
        None after an error that may be.

    Raises
    ------
    Finding
    """
    before = process_state(), {name: frozen(value) for name, value in inputs.items()}
    result = None
    try:
        with time_limit():
            result = call()
    except Hang as error:
        raise Finding("a hang") from error
    except Exception as error:
        check_end(error, parameters)
    after = process_state()
    changed = [name for name in before[0] if before[0][name] != after[name]]
    if changed:
        raise Finding(f"the process is left with another {', '.join(changed)}")
    changed = [name for name in inputs if before[1][name] != frozen(inputs[name])]
    if changed:
        raise Finding(f"changed what was passed as {', '.join(changed)}")
    return result
