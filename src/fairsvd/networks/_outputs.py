"""What a network returns, read as logits; where its output layer is; how to shift it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = [
    "OUTPUT_KINDS",
    "ShiftedNetwork",
    "fold_offset",
    "last_leaf",
    "output_layer",
    "raw_output",
    "recording_inputs",
    "to_logits",
]

OUTPUT_KINDS = ("logits", "one_logit", "probabilities", "one_probability")


def raw_output(module: nn.Module, X: Tensor) -> Tensor:
    """Run the network; of a tuple take the first element, of a vector make a column."""
    output = module(X)
    if isinstance(output, (tuple, list)):
        output = output[0]
    return output.unsqueeze(1) if output.ndim == 1 else output


def to_logits(output: Tensor, kind: str) -> Tensor:
    """Read a raw output (n, K) or (n, 1) as logits (n, n_classes).

    Parameters
    ----------
    output : Tensor
        What :func:`raw_output` returned.
    kind : {"logits", "one_logit", "probabilities", "one_probability"}
        Probabilities become log-probabilities, clipped at the dtype's smallest positive number.
    """
    if isinstance(output, (tuple, list)):
        output = output[0]
    if output.ndim == 1:
        output = output.unsqueeze(1)
    if kind == "logits":
        return output
    if kind == "one_logit":
        return torch.cat([torch.zeros_like(output), output], dim=1)
    if kind == "one_probability":
        output = torch.cat([1 - output, output], dim=1)
    return output.clamp_min(torch.finfo(output.dtype).tiny).log()


@contextmanager
def recording_inputs(module: nn.Module, record: list[tuple[str, Tensor]]) -> Iterator[None]:
    """Note the name and the input of every linear or convolution layer as it runs."""

    def note(name: str) -> object:
        return lambda _layer, inputs: record.append((name, inputs[0]))

    handles = [
        layer.register_forward_pre_hook(note(name))  # type: ignore[arg-type]
        for name, layer in module.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def output_layer(module: nn.Module, X: Tensor) -> str | None:
    """Name the layer that makes the logits: the last linear or convolution layer that runs."""
    record: list[tuple[str, Tensor]] = []
    with torch.no_grad(), recording_inputs(module, record):
        raw_output(module, X)
    return record[-1][0] if record else None


def last_leaf(module: nn.Module, X: Tensor) -> nn.Module | None:
    """Return the leaf module that runs last."""
    ran: list[nn.Module] = []
    leaves = [layer for layer in module.modules() if not any(layer.children())]
    handles = [leaf.register_forward_hook(lambda m, _x, _y: ran.append(m)) for leaf in leaves]
    try:
        with torch.no_grad():
            module(X)
    finally:
        for handle in handles:
            handle.remove()
    return ran[-1] if ran else None


class ShiftedNetwork(nn.Module):
    """A network whose second logit is lowered by a constant.

    For networks whose output layer has no bias of its own that the constant could be added to.

    Parameters
    ----------
    network : nn.Module
        Returns logits, a logit, probabilities or a probability.
    kind : str
        Which of them.
    offset : float
        Subtracted from the margin; the output keeps its kind.
    """

    shift: Tensor

    def __init__(self, network: nn.Module, kind: str, offset: float) -> None:
        super().__init__()
        self.network = network
        self.training = network.training  # a wrapper in another mode would make exporters warn
        self.kind = kind
        dtype = next(network.parameters(), torch.zeros(())).dtype
        self.register_buffer("shift", torch.tensor(offset, dtype=dtype))

    def forward(self, X: Tensor) -> Tensor:
        """Map rows to the shifted output."""
        output = raw_output(self.network, X)
        shift = self.shift.to(output.dtype)
        if self.kind == "one_logit":
            return output - shift
        if self.kind == "one_probability":
            return torch.sigmoid(torch.logit(output) - shift)
        first, second = to_logits(output, self.kind).unbind(dim=1)
        logits = torch.stack([first, second - shift], dim=1)
        return logits if self.kind == "logits" else logits.softmax(dim=1)


def fold_offset(module: nn.Module, kind: str, offset: float, probe: Tensor) -> nn.Module:
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

    Returns
    -------
    folded : nn.Module
    """
    folded = copy.deepcopy(module)
    if offset == 0:
        return folded
    with torch.no_grad():
        wanted = _margin(module, kind, probe) - offset
        name = output_layer(folded, probe)
        layer = folded.get_submodule(name) if name is not None else None
        if isinstance(layer, nn.Linear) and layer.out_features in (1, 2):
            shift = torch.zeros_like(layer.weight[:, 0])
            shift[-1] = offset
            bias = torch.zeros_like(shift) if layer.bias is None else layer.bias
            layer.bias = nn.Parameter(bias - shift)
        tolerance = 1e-4 * (1 + wanted.abs().max())
        if torch.allclose(_margin(folded, kind, probe), wanted, atol=float(tolerance)):
            return folded
    return ShiftedNetwork(copy.deepcopy(module), kind, offset).to(probe.device)


def _margin(module: nn.Module, kind: str, X: Tensor) -> Tensor:
    logits = to_logits(raw_output(module, X), kind)
    return logits[:, 1] - logits[:, 0]
