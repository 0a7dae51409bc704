"""A network with one output for each (label, group) cell."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..networks import PROBABILITIES, Inputs, raw_output

__all__ = ["CellNetwork", "average_cells", "reset"]


class CellNetwork(nn.Module):
    """A network of the user's architecture with one output for each (label, group) cell.

    Parameters
    ----------
    network : nn.Module
    kind : str
        What the network would return for classes; see :func:`fairsvd.networks.to_logits`.
    key : str, int or None
        Where in what the network returns its scores are.
    """

    def __init__(self, network: nn.Module, kind: str, key: str | int | None) -> None:
        super().__init__()
        self.network: nn.Module = network
        self.kind, self.key = kind, key

    def forward(self, X: Inputs) -> Tensor:
        """Map rows to the logits (n, n_cells) of the cells, numbered ``y * n_groups + group``."""
        output = raw_output(self.network, X, self.key)
        if self.kind not in PROBABILITIES:
            return output
        tiny = torch.finfo(output.dtype).tiny
        if self.kind != "probabilities":
            return torch.logit(output.clamp(tiny, 1 - torch.finfo(output.dtype).eps))
        return output.clamp_min(tiny).log()


def average_cells(networks: Iterable[nn.Module], X: Inputs) -> Tensor:
    """Average the probabilities (n, n_cells) that networks of the cells give rows."""
    return torch.stack([torch.softmax(network(X), dim=1) for network in networks]).mean(dim=0)


def reset(module: nn.Module) -> bool:
    """Initialise every parameter anew; tell whether all layers know how."""
    layers = [m for m in module.modules() if next(m.parameters(recurse=False), None) is not None]
    if not all(hasattr(layer, "reset_parameters") for layer in layers):
        return False
    for layer in layers:
        layer.reset_parameters()  # type: ignore[operator]
    return True
