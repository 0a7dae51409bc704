"""Settings of a phase: weights of the gap, the number of steps, their batches."""

from __future__ import annotations

import numpy as np

from .._rng import torch_generator
from ..base import EditData
from ..training import CellBatches

__all__ = [
    "GAP_WEIGHTS",
    "count_lessons",
    "count_step_rows",
    "count_steps",
    "list_gap_weights",
    "make_batches",
]

# Weights of the soft gap that are tried; every one of them is chosen on some task.
GAP_WEIGHTS = (0.3, 1.0, 3.0)

# Steps of a phase under the soft gap, if the user has no other wish.
MOST_STEPS = 300

# Steps of an imitation: on development rows of tables 200 steps were nearly as good as 960.
LESSONS, ROWS_PER_LESSON = (400, 800), 25

# With a few dozen rows per cell the gap of a batch is mostly noise. On tables, where rows cost
# little, a step uses the rows of this many batches, which left smaller gaps at equal utility.
TABLE_BATCHES = 4


def list_gap_weights(data: EditData, asked: float | None) -> tuple[float, ...]:
    """List the weights of the soft gap to try: the requested one, or all; 0 without groups."""
    if not data.has_groups:
        return (0.0,)
    return GAP_WEIGHTS if asked is None else (float(asked),)


def count_steps(most: int | None, data: EditData) -> int:
    """Count the steps of a phase: as many as there are rows, at least 30, at most ``most``."""
    return min(MOST_STEPS if most is None else most, max(30, len(data.editing)))


def count_lessons(most: int | None, data: EditData) -> int:
    """Count the steps of an imitation: more for more rows, at most ``most``."""
    fewest, many = LESSONS
    asked = min(many, max(fewest, len(data.lesson_rows) // ROWS_PER_LESSON))
    return asked if most is None else min(most, asked)


def count_step_rows(data: EditData) -> int:
    """Return the rows of one step: ``batch_size``, and on tables up to four times as many."""
    size, editing = data.batch_size, data.editing
    if len(editing.X.item_shape) != 1:
        return size
    return min(TABLE_BATCHES * size, max(size, len(editing)))


def make_batches(
    data: EditData, balance: str | None, rng: np.random.Generator, *, size: int | None = None
) -> CellBatches:
    """Make endless cell-stratified batches of the editing rows.

    Parameters
    ----------
    data : EditData
    balance : {"cells", "classes"} or None
        How the cross-entropy weighs rows.
    rng : numpy.random.Generator
    size : int, optional
        Rows per batch; None: see :func:`count_step_rows`.
    """
    return CellBatches(
        data.editing,
        data.n_classes,
        data.n_groups,
        batch_size=count_step_rows(data) if size is None else size,
        balance=balance,
        generator=torch_generator(rng),
        device=data.device,
        dtype=data.dtype,
    )
