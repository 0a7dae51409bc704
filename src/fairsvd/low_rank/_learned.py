"""Learned removal of U and V entries, then tuning of the spectrum: one trade-off, start to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..base import Candidate, EditData, loss_of, rows_a_step, stratified
from ..caching import Cache
from ..layers import Factors
from ..masks import clamp_masks, harden, mask_variables, straight_through
from ..objective import Constraint, Verdict
from ..training import CellBatches, tune
from ._edits import Edit, masked_factors

__all__ = ["Path", "learned_masks", "spectrum"]

# Masks must be able to cross zero within the budget: 0.5 / 3e-2 is about 17 steps one way.
MASK_RATE = 3e-2
SPECTRUM_RATE = 1e-2

# Candidates that each phase leaves.
N_CANDIDATES = 10

# Mask variables of more bytes, those of large networks, are not kept for another cap: 256 MiB.
MAX_KEPT = 2**28


@dataclass(frozen=True)
class Path:
    """One trade-off's way through the phases, self-contained so that it can run anywhere.

    Attributes
    ----------
    module : nn.Module
        Not shared with another path, its parameters frozen.
    data : EditData
    constraint : Constraint
    factors : dict of name to Factors
    tradeoff : float
        Weight of the soft gap.
    max_removed : float or None
        Cap on the removed share.
    n_steps : int
        Of each phase.
    compress : bool
    seed : numpy.random.SeedSequence
    attributes : dict
        Fitted attributes that do not depend on the candidate.
    """

    module: nn.Module
    data: EditData
    constraint: Constraint
    factors: dict[str, Factors]
    tradeoff: float
    max_removed: float | None
    n_steps: int
    compress: bool
    seed: np.random.SeedSequence
    attributes: dict[str, Any]

    @property
    def every(self) -> int:
        """Steps between two candidates."""
        return max(1, self.n_steps // N_CANDIDATES)

    def key(self) -> dict[str, Any]:
        """Tell what a training of masks depends on, beside the scope of the data's cache."""
        return {
            "factors": {name: (f.S.shape[1], f.shape) for name, f in self.factors.items()},
            "tradeoff": self.tradeoff,
            "margin": self.data.margin,
            "constraint": vars(self.constraint),
            "n_steps": self.n_steps,
            "rows": rows_a_step(self.data),
            "seed": [self.seed.entropy, self.seed.spawn_key],
        }

    def batches(self, rng: np.random.Generator) -> CellBatches:
        """Cell-stratified batches of the editing rows."""
        return stratified(self.data, self.constraint.balance, rng)

    def loss(self, state: Callable[[], Mapping[str, Tensor]], margin: float) -> Any:
        """Make the loss of a batch for a state that depends on trainable tensors."""
        settings = {"margin": margin, "tradeoff": self.tradeoff}
        return loss_of(self.module, self.data, self.constraint, state, **settings)

    def logits(self, edit: Edit) -> Tensor:
        """Logits of the judged rows."""
        return self.data.logits(self.module, edit.state())

    def candidate(
        self, edit: Edit, logits: Tensor, stage: str, step: int, verdict: Verdict
    ) -> Candidate:
        """Pack a judged edit."""
        params = {"tradeoff": self.tradeoff, "stage": stage, "step": step}
        return edit.candidate(params, self.attributes, self.compress, verdict, logits)


def learned_masks(path: Path, rng: np.random.Generator) -> Iterator[tuple[int, Edit]]:
    """Learn which entries of U and V to remove, the weights untouched.

    The training does not depend on the cap, which acts when masks are hardened: with a cache one
    training serves every cap.

    Yields
    ------
    step, edit
        The masks hardened, every tenth of the steps.
    """
    values = {f"{n}/{side}": getattr(f, side) for n, f in path.factors.items() for side in "UV"}
    size = N_CANDIDATES * sum(value.nbytes for value in values.values())
    cache = path.data.cache if size <= MAX_KEPT else Cache()
    for step, variables in cache.stream("masks", path.key(), lambda: _trained(path, values, rng)):
        masks = harden(variables, path.max_removed)
        yield step, masked_factors(path.factors, on_device(masks, path.data.device))


def on_device(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Move named tensors; what is there already is not copied."""
    return {name: value.to(device) for name, value in tensors.items()}


def _trained(
    path: Path, values: Mapping[str, Tensor], rng: np.random.Generator
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield the mask variables, which go on changing, every tenth of the steps."""
    variables = mask_variables(values)

    def state() -> dict[str, Tensor]:
        masks = {name: straight_through(v) for name, v in variables.items()}
        return masked_factors(path.factors, masks).weights()

    steps = tune(
        path.loss(state, path.data.margin),
        list(variables.values()),
        path.batches(rng),
        n_steps=path.n_steps,
        learning_rate=MASK_RATE,
        every=path.every,
        after_step=partial(clamp_masks, variables),
    )
    for step in steps:
        yield step, variables


def spectrum(path: Path, start: Edit, rng: np.random.Generator) -> Iterator[tuple[int, Edit]]:
    """Tune singular values and biases, the removed entries staying removed.

    Yields
    ------
    step, edit
        Every tenth of the steps.
    """
    margin = path.data.judge.for_utility(path.logits(start)).margin
    values = {name: f.S.clone().requires_grad_() for name, f in start.factors.items()}
    biases = {
        name: p.detach().clone().requires_grad_()
        for name, p in path.module.named_parameters()
        if name.endswith("bias") and _belongs(path.module, name)
    }

    def edited() -> Edit:
        factors = {name: replace(f, S=values[name]) for name, f in start.factors.items()}
        return replace(start, factors=factors, biases=biases)

    steps = tune(
        path.loss(lambda: edited().state(), margin),
        [*values.values(), *biases.values()],
        path.batches(rng),
        n_steps=path.n_steps,
        learning_rate=SPECTRUM_RATE,
        every=path.every,
    )
    for step in steps:
        yield step, edited().detached()


def _belongs(module: nn.Module, name: str) -> bool:
    """Tell whether a bias is a linear or convolution layer's (not a normalisation's)."""
    return isinstance(module.get_submodule(name.rpartition(".")[0]), (nn.Linear, nn.Conv2d))
