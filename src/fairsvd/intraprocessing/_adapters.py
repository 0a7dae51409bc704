"""Low-rank adapters that learn the task without the group (fair LoRA)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from torch import Tensor, nn

from .._rng import one_torch_thread, resolve_seed, stage_rng, torch_generator
from ..base import (
    Candidate,
    Reading,
    StrOptions,
    Task,
    at_least_0,
    parameter,
    positive,
    positive_int,
    prepare,
    read_fit_inputs,
    register_editor,
    without_gradients,
)
from ..exceptions import NetworkError
from ..layers import chosen_weights, select_layers
from ..networks import explaining
from ..objective import Constraint, shift_logits
from ..phases import (
    FORWARD,
    TuningEditor,
    TuningPath,
    count_best,
    count_candidates,
    count_lessons,
    count_step_rows,
    count_steps,
    run_best,
    run_phases,
    tune_edit,
)
from ..training import Batch, tune
from ._adapted import Adapted, learn_group
from ._adversary import Adversary

__all__ = ["AdapterFineTuner"]

# Strengths that are tried: weights of a term of the loss, or the share of an adapter.
STRENGTHS = {
    "plain": (0.0,),
    "orthogonal": (1.0, 10.0, 100.0),
    "adversarial": (0.3, 1.0, 3.0),
    "unlearning": (0.3, 1.0),
}

# Variants that need adapters which predict the group.
KNOW_THE_GROUP = ("orthogonal", "unlearning")

# What is asked of rows without labels; nothing is chosen by it.
WITHOUT_LABELS = Constraint("demographic_parity", 1.0, 1.0, "accuracy", 0.5, 1, None)

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
    group_adapters : dict of parameter name to (B, A) or None, default=None
        Adapters that predict the group, from :meth:`learn_group` of somebody who knows the groups.
        With them "orthogonal" and "unlearning" need no sensitive features in ``fit``, and the
        candidate is chosen for its utility alone. None: they are trained in ``fit``.
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
    and values are not public: the losses are ours. There a developer, who has labels, and an
    auditor, who has groups, exchange adapters alone; here :meth:`learn_group` is the auditor's part
    and ``group_adapters`` the developer's, or one fit does both. Adapters of the group are trained
    under the cross-entropy of the group with a new linear layer on the output layer's input, so
    they exist in hidden layers only. The adversary is that of :class:`AdversarialDebiasing`, which
    knows the label if the constraint does. A convolution's weight is read as a matrix (n_outputs,
    rest). B is zero at first. Adapters of a low rank can keep a bias of the network
    (arXiv:2405.18572); an orthogonal adapter does not take away what the network's own weights know
    of the group. Without sensitive features and ``group_adapters`` every variant is "plain".

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
    group_adapters: Any = parameter(dict, None, default=None)
    gap_weight: float | None = parameter(at_least_0(), None, default=None)
    learning_rate: float = parameter(positive(), default=3e-3)
    max_steps: int | None = parameter(positive_int(), None, default=None)

    def _count_candidates(self, task: Task) -> int:
        n_steps, n_candidates = self._counts(task)
        return 1 + count_best(len(self._strengths(task)), n_steps, n_candidates, 1)

    def learn_group(
        self, X: Any, sensitive_features: Any = None, *, classes: Any = (0, 1)
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Train adapters that predict the group, for somebody who has labels and no groups.

        It needs no labels and changes neither the editor nor the network. Both sides need the same
        trained network and the same ``layers``.

        Parameters
        ----------
        X : as in ``fit``
        sensitive_features : array-like of shape (n,) or (n, n_columns), optional
            As in ``fit``; None: ``sensitive_columns`` names them.
        classes : sequence, default=(0, 1)
            What the network's columns stand for: it tells how many there are.

        Returns
        -------
        adapters : dict of parameter name to (B, A)
            Tensors (n_outputs, rank) and (rank, n_inputs), to pass as ``group_adapters``.

        Raises
        ------
        NetworkError
            ``network`` is not a trained one.
        ValueError
            An input is invalid; the message names the argument and what to do.
        """
        self._validate_params()
        if not isinstance(self.network, nn.Module | FrozenEstimator):
            raise NetworkError(
                f"network is {self.network!r}: adapters that two sides exchange belong to one "
                "trained network, which both have. Pass an nn.Module or FrozenEstimator(net)."
            )
        reader, rng = copy.copy(self), stage_rng(seed := resolve_seed(self.random_state), "edit")
        how = Reading(self.network, self.sensitive_columns, self.missing_group, self.batch_size)
        # Rows are read and split as in a fit. Labels drawn at random stand in for those that are
        # not known, and selection rates do not depend on them.
        stand_in = rng.spawn(1)[0].choice(np.asarray(classes), size=len(X))
        with torch.inference_mode(False), torch.enable_grad(), explaining():
            inputs = read_fit_inputs(reader, X, stand_in, sensitive_features, how)
            ready = prepare(self, inputs, WITHOUT_LABELS, seed)
            task = Task(ready.adopted.module, ready.data, WITHOUT_LABELS)
            with one_torch_thread(), without_gradients(task.module):
                learned = self._learn_group(task, self._chosen(task), rng)
        return learned.attributes()["adapters_"]

    def _chosen(self, task: Task) -> dict[str, Tensor]:
        """Return the weights that get adapters."""
        names = select_layers(task.module, self.layers, task.data.output_layer)
        chosen = chosen_weights(task.module, names).values()
        return {weight.parameter: weight.value.detach() for weight in chosen}

    def _learn_group(
        self, task: Task, weights: dict[str, Tensor], rng: np.random.Generator
    ) -> Adapted:
        n_steps, _ = self._counts(task)
        return learn_group(task, weights, self.rank, n_steps, float(self.learning_rate), rng)

    def _own_variant(self, task: Task) -> str:
        """Name the variant that these rows allow.

        Raises
        ------
        ValueError
        """
        if self.group_adapters is None:
            return self.variant if task.data.has_groups else "plain"
        if self.variant not in KNOW_THE_GROUP:
            raise ValueError(
                f"variant={self.variant!r} does not use group_adapters: pass one of "
                f"{list(KNOW_THE_GROUP)}, or group_adapters=None."
            )
        return self.variant

    def _gets_groups_elsewhere(self) -> bool:
        return self.group_adapters is not None

    def _edit(self, task: Task, rng: np.random.Generator) -> Iterator[Candidate]:
        imitates = self._imitates_teacher(task)
        shared = self._followed(task, imitates)
        yield Candidate({}, {"stage": "untouched"}, {**shared, "adapters_": {}, "strength_": None})
        weights = self._chosen(task)
        n_steps, n_candidates = self._counts(task)
        variant, of_group = self._own_variant(task), None
        if self.group_adapters is not None:
            of_group = Adapted.received(self.group_adapters, weights)
        elif variant in KNOW_THE_GROUP:
            of_group = self._learn_group(task, weights, rng)
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
        variant = self._own_variant(task)
        if variant == "plain" or self.strength is None:
            return STRENGTHS[variant]
        return (float(self.strength),)


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
