"""Adversarial fine-tuning: a critic learns what bias a batch has, the network to lower it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._rng import one_torch_thread, torch_generator
from ..base import Candidate, EditData
from ..objective import SHARPNESS, Constraint, edit_loss, shifted
from ..phases import Best, judged_state, lighten, stratified
from ..training import Batch, CellBatches, tune
from ._critic import Critic, forward_with_features
from ._critic_target import SignedBias

__all__ = [
    "Budget",
    "DuelPath",
    "Record",
    "actor_loss",
    "critic_loss",
    "make_critic",
    "multiplier",
    "run_duel",
]

# Batches whose features tell the critic's scale.
SAMPLE_BATCHES = 8


@dataclass(frozen=True)
class Budget:
    """How long and how fast both sides learn.

    Attributes
    ----------
    n_epochs, critic_steps, actor_steps : int
        An epoch is so many steps of the critic, then of the network.
    rows : int
        Of a batch.
    learning_rate, critic_learning_rate : float
    critic_width : int
    """

    n_epochs: int
    critic_steps: int
    actor_steps: int
    rows: int
    learning_rate: float
    critic_learning_rate: float
    critic_width: int


@dataclass(frozen=True)
class DuelPath:
    """One weight of the bias, self-contained so that it can run anywhere.

    Attributes
    ----------
    module : nn.Module
        Not shared with another path, its parameters frozen.
    data : EditData
    constraint : Constraint
    bias_weight : float
    allowed : float
        Predicted bias up to which the cross-entropy alone counts.
    budget : Budget
    attributes : dict
        Fitted attributes that do not depend on the candidate.
    seed : numpy.random.SeedSequence
    """

    module: nn.Module
    data: EditData
    constraint: Constraint
    bias_weight: float
    allowed: float
    budget: Budget
    attributes: dict[str, Any]
    seed: np.random.SeedSequence

    @property
    def bias(self) -> SignedBias:
        """What the critic predicts."""
        return SignedBias(self.constraint, self.data.n_classes, self.data.n_groups)

    def measured(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Signed soft biases of a batch at the operating threshold, and which are known."""
        scores = torch.softmax(SHARPNESS * shifted(logits, self.data.margin), dim=1)
        return self.bias(scores, batch.y, batch.groups, batch.gap_weights)

    def batches(self, seed: np.random.SeedSequence) -> CellBatches:
        """Stratified batches of a constant number of rows."""
        rng = np.random.default_rng(seed)
        return stratified(self.data, self.constraint.balance, rng, size=self.budget.rows)


@dataclass
class Record:
    """What the critic met within an epoch."""

    errors: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    known: list[Tensor] = field(default_factory=list)
    multipliers: list[float] = field(default_factory=list)

    def add(self, predicted: Tensor, target: Tensor, known: Tensor) -> None:
        """Note a prediction, made before the critic has learned from the batch."""
        self.errors.append((predicted - target).square())
        self.targets.append(target)
        self.known.append(known)

    def summary(self) -> dict[str, float]:
        """Mean squared error and variance over the outputs that were measured in all batches."""
        known = torch.stack(self.known).all(dim=0)
        errors, targets = torch.stack(self.errors), torch.stack(self.targets)
        if not bool(known.any()):
            return {}
        return {
            "critic_loss": float(errors.mean(dim=0)[known].mean()),
            "target_variance": float(targets.var(dim=0, correction=0)[known].mean()),
        }


def multiplier(size: Tensor, bias_weight: float, allowed: float) -> Tensor:
    """Weight of a batch's cross-entropy: 1 up to the allowed bias, then rising with it."""
    return (bias_weight * (size - allowed) + 1).clamp(min=1)


def actor_loss(
    path: DuelPath,
    critic: Critic | None,
    state: Callable[[], Mapping[str, Tensor]],
    note: Callable[[float], None],
) -> Callable[[Batch], Tensor]:
    """Make the loss of the network: cross-entropy times a multiplier that the critic gives.

    Parameters
    ----------
    path : DuelPath
    critic : Critic or None
        None: plain fine-tuning.
    state : callable
        Gives the network's trainable entries.
    note : callable
        Is told every multiplier.
    """
    forward = forward_with_features(path.module, path.data)
    margin, n_groups = path.data.margin, path.data.n_groups
    settings: dict[str, Any] = {"margin": margin, "tradeoff": 0.0, "n_groups": n_groups}

    def loss(batch: Batch) -> Tensor:
        logits, features = forward(state(), batch.X)
        entropy = edit_loss(logits, batch, path.constraint, **settings)
        if critic is None:
            return entropy
        predicted = critic(features, training=False).reshape(path.bias.shape)
        _, known = path.measured(logits.detach(), batch)
        factor = multiplier(path.bias.size(predicted, known), path.bias_weight, path.allowed)
        note(float(factor.detach()))
        return factor * entropy

    return loss


def critic_loss(
    path: DuelPath, critic: Critic, state: Callable[[], Mapping[str, Tensor]], record: Record
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


def make_critic(path: DuelPath, batches: CellBatches, seed: np.random.SeedSequence) -> Critic:
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


def run_duel(path: DuelPath) -> Iterator[Candidate]:
    """Let critic and network learn in turns.

    Yields
    ------
    candidate : Candidate
        One an epoch; its state is left out where an earlier one of the path ranks at least as
        high, so that memory holds few networks.
    """
    with one_torch_thread():
        leaves = {
            name: parameter.detach().clone().requires_grad_()
            for name, parameter in path.module.named_parameters()
        }
        best = Best[dict[str, Tensor]]()
        for epoch, found in enumerate(_epochs(path, leaves), start=1):
            state = {name: leaf.detach().clone() for name, leaf in leaves.items()}
            params = {"bias_weight": path.bias_weight, "stage": "tuned", "epoch": epoch, **found}
            made = judged_state(path.module, path.data, state, params, path.attributes)
            yield lighten(made, best)


def _epochs(path: DuelPath, leaves: dict[str, Tensor]) -> Iterator[dict[str, float]]:
    """Run the epochs, changing the leaves; yields what each is to be remembered by."""
    seeds, budget = path.seed.spawn(4), path.budget
    critic, record = None, Record()
    of_critic: Iterator[int] = iter(())
    if path.data.has_groups:
        critic = make_critic(path, path.batches(seeds[0]), seeds[1])
        of_critic = tune(
            critic_loss(path, critic, lambda: leaves, record),
            critic.parameters,
            path.batches(seeds[2]),
            n_steps=budget.n_epochs * budget.critic_steps,
            learning_rate=budget.critic_learning_rate,
            every=budget.critic_steps,
        )
    of_actor = tune(
        actor_loss(path, critic, lambda: leaves, record.multipliers.append),
        list(leaves.values()),
        path.batches(seeds[3]),
        n_steps=budget.n_epochs * budget.actor_steps,
        learning_rate=budget.learning_rate,
        every=budget.actor_steps,
    )
    for _ in range(budget.n_epochs):
        next(of_critic, None)
        next(of_actor)
        found = {**record.summary(), "multiplier": fmean(record.multipliers)} if critic else {}
        for column in vars(record).values():
            column.clear()
        yield found
