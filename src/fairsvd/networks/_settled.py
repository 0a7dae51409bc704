"""Training on many rows, which ends once rows that are held out are predicted no better."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._rng import torch_generator
from ..arrays import LabelledRows, to_device
from ._inference import fast_logits
from ._plain import first_parameter

__all__ = ["MANY_ROWS", "STEPS_A_LOOK", "LeastLoss", "fit_until_settled", "mean_loss"]

# Up to so many rows a training has a fixed number of steps. With more, twenty passes take longer
# than the network needs to learn what it can.
MANY_ROWS = 50_000

# Of many rows so many are held out. They are looked at after so many steps, and the training ends
# when they were predicted no better so many times.
HELD_ROWS, STEPS_A_LOOK, PATIENCE = 10_000, 200, 5


def fit_until_settled(
    net: Any,
    rows: LabelledRows,
    rng: np.random.Generator,
    max_epochs: int,
    as_dataset: Callable[[LabelledRows], Any],
) -> None:
    """Train a skorch net until held-out rows are predicted no better; keep the best weights.

    A record of the net's history is a part of a pass, of at most 200 steps; those after which the
    held-out rows were looked at have their cross-entropy as ``held_loss``.

    Parameters
    ----------
    net : skorch net
        Initialised; trained in place.
    rows : LabelledRows
        10,000 of them are held out.
    rng : numpy.random.Generator
        Draws the held-out rows and the order of the others.
    max_epochs : int
        Passes over the rows after which the training ends anyway.
    as_dataset : callable
        Makes a dataset for the net of labelled rows.
    """
    order = rng.permutation(len(rows))
    held, kept = rows.subset(order[:HELD_ROWS]), rows.subset(order[HELD_ROWS:])
    net.notify("on_train_begin", X=None, y=None)
    best = LeastLoss(net.module_, PATIENCE)
    for stretch in _stretches(len(kept), net.batch_size, max_epochs, torch_generator(rng)):
        for positions in stretch:
            net.fit_loop(as_dataset(kept.subset(positions)), None, epochs=1)
        loss = _held_loss(net, held)
        net.history.record("held_loss", loss)
        if best.settles(loss):
            break
    net.module_.load_state_dict(best.state)
    net.notify("on_train_end", X=None, y=None)


def _stretches(
    n_rows: int, batch_size: int, max_epochs: int, generator: torch.Generator
) -> Iterator[list[np.ndarray[Any, Any]]]:
    """Yield the rows of each stretch: a part of a pass, or several passes of few steps."""
    size = min(n_rows, STEPS_A_LOOK * batch_size)
    n_parts = max(1, STEPS_A_LOOK // -(-size // batch_size))
    parts = []
    for _ in range(max_epochs):
        for positions in torch.randperm(n_rows, generator=generator).split(size):
            parts.append(positions.numpy())
            if len(parts) == n_parts:
                yield parts
                parts = []
    if parts:
        yield parts


def _held_loss(net: Any, held: LabelledRows) -> float:
    module = net.module_.eval()
    like = first_parameter(module)

    def run(X: Tensor) -> Tensor:
        return module(to_device(X, like.device, like.dtype))

    return mean_loss(fast_logits(run, held.X), held.y, held.weights)


def mean_loss(logits: Tensor, codes: Tensor, weights: Tensor | None) -> float:
    """Compute the mean cross-entropy of rows, which may have weights."""
    if weights is None:
        return float(nn.functional.cross_entropy(logits.double(), codes))
    losses = nn.functional.cross_entropy(logits.double(), codes, reduction="none")
    return float((losses * weights).sum() / weights.sum())


class LeastLoss:
    """The weights of the least loss on held-out rows, and when to stop looking for a lesser one.

    Parameters
    ----------
    module : nn.Module
        In training; its weights count as those of ``loss``.
    patience : int
        Losses in a row, none of them the least, after which a training has settled.
    loss : float, default=inf

    Attributes
    ----------
    state : dict of str to Tensor
        A copy of the module's state.
    """

    def __init__(self, module: nn.Module, patience: int, loss: float = np.inf) -> None:
        self.module, self.patience = module, patience
        self.least, self.waiting = loss, 0
        self.state = self._copy()

    def settles(self, loss: float) -> bool:
        """Keep the module's weights if they have the least loss; tell whether to stop."""
        if loss < self.least:
            self.state, self.least, self.waiting = self._copy(), loss, 0
        else:
            self.waiting += 1
        return self.waiting >= self.patience

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.module.state_dict().items()}
