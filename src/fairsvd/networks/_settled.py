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

__all__ = ["MANY_ROWS", "fit_until_settled"]

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
    best, least, waiting = _copy(net.module_), np.inf, 0
    for stretch in _stretches(len(kept), net.batch_size, max_epochs, torch_generator(rng)):
        for positions in stretch:
            net.fit_loop(as_dataset(kept.subset(positions)), None, epochs=1)
        loss = _held_loss(net, held)
        net.history.record("held_loss", loss)
        waiting = 0 if loss < least else waiting + 1
        if loss < least:
            best, least = _copy(net.module_), loss
        if waiting >= PATIENCE:
            break
    net.module_.load_state_dict(best)
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
    parameter = next(module.parameters())

    def run(X: Tensor) -> Tensor:
        return module(to_device(X, parameter.device, parameter.dtype))

    return float(nn.functional.cross_entropy(fast_logits(run, held.X).double(), held.y))


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
