"""Read a network's output as logits, find its output layer, and shift its logits."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ..exceptions import NetworkError

__all__ = [
    "OutputKey",
    "ShiftedNetwork",
    "fold_offset",
    "last_leaf",
    "output_layer",
    "raw_output",
    "to_logits",
]

# Place of the scores in a network's output: a key or attribute, a position, or the whole.
OutputKey: TypeAlias = str | int | None

# Layers that do not count as the last one, since they pass on their input.
PASSING = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout)


def raw_output(module: nn.Module, X: Tensor, key: OutputKey = None) -> Tensor:
    """Run the network and return its scores; a vector becomes a column.

    Parameters
    ----------
    module : nn.Module
    X : Tensor
    key : str, int or None, default=None
        Key or attribute, or position in a tuple; None: the tensor itself, or the first element of
        a tuple.

    Raises
    ------
    NetworkError
        If there is no tensor of scores at that place.
    """
    return scores_of(module(X), key)


def scores_of(output: Any, key: OutputKey = None) -> Tensor:
    """Return the scores in a network's output; see :func:`raw_output`."""
    scores = output if key is None and isinstance(output, Tensor) else _pick(output, key)
    if not isinstance(scores, Tensor):
        raise NetworkError(_no_scores_message(output, key))
    return scores.unsqueeze(1) if scores.ndim == 1 else scores


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
    kind : {"logits", "one_logit", "probabilities", "one_probability"}
        Probabilities become log-probabilities, clipped at the dtype's smallest positive number.
    key : str, int or None, default=None
        As in :func:`raw_output`; ignored for a tensor, such as :func:`raw_output` returns.
    """
    output = output if isinstance(output, Tensor) and output.ndim > 1 else scores_of(output, key)
    if kind == "logits":
        return output
    if kind == "one_logit":
        return torch.cat([torch.zeros_like(output), output], dim=1)
    if kind == "one_probability":
        output = torch.cat([1 - output, output], dim=1)
    return output.clamp_min(torch.finfo(output.dtype).tiny).log()


@contextmanager
def _record_outputs(module: nn.Module, record: list[tuple[str, GradientEdge]]) -> Iterator[None]:
    """Record the name and output of every linear or convolution layer as it runs."""

    def make_hook(name: str) -> Any:
        def hook(_layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            # A leaf may not be changed in place, so pass on a copy.
            leaf = not output.requires_grad
            output = output.requires_grad_() if leaf else output
            record.append((name, get_gradient_edge(output)))
            return output.clone() if leaf else output

        return hook

    handles = [
        layer.register_forward_hook(make_hook(name))
        for name, layer in module.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def output_layer(module: nn.Module, X: Tensor, key: OutputKey = None) -> str | None:
    """Return the name of the layer that makes the logits: the last one that they depend on.

    Linear and convolution layers count. A head for another purpose does not, whenever it runs.
    """
    record: list[tuple[str, GradientEdge]] = []
    with torch.enable_grad(), _record_outputs(module, record):
        total = raw_output(module, X, key).sum()
    if not record or not total.requires_grad:
        return record[-1][0] if record else None
    edges = [edge for _, edge in record]
    gradients = torch.autograd.grad(total, edges, allow_unused=True)
    reached = [name for (name, _), g in zip(record, gradients, strict=True) if g is not None]
    return reached[-1] if reached else record[-1][0]


def last_leaf(module: nn.Module, X: Tensor) -> nn.Module | None:
    """Return the leaf module that runs last, ignoring those that change no value."""
    ran: list[nn.Module] = []
    leaves = [
        layer
        for layer in module.modules()
        if not any(layer.children()) and not isinstance(layer, PASSING)
    ]
    handles = [leaf.register_forward_hook(lambda m, _x, _y: ran.append(m)) for leaf in leaves]
    try:
        with torch.no_grad():
            module(X)
    finally:
        for handle in handles:
            handle.remove()
    return ran[-1] if ran else None


class ShiftedNetwork(nn.Module):
    """A network whose second logit is lowered by a constant; it returns a tensor.

    It is for networks whose output layer has no bias that could take up the constant.

    Parameters
    ----------
    network : nn.Module
        Returns logits, a logit, probabilities or a probability.
    kind : str
        Which of these it returns.
    offset : float
        Subtracted from the margin; the output keeps its kind.
    key : str, int or None, default=None
        Place of the scores in the network's output.
    """

    shift: Tensor

    def __init__(self, network: nn.Module, kind: str, offset: float, key: OutputKey = None) -> None:
        super().__init__()
        self.network = network
        self.key = key
        self.training = network.training  # exporters warn if a wrapper has another mode
        self.kind = kind
        dtype = next(network.parameters(), torch.zeros(())).dtype
        self.register_buffer("shift", torch.tensor(offset, dtype=dtype))

    def forward(self, X: Tensor) -> Tensor:
        """Map rows to the shifted output."""
        output = raw_output(self.network, X, self.key)
        shift = self.shift.to(output.dtype)
        if self.kind == "one_logit":
            return output - shift
        if self.kind == "one_probability":
            return torch.sigmoid(torch.logit(output) - shift)
        first, second = to_logits(output, self.kind).unbind(dim=1)
        logits = torch.stack([first, second - shift], dim=1)
        return logits if self.kind == "logits" else logits.softmax(dim=1)


def fold_offset(
    module: nn.Module, kind: str, offset: float, probe: Tensor, key: OutputKey = None
) -> nn.Module:
    """Return a copy of the network with ``offset`` subtracted from its margin.

    The offset is added to the bias of the output layer and checked on the ``probe`` rows. If the
    result is wrong, because no bias reaches the output unchanged, the copy is wrapped in a
    :class:`ShiftedNetwork` instead.

    Parameters
    ----------
    module : nn.Module
        A network for two classes.
    kind : str
        Kind of its output, as in :func:`to_logits`.
    offset : float
        In units of the logit margin.
    probe : Tensor
        A few rows of input.
    key : str, int or None, default=None
        Place of the scores in the network's output.

    Returns
    -------
    folded : nn.Module
    """
    folded = copy.deepcopy(module)
    if offset == 0:
        return folded
    with torch.no_grad():
        shifted = _margin(module, kind, probe, key) - offset
        name = output_layer(folded, probe, key)
        layer = folded.get_submodule(name) if name is not None else None
        if isinstance(layer, nn.Linear) and layer.out_features in (1, 2):
            shift = torch.zeros_like(layer.weight[:, 0])
            shift[-1] = offset
            bias = torch.zeros_like(shift) if layer.bias is None else layer.bias
            layer.bias = nn.Parameter(bias - shift)
        tolerance = 1e-4 * (1 + shifted.abs().max())
        if torch.allclose(_margin(folded, kind, probe, key), shifted, atol=float(tolerance)):
            return folded
    return ShiftedNetwork(copy.deepcopy(module), kind, offset, key).to(probe.device)


def _margin(module: nn.Module, kind: str, X: Tensor, key: OutputKey) -> Tensor:
    logits = to_logits(raw_output(module, X, key), kind)
    return logits[:, 1] - logits[:, 0]
