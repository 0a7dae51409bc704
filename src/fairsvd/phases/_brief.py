"""Brief edits: candidates whose values are averages over the latest steps.

On development rows of faces and of tinted Fashion-MNIST the values themselves were behind their
averages at every look, and an edit that might choose between the two lost accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ._edit import Edit
from ._path import TuningPath

__all__ = ["Average", "tune_averaged"]

E = TypeVar("E", bound=Edit)

# Weight of the newest values in the average, which thus remembers some 100 steps. With 50 steps
# edits of faces were less accurate on development rows, and no fairer.
NEWEST = 0.01


class Average:
    """Running averages of tensors that an optimiser changes."""

    def __init__(self, leaves: Sequence[Tensor]) -> None:
        self.leaves = list(leaves)
        self.values = [leaf.detach().clone() for leaf in leaves]

    def follow(self) -> None:
        """Draw the averages towards the current values."""
        with torch.no_grad():
            torch._foreach_lerp_(self.values, [leaf.detach() for leaf in self.leaves], NEWEST)

    def swap(self) -> None:
        """Exchange the averages and the current values."""
        with torch.no_grad():
            for leaf, value in zip(self.leaves, self.values, strict=True):
                kept = leaf.detach().clone()
                leaf.copy_(value)
                value.copy_(kept)


def tune_averaged(
    path: TuningPath[E],
    state: Callable[[], Any],
    shown: Callable[[], E],
    average: Average,
    others: Sequence[Tensor],
    rng: np.random.Generator,
    rates: Sequence[float],
    after_step: Callable[[], None] | None = None,
) -> Iterator[tuple[int, E]]:
    """Tune, and show the averages whenever a candidate is due.

    Parameters
    ----------
    path : TuningPath
    state : callable
        Returns the entries of the network that depend on the tensors, for the loss.
    shown : callable
        Makes a copy of the edit from the current tensors.
    average : Average
        Follows the tensors that are averaged.
    others : sequence of Tensor
        Move, too, and come last among the rates; the average does not follow them.
    rng : numpy.random.Generator
    rates : sequence of float
    after_step : callable, optional

    Yields
    ------
    step : int
    edit : Edit
    """

    def follow() -> None:
        if after_step is not None:
            after_step()
        average.follow()

    leaves = [*average.leaves, *others]
    for step in path.steps(state, leaves, path.margin, rng, list(rates), follow):
        average.swap()
        edit = shown()
        average.swap()
        yield step, edit
        del edit
