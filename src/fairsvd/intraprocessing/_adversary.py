"""An adversary that guesses the group from the network's predictions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..objective import SHARPNESS, Constraint, compared
from ..training import Batch

__all__ = ["Adversary"]


class Adversary:
    """Linear softmax classifier of the group, from probabilities and, if told, the label.

    Its inputs are ``softmax((1 + |c|) * logits)``, with ``c`` learned. If the constraint conditions
    on the label, every class has its own coefficients and intercept, so that what the label alone
    tells about the group does not count. For demographic parity there is one set of them; for
    accuracy parity one set, on the probability of the true class alone; for equal opportunity one
    set for every class, on the probability of that class alone, or of the positive class of two.

    Parameters
    ----------
    constraint : Constraint
    n_classes, n_groups : int
    device : torch.device
    dtype : torch.dtype

    Attributes
    ----------
    parameters : list of Tensor
        Coefficients (n_sets, n_classes, n_groups), intercepts (n_sets, n_groups) and ``c``; leaves
        that require gradients. All start at zero, except ``c``, which starts where the logits are
        scaled as in the soft gaps.
    """

    def __init__(
        self,
        constraint: Constraint,
        n_classes: int,
        n_groups: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.rates, self.pos = compared(constraint.gap), constraint.pos
        self.n_classes = n_classes
        n_sets = n_classes if "tpr" in self.rates else 1
        settings: dict[str, Any] = {"device": device, "dtype": dtype}
        self.parameters = [
            torch.zeros(n_sets, n_classes, n_groups, **settings).requires_grad_(),
            torch.zeros(n_sets, n_groups, **settings).requires_grad_(),
            torch.tensor(SHARPNESS - 1, **settings).requires_grad_(),
        ]

    def loss(self, logits: Tensor, batch: Batch, *, training: bool) -> Tensor:
        """Compute the weighted cross-entropy of the group.

        Parameters
        ----------
        logits : Tensor of shape (n, n_classes)
            At the operating threshold.
        batch : Batch
        training : bool
            Gradients reach the adversary; otherwise only ``logits``.
        """
        values = self.parameters if training else [p.detach() for p in self.parameters]
        coefficients, intercepts, c = values
        which = batch.y if len(coefficients) > 1 else torch.zeros_like(batch.y)
        inputs = torch.softmax((1 + c.abs()) * logits, dim=1)
        if self.rates in (("tpr",), ("accuracy",)):
            inputs = inputs * torch.nn.functional.one_hot(batch.y, self.n_classes)
        scores = torch.einsum("nc,ncg->ng", inputs, coefficients[which]) + intercepts[which]
        losses = torch.nn.functional.cross_entropy(scores, batch.groups, reduction="none")
        weights = self.weights(batch)
        return (losses * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)

    def weights(self, batch: Batch) -> Tensor:
        """Weigh the rows that the adversary sees by the true shares of their cells."""
        if self.rates == ("tpr",) and self.n_classes == 2:
            return torch.where(batch.y == self.pos, batch.gap_weights, 0.0)
        return batch.gap_weights

    def blind_loss(self, table: Tensor) -> float:
        """Compute the smallest cross-entropy of an adversary that does not see predictions.

        Parameters
        ----------
        table : Tensor of shape (n_classes, n_groups)
            Rows in each cell.
        """
        if self.rates == ("tpr",) and self.n_classes == 2:
            table = table[self.pos : self.pos + 1]
        elif "tpr" not in self.rates:
            table = table.sum(dim=0, keepdim=True)
        counts = table.double()
        shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
        return float(-torch.xlogy(counts, shares).sum() / counts.sum())
