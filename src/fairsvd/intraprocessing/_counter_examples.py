"""The choice of counter-examples: rows on which a network errs, in the groups it serves worst."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..base import Task
from ..objective import shift_logits

__all__ = ["choose_examples", "leads"]


def choose_examples(
    task: Task, n_examples: int, how: str, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Choose counter-examples among the editing rows.

    Parameters
    ----------
    task : Task
    n_examples : int
        There may be fewer, but one at least.
    how : {"worst_cells", "random"}
    rng : numpy.random.Generator

    Returns
    -------
    positions : ndarray of shape (n,), int64, ascending
    """
    data = task.data
    rows = data.editing
    weights = None if rows.weights is None else rows.weights.numpy()
    if how == "random":
        size = min(n_examples, len(rows))
        return np.sort(_draw(np.arange(len(rows)), size, weights, rng))
    logits = shift_logits(data.logits(task.module, {}, rows.X), data.margin)
    lead = leads(logits, rows.y).double().numpy()
    cells = rows.cells(data.n_groups).numpy()
    total = np.bincount(cells, weights, minlength=data.n_classes * data.n_groups)
    errors_only = (lead <= 0) * (1.0 if weights is None else weights)
    wrong = np.bincount(cells, errors_only, minlength=len(total))
    rates = np.divide(wrong, total, out=np.full(len(total), -1.0), where=total > 0)
    shares = rates.reshape(data.n_classes, -1)
    # A class that has rows has at least one group with them.
    worst = shares.max(axis=1)
    ordered = [k for k in np.argsort(-worst, kind="stable") if worst[k] >= 0]
    sizes = [len(part) for part in np.array_split(np.arange(n_examples), len(ordered))]
    chosen = []
    for label, size in zip(ordered, sizes, strict=True):
        inside = np.flatnonzero(cells == label * data.n_groups + shares[label].argmax())
        errors = inside[lead[inside] <= 0]
        if len(errors) == 0:
            errors = inside[np.argsort(lead[inside], kind="stable")[:size]]
        chosen.append(_draw(errors, min(size, len(errors)), weights, rng))
    return np.sort(np.concatenate(chosen))


def _draw(
    rows: NDArray[np.int64],
    size: int,
    weights: NDArray[np.float64] | None,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw rows without replacement, those of large weight rather."""
    chances = None if weights is None else weights[rows] / weights[rows].sum()
    return rng.choice(rows, size=size, replace=False, p=chances)


def leads(logits: Tensor, y: Tensor) -> Tensor:
    """Compute by how much each row's own class leads the best other one, (n,)."""
    own = logits.gather(1, y[:, None])
    others = logits.scatter(1, y[:, None], -torch.inf)
    return own[:, 0] - others.amax(dim=1)
