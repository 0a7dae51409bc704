"""The scores in a network's output, and their reading as logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..exceptions import NetworkError
from ._fields import Inputs, call, count_inputs

__all__ = [
    "PROBABILITIES",
    "OutputKey",
    "check_range",
    "check_rows",
    "checked_logits",
    "range_outside",
    "raw_output",
    "to_logits",
]

# Place of the scores in a network's output: a key or attribute, a position, or the whole.
OutputKey: TypeAlias = str | int | None

# Kinds of output with one column for two classes.
ONE_COLUMN = ("one_logit", "one_probability")

# Kinds of output in [0, 1]; the columns of "sigmoids" do not add up to 1.
PROBABILITIES = ("probabilities", "one_probability", "sigmoids")

# Rounding may carry a probability beyond 0 or 1 by as much.
ROUNDING = 1e-3


def raw_output(module: nn.Module, X: Inputs, key: OutputKey = None) -> Tensor:
    """Run the network and return its scores; a vector becomes a column, or the only row.

    Parameters
    ----------
    module : nn.Module
    X : Tensor, or mapping of the network's arguments to tensors
    key : str, int or None, default=None
        Key or attribute, or position in a tuple; None: the tensor itself, or the first element of
        a tuple.

    Raises
    ------
    NetworkError
        If there is no tensor of scores at that place.
    """
    scores = scores_of(call(module, X), key)
    # A network that squeezes its output returns a single row without the dimension of the rows.
    return scores if scores.ndim > 1 else _with_rows(scores, is_row=count_inputs(X) == 1)


def _with_rows(scores: Tensor, *, is_row: bool) -> Tensor:
    return scores.reshape(1, -1) if is_row or scores.ndim == 0 else scores.unsqueeze(1)


def scores_of(output: Any, key: OutputKey = None) -> Tensor:
    """Return the scores in a network's output; see :func:`raw_output`."""
    scores = output if key is None and isinstance(output, Tensor) else _pick(output, key)
    if not isinstance(scores, Tensor):
        raise NetworkError(_no_scores_message(output, key))
    if scores.is_complex() or scores.layout != torch.strided:
        raise NetworkError(
            f"the network returns scores of the dtype {scores.dtype} and the layout "
            f"{scores.layout}: it must return real numbers in a dense tensor."
        )
    is_half = scores.is_floating_point() and scores.dtype.itemsize < 4
    return scores.float() if is_half else scores


def check_rows(logits: Tensor, n_rows: int) -> None:
    """Refuse logits that are not one row for every row of X.

    Raises
    ------
    NetworkError
    """
    if logits.ndim != 2 or len(logits) != n_rows:
        raise NetworkError(
            f"the network returned scores of the shape {tuple(logits.shape)} for {n_rows} rows of "
            "X. It must return (n, n_classes) scores, a row for every row of X and whatever their "
            "number: remove what drops, repeats or mixes rows (such as squeeze() without a dim)."
        )


def check_range(scores: Tensor, kind: str) -> None:
    """Refuse scores outside [0, 1] if they are read as probabilities.

    Raises
    ------
    NetworkError
    """
    if kind in PROBABILITIES and scores.numel() and (found := range_outside(scores)):
        raise NetworkError(
            f"the network's output is read as probabilities, but it returns values {found}. Pass "
            "output_kind='logits' if they are logits."
        )


def range_outside(scores: Tensor) -> str:
    """Describe the range of scores that leave [0, 1]; "" for others."""
    low, high = (float(each) for each in scores.aminmax())
    leaves = low < -ROUNDING or high > 1 + ROUNDING
    return f"from {low:.3g} to {high:.3g}" if leaves else ""


def _pick(output: Any, key: OutputKey) -> Any:
    in_order = isinstance(output, (tuple, list))
    if isinstance(output, Tensor):
        return None
    if isinstance(output, Mapping):
        return None if key is None else output.get(key)
    if isinstance(key, str):
        return getattr(output, key, None)
    position = 0 if key is None else key
    return output[position] if in_order and -len(output) <= position < len(output) else None


def _no_scores_message(output: Any, key: OutputKey) -> str:
    advice = "its name (or, in a tuple, its position)"
    if isinstance(output, Tensor):
        content, advice = f"of the shape {tuple(output.shape)}", "None, as it is not a container"
    elif isinstance(output, Mapping):
        content = f"with the keys {[str(each) for each in output]}"
    elif isinstance(output, (tuple, list)):
        content = f"of {[type(each).__name__ for each in output]}"
    else:
        content = f"with the attributes {sorted(getattr(output, '__dict__', {}))}"
    return (
        f"the network returns a {type(output).__name__} {content}, in which output_key={key!r} "
        f"finds no tensor of scores (n, n_classes). Pass {advice} as output_key=."
    )


def to_logits(output: Any, kind: str, key: OutputKey = None) -> Tensor:
    """Convert a network's output to logits (n, n_classes).

    Parameters
    ----------
    output : Tensor, or a container in which ``key`` finds one
    kind : {"logits", "one_logit", "probabilities", "one_probability", "sigmoids"}
        Probabilities become log-probabilities, clipped at the dtype's smallest positive number.
        "sigmoids" are probabilities that do not add up to 1: a softmax of their logarithms is
        their share in the sum.
    key : str, int or None, default=None
        As in :func:`raw_output`; ignored for a tensor, such as :func:`raw_output` returns.
    """
    output = output if isinstance(output, Tensor) and output.ndim > 1 else scores_of(output, key)
    if output.ndim < 2:
        output = _with_rows(output, is_row=kind not in ONE_COLUMN)
    if kind == "logits":
        return output
    if kind == "one_logit":
        return torch.cat([torch.zeros_like(output), output], dim=1)
    if kind == "one_probability":
        output = torch.cat([1 - output, output], dim=1)
    return output.clamp_min(torch.finfo(output.dtype).tiny).log()


def checked_logits(output: Any, kind: str, key: OutputKey, n_rows: int) -> Tensor:
    """Convert a network's output to logits, a row for every row of X.

    Parameters
    ----------
    output, kind, key
        As of :func:`to_logits`.
    n_rows : int
        Rows of X that the network got.

    Raises
    ------
    NetworkError
        There are other rows, or values that are not of the kind.
    """
    scores = scores_of(output, key)
    check_range(scores, kind)
    logits = to_logits(scores, kind)
    check_rows(logits, n_rows)
    return logits
