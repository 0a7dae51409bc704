"""Statistics of groups on probabilities, differentiable in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._statistics import STATISTICS

__all__ = ["SoftRows", "soft_spread", "soft_statistic"]


@dataclass(frozen=True)
class SoftRows:
    """A batch of rows with probabilities.

    Attributes
    ----------
    probabilities : Tensor of shape (n, n_classes)
    y, groups : Tensor of shape (n,), int64
        Rows of the group -1 are left out.
    weights : Tensor of shape (n,) or None
    pos : int or None
        Code of the positive class of two.
    n_groups : int
    """

    probabilities: Tensor
    y: Tensor
    groups: Tensor
    weights: Tensor | None
    pos: int | None
    n_groups: int

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Probabilities, labels, groups and weights."""
        return self.probabilities, self.y, self.groups, self.weights


def soft_statistic(rows: SoftRows, name: str) -> tuple[Tensor, Tensor]:
    """Compute a statistic of every group from sums of probabilities in place of counts.

    Returns
    -------
    values : Tensor of shape (n_groups, C)
        As ``objective.statistic``; 0 where there is nothing to measure.
    present : Tensor of shape (n_groups, C), bool
    """
    predicted = rows.probabilities
    codes = torch.arange(rows.n_groups, device=rows.groups.device)
    member = (rows.groups[:, None] == codes).to(predicted)
    if rows.weights is not None:
        member = member * rows.weights.to(predicted)[:, None]
    classes = torch.arange(predicted.shape[1], device=predicted.device)
    true = (rows.y[:, None] == classes).to(predicted)
    if name == "balanced_accuracy":
        mass = member.T @ true
        recall = member.T @ (true * predicted) / torch.where(mass > 0, mass, 1.0)
        number = (mass > 0).sum(dim=1, keepdim=True)
        return recall.sum(dim=1, keepdim=True) / number.clamp(min=1), number > 0
    if name == "accuracy":
        right = (true * predicted).sum(dim=1, keepdim=True)
        true, predicted = right, torch.ones_like(right)
    elif predicted.shape[1] == 2 and rows.pos is not None:
        true, predicted = (each[:, rows.pos : rows.pos + 1] for each in (true, predicted))
    selected = true * predicted, (1 - true) * predicted
    others = true * (1 - predicted), (1 - true) * (1 - predicted)
    sums = [member.T @ cell for cell in (*selected, *others)]
    top, bottom = (
        torch.stack([w * s for w, s in zip(weights, sums, strict=True)]).sum(dim=0)
        for weights in STATISTICS[name][:2]
    )
    present = bottom > 0
    return top / torch.where(present, bottom, 1.0), present


def soft_spread(values: Tensor, present: Tensor, factor: float = 1.0) -> Tensor:
    """Average over classes the largest value times a factor less the smallest, at least 0."""
    high = torch.where(present, values, -torch.inf).amax(dim=0)
    low = torch.where(present, values, torch.inf).amin(dim=0)
    comparable = present.sum(dim=0) >= 2
    spread = torch.where(comparable, factor * high - low, 0.0).clamp(min=0)
    return spread.sum() / comparable.sum().clamp(min=1)
