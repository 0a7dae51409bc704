"""Learned removal of U and V entries, then tuning of the spectrum: one trade-off, start to end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base import Candidate
from ..layers import Factors
from ..masks import harden, mask_variables
from ..objective import Verdict
from ..phases import TuningPath, head_and_biases, layer_biases, layered_rate, trained_masks, tuned
from ._edits import Edit, all_kept, entries, masked_factors

__all__ = ["Path", "learned_masks", "spectrum", "whole"]


@dataclass(frozen=True, kw_only=True)
class Path(TuningPath[Edit]):
    """One trade-off's way through the phases, self-contained so that it can run anywhere.

    Attributes
    ----------
    factors : dict of name to Factors
    compress : bool
    module, data, constraint, tradeoff, max_removed, n_steps, seed, attributes
        See :class:`TuningPath`.
    """

    factors: dict[str, Factors]
    compress: bool

    def key(self) -> dict[str, Any]:
        """Tell what a training of masks depends on, beside the scope of the data's cache."""
        factors = {name: (f.S.shape[1], f.shape) for name, f in self.factors.items()}
        return {"factors": factors, **super().key()}

    def pack(
        self, edit: Edit, params: Mapping[str, Any], verdict: Verdict, logits: Tensor
    ) -> Candidate:
        """Make a candidate of a judged edit."""
        return edit.candidate(params, self.attributes, self.compress, verdict, logits)


def learned_masks(path: Path, rng: np.random.Generator) -> Iterator[tuple[int, Edit]]:
    """Learn which entries of U and V to remove, the weights untouched.

    Yields
    ------
    step, edit
        The masks hardened, every tenth of the steps.
    """
    values = entries(path.factors)
    size = sum(value.nbytes for value in values.values())
    masked = partial(masked_factors, path.factors)
    for step, variables in trained_masks(path, lambda: mask_variables(values), size, masked, rng):
        masks = harden(variables, path.max_removed)
        yield step, masked(on_device(masks, path.data.device))


def on_device(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Move named tensors; what is there already is not copied."""
    return {name: value.to(device) for name, value in tensors.items()}


def spectrum(path: Path, start: Edit, rng: np.random.Generator) -> Iterator[tuple[int, Edit]]:
    """Tune singular values and biases, the removed entries staying removed.

    Yields
    ------
    step, edit
        Every tenth of the steps.
    """
    return _tuned(path, start, layer_biases(path.module), rng)


def whole(path: Path, rng: np.random.Generator) -> Iterator[tuple[int, Edit]]:
    """Tune singular values, biases and the output layer of the network, nothing being removed.

    Yields
    ------
    step, edit
        Every tenth of the steps.
    """
    start = all_kept(path.factors)
    weights = {f.parameter for f in start.factors.values()}
    return _tuned(path, start, head_and_biases(path, weights), rng)


def _tuned(
    path: Path, start: Edit, plain: dict[str, Tensor], rng: np.random.Generator
) -> Iterator[tuple[int, Edit]]:
    values = {name: f.S.clone().requires_grad_() for name, f in start.factors.items()}

    def edited() -> Edit:
        factors = {name: replace(f, S=values[name]) for name, f in start.factors.items()}
        return replace(start, factors=factors, plain=plain)

    leaves = [*values.values(), *plain.values()]
    return tuned(path, start, leaves, edited, rng, layered_rate(len(values)))
