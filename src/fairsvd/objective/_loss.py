"""The loss of an edit: cross-entropy plus the soft gap, both at the operating threshold."""

from __future__ import annotations

import torch
from torch import Tensor

from ..training import Batch
from ._constraint import Constraint
from ._gaps import soft_gap
from ._soft_statistic import SoftRows

__all__ = ["SHARPNESS", "edit_loss", "imitation_loss", "shift_logits"]

# The step from one decision to the other is smoothed over about a unit of margin: wide enough
# for gradients, narrow enough that the soft gap falls together with the hard one.
SHARPNESS = 4.0


def shift_logits(logits: Tensor, margin: float) -> Tensor:
    """Lower the second of two logits, so that the decision at ``margin`` is the argmax."""
    if margin == 0:
        return logits
    return torch.stack([logits[:, 0], logits[:, 1] - margin], dim=1)


def edit_loss(
    logits: Tensor,
    batch: Batch,
    constraint: Constraint,
    *,
    margin: float,
    gap_weight: float,
    n_groups: int,
    share: float = 1.0,
    sharpness: float = SHARPNESS,
) -> Tensor:
    """Add ``share`` times the weighted cross-entropy and ``gap_weight`` times the soft gap.

    Both are taken at the operating threshold. An unbalanced task never runs at margin 0: penalising
    its gap there would cost balanced accuracy and gain nothing.

    Parameters
    ----------
    logits : Tensor of shape (n, n_classes)
    batch : Batch
    constraint : Constraint
    margin : float
        Operating threshold, in units of the logit margin.
    gap_weight : float
        Weight of the soft gap; at 0 it is not computed.
    n_groups : int
    share : float, default=1.0
        Weight of the cross-entropy.
    sharpness : float, default=SHARPNESS
        Factor of the logits in the soft gap; 1: the network's own probabilities.
    """
    logits = shift_logits(logits, margin)
    losses = torch.nn.functional.cross_entropy(logits, batch.y, reduction="none")
    loss = (losses * batch.loss_weights).mean()
    if share != 1:
        loss = share * loss
    if gap_weight == 0:
        return loss
    probabilities = torch.softmax(sharpness * logits, dim=1)
    parts = probabilities, batch.y, batch.groups, batch.gap_weights
    rows = SoftRows(*parts, constraint.pos, n_groups)
    if not constraint.requirements:
        return loss + gap_weight * soft_gap(*rows.parts, constraint.gap, rows.pos, n_groups)
    for requirement in constraint.requirements:
        excess = requirement.soft(rows, constraint.before)
        if excess is not None:
            loss = loss + gap_weight * excess
    return loss


def imitation_loss(
    logits: Tensor, targets: Tensor, *, margin: float, sharpness: float = 1.0
) -> Tensor:
    """Compute the mean cross-entropy of a network against a teacher's probabilities.

    Parameters
    ----------
    logits : Tensor of shape (n, n_classes)
    targets : Tensor of shape (n, n_classes)
        Probabilities of the teacher; they need no labels.
    margin : float
        Threshold at which the network should decide as the teacher does, in units of the margin.
    sharpness : float, default=1.0
        Factor of the logits, which lets the network keep the scale of its own.
    """
    logits = sharpness * shift_logits(logits, margin)
    return torch.nn.functional.cross_entropy(logits, targets)
