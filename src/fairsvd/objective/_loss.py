"""The loss of an edit: cross-entropy plus the soft gap, both at the operating threshold."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arrays import to_device
from ..training import Batch
from ._constraint import Constraint
from ._soft_gap import GapTerms, RunningMeans, gap_of
from ._soft_statistic import SoftRows

__all__ = ["SHARPNESS", "edit_loss", "imitation_loss", "make_shift", "shift_logits"]

# The step from one decision to the other is smoothed over about a unit of margin: wide enough
# for gradients, narrow enough that the soft gap falls together with the hard one.
SHARPNESS = 4.0


def make_shift(margin: float, device: torch.device, dtype: torch.dtype) -> float | Tensor:
    """Make what :func:`shift_logits` subtracts in every step, on the device; 0 stays 0."""
    if margin == 0:
        return 0.0
    # Half precision is shifted in single, as a number would be.
    wide = torch.promote_types(dtype, torch.float32)
    return to_device(torch.tensor([0.0, margin], dtype=wide), device)


def shift_logits(logits: Tensor, margin: float | Tensor) -> Tensor:
    """Lower the second of two logits, so that the decision at ``margin`` is the argmax.

    ``margin`` may be what :func:`make_shift` has made, which takes fewer operators.
    """
    if isinstance(margin, Tensor):
        return (logits - margin).to(logits.dtype)
    if margin == 0:
        return logits
    return torch.stack([logits[:, 0], logits[:, 1] - margin], dim=1)


def edit_loss(
    logits: Tensor,
    batch: Batch,
    constraint: Constraint,
    *,
    margin: float | Tensor,
    gap_weight: float,
    n_groups: int,
    share: float = 1.0,
    sharpness: float = SHARPNESS,
    running: RunningMeans | None = None,
) -> Tensor:
    """Add ``share`` times the weighted cross-entropy and ``gap_weight`` times the soft gap.

    Both are taken at the operating threshold. An unbalanced task never runs at margin 0: penalising
    its gap there would cost balanced accuracy and gain nothing.

    Parameters
    ----------
    logits : Tensor of shape (n, n_classes)
    batch : Batch
    constraint : Constraint
    margin : float or Tensor
        Operating threshold, in units of the logit margin; or what :func:`make_shift` made of it.
    gap_weight : float
        Weight of the soft gap; at 0 it is not computed.
    n_groups : int
    share : float, default=1.0
        Weight of the cross-entropy.
    sharpness : float, default=SHARPNESS
        Factor of the logits in the soft gap; 1: the network's own probabilities.
    running : RunningMeans, optional
        Say which groups are the extremes of a gap that is no requirement; None: the batch does.
    """
    logits = shift_logits(logits, margin)
    losses = torch.nn.functional.cross_entropy(logits, batch.y, reduction="none")
    loss = (losses * batch.loss_weights).mean()
    if share != 1:
        loss = share * loss
    if gap_weight == 0:
        return loss
    probabilities = torch.softmax(sharpness * logits, dim=1)
    columns = batch.y, batch.groups, batch.gap_weights
    if not constraint.requirements:
        sizes, dtype = (logits.shape[1], n_groups), probabilities.dtype
        gap, pos = constraint.gap, constraint.pos
        terms = batch.remembered(
            (gap, pos, sizes, dtype), lambda: GapTerms.of(*columns, gap, pos, sizes, dtype)
        )
        return loss + gap_weight * gap_of(probabilities, terms, running)
    rows = SoftRows(probabilities, *columns, constraint.pos, n_groups)
    for requirement in constraint.requirements:
        excess = requirement.soft(rows, constraint.before)
        if excess is not None:
            loss = loss + gap_weight * excess
    return loss


def imitation_loss(
    logits: Tensor, targets: Tensor, *, margin: float | Tensor, sharpness: float = 1.0
) -> Tensor:
    """Compute the mean cross-entropy of a network against a teacher's probabilities.

    Parameters
    ----------
    logits : Tensor of shape (n, n_classes)
    targets : Tensor of shape (n, n_classes)
        Probabilities of the teacher; they need no labels.
    margin : float or Tensor
        Threshold at which the network should decide as the teacher does, as in :func:`edit_loss`.
    sharpness : float, default=1.0
        Factor of the logits, which lets the network keep the scale of its own.
    """
    logits = sharpness * shift_logits(logits, margin)
    return torch.nn.functional.cross_entropy(logits, targets)
