"""Shift a network's logits by a constant."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..exceptions import NetworkError
from ._copy import copied
from ._plain import first_parameter
from ._scores import OutputKey, raw_output, to_logits
from ._trace import trace

__all__ = ["ShiftedNetwork", "fold_offset"]


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
        dtype = first_parameter(network).dtype
        self.register_buffer("shift", torch.tensor(offset, dtype=dtype))

    def forward(self, X: Tensor | None = None, **inputs: Tensor) -> Tensor:
        """Map rows, or rows by the names of the network's inputs, to the shifted output."""
        output = raw_output(self.network, inputs if X is None else X, self.key)
        shift = self.shift.to(output.dtype)
        if self.kind == "one_logit":
            return output - shift
        if self.kind == "one_probability":
            return torch.sigmoid(torch.logit(output) - shift)
        logits = to_logits(output, self.kind)
        logits = torch.cat([logits[:, :1], logits[:, 1:2] - shift, logits[:, 2:]], dim=1)
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

    Raises
    ------
    NetworkError
        Logits of the probe rows are not finite.
    """
    folded = copied(module)
    with torch.no_grad():
        shifted = _margin(module, kind, probe, key) - offset
        _check_finite(shifted)
        if offset == 0:
            return folded
        name = trace(folded, probe, key).layer
        layer = folded.get_submodule(name) if name is not None else None
        if isinstance(layer, nn.Linear) and layer.out_features in (1, 2):
            shift = torch.zeros_like(layer.weight[:, 0])
            shift[-1] = offset
            bias = torch.zeros_like(shift) if layer.bias is None else layer.bias
            layer.bias = nn.Parameter(bias - shift)
        tolerance = 1e-4 * (1 + shifted.abs().max())
        if torch.allclose(_margin(folded, kind, probe, key), shifted, atol=float(tolerance)):
            return folded
    return ShiftedNetwork(copied(module), kind, offset, key).to(probe.device)


def _check_finite(margins: Tensor) -> None:
    if not bool(margins.isfinite().all()):
        raise NetworkError(
            "the network cannot be exported: it returns NaN or infinite logits on rows of fit, on "
            "which exports are checked. Were its weights changed after fit?"
        )


def _margin(module: nn.Module, kind: str, X: Tensor, key: OutputKey) -> Tensor:
    logits = to_logits(raw_output(module, X, key), kind)
    return logits[:, 1] - logits[:, 0]
