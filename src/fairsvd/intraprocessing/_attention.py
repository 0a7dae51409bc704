"""Where a transformer's attention layers have their queries, and what scaling them does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .._rng import torch_generator
from ..base import Task

__all__ = ["PACKED", "QUERIES", "Attention", "find_attention", "reached", "scaled"]

# Names of the linear layers of an attention layer, and of what holds the number of its heads.
QUERIES = ("query", "q_proj", "q_lin", "q", "query_proj")
KEYS = ("key", "k_proj", "k_lin", "k", "key_proj")
PACKED = ("qkv", "in_proj")
HEADS = ("num_attention_heads", "num_heads", "n_heads", "n_head", "heads")

# Rows on which it is checked that an attention layer's scores are what is scaled.
PROBED = 16


@dataclass(frozen=True)
class Attention:
    """An attention layer whose queries are known.

    Attributes
    ----------
    name : str
    n_heads : int
    queries, keys : tuple of (parameter name, Tensor, slice)
        Weights and biases, and the rows of them that make the queries (the keys).
    """

    name: str
    n_heads: int
    queries: tuple[tuple[str, Tensor, slice], ...]
    keys: tuple[tuple[str, Tensor, slice], ...]


def find_attention(module: nn.Module) -> list[Attention]:
    """Find the attention layers of a network, in its order."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found = []
    for name, part in module.named_modules():
        n_heads, places = _places(part)
        sides = [
            tuple(
                (names[id(value)], value.detach(), rows)
                for value, rows in side
                if value is not None and id(value) in names
            )
            for side in places
        ]
        if n_heads and all(sides) and _rows(sides[0][0]) % n_heads == 0:
            found.append(Attention(name, n_heads, *sides))
    return found


def _rows(place: tuple[str, Tensor, slice]) -> int:
    return len(place[1][place[2]])


Side = list[tuple[Any, slice]]


def _places(part: nn.Module) -> tuple[int, tuple[Side, Side]]:
    """Return the number of heads, and where a module has its queries and keys."""
    if isinstance(part, nn.MultiheadAttention):
        size, bias = part.embed_dim, part.in_proj_bias
        query, key, whole = slice(0, size), slice(size, 2 * size), slice(None)
        if part.in_proj_weight is None:
            of_queries = [(part.q_proj_weight, whole), (bias, query)]
            return part.num_heads, (of_queries, [(part.k_proj_weight, whole), (bias, key)])
        tensors = part.in_proj_weight, bias
        return part.num_heads, ([(t, query) for t in tensors], [(t, key) for t in tensors])
    layers = {n: child for n, child in part.named_children() if isinstance(child, nn.Linear)}
    owners = part, getattr(part, "config", None)
    heads = [getattr(owner, name, None) for owner in owners for name in HEADS]
    n_heads = next((each for each in heads if isinstance(each, int)), 0)
    one, other = (
        next((layers[name] for name in names if name in layers), None) for names in (QUERIES, KEYS)
    )
    if one is not None and other is not None:
        return n_heads, (_of(one, slice(None)), _of(other, slice(None)))
    packed = next((layers[name] for name in PACKED if name in layers), None)
    if packed is None or packed.out_features % 3:
        return 0, ([], [])
    third = packed.out_features // 3
    return n_heads, (_of(packed, slice(0, third)), _of(packed, slice(third, 2 * third)))


def _of(layer: nn.Linear, rows: slice) -> Side:
    return [(layer.weight, rows), (layer.bias, rows)]


def scaled(layers: Sequence[Attention], logarithms: NDArray[np.float64]) -> dict[str, Tensor]:
    """Scale the queries of every head by the exponential of its logarithm."""
    state: dict[str, Tensor] = {}
    done = 0
    for layer in layers:
        logs = logarithms[done : done + layer.n_heads]
        done += layer.n_heads
        for name, value, rows in layer.queries:
            factors = torch.as_tensor(np.exp(logs)).to(value)
            each = factors.repeat_interleave(len(value[rows]) // layer.n_heads)
            made = state[name] = state.get(name, value).clone()
            made[rows] *= each.reshape(-1, *[1] * (value.ndim - 1))
    return state


def reached(task: Task, layers: Sequence[Attention], rng: np.random.Generator) -> list[Attention]:
    """Keep the layers whose scores are all products of what is found to be queries and keys.

    With queries of zero all scores are equal, so that the keys do not matter.
    """
    rows, generator = task.data.judged.subset(slice(PROBED)), torch_generator(rng.spawn(1)[0])

    def outputs(state: Mapping[str, Tensor]) -> Tensor:
        return task.data.logits(task.module, state, rows)

    kept = []
    for layer in layers:
        silent: dict[str, Tensor] = {}
        for name, value, part in layer.queries:
            made = silent[name] = silent.get(name, value).clone()
            made[part] = 0
        changed = dict(silent)
        for name, value, part in layer.keys:
            made = changed[name] = changed.get(name, value).clone()
            drawn = torch.randn(made[part].shape, generator=generator)
            made[part] += drawn.to(made) * value.std().nan_to_num(1.0).clamp(min=0.1)
        before, after = outputs(silent), outputs(changed)
        if torch.allclose(before, after, rtol=1e-3, atol=1e-4):
            kept.append(layer)
    return kept
