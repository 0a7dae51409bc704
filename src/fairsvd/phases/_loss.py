"""The loss of a batch for a network whose state depends on what is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from ..base import Task
from ..objective import SHARPNESS, RunningMeans, edit_loss, imitation_loss, make_shift
from ..training import Batch
from ._teacher import Teacher

__all__ = ["ExtraLoss", "State", "make_loss"]

State = Mapping[str, Tensor]

# Maps the entries of the state that were replaced, the logits and the batch to a scalar.
ExtraLoss = Callable[[State, Tensor, Batch], Tensor]


def make_loss(
    task: Task,
    state: Callable[[], State],
    *,
    margin: float,
    gap_weight: float = 0.0,
    share: float = 1.0,
    sharpness: float = SHARPNESS,
    loyalty: float = 0.0,
    running: RunningMeans | None = None,
    teacher: Teacher | None = None,
    extra: ExtraLoss | None = None,
) -> Callable[[Batch], Tensor]:
    """Make the loss of a batch for a state that depends on trainable tensors.

    With a teacher it is the cross-entropy against the targets of the batch, else that against its
    labels and the soft gap.

    Parameters
    ----------
    task : Task
    state : callable
        Returns the replaced entries of the module's state; called for every batch.
    margin : float
        Operating threshold, in units of the logit margin.
    gap_weight, share, sharpness, running
        As in :func:`fairsvd.objective.edit_loss`.
    loyalty : float, default=0.0
        Weight of the divergence from the untouched network's probabilities, which keeps what it
        knows (learning without forgetting, arXiv:1606.09282). It is asked anew in every step, since
        rows may be augmented.
    teacher : Teacher, optional
        Its lessons are the batches.
    extra : callable, optional
        Maps (entries, logits, batch) to a term that is added.
    """
    data = task.data
    shift = make_shift(margin, data.device, data.dtype)
    terms = {"gap_weight": gap_weight, "share": share, "sharpness": sharpness, "running": running}

    def loss(batch: Batch) -> Tensor:
        entries = state()
        logits = data.forward(task.module, entries, batch.X)
        if teacher is not None and batch.targets is not None:
            scale = teacher.sharpness
            value = imitation_loss(logits, batch.targets, margin=shift, sharpness=scale)
        else:
            settings: dict[str, Any] = {"margin": shift, "n_groups": data.n_groups, **terms}
            value = edit_loss(logits, batch, task.constraint, **settings)
        if loyalty:
            with torch.no_grad():
                given = data.forward(task.module, {}, batch.X).log_softmax(dim=1)
            apart = kl_div(logits.log_softmax(dim=1), given, log_target=True, reduction="batchmean")
            value = value + loyalty * apart
        return value if extra is None else value + extra(entries, logits, batch)

    return loss
