"""What a network returns, read as logits; where its output layer is; how to shift it."""

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
    "OUTPUT_KINDS",
    "OutputKey",
    "ShiftedNetwork",
    "fold_offset",
    "last_leaf",
    "output_layer",
    "raw_output",
    "to_logits",
]

OUTPUT_KINDS = ("logits", "one_logit", "probabilities", "one_probability")

# Where in what a network returns the scores are: a key or attribute, a position, or the whole.
OutputKey: TypeAlias = str | int | None

# Layers that hand on what they get, as far as the meaning of a last layer goes.
PASSING = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout)


def raw_output(module: nn.Module, X: Tensor, key: OutputKey = None) -> Tensor:
    """Run the network and take its scores out of what it returns; of a vector make a column.

    Parameters
    ----------
    module : nn.Module
    X : Tensor
    key : str, int or None, default=None
        A key or attribute, a position in a tuple; None: the tensor itself, the first element of a
        tuple.

    Raises
    ------
    NetworkError
        There is no tensor of scores at that place.
    """
    return scores_of(module(X), key)


def scores_of(output: Any, key: OutputKey = None) -> Tensor:
    """Take the scores out of what a network returned; see :func:`raw_output`."""
    scores = output if key is None and isinstance(output, Tensor) else _picked(output, key)
    if not isinstance(scores, Tensor):
        raise NetworkError(_no_scores(output, key))
    return scores.unsqueeze(1) if scores.ndim == 1 else scores


def _picked(output: Any, key: OutputKey) -> Any:
    in_order = isinstance(output, (tuple, list))
    if isinstance(output, Tensor):
        return None
    if isinstance(output, Mapping):
        return None if key is None else output.get(key)
    if isinstance(key, str):
        return getattr(output, key, None)
    position = 0 if key is None else key
    return output[position] if in_order and -len(output) <= position < len(output) else None


def _no_scores(output: Any, key: OutputKey) -> str:
    wanted = "its name (or, in a tuple, its position)"
    if isinstance(output, Tensor):
        holds, wanted = f"of the shape {tuple(output.shape)}", "None, as it is no container"
    elif isinstance(output, Mapping):
        holds = f"with the keys {[str(each) for each in output]}"
    elif isinstance(output, (tuple, list)):
        holds = f"of {[type(each).__name__ for each in output]}"
    else:
        holds = f"with the attributes {sorted(getattr(output, '__dict__', {}))}"
    return (
        f"the network returns a {type(output).__name__} {holds}, in which output_key={key!r} finds "
        f"no tensor of scores (n, n_classes). Pass {wanted} as output_key=."
    )


def to_logits(output: Any, kind: str, key: OutputKey = None) -> Tensor:
    """Read what a network returned as logits (n, n_classes).

    Parameters
    ----------
    output : Tensor, or what ``key`` finds one in
    kind : {"logits", "one_logit", "probabilities", "one_probability"}
        Probabilities become log-probabilities, clipped at the dtype's smallest positive number.
    key : str, int or None, default=None
        As in :func:`raw_output`; of no effect on a tensor, so that what :func:`raw_output` gives
        is read as well.
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
def _seen_outputs(module: nn.Module, record: list[tuple[str, GradientEdge]]) -> Iterator[None]:
    """Note the name of every linear or convolution layer as it runs, and where its output is."""

    def note(name: str) -> Any:
        def hook(_layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            # A leaf may not be changed in place, so that its copy goes on.
            leaf = not output.requires_grad
            output = output.requires_grad_() if leaf else output
            record.append((name, get_gradient_edge(output)))
            return output.clone() if leaf else output

        return hook

    handles = [
        layer.register_forward_hook(note(name))
        for name, layer in module.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def output_layer(module: nn.Module, X: Tensor, key: OutputKey = None) -> str | None:
    """Name the layer that makes the logits: the last one to run that they depend on.

    Linear and convolution layers count. A head for another purpose does not, wherever it runs.
    """
    record: list[tuple[str, GradientEdge]] = []
    with torch.enable_grad(), _seen_outputs(module, record):
        total = raw_output(module, X, key).sum()
    if not record or not total.requires_grad:
        return record[-1][0] if record else None
    edges = [edge for _, edge in record]
    gradients = torch.autograd.grad(total, edges, allow_unused=True)
    reached = [name for (name, _), g in zip(record, gradients, strict=True) if g is not None]
    return reached[-1] if reached else record[-1][0]


def last_leaf(module: nn.Module, X: Tensor) -> nn.Module | None:
    """Return the leaf module that runs last, passing over those that change no value."""
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

    For networks whose output layer has no bias of its own that the constant could be added to.

    Parameters
    ----------
    network : nn.Module
        Returns logits, a logit, probabilities or a probability.
    kind : str
        Which of them.
    offset : float
        Subtracted from the margin; the output keeps its kind.
    key : str, int or None, default=None
        Where in what the network returns they are.
    """

    shift: Tensor

    def __init__(self, network: nn.Module, kind: str, offset: float, key: OutputKey = None) -> None:
        super().__init__()
        self.network = network
        self.key = key
        self.training = network.training  # a wrapper in another mode would make exporters warn
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

    The offset goes into the bias of the output layer; the result is checked on ``probe`` rows,
    and where it is not what was wanted (no bias reaches the output unchanged) the copy is
    wrapped in a :class:`ShiftedNetwork` instead.

    Parameters
    ----------
    module : nn.Module
        A network for two classes.
    kind : str
        What it returns (``OUTPUT_KINDS``).
    offset : float
        In units of the logit margin.
    probe : Tensor
        A few rows of input.
    key : str, int or None, default=None
        Where in what the network returns its scores are.

    Returns
    -------
    folded : nn.Module
    """
    folded = copy.deepcopy(module)
    if offset == 0:
        return folded
    with torch.no_grad():
        wanted = _margin(module, kind, probe, key) - offset
        name = output_layer(folded, probe, key)
        layer = folded.get_submodule(name) if name is not None else None
        if isinstance(layer, nn.Linear) and layer.out_features in (1, 2):
            shift = torch.zeros_like(layer.weight[:, 0])
            shift[-1] = offset
            bias = torch.zeros_like(shift) if layer.bias is None else layer.bias
            layer.bias = nn.Parameter(bias - shift)
        tolerance = 1e-4 * (1 + wanted.abs().max())
        if torch.allclose(_margin(folded, kind, probe, key), wanted, atol=float(tolerance)):
            return folded
    return ShiftedNetwork(copy.deepcopy(module), kind, offset, key).to(probe.device)


def _margin(module: nn.Module, kind: str, X: Tensor, key: OutputKey) -> Tensor:
    logits = to_logits(raw_output(module, X, key), kind)
    return logits[:, 1] - logits[:, 0]
