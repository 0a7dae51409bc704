"""The two steps of bias-mask fine-tuning: masked weights, then the output layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._rng import one_torch_thread
from ..base import Candidate, EditData
from ..layers import layer_parameters
from ..objective import SHARPNESS, Constraint
from ..phases import START_FRACTION, Best, judged_state, lighten, loss_of, stratified
from ..training import tune

__all__ = ["Optimizer", "Path", "Step", "run_path"]

State = dict[str, Tensor]


@dataclass(frozen=True)
class Step:
    """What one step minimises, and how long: ``share`` cross-entropy + ``tradeoff`` soft gap.

    Attributes
    ----------
    name : {"impair", "repair"}
    share, tradeoff : float
    balance : {"cells", "classes"} or None
        How the cross-entropy weighs rows.
    learning_rate : float
    n_steps, every : int
        Updates, and updates between two candidates.
    """

    name: str
    share: float
    tradeoff: float
    balance: str | None
    learning_rate: float
    n_steps: int
    every: int


@dataclass(frozen=True)
class Optimizer:
    """How parameters move, in both steps."""

    name: str
    momentum: float
    weight_decay: float
    rows: int
    patience: int | None


@dataclass(frozen=True)
class Path:
    """Both steps under one weight of the bias, self-contained so that it can run anywhere.

    Attributes
    ----------
    module : nn.Module
        Not shared with another path, its parameters frozen.
    data : EditData
    constraint : Constraint
    masks : dict of weight name to Tensor
        What each update is multiplied by, in [0, 1]; broadcast to the weight.
    resets : dict of parameter name to boolean Tensor
        Entries of the output layer that are set to zero between the steps.
    impair, repair : Step
    optimizer : Optimizer
    at_threshold : bool
        Take the losses at the operating threshold and start the second step from the best
        candidate of the first; False: at margin 0, from its last.
    record : dict
        For ``history_``.
    attributes : dict
        Fitted attributes that do not depend on the candidate.
    seed : numpy.random.SeedSequence
    """

    module: nn.Module
    data: EditData
    constraint: Constraint
    masks: dict[str, Tensor]
    resets: dict[str, Tensor]
    impair: Step
    repair: Step
    optimizer: Optimizer
    at_threshold: bool
    record: dict[str, Any]
    attributes: dict[str, Any]
    seed: np.random.SeedSequence

    def judged(self, state: State, step: Step, number: int) -> Candidate:
        """Judge a state and pack it."""
        params = {**self.record, "stage": step.name, "step": number}
        return judged_state(self.module, self.data, state, params, self.attributes)

    def margin(self, state: State) -> float:
        """Operating threshold of a state, in units of the logit margin."""
        if not state:
            return self.data.margin if self.at_threshold else 0.0
        if not self.at_threshold or self.resets:
            # An output layer that starts anew has no threshold yet.
            return 0.0
        return self.data.judge.for_utility(self.data.logits(self.module, state)).margin


def run_path(path: Path) -> Iterator[Candidate]:
    """Run both steps.

    Yields
    ------
    candidate : Candidate
        Its state is left out where an earlier one of the path ranks at least as high, so that
        memory holds few networks.
    """
    rngs = [np.random.default_rng(seed) for seed in path.seed.spawn(2)]
    best, start = Best[State](), Best[State]({})
    last: State = {}
    limit = START_FRACTION * path.constraint.tolerance
    with one_torch_thread():
        moving = [name for name, mask in path.masks.items() if bool(mask.any())]
        for candidate in _tuned(path, path.impair, {}, moving, rngs[0]):
            last = dict(candidate.state)
            if candidate.logits is not None:
                start.offer(path.data.judge(candidate.logits, limit).rank, last)
            yield lighten(candidate, best)
        chosen = (start.edit or {}) if path.at_threshold else last
        for candidate in _tuned(path, path.repair, _reset(path, chosen), _head(path), rngs[1]):
            yield lighten(candidate, best)


def _offer(best: Best[State], candidate: Candidate) -> bool:
    if candidate.verdict is None:
        return True
    return best.offer(candidate.verdict.rank, dict(candidate.state))


def _head(path: Path) -> list[str]:
    """Names of the output layer's parameters."""
    return list(layer_parameters(path.module, path.data.output_layer))


def _reset(path: Path, state: State) -> State:
    """Set the entries of the output layer to zero that are to be learned anew."""
    current = dict(path.module.named_parameters())
    zeroed = {
        name: torch.where(mask, 0.0, state.get(name, current[name])).detach()
        for name, mask in path.resets.items()
    }
    return {**state, **zeroed}


def _tuned(
    path: Path, step: Step, start: Mapping[str, Tensor], names: list[str], rng: np.random.Generator
) -> Iterator[Candidate]:
    """Tune the named parameters from a state on, until the steps or the patience are used up."""
    if not names or not step.n_steps:
        return
    current = dict(path.module.named_parameters())
    values = {name: start.get(name, current[name]).detach().clone() for name in names}
    leaves = {name: value.requires_grad_() for name, value in values.items()}
    loss = loss_of(
        path.module,
        path.data,
        path.constraint,
        lambda: {**start, **leaves},
        margin=path.margin(dict(start)),
        tradeoff=step.tradeoff,
        share=step.share,
        sharpness=SHARPNESS if path.at_threshold else 1.0,
    )
    masks = path.masks if step is path.impair else {}
    numbers = tune(
        loss,
        list(leaves.values()),
        stratified(path.data, step.balance, rng, size=path.optimizer.rows),
        n_steps=step.n_steps,
        learning_rate=step.learning_rate,
        every=step.every,
        optimizer=path.optimizer.name,
        momentum=path.optimizer.momentum,
        weight_decay=path.optimizer.weight_decay,
        update_masks=[masks.get(name) for name in names],
    )
    best, waiting = Best[State](), 0
    for number in numbers:
        state = {**start, **{name: leaf.detach().clone() for name, leaf in leaves.items()}}
        candidate = path.judged(state, step, number)
        waiting = 0 if _offer(best, candidate) else waiting + 1
        yield candidate
        if path.optimizer.patience is not None and waiting >= path.optimizer.patience:
            return
