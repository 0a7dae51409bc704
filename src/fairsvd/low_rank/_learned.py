"""Learned removal of U and V entries, then tuning of the spectrum: one trade-off, start to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._rng import one_torch_thread, torch_generator
from ..base import Candidate, EditData
from ..layers import Factors
from ..masks import clamp_masks, harden, mask_variables, straight_through
from ..objective import Constraint, edit_loss
from ..training import Batch, CellBatches, tune
from ._edits import Edit, masked_factors

__all__ = ["Budget", "Path", "learned_masks", "run_path", "spectrum"]

# Masks must be able to cross zero within the budget: 0.5 / 3e-2 is about 17 steps one way.
MASK_RATE = 3e-2
SPECTRUM_RATE = 1e-2

# The masks that the spectrum starts from may miss the limit by this factor of the tolerance.
START_FRACTION = 0.6


@dataclass(frozen=True)
class Budget:
    """Steps of each phase and how many candidates they leave.

    Attributes
    ----------
    n_steps : int
    every : int
        Steps between two candidates.
    """

    n_steps: int
    every: int


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
    budget : Budget
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
    budget: Budget
    compress: bool
    seed: np.random.SeedSequence
    attributes: dict[str, Any]

    def batches(self, rng: np.random.Generator) -> CellBatches:
        """Cell-stratified batches of the editing rows."""
        data = self.data
        return CellBatches(
            data.editing,
            data.n_classes,
            data.n_groups,
            batch_size=data.batch_size,
            balance=self.constraint.balance,
            generator=torch_generator(rng),
            device=data.device,
            dtype=data.dtype,
        )

    def loss(self, state: Callable[[], Mapping[str, Tensor]], margin: float) -> Any:
        """Make the loss of a batch for a state that depends on trainable tensors."""

        def of_batch(batch: Batch) -> Tensor:
            logits = self.data.forward(self.module, state(), batch.X)
            return edit_loss(
                logits,
                batch,
                self.constraint,
                margin=margin,
                tradeoff=self.tradeoff,
                n_groups=self.data.n_groups,
            )

        return of_batch

    def candidate(self, edit: Edit, **params: Any) -> Candidate:
        """Judge an edit and pack it."""
        verdict = self.data.judge(self.data.logits(self.module, edit.state()))
        return edit.candidate(
            {"tradeoff": self.tradeoff, **params}, self.attributes, self.compress, verdict
        )


def learned_masks(path: Path, rng: np.random.Generator) -> Iterator[tuple[Edit, Candidate]]:
    """Learn which entries of U and V to remove, the weights untouched.

    Yields
    ------
    edit, candidate
        The masks hardened, every ``budget.every`` steps.
    """
    values = {f"{n}/{side}": getattr(f, side) for n, f in path.factors.items() for side in "UV"}
    variables = mask_variables(values)

    def state() -> dict[str, Tensor]:
        masks = {name: straight_through(v) for name, v in variables.items()}
        return masked_factors(path.factors, masks).weights()

    steps = tune(
        path.loss(state, path.data.margin),
        list(variables.values()),
        path.batches(rng),
        n_steps=path.budget.n_steps,
        learning_rate=MASK_RATE,
        every=path.budget.every,
        after_step=partial(clamp_masks, variables),
    )
    for step in steps:
        edit = masked_factors(path.factors, harden(variables, path.max_removed))
        yield edit, path.candidate(edit, stage="masks", step=step)


def spectrum(path: Path, start: Edit, rng: np.random.Generator) -> Iterator[Candidate]:
    """Tune singular values and biases, the removed entries staying removed.

    Yields
    ------
    candidate : Candidate
        Every ``budget.every`` steps.
    """
    logits = path.data.logits(path.module, start.state())
    margin = path.data.judge.for_utility(logits).margin
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
        n_steps=path.budget.n_steps,
        learning_rate=SPECTRUM_RATE,
        every=path.budget.every,
    )
    for step in steps:
        with torch.no_grad():
            yield path.candidate(edited().detached(), stage="spectrum", step=step)


def _belongs(module: nn.Module, name: str) -> bool:
    """Tell whether a bias is a linear or convolution layer's (not a normalisation's)."""
    return isinstance(module.get_submodule(name.rpartition(".")[0]), (nn.Linear, nn.Conv2d))


def run_path(path: Path, start: Edit | None, refine: bool) -> Iterator[Candidate]:
    """Run the phases of one trade-off.

    Parameters
    ----------
    path : Path
    start : Edit or None
        Masks that are given; None: they are learned first.
    refine : bool
        Tune the spectrum afterwards.

    Yields
    ------
    candidate : Candidate
        Its state is left out where an earlier one of the path ranks at least as high.
    """
    rngs = [np.random.default_rng(seed) for seed in path.seed.spawn(2)]
    best: tuple[bool, float] | None = None
    with one_torch_thread():
        if start is None:
            found: list[tuple[tuple[bool, float], Edit]] = []
            for edit, candidate in learned_masks(path, rngs[0]):
                found = _better(found, path, edit)
                best, lighter = _lighten(candidate, best)
                yield lighter
            start = found[0][1]
        if refine:
            for candidate in spectrum(path, start, rngs[1]):
                best, lighter = _lighten(candidate, best)
                yield lighter


def _better(
    found: list[tuple[tuple[bool, float], Edit]], path: Path, edit: Edit
) -> list[tuple[tuple[bool, float], Edit]]:
    limit = START_FRACTION * path.constraint.tolerance
    rank = path.data.judge(path.data.logits(path.module, edit.state()), limit).rank
    return [(rank, edit)] if not found or rank > found[0][0] else found


def _lighten(
    candidate: Candidate, best: tuple[bool, float] | None
) -> tuple[tuple[bool, float], Candidate]:
    rank = candidate.verdict.rank if candidate.verdict else (False, -np.inf)
    if best is None or rank > best:
        return rank, candidate
    return best, replace(candidate, state={}, attributes={}, finish=None)
