"""Adversarial debiasing: predictor and adversary learn on the same batches, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._rng import one_torch_thread
from ..base import Candidate, EditData
from ..objective import Constraint, edit_loss, shifted
from ..phases import Best, judged_state, lighten, stratified
from ..training import Batch, CellBatches, tune
from ._debiasing_rule import Adversary, projected

__all__ = ["DebiasingPath", "Game", "run_debiasing"]

# Candidates that a path leaves.
N_CANDIDATES = 10

# Steps of the adversary before the network moves: from zero it has to learn what there is to see.
HEAD_START = 30


@dataclass(frozen=True)
class DebiasingPath:
    """One weight of the adversary, self-contained so that it can run anywhere.

    Attributes
    ----------
    module : nn.Module
        Not shared with another path, its parameters frozen.
    data : EditData
    constraint : Constraint
    alpha : float
    n_steps : int
    learning_rate : float
    adversary_steps : int
        Of the adversary, for each of the network.
    adversary_learning_rate : float
    attributes : dict
        Fitted attributes that do not depend on the candidate.
    seed : numpy.random.SeedSequence
    """

    module: nn.Module
    data: EditData
    constraint: Constraint
    alpha: float
    n_steps: int
    learning_rate: float
    adversary_steps: int
    adversary_learning_rate: float
    attributes: dict[str, Any]
    seed: np.random.SeedSequence

    def batches(self) -> CellBatches:
        """Stratified batches of the editing rows."""
        return stratified(self.data, self.constraint.balance, np.random.default_rng(self.seed))

    def entropy(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of the labels at the operating threshold."""
        return edit_loss(
            logits,
            batch,
            self.constraint,
            margin=self.data.margin,
            tradeoff=0.0,
            n_groups=self.data.n_groups,
        )


@dataclass
class Game:
    """The adversary, what it is shown, and what it learns from it.

    Attributes
    ----------
    path : DebiasingPath
    adversary : Adversary
    shown : list of one tuple (Batch, Tensor)
        The batch of this step, and its logits at the operating threshold; empty at first.
    losses : list of float
        Of the adversary, since the last candidate, before it learned from the batch.
    """

    path: DebiasingPath
    adversary: Adversary
    shown: list[tuple[Batch, Tensor]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Set the adversary's own steps going; each is made when it is asked for."""
        each = self.path.adversary_steps
        self.steps = tune(
            self._loss,
            self.adversary.parameters,
            self._batches(),
            n_steps=(HEAD_START + self.path.n_steps) * each,
            learning_rate=self.path.adversary_learning_rate,
            every=each,
        )

    def _batches(self) -> Iterator[Batch]:
        while True:
            yield self.shown[-1][0]

    def _loss(self, batch: Batch) -> Tensor:
        loss = self.adversary.loss(self.shown[-1][1], batch, training=True)
        self.losses.append(float(loss.detach()))
        return loss

    def learn(self, logits: Tensor, batch: Batch) -> Tensor:
        """Let the adversary learn from a batch; returns the logits that it saw, with gradients."""
        seen = shifted(logits, self.path.data.margin)
        self.shown[:] = [(batch, seen.detach())]
        next(self.steps)
        return seen

    def summary(self) -> dict[str, float]:
        """Mean loss since the last candidate, and that of an adversary without eyes."""
        found = {"adversary_loss": fmean(self.losses), "blind_loss": self._blind_loss}
        self.losses.clear()
        return found

    @cached_property
    def _blind_loss(self) -> float:
        data = self.path.data
        rows, n_classes, n_groups = data.editing, data.n_classes, data.n_groups
        cells = torch.bincount(rows.y * n_groups + rows.groups, minlength=n_classes * n_groups)
        return self.adversary.blind_loss(cells.reshape(n_classes, n_groups))


def _gradients(loss: Tensor, leaves: Sequence[Tensor], *, keep: bool) -> list[Tensor]:
    found = torch.autograd.grad(loss, leaves, retain_graph=keep, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, found, strict=True)]


def network_loss(
    path: DebiasingPath, game: Game | None, leaves: Mapping[str, Tensor]
) -> Callable[[Batch], Tensor]:
    """Make a loss of the network whose gradient is the projected update.

    Its value means nothing: it is the inner product of the parameters and the update.

    Parameters
    ----------
    path : DebiasingPath
    game : Game or None
        None: plain fine-tuning.
    leaves : mapping of name to Tensor
    """
    values = list(leaves.values())

    def loss(batch: Batch) -> Tensor:
        logits = path.data.forward(path.module, leaves, batch.X)
        entropy = path.entropy(logits, batch)
        if game is None:
            return entropy
        seen = game.learn(logits, batch)
        own = _gradients(entropy, values, keep=True)
        other = _gradients(game.adversary.loss(seen, batch, training=False), values, keep=False)
        products = [
            (value * projected(mine, theirs, path.alpha)).sum()
            for value, mine, theirs in zip(values, own, other, strict=True)
        ]
        return torch.stack(products).sum()

    return loss


def _game(path: DebiasingPath, batches: Iterator[Batch]) -> Game:
    """Make an adversary that has learned what the untouched network gives away."""
    data = path.data
    sizes = data.n_classes, data.n_groups
    adversary = Adversary(path.constraint, *sizes, device=data.device, dtype=data.dtype)
    game = Game(path, adversary)
    for batch in islice(batches, HEAD_START):
        with torch.no_grad():
            logits = data.forward(path.module, {}, batch.X)
        game.learn(logits, batch)
    game.losses.clear()
    return game


def run_debiasing(path: DebiasingPath) -> Iterator[Candidate]:
    """Let network and adversary learn on the same batches.

    Yields
    ------
    candidate : Candidate
        Every tenth of the steps; its state is left out where an earlier one of the path ranks at
        least as high, so that memory holds few networks.
    """
    with one_torch_thread():
        leaves = {
            name: parameter.detach().clone().requires_grad_()
            for name, parameter in path.module.named_parameters()
        }
        batches, best = iter(path.batches()), Best[dict[str, Tensor]]()
        game = _game(path, batches) if path.data.has_groups else None
        steps = tune(
            network_loss(path, game, leaves),
            list(leaves.values()),
            batches,
            n_steps=path.n_steps,
            learning_rate=path.learning_rate,
            every=max(1, path.n_steps // N_CANDIDATES),
        )
        for step in steps:
            state = {name: leaf.detach().clone() for name, leaf in leaves.items()}
            found = game.summary() if game is not None else {}
            params = {"alpha": path.alpha, "stage": "tuned", "step": step, **found}
            made = judged_state(path.module, path.data, state, params, path.attributes)
            yield lighten(made, best)
