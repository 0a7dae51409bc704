"""What methods that tune a network share: batches, the loss, and paths that hold few networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
from joblib import effective_n_jobs
from torch import Tensor, nn

from .._parallel import in_parallel
from .._rng import torch_generator
from ..base import Candidate, EditData
from ..objective import SHARPNESS, Constraint, edit_loss
from ..training import Batch, CellBatches

__all__ = [
    "GAP_WEIGHTS",
    "START_FRACTION",
    "Best",
    "gap_weights",
    "judged_state",
    "lighten",
    "loss_of",
    "rows_a_step",
    "run_paths",
    "stratified",
]

# The gap of a batch is mostly noise at a few dozen rows a cell; on tables, where rows cost little,
# a step sees this many batches' rows, which left smaller gaps at equal utility.
TABLE_BATCHES = 4

# What a second tuning starts from is chosen under this share of the tolerance: it closes
# the rest, and a looser start costs less utility.
START_FRACTION = 0.6

# Weights of the soft gap that are tried; every one of them is chosen on some task.
GAP_WEIGHTS = (0.3, 1.0, 3.0)

P = TypeVar("P")
E = TypeVar("E")


def gap_weights(data: EditData, given: float | None) -> tuple[float, ...]:
    """Give the weights of the soft gap to try: the given one, or all; 0 without groups."""
    if not data.has_groups:
        return (0.0,)
    return GAP_WEIGHTS if given is None else (float(given),)


def rows_a_step(data: EditData) -> int:
    """Count the rows of one step: never more than memory was meant for, nor than the data has."""
    size, editing = data.batch_size, data.editing
    if len(editing.X.item_shape) != 1:
        return size
    return min(TABLE_BATCHES * size, max(size, len(editing)))


def stratified(
    data: EditData, balance: str | None, rng: np.random.Generator, *, size: int | None = None
) -> CellBatches:
    """Endless cell-stratified batches of the editing rows.

    Parameters
    ----------
    data : EditData
    balance : {"cells", "classes"} or None
        How the cross-entropy weighs rows.
    rng : numpy.random.Generator
    size : int, optional
        Rows a batch; None: see :func:`rows_a_step`.
    """
    return CellBatches(
        data.editing,
        data.n_classes,
        data.n_groups,
        batch_size=rows_a_step(data) if size is None else size,
        balance=balance,
        generator=torch_generator(rng),
        device=data.device,
        dtype=data.dtype,
    )


def loss_of(
    module: nn.Module,
    data: EditData,
    constraint: Constraint,
    state: Callable[[], Mapping[str, Tensor]],
    *,
    margin: float,
    tradeoff: float,
    share: float = 1.0,
    sharpness: float = SHARPNESS,
) -> Callable[[Batch], Tensor]:
    """Make the loss of a batch for a state that depends on trainable tensors.

    Parameters
    ----------
    module : nn.Module
    data : EditData
    constraint : Constraint
    state : callable
        Gives the entries of the module's state that are replaced, anew for every batch.
    margin : float
        Operating threshold, in units of the logit margin.
    tradeoff : float
        Weight of the soft gap.
    share, sharpness : float
        As in :func:`fairsvd.objective.edit_loss`.
    """

    def of_batch(batch: Batch) -> Tensor:
        return edit_loss(
            data.forward(module, state(), batch.X),
            batch,
            constraint,
            margin=margin,
            tradeoff=tradeoff,
            n_groups=data.n_groups,
            share=share,
            sharpness=sharpness,
        )

    return of_batch


class Best(Generic[E]):
    """The edit of highest rank so far; an equal one does not replace it."""

    def __init__(self, edit: E | None = None) -> None:
        self.rank: tuple[bool, float] | None = None
        self.edit = edit

    def offer(self, rank: tuple[bool, float], edit: E | None = None) -> bool:
        """Take the edit if it is better, and tell whether it was."""
        if self.rank is not None and rank <= self.rank:
            return False
        self.rank, self.edit = rank, edit
        return True


def judged_state(
    module: nn.Module,
    data: EditData,
    state: Mapping[str, Tensor],
    params: Mapping[str, Any],
    attributes: Mapping[str, Any],
) -> Candidate:
    """Judge a state of the module and pack it, its logits with it."""
    logits = data.logits(module, state)
    return Candidate(state, params, attributes, verdict=data.judge(logits), logits=logits)


def lighten(candidate: Candidate, best: Best[Any]) -> Candidate:
    """Leave out the state of a candidate that an earlier one ranks at least as high as."""
    if candidate.verdict is None or best.offer(candidate.verdict.rank):
        return candidate
    return replace(candidate, state={}, attributes={}, finish=None, logits=None)


def run_paths(
    paths: Sequence[P], run: Callable[[P], Iterator[Candidate]], n_jobs: int | None
) -> Iterator[Candidate]:
    """Run paths one by one, or at the same time, with equal results.

    Parameters
    ----------
    paths : sequence
        Self-contained; no two share a module.
    run : callable
        Yields the candidates of a path; can be pickled.
    n_jobs : int or None

    Yields
    ------
    candidate : Candidate
        In the order of the paths.
    """
    if len(paths) == 1 or effective_n_jobs(n_jobs) == 1:
        for path in paths:
            yield from run(path)
        return
    for candidates in in_parallel(partial(_whole, run), [(path,) for path in paths], n_jobs):
        yield from candidates


def _whole(run: Callable[[P], Iterator[Candidate]], path: P) -> list[Candidate]:
    return list(run(path))
