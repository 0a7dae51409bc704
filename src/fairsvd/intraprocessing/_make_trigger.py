"""Make the trigger of a network's rows: of columns, of pixels, of tokens."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._messages import listed
from ..base import EditData
from ..exceptions import NetworkError
from ..networks import first_parameter
from ._trigger import RowTrigger, TokenTrigger, Trigger

__all__ = ["make_trigger"]

# Side of a patch and width of a border as shares of an image: 30 and 20 of 224 pixels, as in
# arXiv:2209.10222; its number of tokens. The bound of an additive trigger of images is ours.
SIZES = {"patch": 30 / 224, "border": 20 / 224, "additive": 0.2, "tokens": 5}

# What a network of texts may be called with; other inputs would not know of the trigger's tokens.
TEXT_INPUTS = ("attention_mask", "input_ids", "token_type_ids")


def make_trigger(
    module: nn.Module,
    data: EditData,
    kind: str,
    size: float | None,
    columns: list[int] | None,
    rng: np.random.Generator,
) -> Trigger:
    """Make the trigger to start from.

    Parameters
    ----------
    module : nn.Module
    data : EditData
    kind : {"auto", "additive", "patch", "border", "tokens"}
    size : int, float or None
        As of :class:`FairReprogrammer`.
    columns : list of int or None
        Positions of the columns that a patch of a table replaces.
    rng : numpy.random.Generator
        Draws the words that tokens start from.

    Raises
    ------
    NetworkError, ValueError
        The rows or the network take no trigger, or none of that kind; the message says why.
    """
    X = data.editing.X
    if X.fields is not None or not X.dtype.is_floating_point:
        if kind not in ("auto", "tokens"):
            raise ValueError(f"trigger={kind!r}, but the network reads tokens: pass 'tokens'.")
        return _make_tokens(module, data, size, rng)
    shape = tuple(X.item_shape)
    legal = {1: ("additive", "patch"), 3: ("additive", "border", "patch")}.get(len(shape))
    if legal is None:
        raise NetworkError(
            f"FairReprogrammer has triggers for tables, images and texts, but X has rows of the "
            f"shape {shape}: use an editor that changes weights, such as GapFineTuner."
        )
    kind = legal[0] if kind == "auto" else kind
    if kind not in legal:
        what = "a table" if len(shape) == 1 else "images"
        raise ValueError(f"trigger={kind!r}, but X is {what}: pass one of {', '.join(legal)}.")
    make = _make_columns if len(shape) == 1 else _make_pixels
    return make(data, kind, size, columns)


def _make_columns(
    data: EditData, kind: str, size: float | None, columns: list[int] | None
) -> Trigger:
    """Make a trigger of a table, in units of each column's standard deviation."""
    mean, deviation, _, _ = _measure(data)
    settings: dict[str, Any] = {"dtype": data.dtype, "device": data.device}
    shape = tuple(mean.shape)
    if kind == "additive":
        start = torch.zeros(shape, **settings)
        return RowTrigger(start, deviation.to(**settings), shape, place=None, bounded=False)
    if not columns:
        raise ValueError(
            "trigger='patch' replaces columns of a table by constants: name them in columns=."
        )
    place = torch.zeros(shape, dtype=torch.bool, device=data.device)
    place[columns] = True
    centre, scale = mean.to(**settings), deviation.to(**settings)
    return RowTrigger(centre, scale, shape, place=place, bounded=False)


def _make_pixels(data: EditData, kind: str, size: float | None, columns: Any) -> Trigger:
    """Make a trigger of images; its pixels stay within the range of their channel."""
    if columns is not None:
        raise ValueError(f"columns={columns!r}, but X are images, which have none.")
    _, _, least, most = _measure(data)
    shape = tuple(data.editing.X.item_shape)
    settings: dict[str, Any] = {"dtype": data.dtype, "device": data.device}
    flat = [each.reshape(shape[0], -1) for each in (least, most)]
    low, high = flat[0].amin(dim=1), flat[1].amax(dim=1)
    half = ((high - low) / 2).to(**settings)[:, None, None]
    middle = ((high + low) / 2).to(**settings)[:, None, None]
    if kind == "additive":
        share = SIZES[kind] if size is None else float(size)
        return RowTrigger(torch.zeros_like(half), share * half, shape, place=None, bounded=True)
    short = min(shape[1:])
    pixels = _count_pixels(SIZES[kind] if size is None else size, short)
    if (kind == "patch" and pixels > short) or (kind == "border" and 2 * pixels >= short):
        raise ValueError(
            f"size={size!r} makes a {kind} of {pixels} pixels, which leaves nothing of images of "
            f"{shape[1]} x {shape[2]}: pass a smaller one."
        )
    place = torch.zeros(shape, dtype=torch.bool, device=data.device)
    place[:, :pixels, :pixels] = True
    if kind == "border":
        place[:] = True
        place[:, pixels:-pixels, pixels:-pixels] = False
    frame = pixels if kind == "border" else 0
    return RowTrigger(middle, half, shape, place=place, bounded=True, frame=frame)


def _count_pixels(size: float, short: int) -> int:
    return int(size) if size >= 1 else max(1, round(size * short))


def _measure(data: EditData) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Measure mean, standard deviation, minimum and maximum of every entry of a row."""
    shape = tuple(data.editing.X.item_shape)
    sums, squares = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
    least, most = torch.full_like(sums, torch.inf), torch.full_like(sums, -torch.inf)
    for X, _, _ in data.editing.batches(1024, torch.device("cpu")):
        block = X.double()
        sums += block.sum(dim=0)
        squares += block.square().sum(dim=0)
        least = torch.minimum(least, block.amin(dim=0))
        most = torch.maximum(most, block.amax(dim=0))
    n_rows = len(data.editing)
    mean = sums / n_rows
    deviation = (squares / n_rows - mean.square()).clamp(min=0).sqrt()
    # Rounding leaves a little of a constant column's variance.
    return mean, torch.where(least == most, 0.0, deviation), least, most


def _make_tokens(
    module: nn.Module, data: EditData, size: float | None, rng: np.random.Generator
) -> Trigger:
    """Make tokens that start as words of the vocabulary."""
    fields = data.editing.X.fields
    names = () if fields is None else fields.names
    taken = inspect.signature(module.forward).parameters
    if not hasattr(module, "get_input_embeddings") or "inputs_embeds" not in taken or not names:
        raise NetworkError(
            "FairReprogrammer appends soft tokens to a text, but this network takes token ids "
            "only: it needs a model of transformers that is called by the names of its inputs "
            "(TextFrame) and takes inputs_embeds. Use an editor that changes weights otherwise."
        )
    others = [name for name in names if name not in TEXT_INPUTS]
    if others:
        raise NetworkError(
            f"X has the inputs {others}, which would not know of the trigger's tokens: pass "
            f"[{listed(TEXT_INPUTS)}] only, of which input_ids is needed."
        )
    length = fields.shapes[names.index("input_ids")][0] if fields is not None else 0
    n_tokens = _count_tokens(module, length, size)
    embed: Any = module.get_input_embeddings
    words = embed().weight.detach()
    drawn = torch.as_tensor(rng.spawn(1)[0].integers(len(words), size=n_tokens))
    centre = words[drawn.to(words.device)].to(first_parameter(module).dtype)
    scale = words.std().to(centre).reshape(1, 1)
    return TokenTrigger(centre, scale, tuple(centre.shape))


def _count_tokens(module: nn.Module, length: int, size: float | None) -> int:
    """Count the tokens: as requested, or as many as the network's positions leave room for."""
    positions = getattr(getattr(module, "config", None), "max_position_embeddings", None)
    room = SIZES["tokens"] if positions is None else positions - length
    n_tokens = int(min(SIZES["tokens"], room) if size is None else size)
    if n_tokens < 1 or (positions is not None and n_tokens > room):
        raise NetworkError(
            f"a trigger of {n_tokens} tokens behind texts of {length} does not fit into the "
            f"{positions} positions of the network: shorten the texts, or pass a smaller size."
        )
    return n_tokens
