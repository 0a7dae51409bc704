"""A network with one output for each (label, group) cell."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..groups import cell_codes
from ..networks import PROBABILITIES, Inputs, raw_output
from ..training import Batch

__all__ = ["CellNetwork", "average_cells", "cell_loss", "partial_loss", "reset"]


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


def cell_loss(network: nn.Module, n_groups: int, batch: Batch) -> Tensor:
    """Compute the mean of -log p(label, group)."""
    codes = cell_codes(batch.y, batch.groups, n_groups)
    return nn.functional.cross_entropy(network(batch.X), codes)


def partial_loss(network: nn.Module, n_groups: int, times: Tensor, batch: Batch) -> Tensor:
    """Estimate the mean of -log p(label, group) of rows of which some have no group.

    It is the mean of -log p(label), and of -log p(group | label) where the group is known, which
    counts for the other rows of its label: ``times`` (n_classes,) says for how many, itself one of
    them. With each row's own weight a network follows the labels at the expense of the groups.
    """
    shares = torch.log_softmax(network(batch.X), dim=1).unflatten(1, (-1, n_groups))
    of_label = shares[torch.arange(len(batch.y), device=batch.y.device), batch.y]
    of_cell = of_label.gather(1, batch.groups.clamp(min=0)[:, None])[:, 0]
    whole = of_label.logsumexp(dim=1)
    of_group = torch.where(batch.groups < 0, 0.0, times[batch.y] * (of_cell - whole))
    return -(whole + of_group).mean()


def reset(module: nn.Module) -> bool:
    """Initialise every parameter anew; tell whether all layers know how."""
    layers = [m for m in module.modules() if next(m.parameters(recurse=False), None) is not None]
    if not all(hasattr(layer, "reset_parameters") for layer in layers):
        return False
    for layer in layers:
        layer.reset_parameters()  # type: ignore[operator]
    return True
