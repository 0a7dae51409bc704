"""Run a network once and see which layer makes its scores, and what is applied to them last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ._scores import OutputKey, raw_output

__all__ = ["Trace", "moves_scores", "trace"]

# Relative change of a layer's output: small, so that a choice among parts by an argmax stays.
NUDGE = 1e-3

# Operations that pass on values as they are, by the names of their gradients.
PASSING = (
    *("Alias", "Clone", "Contiguous", "Expand", "Reshape", "Select", "Slice", "Split", "Squeeze"),
    *("T", "ToCopy", "Transpose", "Permute", "Unbind", "Unsqueeze", "UnsafeView", "View", "Index"),
)

# Averages of values, and sums and products of a tensor and a constant or a parameter: what comes
# from a layer stays a logit.
AFFINE = (
    *("AdaptiveAvgPool2D", "AvgPool2D", "Mean", "Sum"),
    *("Add", "Div", "Mul", "Neg", "Rsub", "Sub"),
)

# Operations of which every result is in [0, 1]: each value on its own, or all values of a row.
SQUASHING = ("Sigmoid", "Softmax", "Hardsigmoid")


@dataclass(frozen=True)
class Trace:
    """What one run of a network shows.

    Attributes
    ----------
    scores : Tensor of shape (n, n_outputs)
        Detached.
    layer : str or None
        Name of the linear or convolution layer that makes the scores: the last one that they depend
        on; None if no such layer ran. A head for another purpose does not count.
    last : {"layer", "squashing", "unknown"}
        What gives the scores their values: the layer itself, a sigmoid or softmax, or another
        operation.
    has_gradient : bool
        Whether the scores can be differentiated by the outputs of any layer.
    unreached : tuple of str
        Layers that ran, and that no gradient of the scores reaches.
    leaves : frozenset of int
        Identities of the tensors that the scores depend on, as far as gradients reach.
    """

    scores: Tensor
    layer: str | None
    last: str
    has_gradient: bool
    unreached: tuple[str, ...]
    leaves: frozenset[int]


def trace(module: nn.Module, X: Tensor, key: OutputKey = None) -> Trace:
    """Run the network on rows and trace its scores back."""
    record: list[tuple[str, GradientEdge | None]] = []
    with torch.enable_grad():
        with _recorded(module, record):
            scores = raw_output(module, X, key)
        return _follow(scores, record)


def _follow(scores: Tensor, record: list[tuple[str, GradientEdge | None]]) -> Trace:
    names = [name for name, _ in record]
    if not scores.requires_grad:
        layer = names[-1] if names else None
        return Trace(scores.detach(), layer, "unknown", False, tuple(names), frozenset())
    leaves = _leaves(scores)
    edges = [(name, edge) for name, edge in record if edge is not None]
    reached = _reached(scores, edges)
    layer = reached[-1][0] if reached else (names[-1] if names else None)
    last = _last(scores, [edge.node for _, edge in edges])
    with_gradient = {name for name, _ in reached}
    unreached = tuple(name for name in dict.fromkeys(names) if name not in with_gradient)
    return Trace(scores.detach(), layer, last, bool(reached), unreached, leaves)


def moves_scores(module: nn.Module, X: Tensor, key: OutputKey, layer: str) -> bool:
    """Tell whether the scores follow a small change of a layer's output."""

    def moved(_layer: nn.Module, _inputs: Any, output: Any) -> Any:
        return output + NUDGE * (1 + output.abs()) if isinstance(output, Tensor) else output

    with torch.no_grad():
        before = raw_output(module, X, key)
        handle = module.get_submodule(layer).register_forward_hook(moved)
        try:
            after = raw_output(module, X, key)
        finally:
            handle.remove()
    return not torch.equal(before, after)


def _reached(
    scores: Tensor, edges: list[tuple[str, GradientEdge]]
) -> list[tuple[str, GradientEdge]]:
    if not edges:
        return []
    gradients = torch.autograd.grad(scores.sum(), [edge for _, edge in edges], allow_unused=True)
    return [each for each, g in zip(edges, gradients, strict=True) if g is not None]


@contextmanager
def _recorded(module: nn.Module, record: list[tuple[str, GradientEdge | None]]) -> Iterator[None]:
    """Record the name and output of every linear or convolution layer as it runs."""

    def make_hook(name: str) -> Any:
        def hook(_layer: nn.Module, _inputs: Any, output: Any) -> Any:
            if not isinstance(output, Tensor) or output.is_inference():
                record.append((name, None))
                return output
            # A leaf may not be changed in place, so pass on a copy.
            leaf = not output.requires_grad
            output = output.requires_grad_() if leaf else output
            record.append((name, get_gradient_edge(output)))
            return output.clone() if leaf else output

        return hook

    handles = [
        layer.register_forward_hook(make_hook(name))
        for name, layer in module.named_modules()
        # A layer without inputs or outputs has no weight to edit.
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.weight.numel()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _operation(node: Any) -> str:
    """Return the name of an operation without what autograd adds to it."""
    return str(node.name()).removeprefix("torch::autograd::").partition("Backward")[0]


def _last(scores: Tensor, layers: list[Any]) -> str:
    """Tell what made the scores' values, behind operations that only pass them on."""
    node: Any = scores.grad_fn
    clamped = False
    while node is not None:
        if any(node is layer for layer in layers):
            return "unknown" if clamped else "layer"
        operation = _operation(node)
        if operation in SQUASHING:
            return "squashing"
        before = [each for each, _ in node.next_functions if not _is_leaf(each)]
        clamped |= operation == "Clamp"
        keeps = operation in ("Clamp", *PASSING) or (operation in AFFINE and len(before) == 1)
        if not before or not keeps:
            return "unknown"
        node = before[0]
    return "unknown"


def _is_leaf(node: Any) -> bool:
    return node is None or hasattr(node, "variable")


def _leaves(scores: Tensor) -> frozenset[int]:
    """Collect the identities of the leaves of a gradient's graph."""
    seen, found, waiting = set(), set(), [scores.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting.extend(following for following, _ in node.next_functions)
    return frozenset(found)
