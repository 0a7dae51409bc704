"""Values: an edit that changes parameters directly, and singular values of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from ..base import Candidate
from ..layers import Factors
from ._brief import Average, tune_averaged
from ._brief_head import tune_heads
from ._edit import Edit
from ._path import TuningPath, judge_edits, tune_edit

__all__ = ["VALUE_LOOKS", "Values", "run_brief_values", "tune_from", "tune_values"]

# Looks at a path under a budget.
VALUE_LOOKS = 2


@dataclass(frozen=True)
class Values(Edit):
    """Trainable parameters, some of them the singular values of a layer's weight.

    Attributes
    ----------
    plain : dict of parameter name to Tensor
    factors : dict of layer name to Factors
    """

    plain: dict[str, Tensor]
    factors: dict[str, Factors] = field(default_factory=dict)

    def tensors(self) -> list[Tensor]:
        """List the trainable tensors."""
        return [*self.plain.values(), *(f.S for f in self.factors.values())]

    def state(self) -> dict[str, Tensor]:
        """Return everything that differs from the untouched network's state dict."""
        weights = {f.parameter: f.weight() for f in self.factors.values()}
        return {**self.plain, **weights}

    def map(self, change: Callable[[Tensor], Tensor]) -> Values:
        """Apply a function to every trainable tensor."""
        return Values(
            {name: change(value) for name, value in self.plain.items()},
            {name: replace(f, S=change(f.S)) for name, f in self.factors.items()},
        )

    def shown(self) -> Values:
        """Return the edit itself, of which a candidate copies what it keeps."""
        return self

    def detached(self) -> Values:
        """Return a copy that later steps do not change."""
        return self.map(lambda value: value.detach().clone())


def tune_from(
    start: Values, path: TuningPath[Values], rng: np.random.Generator, *, rate: float
) -> Iterator[tuple[int, Values]]:
    """Tune the values, starting from the untouched network."""
    return tune_values(path, start, rng, rate=rate)


def tune_values(
    path: TuningPath[Values], start: Values, rng: np.random.Generator, *, rate: float
) -> Iterator[tuple[int, Values]]:
    """Tune the values from a start, at its best threshold."""
    leaves = start.map(lambda value: value.detach().clone().requires_grad_())
    return tune_edit(path, start, leaves.tensors(), lambda: leaves, rng, rate)


def run_brief_values(
    path: TuningPath[Values], *, start: Values, rate: float
) -> Iterator[Candidate]:
    """Tune the values under a budget, from the untouched network on."""
    leaves = start.map(lambda value: value.detach().clone().requires_grad_())
    rates = [rate] * len(leaves.tensors())
    rngs = [np.random.default_rng(seed) for seed in path.seed.spawn(2)]
    average = Average(leaves.tensors())
    shown = tune_averaged(path, leaves.state, leaves.detached, average, [], rngs[0], rates)
    yield from judge_edits(path, "tune", tune_heads(path, shown, rngs[1]))
