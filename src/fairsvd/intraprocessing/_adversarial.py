"""Adversarial fine-tuning: a critic learns to predict a batch's bias, the network to lower it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from statistics import fmean
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from .._rng import torch_generator
from ..base import (
    Candidate,
    EditData,
    Task,
    at_least_0,
    fraction,
    parameter,
    positive,
    positive_int,
    register_editor,
)
from ..objective import SHARPNESS, edit_loss, make_shift, shift_logits
from ..phases import FORWARD, TuningEditor, judge_state, make_batches, run_paths
from ..training import Batch, CellBatches, tune
from ._critic import Critic, SignedBias, forward_with_features

__all__ = ["AdversarialFineTuner"]

# Values around the paper's 20 for images; its 0.75 for tables hardly changed a gap.
GAP_WEIGHTS = (5.0, 20.0, 100.0)

# Batches whose features set the scale of the critic's inputs.
SAMPLE_BATCHES = 8

# Savani et al., code for tables; lambda is missing there and taken from the first version.
PUBLISHED: dict[str, Any] = {
    "epochs": 32,
    "critic_steps": 201,
    "actor_steps": 301,
    "critic_rows": 64,
    "gap_weight": 0.75,
    "slack": 0.02,
    "tolerance": 0.05,
    "learning_rate": 1e-4,
    "critic_learning_rate": 1e-3,
    "critic_width": 32,
    "max_epochs": math.inf,
}


@register_editor(epochs=2, critic_steps=3, actor_steps=3, gap_weight=5.0)
class AdversarialFineTuner(TuningEditor):
    """Learn to predict the bias of a batch, and tune the network against the prediction.

    In turns, a critic learns to predict the signed bias of a batch from the inputs of the network's
    output layer, and the network is tuned with a cross-entropy whose weight rises with the bias
    that the critic predicts. The gradient runs through the critic into all hidden layers. The
    network keeps its architecture, needs no sensitive attribute to predict, and what the user
    passed in is not changed. :meth:`paper` has the paper's values; the defaults are ours, chosen by
    measurement.

    Parameters
    ----------
    epochs : int, default=10
        Turns of critic and network, each of which yields a candidate.
    critic_steps, actor_steps : int, default=50
        Updates of the critic and of the network in an epoch; at most as many as there are rows.
    critic_rows : int, default=64
        Rows per batch, of critic and network: the critic reads all of them at once. Rounded down to
        a multiple of the number of (label, group) cells.
    gap_weight : float or None, default=None
        Lambda, the rate at which the cross-entropy's weight rises with the predicted bias. None:
        searched on validation.
    slack : float in [0, 1], default=0.02
        The weight rises above a predicted bias of ``tolerance - slack``.
    learning_rate : float, default=1e-3
        Learning rate of the network.
    critic_learning_rate : float, default=3e-4
        Learning rate of the critic.
    critic_width : int, default=32
        Width of the critic's hidden layers.

    Attributes
    ----------
    balance_ : {"cells", "classes"} or None
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        See :class:`NetworkEditor`; ``history_`` has one row for each epoch, with the critic's mean
        squared error on batches it has not seen (``critic_loss``, dropout off), the variance of
        what it is to predict (``target_variance``, the error of a constant prediction) and the mean
        weight of the cross-entropy (``multiplier``).

    See Also
    --------
    AdversarialDebiasing : An adversary that guesses the group of a row.
    BiasMaskFineTuner : Penalises the soft gap itself.

    Notes
    -----
    The third method of arXiv:2006.08564, with its critic (three hidden layers, dropout 0.2) and its
    loss ``max(1, gap_weight (|g| - tolerance + slack) + 1)`` times cross-entropy. Its code for
    tables leaves dropout and batch statistics on during the choice, and its code for images does
    not start from the given network; here everything except the critic's own learning is in
    evaluation mode, and tuning starts from the given weights. Further deviations: every batch holds
    every cell (weights restore the shares), its rows in the order of the cells; biases are measured
    at the operating threshold, on probabilities sharpened four times; the cross-entropy is balanced
    and taken there too; features are standardised; the untouched network is a candidate, as is
    every epoch, and the core chooses among them.

    The critic predicts a signed difference for every rate that the constraint compares: between the
    two groups, or between each of several groups and all others together; with several classes, for
    each of them. ``|g|`` is the largest over groups and rates (average odds: the mean over rates),
    averaged over classes; biases that a batch cannot measure are left out. The output layer's own
    parameters come after the features, so only the cross-entropy changes them. Without sensitive
    features there is no critic: plain fine-tuning.

    Examples
    --------
    >>> from fairsvd import AdversarialFineTuner
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(800, random_state=0)
    >>> tuner = AdversarialFineTuner(epochs=3, gap_weight=20.0, tolerance=0.1, random_state=0)
    >>> tuner = tuner.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> len(tuner.history_)
    4
    """

    epochs: int = parameter(positive_int(), default=10)
    critic_steps: int = parameter(positive_int(), default=50)
    actor_steps: int = parameter(positive_int(), default=50)
    critic_rows: int = parameter(positive_int(), default=64)
    gap_weight: float | None = parameter(at_least_0(), None, default=None)
    slack: float = parameter(fraction(), default=0.02)
    learning_rate: float = parameter(positive(), default=1e-3)
    critic_learning_rate: float = parameter(positive(), default=3e-4)
    critic_width: int = parameter(positive_int(), default=32)

    @classmethod
    def paper(cls, network: Any = None, **parameters: Any) -> Self:
        """Make an editor with the paper's values for tables (arXiv:2006.08564, released code).

        Parameters
        ----------
        network : as in the class
        **parameters
            Values that replace the paper's.
        """
        return cls(network, **{**PUBLISHED, **parameters})

    def _count_candidates(self, task: Task) -> int:
        weights, budget = self._plan(task)
        return 1 + budget.epochs * len(weights)

    def _edit(self, task: Task, rng: np.random.Generator) -> Iterator[Candidate]:
        attributes = {"balance_": task.constraint.balance}
        yield Candidate({}, {"stage": "untouched"}, attributes)
        weights, budget = self._plan(task)
        allowed = task.constraint.tolerance - self.slack
        duels = [
            Duel.of(
                subtask,
                gap_weight=weight,
                allowed=allowed,
                budget=budget,
                attributes=attributes,
                seed=seed,
            )
            for weight, subtask, seed in task.spread(weights, rng, self.n_jobs)
        ]
        yield from run_paths(duels, run_duel, self.n_jobs)

    def _plan(self, task: Task) -> tuple[tuple[float, ...], Budget]:
        """List the weights to try, and count steps; both are cut where visits of rows are limited.

        Then one weight is tried, in as many epochs as there are visits for.
        """
        n_rows, weights = len(task.data.editing), self._weights(task.data)
        budget = Budget(
            epochs=self.epochs,
            critic_steps=min(self.critic_steps, n_rows),
            actor_steps=min(self.actor_steps, n_rows),
            rows=self.critic_rows,
            learning_rate=self.learning_rate,
            critic_learning_rate=self.critic_learning_rate,
            critic_width=self.critic_width,
        )
        limit = self._budget(task)
        if limit is None:
            return weights, budget
        visits = limit.less(FORWARD * SAMPLE_BATCHES * budget.rows).visits
        an_epoch = budget.steps_visits + limit.look
        if len(weights) * budget.epochs * an_epoch <= visits:
            return weights, budget
        if self.gap_weight is None and task.data.has_groups:
            weights = weights[len(weights) // 2 :][:1]
        epochs = max(1, min(budget.epochs, int(visits / an_epoch)))
        share = min(1.0, max(0.0, visits / epochs - limit.look) / budget.steps_visits)
        return weights, replace(
            budget,
            epochs=epochs,
            critic_steps=max(1, int(share * budget.critic_steps)),
            actor_steps=max(1, int(share * budget.actor_steps)),
        )

    def _weights(self, data: EditData) -> tuple[float, ...]:
        if not data.has_groups:
            return (0.0,)
        return GAP_WEIGHTS if self.gap_weight is None else (float(self.gap_weight),)


@dataclass(frozen=True)
class Budget:
    """Numbers of steps and learning rates of both sides.

    Attributes
    ----------
    epochs, critic_steps, actor_steps : int
        An epoch has the steps of the critic, then those of the network (the actor).
    rows : int
        Rows of a batch.
    learning_rate, critic_learning_rate : float
    critic_width : int
    """

    epochs: int
    critic_steps: int
    actor_steps: int
    rows: int
    learning_rate: float
    critic_learning_rate: float
    critic_width: int

    @property
    def steps_visits(self) -> float:
        """Visits of rows in an epoch; the critic's steps only run the network forward."""
        return self.rows * (self.actor_steps + FORWARD * self.critic_steps)


@dataclass(frozen=True)
class Duel(Task):
    """One weight of the predicted gap: a critic and the network learn in turns.

    Attributes
    ----------
    gap_weight : float
    allowed : float
        Predicted bias up to which the weight of the cross-entropy is 1.
    budget : Budget
    attributes : dict
        Fitted attributes that do not depend on the candidate.
    seed : numpy.random.SeedSequence
    """

    gap_weight: float
    allowed: float
    budget: Budget
    attributes: dict[str, Any]
    seed: np.random.SeedSequence

    @property
    def bias(self) -> SignedBias:
        """The biases that the critic predicts."""
        return SignedBias(self.constraint, self.data.n_classes, self.data.n_groups)

    @cached_property
    def shift(self) -> float | Tensor:
        """The operating threshold, as the network's device takes it."""
        return make_shift(self.data.margin, self.data.device, self.data.dtype)

    def measured(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Measure a batch's signed soft biases at the operating threshold, and which are known."""
        scores = torch.softmax(SHARPNESS * shift_logits(logits, self.shift), dim=1)
        return self.bias(scores, batch.y, batch.groups, batch.gap_weights)

    def batches(self, seed: np.random.SeedSequence) -> CellBatches:
        """Make stratified batches of a constant number of rows."""
        rng = np.random.default_rng(seed)
        return make_batches(self.data, self.constraint.balance, rng, size=self.budget.rows)


@dataclass
class Record:
    """Statistics of the critic within an epoch."""

    errors: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    known: list[Tensor] = field(default_factory=list)
    multipliers: list[Tensor] = field(default_factory=list)

    def add(self, predicted: Tensor, target: Tensor, known: Tensor) -> None:
        """Note a prediction, made before the critic has learned from the batch."""
        self.errors.append((predicted - target).square())
        self.targets.append(target)
        self.known.append(known)

    def summary(self) -> dict[str, float]:
        """Compute mean squared error and variance over outputs that every batch could measure.

        And the mean multiplier, if there were any. Everything is read here, once an epoch.
        """
        known, errors, targets = (
            torch.stack(column).cpu() for column in (self.known, self.errors, self.targets)
        )
        summary = {}
        if self.multipliers:
            summary["multiplier"] = fmean(torch.stack(self.multipliers).tolist())
        known = known.all(dim=0)
        if not bool(known.any()):
            return summary
        return {
            "critic_loss": float(errors.mean(dim=0)[known].mean()),
            "target_variance": float(targets.var(dim=0, correction=0)[known].mean()),
            **summary,
        }


def multiplier(size: Tensor, gap_weight: float, allowed: float) -> Tensor:
    """Compute the weight of a batch's cross-entropy: 1 up to the allowed bias, then rising."""
    return (gap_weight * (size - allowed) + 1).clamp(min=1)


def actor_loss(
    path: Duel,
    critic: Critic | None,
    state: Callable[[], Mapping[str, Tensor]],
    note: Callable[[Tensor], None],
) -> Callable[[Batch], Tensor]:
    """Make the loss of the network: cross-entropy times a multiplier that the critic gives.

    Parameters
    ----------
    path : Duel
    critic : Critic or None
        None: plain fine-tuning.
    state : callable
        Returns the network's trainable entries.
    note : callable
        Receives every multiplier.
    """
    forward = forward_with_features(path.module, path.data)
    n_groups = path.data.n_groups
    settings: dict[str, Any] = {"margin": path.shift, "gap_weight": 0.0, "n_groups": n_groups}

    def loss(batch: Batch) -> Tensor:
        logits, features = forward(state(), batch.X)
        entropy = edit_loss(logits, batch, path.constraint, **settings)
        if critic is None:
            return entropy
        predicted = critic(features, training=False).reshape(path.bias.shape)
        _, known = path.measured(logits.detach(), batch)
        factor = multiplier(path.bias.size(predicted, known), path.gap_weight, path.allowed)
        note(factor.detach())
        return factor * entropy

    return loss


def critic_loss(
    path: Duel, critic: Critic, state: Callable[[], Mapping[str, Tensor]], record: Record
) -> Callable[[Batch], Tensor]:
    """Make the loss of the critic: the mean squared error of its biases; the network is fixed."""
    forward = forward_with_features(path.module, path.data)

    def loss(batch: Batch) -> Tensor:
        with torch.no_grad():
            logits, features = forward(state(), batch.X)
            target, known = path.measured(logits, batch)
            record.add(critic(features, training=False).reshape(target.shape), target, known)
        errors = (critic(features, training=True).reshape(target.shape) - target).square()
        return torch.where(known, errors, 0.0).sum() / known.sum().clamp(min=1)

    return loss


def make_critic(path: Duel, batches: CellBatches, seed: np.random.SeedSequence) -> Critic:
    """Make a critic for the batches of a path."""
    forward = forward_with_features(path.module, path.data)
    with torch.no_grad():
        parts = [forward({}, batch.X)[1] for batch in islice(batches, SAMPLE_BATCHES)]
    return Critic(
        torch.cat(parts),
        len(parts[0]),
        path.budget.critic_width,
        math.prod(path.bias.shape),
        generator=torch_generator(np.random.default_rng(seed)),
    )


def run_duel(path: Duel) -> Iterator[Candidate]:
    """Let critic and network learn in turns.

    Yields
    ------
    candidate : Candidate
        One per epoch.
    """
    leaves = {
        name: parameter.detach().clone().requires_grad_()
        for name, parameter in path.module.named_parameters()
    }
    for epoch, summary in enumerate(_epochs(path, leaves), start=1):
        params = {"gap_weight": path.gap_weight, "stage": "tuned", "epoch": epoch, **summary}
        yield judge_state(path, leaves, params, path.attributes)


def _epochs(path: Duel, leaves: dict[str, Tensor]) -> Iterator[dict[str, float]]:
    """Run the epochs, which change the leaves; yield a summary of each."""
    seeds, budget = path.seed.spawn(4), path.budget
    critic, record = None, Record()
    of_critic: Iterator[int] = iter(())
    if path.data.has_groups:
        critic = make_critic(path, path.batches(seeds[0]), seeds[1])
        of_critic = tune(
            critic_loss(path, critic, lambda: leaves, record),
            critic.parameters,
            path.batches(seeds[2]),
            n_steps=budget.epochs * budget.critic_steps,
            learning_rate=budget.critic_learning_rate,
            every=budget.critic_steps,
        )
    of_actor = tune(
        actor_loss(path, critic, lambda: leaves, record.multipliers.append),
        list(leaves.values()),
        path.batches(seeds[3]),
        n_steps=budget.epochs * budget.actor_steps,
        learning_rate=budget.learning_rate,
        every=budget.actor_steps,
    )
    for _ in range(budget.epochs):
        next(of_critic, None)
        next(of_actor)
        summary = record.summary() if critic else {}
        for column in vars(record).values():
            column.clear()
        yield summary
