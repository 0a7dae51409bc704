"""Adversarial debiasing: the network unlearns what lets an adversary guess the group."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base import (
    Candidate,
    EditData,
    Task,
    at_least_0,
    parameter,
    positive,
    positive_int,
    register_editor,
)
from ..objective import edit_loss, make_shift, shift_logits
from ..phases import FORWARD, TuningEditor, count_steps, judge_state, make_batches, run_paths
from ..training import Batch, CellBatches, tune
from ._adversary import Adversary

__all__ = ["AdversarialDebiasing"]

# Candidates that a path yields.
N_CANDIDATES = 10

# The same under a budget, and steps without one.
FEW_CANDIDATES, MOST_STEPS = 3, 300

# The gradient of the adversary's loss is one more pass back, of which a forward pass is half.
BACKWARD = 2 * FORWARD

# Steps of the adversary before the network is tuned: it starts at zero and has to learn first.
HEAD_START = 30

# At most this share of a budget goes into them.
HEAD_SHARE = 0.1

# Below 1 an over-fitted network hardly changes; at 10 the labels still count.
ALPHAS = (1.0, 3.0, 10.0)


# Tensors of more entries are projected without temporary ones beside the unit vector.
LARGE = 2**22


@register_editor(max_steps=5, alpha=1.0)
class AdversarialDebiasing(TuningEditor):
    """Tune a network against an adversary that guesses the group from its predictions.

    On every batch a small adversary learns to guess the group of a row, and the network follows the
    gradient of its own loss, without the part that would help the adversary, and moves away from
    what helps the adversary. The network keeps its architecture, needs no sensitive attribute to
    predict, and what the user passed in is not changed.

    Parameters
    ----------
    alpha : float or None, default=None
        Weight of the step away from the adversary. None: searched on validation. 0: the
        projection alone.
    max_steps : int or None, default=None
        Updates of the network: ``min(max_steps, max(30, n_rows))``; each tenth of them yields a
        candidate. None: 300, and for images as many as ``max_epochs`` buys, with one alpha.
    learning_rate : float, default=3e-4
        Learning rate of the network.
    adversary_steps : int, default=3
        Updates of the adversary for each update of the network.
    adversary_learning_rate : float, default=0.1
        Learning rate of the adversary.

    Attributes
    ----------
    balance_ : {"cells", "classes"} or None
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        See :class:`NetworkEditor`; ``history_`` has ten rows for each alpha, with the adversary's
        mean loss since the previous row (``adversary_loss``) and the loss of an adversary that does
        not see the predictions (``blind_loss``).

    See Also
    --------
    AdversarialFineTuner : A critic that predicts the bias of a batch.
    BiasMaskFineTuner : Penalises the soft gap itself.

    Notes
    -----
    The method of arXiv:1801.07593, starting from a trained network. With g the gradient of the
    balanced cross-entropy and h that of the adversary's loss, the update is ``g - proj_h g - alpha
    h``. It is taken for each parameter tensor on its own, where the paper has all weights as one
    vector, so that no tensor's update helps the adversary to first order. It is handed to Adam,
    whose steps are no longer exactly orthogonal to h.

    The adversary is linear, as in the paper: a softmax over the groups, on ``softmax((1 + |c|)
    logits)`` at the operating threshold, where ``c`` is learned. For equalized and average odds it
    knows the label: each class has its own coefficients and, unlike in the paper, its own
    intercept, without which it would follow what the label alone tells about the group. For equal
    opportunity it sees only the rows of the positive class or, with several classes, the
    probability of each row's own class; for accuracy parity that probability without the class; for
    demographic parity the probabilities alone. Rows are weighted by the true shares of their cells.
    The adversary learns for 30 steps before the network is tuned, and three times on every batch.
    Without sensitive features there is no adversary: plain fine-tuning.

    Examples
    --------
    >>> from fairsvd import AdversarialDebiasing
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(800, random_state=0)
    >>> tuner = AdversarialDebiasing(alpha=1.0, tolerance=0.1, random_state=0)
    >>> tuner = tuner.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> len(tuner.history_)
    11
    """

    alpha: float | None = parameter(at_least_0(), None, default=None)
    max_steps: int | None = parameter(positive_int(), None, default=None)
    learning_rate: float = parameter(positive(), default=3e-4)
    adversary_steps: int = parameter(positive_int(), default=3)
    adversary_learning_rate: float = parameter(positive(), default=0.1)

    def _count_candidates(self, task: Task) -> int:
        alphas, fields = self._plan(task)
        # The last step always makes a candidate.
        every = fields.get("every", _interval(fields["n_steps"]))
        return 1 + len(alphas) * math.ceil(fields["n_steps"] / every)

    def _edit(self, task: Task, rng: np.random.Generator) -> Iterator[Candidate]:
        attributes = {"balance_": task.constraint.balance}
        yield Candidate({}, {"stage": "untouched"}, attributes)
        alphas, fields = self._plan(task)
        paths = [
            DebiasingPath.of(
                subtask,
                alpha=alpha,
                **fields,
                learning_rate=self.learning_rate,
                adversary_steps=self.adversary_steps,
                adversary_learning_rate=self.adversary_learning_rate,
                attributes=attributes,
                seed=seed,
            )
            for alpha, subtask, seed in task.spread(alphas, rng, self.n_jobs)
        ]
        yield from run_paths(paths, run_debiasing, self.n_jobs)

    def _plan(self, task: Task) -> tuple[tuple[float, ...], dict[str, Any]]:
        """List the alphas to try, and count steps, the rows of a step, and steps of a candidate."""
        alphas, budget = self._alphas(task.data), self._budget(task)
        if budget is None:
            n_steps = count_steps(
                MOST_STEPS if self.max_steps is None else self.max_steps, task.data
            )
            return alphas, {"n_steps": n_steps}
        rows = budget.step_rows
        head_start = int(HEAD_SHARE * budget.visits / (FORWARD * rows))
        head_start = max(1, min(HEAD_START, head_start))
        budget = budget.less(head_start * FORWARD * rows)
        looks = budget.count_looks(FEW_CANDIDATES)
        n_steps = budget.count_steps(looks, (1 + BACKWARD) * rows)
        n_steps = n_steps if self.max_steps is None else min(n_steps, self.max_steps)
        fields = {"n_steps": n_steps, "every": -(-n_steps // looks), "rows": rows}
        fields["head_start"] = head_start
        return alphas[len(alphas) // 2 :][:1], fields

    def _alphas(self, data: EditData) -> tuple[float, ...]:
        if not data.has_groups:
            return (0.0,)
        return ALPHAS if self.alpha is None else (float(self.alpha),)


@dataclass(frozen=True)
class DebiasingPath(Task):
    """One weight of the step away from the adversary.

    Attributes
    ----------
    alpha : float
    n_steps : int
    learning_rate : float
    adversary_steps : int
        Updates of the adversary for each update of the network.
    adversary_learning_rate : float
    attributes : dict
        Fitted attributes that do not depend on the candidate.
    seed : numpy.random.SeedSequence
    rows : int, optional
        Rows of a step; None: as in every editor.
    every : int, optional
        Updates between two candidates; None: a tenth of all.
    head_start : int, default=30
        Steps of the adversary before the network is tuned.
    """

    alpha: float
    n_steps: int
    learning_rate: float
    adversary_steps: int
    adversary_learning_rate: float
    attributes: dict[str, Any]
    seed: np.random.SeedSequence
    rows: int | None = None
    every: int | None = None
    head_start: int = HEAD_START

    @cached_property
    def shift(self) -> float | Tensor:
        """The operating threshold, as the network's device takes it."""
        return make_shift(self.data.margin, self.data.device, self.data.dtype)

    def batches(self) -> CellBatches:
        """Make stratified batches of the editing rows."""
        rng = np.random.default_rng(self.seed)
        return make_batches(self.data, self.constraint.balance, rng, size=self.rows)

    def entropy(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the cross-entropy of the labels at the operating threshold."""
        return edit_loss(
            logits,
            batch,
            self.constraint,
            margin=self.shift,
            gap_weight=0.0,
            n_groups=self.data.n_groups,
        )


@dataclass
class Game:
    """The adversary, the batch that it is shown, and its learning from it.

    Attributes
    ----------
    path : DebiasingPath
    adversary : Adversary
    shown : list of one tuple (Batch, Tensor)
        The batch of this step, and its logits at the operating threshold; empty at first.
    losses : list of Tensor of shape ()
        Losses of the adversary since the last candidate, each before it learned from the batch.
    """

    path: DebiasingPath
    adversary: Adversary
    shown: list[tuple[Batch, Tensor]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Prepare the adversary's own steps; each runs when it is requested."""
        each = self.path.adversary_steps
        self.steps = tune(
            self._loss,
            self.adversary.parameters,
            self._batches(),
            n_steps=(self.path.head_start + self.path.n_steps) * each,
            learning_rate=self.path.adversary_learning_rate,
            every=each,
        )

    def _batches(self) -> Iterator[Batch]:
        while True:
            yield self.shown[-1][0]

    def _loss(self, batch: Batch) -> Tensor:
        loss = self.adversary.loss(self.shown[-1][1], batch, training=True)
        self.losses.append(loss.detach())
        return loss

    def learn(self, logits: Tensor, batch: Batch) -> Tensor:
        """Let the adversary learn from a batch; return the logits that it saw, with gradients."""
        seen = shift_logits(logits, self.path.shift)
        self.shown[:] = [(batch, seen.detach())]
        next(self.steps)
        return seen

    def summary(self) -> dict[str, float]:
        """Return the mean loss since the last candidate, and that of a constant prediction."""
        losses = torch.stack(self.losses).tolist()  # read together, once for each candidate
        summary = {"adversary_loss": fmean(losses), "blind_loss": self._blind_loss}
        self.losses.clear()
        return summary

    @cached_property
    def _blind_loss(self) -> float:
        data = self.path.data
        return self.adversary.blind_loss(data.editing.count_cells(data.n_classes, data.n_groups))


def _gradients(loss: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    gradients = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, gradients, strict=True)]


def _project_all(
    updates: list[Tensor], loss: Tensor, leaves: Sequence[Tensor], alpha: float
) -> None:
    """Replace every update by its projection as soon as the adversary's gradient is there.

    Each of these gradients is dropped at once, so that they are never all held. Where there is
    none, nothing is projected out.
    """

    def replace_one(place: int, of_adversary: Tensor) -> Tensor:
        updates[place] = project(updates[place], of_adversary, alpha)
        # What autograd keeps in its place takes no memory.
        return of_adversary.new_zeros(()).expand_as(of_adversary)

    hooks = [leaf.register_hook(partial(replace_one, k)) for k, leaf in enumerate(leaves)]
    try:
        torch.autograd.grad(loss, leaves, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()


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
        updates = _gradients(entropy, values)
        _project_all(updates, game.adversary.loss(seen, batch, training=False), values, path.alpha)
        products = [(v * update).sum() for v, update in zip(values, updates, strict=True)]
        return torch.stack(products).sum()

    return loss


def start_game(path: DebiasingPath, batches: Iterator[Batch]) -> Game:
    """Make an adversary that has learned from the untouched network's predictions."""
    data = path.data
    sizes = data.n_classes, data.n_groups
    adversary = Adversary(path.constraint, *sizes, device=data.device, dtype=data.dtype)
    game = Game(path, adversary)
    for batch in islice(batches, path.head_start):
        with torch.no_grad():
            logits = data.forward(path.module, {}, batch.X)
        game.learn(logits, batch)
    game.losses.clear()
    return game


def _interval(n_steps: int) -> int:
    """Return the number of steps between two candidates."""
    return max(1, n_steps // N_CANDIDATES)


def run_debiasing(path: DebiasingPath) -> Iterator[Candidate]:
    """Let network and adversary learn on the same batches.

    Yields
    ------
    candidate : Candidate
        Every tenth of the steps.
    """
    leaves = {
        name: parameter.detach().clone().requires_grad_()
        for name, parameter in path.module.named_parameters()
        if parameter.numel()
    }
    batches = iter(path.batches())
    game = start_game(path, batches) if path.data.has_groups else None
    steps = tune(
        network_loss(path, game, leaves),
        list(leaves.values()),
        batches,
        n_steps=path.n_steps,
        learning_rate=path.learning_rate,
        every=path.every or _interval(path.n_steps),
    )
    for step in steps:
        summary = game.summary() if game is not None else {}
        params = {"alpha": path.alpha, "stage": "tuned", "step": step, **summary}
        yield judge_state(path, leaves, params, path.attributes)


def project(own: Tensor, other: Tensor, alpha: float) -> Tensor:
    """Compute Zhang et al.'s update of one tensor: ``own - proj_other(own) - alpha * other``.

    Parameters
    ----------
    own : Tensor
        Gradient of the predictor's loss.
    other : Tensor
        Gradient of the adversary's loss, of the same shape; where it is zero, nothing is projected
        out.
    alpha : float

    Returns
    -------
    update : Tensor
        Its inner product with ``other`` is minus ``alpha`` times the squared norm of ``other``.
    """
    # Scaled before squares are taken, which would underflow; the norm of the scaled tensor is at
    # least 1, or 0.
    scaled = other / other.abs().max().clamp(min=torch.finfo(other.dtype).tiny)
    unit = scaled.div_(scaled.norm().clamp(min=1))
    if own.numel() > LARGE:
        unit.mul_(torch.dot(own.flatten(), unit.flatten()))
        return torch.sub(own, unit, out=unit).sub_(other, alpha=alpha)
    unit.mul_((own * unit).sum())
    return torch.sub(own, unit, out=unit).sub_(alpha * other)
