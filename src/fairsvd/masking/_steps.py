"""The two steps of bias-mask fine-tuning: masked weights, then the output layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base import Candidate, Task
from ..layers import layer_parameters
from ..objective import SHARPNESS, Judge
from ..phases import (
    START_FRACTION,
    Best,
    Teacher,
    brief_margin,
    judge_state,
    make_batches,
    make_lessons,
    make_loss,
    settles,
)
from ..training import Batch, tune

__all__ = ["Optimizer", "Path", "Step", "run_path"]

State = dict[str, Tensor]


@dataclass(frozen=True)
class Step:
    """One step, which minimises ``share`` cross-entropy + ``gap_weight`` soft gap.

    Attributes
    ----------
    name : {"impair", "repair"}
    share, gap_weight : float
    balance : {"cells", "classes"} or None
        How the cross-entropy weighs rows.
    learning_rate : float
    n_steps, every : int
        Updates, and updates between two candidates.
    """

    name: str
    share: float
    gap_weight: float
    balance: str | None
    learning_rate: float
    n_steps: int
    every: int


@dataclass(frozen=True)
class Optimizer:
    """Settings of the optimizer, for both steps; ``brief``: under a budget."""

    name: str
    momentum: float
    weight_decay: float
    rows: int
    patience: int | None
    brief: bool = False


@dataclass(frozen=True)
class Path(Task):
    """Both steps under one weight of the soft gap.

    Attributes
    ----------
    masks : dict of weight name to Tensor
        Factor of each update, in [0, 1]; broadcast to the weight.
    resets : dict of parameter name to boolean Tensor
        Entries of the output layer that are set to zero between the steps.
    impair, repair : Step
    optimizer : Optimizer
    at_threshold : bool
        Take the losses at the operating threshold and start the second step from the best candidate
        of the first. False: take them at margin 0 and start from the last candidate.
    record : dict
        Entries of ``history_``.
    attributes : dict
        Fitted attributes that do not depend on the candidate.
    seed : numpy.random.SeedSequence
    teacher : Teacher, optional
        Whom the first step imitates instead of following its loss.
    """

    masks: dict[str, Tensor]
    resets: dict[str, Tensor]
    impair: Step
    repair: Step
    optimizer: Optimizer
    at_threshold: bool
    record: dict[str, Any]
    attributes: dict[str, Any]
    seed: np.random.SeedSequence
    teacher: Teacher | None = None

    def judge(self, state: State, step: Step, number: int) -> Candidate:
        """Judge a state and pack it."""
        params = {**self.record, "stage": step.name, "step": number}
        if not self.optimizer.brief:
            return judge_state(self, state, params, self.attributes, self.own_judge)
        steady = partial(self.own_judge.steady, margin=self.margin({}))
        return judge_state(self, state, params, self.attributes, steady)

    @property
    def own_judge(self) -> Judge:
        """The judge of the path's candidates; an imitation has not memorised its rows."""
        return self.data.judge if self.teacher is None else self.data.judge.together()

    def margin(self, state: State) -> float:
        """Return the operating threshold of a state, in units of the logit margin."""
        if self.optimizer.brief and self.at_threshold and not self.resets:
            return brief_margin(self.data)
        if not state:
            return self.data.margin if self.at_threshold else 0.0
        if self.teacher is not None and not settles(self.data):
            return self.data.margin
        if not self.at_threshold or self.resets:
            # A reset output layer has no threshold yet.
            return 0.0
        return self.data.judge.for_utility(self.data.logits(self.module, state)).margin


def run_path(path: Path) -> Iterator[Candidate]:
    """Run both steps.

    Yields
    ------
    candidate : Candidate
        One per epoch of either step.
    """
    rngs = [np.random.default_rng(seed) for seed in path.seed.spawn(2)]
    start = Best[State]({})
    last: State = {}
    limit = START_FRACTION * path.constraint.tolerance
    moving = [name for name, mask in path.masks.items() if bool(mask.any())]
    for candidate in _tune(path, path.impair, {}, moving, rngs[0]):
        if not path.at_threshold:
            last = {name: value.detach() for name, value in candidate.state.items()}
        elif candidate.logits is not None and start.offer(
            path.own_judge(candidate.logits, limit).rank
        ):
            # In its place in memory, and one copy for both the candidate and the start.
            start.value = None
            candidate = candidate.owned()
            start.value = dict(candidate.state)
        yield candidate
        del candidate
    chosen = (start.value or {}) if path.at_threshold else last
    head = list(layer_parameters(path.module, path.data.output_layer))
    start.value = None
    yield from _tune(path, path.repair, _reset(path, chosen), head, rngs[1])


def _reset(path: Path, state: State) -> State:
    """Zero the entries of the output layer that are to be learned again."""
    current = dict(path.module.named_parameters())
    zeroed = {
        name: torch.where(mask, 0.0, state.get(name, current[name])).detach()
        for name, mask in path.resets.items()
    }
    return {**state, **zeroed}


def _tune(
    path: Path, step: Step, start: Mapping[str, Tensor], names: list[str], rng: np.random.Generator
) -> Iterator[Candidate]:
    """Tune the named parameters from a state on, until the steps or the patience are used up."""
    if not names or not step.n_steps:
        return
    # What an imitation leaves of the gap, the second step puts right by labels and the soft gap.
    imitates = step is path.impair or not settles(path.data)
    teacher = path.teacher if imitates else None
    current = dict(path.module.named_parameters())
    values = {name: start.get(name, current[name]).detach().clone() for name in names}
    leaves = {name: value.requires_grad_() for name, value in values.items()}
    loss = make_loss(
        path,
        lambda: {**start, **leaves},
        margin=path.margin(dict(start)),
        gap_weight=step.gap_weight,
        share=step.share,
        sharpness=SHARPNESS if path.at_threshold and not path.optimizer.brief else 1.0,
        teacher=teacher,
    )
    batches: Iterable[Batch]
    if teacher is None:
        schedule = "constant"
        batches = make_batches(path.data, step.balance, rng, size=path.optimizer.rows)
    else:
        schedule = "cosine"
        batches = make_lessons(
            path.data, teacher, rng, size=path.optimizer.rows if path.optimizer.brief else None
        )
    masks = path.masks if step is path.impair else {}
    numbers = tune(
        loss,
        list(leaves.values()),
        batches,
        n_steps=step.n_steps,
        learning_rate=step.learning_rate,
        every=step.every,
        schedule=schedule,
        optimizer=path.optimizer.name,
        momentum=path.optimizer.momentum,
        weight_decay=path.optimizer.weight_decay,
        update_masks=[masks.get(name) for name in names],
    )
    best, waiting = Best[State](), 0
    for number in numbers:
        candidate = path.judge({**start, **leaves}, step, number)
        better = candidate.verdict is None or best.offer(candidate.verdict.rank)
        waiting = 0 if better else waiting + 1
        yield candidate
        del candidate
        if path.optimizer.patience is not None and waiting >= path.optimizer.patience:
            return
