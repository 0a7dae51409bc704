"""The end of a brief edit: its output layer alone, tuned for the worst cell on kept features.

A batch of a brief edit has a few rows of every (label, group) cell, which say little about the
worst one. What enters the output layer can be kept for all rows after one pass, and then every step
sees every row and costs next to nothing, as in retraining the last layer (arXiv:2204.02937). There
the layer is trained on balanced cells; here the worst cell has a term of its own, and the logits
are held where they are unless that moves the cell.

Measured on development rows, with the edits of all other layers done: the worst cell rose by .025
on six draws of faces and by .055 on four of tinted Fashion-MNIST, for no more than .004 accuracy,
and the gap did not grow. With the gap alone the worst cell of faces fell by .05, and by .01 with
the worst cells of each class.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import repeat
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..arrays import LabelledRows
from ..base import Task, draw_sample
from ..groups import cell_codes
from ..layers import layer_parameters
from ..objective import SHARPNESS, edit_loss, make_shift, shift_logits
from ..training import Batch, cell_shares, tune
from ._edit import Edit
from ._kept_head import keep_head
from ._path import TuningPath

__all__ = ["has_free_head", "tune_head", "tune_heads", "worst_cell"]

# Steps over all rows at a falling rate; with 300 the worst cell was no better.
STEPS = 100

# How far a first step moves the logits at most, whatever the width of the layer. Between .05 and
# .4, and with features widened to 2,048 numbers, the results were the same.
REACH = 0.15

# Weights in the loss: of the worst cell, of the soft gap as a share of the path's, and of how far
# the logits move, in mean square. Twice the first, none of the second, and a third or three times
# the last changed little.
WORST, GAP_SHARE, STILL = 0.5, 0.3, 0.3

# A cell of fewer rows may be the worst by chance.
FEWEST_ROWS = 20

# Bytes of the features that are kept (64 MiB); of more rows a random sample is used.
KEPT_BYTES = 2**26


def has_free_head(task: Task, edited: Container[str] = ()) -> bool:
    """Tell whether there are cells, and a linear output layer that is not edited otherwise."""
    own = layer_parameters(task.module, task.data.output_layer)
    linear = isinstance(task.module.get_submodule(task.data.output_layer), nn.Linear)
    return task.data.has_groups and linear and not any(name in edited for name in own)


E = TypeVar("E", bound=Edit)


def tune_heads(
    path: TuningPath[Any], edits: Iterable[tuple[int, E]], rng: np.random.Generator
) -> Iterator[tuple[int, E]]:
    """Tune the output layer of every edit (step, edit), if the path asks for it and it can be.

    The edits without are not offered beside these: the rows of the choice are too few to tell which
    of the two is fairer, and on development rows the tuned one was.
    """
    for step, edit in edits:
        yield step, _with_head(path, edit, rng) if path.head else edit
        del edit


def _with_head(path: TuningPath[Any], edit: E, rng: np.random.Generator) -> E:
    with torch.no_grad():
        state = edit.state()
    tuned = tune_head(path, state, rng)
    changed: Any = edit
    return edit if tuned is None else replace(changed, plain={**changed.plain, **tuned})


def tune_head(
    path: TuningPath[Any], state: Mapping[str, Tensor], rng: np.random.Generator
) -> dict[str, Tensor] | None:
    """Tune the free output layer of an edited network for its worst cell.

    Parameters
    ----------
    path : TuningPath
    state : mapping of name to Tensor
        The entries of the edited network that differ from the module's, the output layer's among
        them.
    rng : numpy.random.Generator
        Draws the rows whose features are kept, where these are not all.

    Returns
    -------
    parameters : dict of name to Tensor, or None
        The output layer's, as they are in ``state``; None if something other than a known output
        follows the layer.
    """
    head = path.module.get_submodule(path.data.output_layer)
    assert isinstance(head, nn.Linear), "asked for without a free head"
    editing, most = path.data.editing, max(1, KEPT_BYTES // (4 * head.in_features))
    rows = editing.subset(draw_sample(np.arange(len(editing)), most, rng))
    kept = keep_head(path, state, rows.X)
    if kept is None:
        return None
    features = kept.features
    given = {n: state[n].detach() for n in layer_parameters(path.module, path.data.output_layer)}
    leaves = {name: value.to(features).clone().requires_grad_() for name, value in given.items()}
    before, batch = kept.run(leaves, features).detach(), _whole_batch(path, rows, features)
    shift = make_shift(path.margin, features.device, features.dtype)
    weight, n_groups = GAP_SHARE * path.gap_weight, path.data.n_groups

    def loss(everyone: Batch) -> Tensor:
        logits = kept.run(leaves, features)
        value = edit_loss(
            logits, everyone, path.constraint, margin=shift, gap_weight=weight, n_groups=n_groups
        )
        worst = worst_cell(shift_logits(logits, shift), everyone, n_groups)
        moved = (everyone.gap_weights * (logits - before).square().sum(dim=1)).mean()
        return value - WORST * worst + STILL * moved

    size = (batch.gap_weights[:, None] * features.square()).mean(dim=0).sqrt().sum()
    rate = REACH / max(1.0, float(size))
    settings: dict[str, Any] = {"n_steps": STEPS, "every": STEPS, "schedule": "cosine"}
    steps = tune(loss, list(leaves.values()), repeat(batch), learning_rate=rate, **settings)
    deque(steps, maxlen=0)
    return {name: leaf.detach().to(given[name]) for name, leaf in leaves.items()}


def worst_cell(logits: Tensor, batch: Batch, n_groups: int) -> Tensor:
    """Return the smallest mean probability of the true class over (label, group) cells.

    Cells of fewer than 20 rows are left out, unless all have fewer; so are rows without a group.

    Parameters
    ----------
    logits : Tensor of shape (n, n_classes)
        The decision is the largest.
    batch : Batch
    n_groups : int

    Returns
    -------
    worst : Tensor of shape (), differentiable
    """
    right = torch.softmax(SHARPNESS * logits, dim=1).gather(1, batch.y[:, None])[:, 0]
    cells = cell_codes(batch.y, batch.groups, n_groups)
    known, codes = cells >= 0, cells.clamp(min=0)
    weights = batch.gap_weights * known
    n_cells = logits.shape[1] * n_groups

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(n_cells).index_add(0, codes, values)

    def find_large() -> Tensor:
        counts = total(known.to(right.dtype))
        return counts >= torch.clamp(counts.amax(), max=FEWEST_ROWS)

    large = batch.remembered(("large cells", n_cells), find_large)
    masses = batch.remembered(("masses", n_cells), lambda: total(weights))
    means = total(weights * right) / masses.clamp(min=torch.finfo(right.dtype).tiny)
    return means.masked_fill(~large, torch.inf).amin()


def _whole_batch(path: TuningPath[Any], rows: LabelledRows, features: Tensor) -> Batch:
    """Make one batch of all rows, with the weights of the path's batches."""
    data = path.data
    weights = torch.ones(len(rows), dtype=torch.float64) if rows.weights is None else rows.weights
    table = rows.count_cells(data.n_classes, data.n_groups).numpy()
    shares = cell_shares(table, path.constraint.balance) / np.maximum(table / table.sum(), 1e-12)
    of_row = torch.as_tensor(shares.ravel())[rows.cells(data.n_groups)]
    gap_weights = (weights / weights.mean()).to(features.dtype)
    loss_weights = (of_row * weights / weights.mean()).to(features.dtype)
    return Batch(features, rows.y, rows.groups, loss_weights, gap_weights)
