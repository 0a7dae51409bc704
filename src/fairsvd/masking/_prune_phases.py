"""Learned masks of weights, and the tuning of what is left: one trade-off, start to end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from ..base import Candidate
from ..masks import harden, mask_variables
from ..objective import Verdict
from ..phases import (
    TuningPath,
    head_and_biases,
    layer_biases,
    layered_rate,
    run_phases,
    trained_masks,
    tuned,
)
from ._pruned import Pruned, all_kept, masked_weights, weights_of

__all__ = ["PruningPath", "run_path"]


@dataclass(frozen=True, kw_only=True)
class PruningPath(TuningPath[Pruned]):
    """One trade-off's way through the phases, self-contained so that it can run anywhere.

    Attributes
    ----------
    layers : tuple of str
    module, data, constraint, tradeoff, max_removed, n_steps, seed, attributes
        See :class:`TuningPath`.
    """

    layers: tuple[str, ...]

    def weights(self) -> dict[str, Tensor]:
        """Weights of the edited layers, by parameter name."""
        return weights_of(self.module, self.layers)

    def key(self) -> dict[str, Any]:
        """Tell what a training of masks depends on, beside the scope of the data's cache."""
        shapes = {name: tuple(w.shape) for name, w in self.weights().items()}
        return {"weights": shapes, **super().key()}

    def pack(
        self, edit: Pruned, params: Mapping[str, Any], verdict: Verdict, logits: Tensor
    ) -> Candidate:
        """Make a candidate of a judged edit."""
        return edit.candidate(params, self.attributes, verdict, logits)


def run_path(path: PruningPath, start: Pruned | None, refine: bool) -> Iterator[Candidate]:
    """Run the phases of one trade-off; see :func:`fairsvd.base.run_phases`."""
    if not refine:
        return run_phases(path, start, learned_masks, None, "scale")
    return run_phases(path, start, learned_masks, scaled, "scale", whole=whole)


def learned_masks(path: PruningPath, rng: np.random.Generator) -> Iterator[tuple[int, Pruned]]:
    """Learn which weights to remove, what is left of them untouched.

    Yields
    ------
    step, edit
        The masks hardened, every tenth of the steps.
    """
    weights = path.weights()
    size = sum(weight.nbytes for weight in weights.values())
    masked = partial(masked_weights, weights)
    for step, variables in trained_masks(path, lambda: mask_variables(weights), size, masked, rng):
        masks = harden(variables, path.max_removed)
        yield step, masked({name: mask.to(path.data.device) for name, mask in masks.items()})


def scaled(
    path: PruningPath, start: Pruned, rng: np.random.Generator
) -> Iterator[tuple[int, Pruned]]:
    """Tune one factor for every output unit, and the biases; what is removed stays removed.

    Yields
    ------
    step, edit
        Every tenth of the steps.
    """
    return _tuned(path, start, layer_biases(path.module), rng)


def whole(path: PruningPath, rng: np.random.Generator) -> Iterator[tuple[int, Pruned]]:
    """Tune the factors, the biases and the output layer of the network, nothing being removed.

    Yields
    ------
    step, edit
        Every tenth of the steps.
    """
    start = all_kept(path.weights())
    return _tuned(path, start, head_and_biases(path, start.weights), rng)


def _tuned(
    path: PruningPath, start: Pruned, plain: dict[str, Tensor], rng: np.random.Generator
) -> Iterator[tuple[int, Pruned]]:
    scales = {n: w.new_ones(len(w)).requires_grad_() for n, w in start.weights.items()}

    def edited() -> Pruned:
        return replace(start, scales=scales, plain=plain)

    leaves = [*scales.values(), *plain.values()]
    return tuned(path, start, leaves, edited, rng, layered_rate(len(scales)))
