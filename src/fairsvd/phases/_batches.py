"""Settings of a phase: weights of the gap, the number of steps, their batches."""

from __future__ import annotations

import numpy as np

from .._rng import torch_generator
from ..base import EditData
from ..training import CellBatches

__all__ = [
    "GAP_WEIGHTS",
    "RATE_SCALES",
    "count_candidates",
    "count_lessons",
    "count_step_rows",
    "count_steps",
    "is_table",
    "list_gap_weights",
    "make_batches",
]

# Weights of the soft gap that are tried; every one of them is chosen on some task.
GAP_WEIGHTS = (0.3, 1.0, 3.0)

# Steps of a phase under the soft gap, if the user has no other wish. Rows of images cost much: a
# phase passes over them a few times, in at least 30 steps.
MOST_STEPS, FEWEST_STEPS, IMAGE_EPOCHS = 300, 30, 5

# Candidates of a phase. Judging an image costs a third of a step on it, so images get fewer.
TABLE_CANDIDATES, IMAGE_CANDIDATES, IMITATION_CANDIDATES = 10, 3, 4

# Factors of the learning rates that are tried for images: a network that was trained long before
# wants smaller steps than one that was trained for a moment.
RATE_SCALES = (1.0, 0.1)

# Steps of an imitation. On development rows of Adult and Bank 500 steps were as good as 800, and on
# smaller tables 200 nearly as good as 960.
LESSONS, ROWS_PER_LESSON = (400, 500), 25

# With a few dozen rows per cell the gap of a batch is mostly noise. On tables, where rows cost
# little, a step uses the rows of this many batches, which left smaller gaps at equal utility.
TABLE_BATCHES = 4


def list_gap_weights(data: EditData, asked: float | None) -> tuple[float, ...]:
    """List the weights of the soft gap to try: the requested one, or all; 0 without groups."""
    if not data.has_groups:
        return (0.0,)
    return GAP_WEIGHTS if asked is None else (float(asked),)


def count_steps(most: int | None, data: EditData) -> int:
    """Count the steps of a phase: at least 30 and at most ``most``.

    Parameters
    ----------
    most : int or None
        None: 300, and for images five passes over the rows if these are fewer steps.
    data : EditData
    """
    if most is None and not is_table(data):
        return min(
            MOST_STEPS, max(FEWEST_STEPS, IMAGE_EPOCHS * len(data.editing) // data.batch_size)
        )
    return min(MOST_STEPS if most is None else most, max(FEWEST_STEPS, len(data.editing)))


def count_candidates(data: EditData, imitates: bool) -> int:
    """Count the candidates of a phase."""
    if imitates:
        return IMITATION_CANDIDATES
    return TABLE_CANDIDATES if is_table(data) else IMAGE_CANDIDATES


def is_table(data: EditData) -> bool:
    """Tell whether a row is a vector, which costs little."""
    return len(data.editing.X.item_shape) == 1


def count_lessons(most: int | None, data: EditData) -> int:
    """Count the steps of an imitation: more for more rows, at most ``most``."""
    fewest, many = LESSONS
    asked = min(many, max(fewest, len(data.lesson_rows) // ROWS_PER_LESSON))
    return asked if most is None else min(most, asked)


def count_step_rows(data: EditData) -> int:
    """Return the rows of one step: ``batch_size``, on tables four times as many, at most all."""
    size = data.batch_size * (TABLE_BATCHES if is_table(data) else 1)
    return min(size, len(data.editing))


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
