"""Low-rank adapters that learn the task without the group (fair LoRA)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._rng import torch_generator
from ..base import (
    Candidate,
    StrOptions,
    Task,
    at_least_0,
    parameter,
    positive,
    positive_int,
    register_editor,
)
from ..layers import chosen_weights, select_layers
from ..objective import shift_logits
from ..phases import (
    FORWARD,
    Edit,
    TuningEditor,
    TuningPath,
    count_best,
    count_candidates,
    count_lessons,
    count_step_rows,
    count_steps,
    make_batches,
    run_best,
    run_phases,
    tune_edit,
)
from ..training import Batch, tune
from ._adversary import Adversary
from ._critic import forward_with_features

__all__ = ["AdapterFineTuner"]

# Strengths that are tried: weights of a term of the loss, or the share of an adapter.
STRENGTHS = {
    "plain": (0.0,),
    "orthogonal": (1.0, 10.0, 100.0),
    "adversarial": (0.3, 1.0, 3.0),
    "unlearning": (0.3, 1.0),
}

# Learning rate of an adversary, and how often it learns from a batch.
ADVERSARY_RATE, ADVERSARY_STEPS = 0.1, 3


@register_editor(max_steps=3, strength=1.0, n_teachers=1)
class AdapterFineTuner(TuningEditor):
    """Tune low-rank adapters of a network, kept apart from what predicts the group.

    Each chosen layer gets an adapter: its weight W becomes W + B A, with A and B of a low rank. The
    adapters alone are tuned; then they are merged into the weights, so the network keeps its
    architecture. It needs no sensitive attribute to predict, and what the user passed in is not
    changed.

    Parameters
    ----------
    variant : {"adversarial", "orthogonal", "plain", "unlearning"}, default="adversarial"
        "plain": nothing but the loss. "orthogonal": the loss plus ``strength`` times the squared
        norm of ``A A_group^T`` in every layer, where A_group is that of adapters that were trained
        to predict the group. "adversarial": the loss minus ``strength`` times that of an adversary
        that predicts the group from the logits. "unlearning": tuning starts from the weights minus
        ``strength`` times the adapters that predict the group.
    rank : int, default=4
        Of the adapters; at most that of the layer.
    layers : {"hidden", "all"}, list of str or re.Pattern, default="hidden"
        Layers that get adapters: all but the one that makes the logits, all, some by name, or those
        whose names a pattern finds.
    strength : float or None, default=None
        None: some are tried, those of ``variant``. Not used by "plain".
    gap_weight : float or None, default=None
        Weight of the soft gap in the loss. None: 0.
    learning_rate : float, default=3e-3
        Learning rate of Adam, of all adapters.
    max_steps : int or None, default=None
        Cap on the steps of each training. None: as in :class:`GapFineTuner`.
    objective : {"auto", "teacher", "soft_gap"}, default="auto"
        The loss. "teacher": the fair Bayes rule on predicted (label, group) cells is imitated row
        by row; not with "adversarial". "auto" and "soft_gap": the labels, and the soft gap of each
        batch if ``gap_weight`` is given.

    Attributes
    ----------
    adapters_ : dict of parameter name to (B, A)
        Tensors (n_outputs, rank) and (rank, n_inputs), whose product is part of the weight; empty
        if the untouched network was chosen.
    strength_ : float or None
        Of the chosen candidate; None if the untouched network was chosen.
    balance_ : {"cells", "classes"} or None
    objective_ : {"teacher", "soft_gap"}
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        See :class:`NetworkEditor`.

    See Also
    --------
    AdversarialDebiasing : An adversary against all parameters.
    GapFineTuner : Tunes all parameters, or the singular values.

    Notes
    -----
    After arXiv:2503.05684 (plain, unlearning, adversarial and orthogonal adapters), whose equations
    and values are not public: the losses are ours. There a developer and an auditor train their
    adapters apart; here both are trained in one fit. Adapters of the group are trained under the
    cross-entropy of the group with a new linear layer on the output layer's input, so they exist in
    hidden layers only. The adversary is that of :class:`AdversarialDebiasing`, which knows the
    label if the constraint does. A convolution's weight is read as a matrix (n_outputs, rest). B is
    zero at first. Adapters of a low rank can keep a bias of the network (arXiv:2405.18572); an
    orthogonal adapter does not take away what the network's own weights know of the group. Without
    sensitive features every variant is "plain".

    Examples
    --------
    >>> from fairsvd import AdapterFineTuner
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(800, random_state=0)
    >>> tuner = AdapterFineTuner(strength=1.0, max_steps=60, tolerance=0.1, random_state=0)
    >>> tuner = tuner.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> tuner.predict(data.data).shape
    (800,)
    """

    variant: str = parameter(StrOptions(set(STRENGTHS)), default="adversarial")
    rank: int = parameter(positive_int(), default=4)
    layers: Any = parameter(default="hidden")
    strength: float | None = parameter(at_least_0(), None, default=None)
    gap_weight: float | None = parameter(at_least_0(), None, default=None)
    learning_rate: float = parameter(positive(), default=3e-3)
    max_steps: int | None = parameter(positive_int(), None, default=None)

    def _count_candidates(self, task: Task) -> int:
        n_steps, n_candidates = self._counts(task)
        return 1 + count_best(len(self._strengths(task)), n_steps, n_candidates, 1)

    def _edit(self, task: Task, rng: np.random.Generator) -> Iterator[Candidate]:
        imitates = self._imitates_teacher(task)
        shared = self._followed(task, imitates)
        yield Candidate({}, {"stage": "untouched"}, {**shared, "adapters_": {}, "strength_": None})
        names = select_layers(task.module, self.layers, task.data.output_layer)
        weights = {
            w.parameter: w.value.detach() for w in chosen_weights(task.module, names).values()
        }
        n_steps, n_candidates = self._counts(task)
        variant = self.variant if task.data.has_groups else "plain"
        of_group = None
        if variant in ("orthogonal", "unlearning"):
            of_group = learn_group(
                task, weights, self.rank, n_steps, float(self.learning_rate), rng
            )
        teacher = self._find_teacher(task, rng) if imitates else None
        paths = [
            AdapterPath.of(
                subtask,
                variant=variant,
                strength=strength,
                rank=self.rank,
                weights=weights,
                of_group=of_group,
                rate=float(self.learning_rate),
                gap_weight=0.0 if self.gap_weight is None else float(self.gap_weight),
                teacher=teacher,
                n_steps=n_steps,
                seed=seed,
                attributes={**shared, "strength_": strength},
                n_candidates=n_candidates,
            )
            for strength, subtask, seed in task.spread(self._strengths(task), rng, self.n_jobs)
        ]
        run = partial(run_phases, first=("tune", tune_adapters), second=None)
        yield from run_best(paths, run, run, self.n_jobs)

    def _imitates_teacher(self, task: Task) -> bool:
        imitates = self.objective == "teacher" and self._imitates(task, self.gap_weight)
        if imitates and self.variant == "adversarial" and task.data.has_groups:
            raise ValueError(
                "variant='adversarial' needs the groups of rows, but objective='teacher' follows "
                "mixtures of rows, which have none. Use objective='soft_gap' or another variant."
            )
        return imitates

    def _counts(self, task: Task) -> tuple[int, int]:
        """Count the steps and the candidates of a path."""
        imitates = self.objective == "teacher"
        count = count_lessons if imitates else count_steps
        counts = count(self.max_steps, task.data), count_candidates(task.data, imitates)
        budget = self._budget(task, imitates)
        if budget is None:
            return counts
        # As many steps first learn the group.
        visits = 2 * (1 + FORWARD * imitates) * count_step_rows(task.data)
        return budget.shrink(*counts, visits, len(self._strengths(task)))

    def _strengths(self, task: Task) -> tuple[float, ...]:
        if not task.data.has_groups or self.variant == "plain":
            return STRENGTHS["plain"]
        return STRENGTHS[self.variant] if self.strength is None else (float(self.strength),)


@dataclass(frozen=True)
class Adapted(Edit):
    """Weights plus low-rank products.

    Attributes
    ----------
    weights : dict of parameter name to Tensor
    up, down : dict of parameter name to Tensor
        B (n_outputs, rank) and A (rank, n_inputs).
    """

    weights: dict[str, Tensor]
    up: dict[str, Tensor]
    down: dict[str, Tensor]

    @classmethod
    def start(cls, weights: dict[str, Tensor], rank: int, generator: torch.Generator) -> Adapted:
        """Make adapters that change nothing yet, as leaves."""
        up, down = {}, {}
        for name, weight in weights.items():
            n_outputs, n_inputs = weight.flatten(1).shape
            size = min(rank, n_outputs, n_inputs)
            drawn = torch.randn(size, n_inputs, generator=generator, dtype=torch.float64)
            down[name] = (drawn / n_inputs**0.5).to(weight).requires_grad_()
            up[name] = weight.new_zeros(n_outputs, size).requires_grad_()
        return cls(weights, up, down)

    def tensors(self) -> list[Tensor]:
        """List the trainable tensors."""
        return [*self.up.values(), *self.down.values()]

    def state(self) -> dict[str, Tensor]:
        """Return the merged weights, differentiably."""
        return {
            name: weight + (self.up[name] @ self.down[name]).reshape(weight.shape)
            for name, weight in self.weights.items()
        }

    def without(self, share: float) -> dict[str, Tensor]:
        """Return the weights minus a share of the adapters."""
        return {
            name: (1 + share) * w - share * self.state()[name] for name, w in self.weights.items()
        }

    def detached(self) -> Adapted:
        """Return a copy that later steps do not change."""
        up, down = (
            {name: value.detach().clone() for name, value in part.items()}
            for part in (self.up, self.down)
        )
        return Adapted(self.weights, up, down)

    def attributes(self) -> dict[str, Any]:
        """Return the adapters as a fitted attribute."""
        return {"adapters_": {name: (self.up[name], self.down[name]) for name in self.up}}


def learn_group(
    task: Task,
    weights: dict[str, Tensor],
    rank: int,
    n_steps: int,
    rate: float,
    rng: np.random.Generator,
) -> Adapted:
    """Train adapters, and a new output layer, that predict the group.

    The generator is not advanced, so that an edit's other draws do not depend on the variant.
    """
    data, own = task.data, rng.spawn(1)[0]
    adapted = Adapted.start(weights, rank, torch_generator(own))
    forward = forward_with_features(task.module, data)
    batches = make_batches(data, None, own)
    with torch.no_grad():
        width = forward({}, next(iter(batches)).X)[1].shape[1]
    settings: dict[str, Any] = {"dtype": data.dtype, "device": data.device}
    head = torch.zeros(data.n_groups, width + 1, **settings).requires_grad_()

    def loss(batch: Batch) -> Tensor:
        features = forward(adapted.state(), batch.X)[1]
        scores = nn.functional.linear(features, head[:, 1:], head[:, 0])
        losses = nn.functional.cross_entropy(scores, batch.groups, reduction="none")
        # The output layer has no part in the features; the adapter there keeps its place.
        return (losses * batch.gap_weights).mean() + 0 * sum(t.sum() for t in adapted.tensors())

    leaves = [*adapted.tensors(), head]
    for _ in tune(loss, leaves, batches, n_steps=n_steps, learning_rate=rate, every=n_steps):
        pass
    return adapted.detached()


@dataclass(frozen=True, kw_only=True)
class AdapterPath(TuningPath[Adapted]):
    """A tuning of adapters under one strength of the variant.

    Attributes
    ----------
    variant : str
    strength : float
    rank : int
    weights : dict of parameter name to Tensor
        Those that get an adapter.
    of_group : Adapted or None
        Adapters that predict the group, if the variant needs them.
    rate : float
    """

    variant: str
    strength: float
    rank: int
    weights: dict[str, Tensor]
    of_group: Adapted | None
    rate: float


def tune_adapters(path: AdapterPath, rng: np.random.Generator) -> Iterator[tuple[int, Adapted]]:
    """Tune adapters under the loss and what the variant adds to it."""
    weights = path.weights
    if path.of_group is not None and path.variant == "unlearning":
        weights = {n: w.detach() for n, w in path.of_group.without(path.strength).items()}
    adapted = Adapted.start(weights, path.rank, torch_generator(rng))
    if path.of_group is not None and path.variant == "orthogonal":
        path = replace(path, extra_loss=Overlap(adapted, path.of_group, path.strength))
    elif path.variant == "adversarial":
        path = replace(path, extra_loss=Opponent(path, path.strength))
    yield from tune_edit(path, adapted, adapted.tensors(), lambda: adapted, rng, path.rate)


@dataclass(frozen=True)
class Overlap:
    """The squared norm of the products of two sets of adapters' A, times a weight."""

    task: Adapted
    group: Adapted
    weight: float

    def __call__(self, state: Mapping[str, Tensor], logits: Tensor, batch: Batch) -> Tensor:
        """Sum over the layers."""
        parts = [
            (self.task.down[name] @ self.group.down[name].mT).square().sum()
            for name in self.task.down
        ]
        return self.weight * torch.stack(parts).sum()


class Opponent:
    """Minus the loss of an adversary that learns on every batch, times a weight."""

    def __init__(self, task: Task, weight: float) -> None:
        data, self.weight, self.margin = task.data, weight, task.data.margin
        sizes = data.n_classes, data.n_groups
        self.adversary = Adversary(task.constraint, *sizes, device=data.device, dtype=data.dtype)
        self.shown: list[tuple[Tensor, Batch]] = []
        learn: Callable[[object], Tensor] = self._learn
        self.steps = tune(
            learn,
            self.adversary.parameters,
            iter(int, 1),
            n_steps=2**62,
            learning_rate=ADVERSARY_RATE,
            every=ADVERSARY_STEPS,
        )

    def _learn(self, _: object) -> Tensor:
        return self.adversary.loss(*self.shown[-1], training=True)

    def __call__(self, state: Mapping[str, Tensor], logits: Tensor, batch: Batch) -> Tensor:
        """Let the adversary learn from a batch, then oppose it."""
        seen = shift_logits(logits, self.margin)
        self.shown[:] = [(seen.detach(), batch)]
        next(self.steps)
        return -self.weight * self.adversary.loss(seen, batch, training=False)
