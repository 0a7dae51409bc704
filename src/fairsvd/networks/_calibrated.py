"""A network whose output is calibrated probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ._scores import OutputKey, raw_output, to_logits

__all__ = ["CalibratedNetwork"]


class CalibratedNetwork(nn.Module):
    """A network, and a monotone map of its probabilities; it returns (n, n_classes), float64.

    Parameters
    ----------
    network : nn.Module
    kind : str
        Kind of its output, as in :func:`to_logits`.
    key : str, int or None
        Place of the scores in its output.
    factor : float
        Of the logits, before the softmax.
    points, values : sequence of float
        Probabilities of the second of two classes, and what they become, with straight lines
        between and constants outside; empty: nothing but the factor.
    own_share : float
        Weight of the probability itself beside what ``values`` say.
    """

    low: Tensor
    high: Tensor
    slope: Tensor

    def __init__(
        self,
        network: nn.Module,
        kind: str,
        key: OutputKey,
        factor: float,
        points: Sequence[float],
        values: Sequence[float],
        own_share: float,
    ) -> None:
        super().__init__()
        self.network, self.kind, self.key = network, kind, key
        self.training = network.training
        self.factor, self.own_share = factor, own_share
        self.first = float(values[0]) if len(values) else None
        # In double precision: single steps of a map may be far smaller than rounding in single.
        at, to = (torch.tensor([*each], dtype=torch.float64) for each in (points, values))
        self.register_buffer("low", at[:-1])
        self.register_buffer("high", at[1:])
        self.register_buffer("slope", to.diff() / at.diff())

    def forward(self, X: Tensor | None = None, **inputs: Tensor) -> Tensor:
        """Map rows, or rows by the names of the network's inputs, to probabilities."""
        output = raw_output(self.network, inputs if X is None else X, self.key)
        shares = (to_logits(output, self.kind).double() * self.factor).softmax(dim=1)
        if self.first is None:
            return shares
        own = shares[:, 1:2]
        within = torch.minimum(torch.maximum(own, self.low), self.high)
        mapped = self.first + ((within - self.low) * self.slope).sum(dim=1, keepdim=True)
        mapped = mapped + self.own_share * (own - mapped)
        return torch.cat([1 - mapped, mapped], dim=1)
