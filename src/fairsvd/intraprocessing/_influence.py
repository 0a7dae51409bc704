"""Fine-tuning on rows weighted by their influence on the gap between groups (FairIF-style)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor, nn

from .._rng import torch_generator
from ..arrays import Batches, as_batches, to_device
from ..base import (
    Candidate,
    EditData,
    StrOptions,
    Task,
    at_least_0,
    parameter,
    positive,
    positive_int,
    register_editor,
)
from ..layers import layer_parameters
from ..objective import SHARPNESS, shift_logits
from ..phases import (
    FORWARD,
    Budget,
    BudgetedEditor,
    count_candidates,
    count_step_rows,
    count_steps,
    float_parameters,
    judge_state,
    keep_head,
    make_loss,
    run_paths,
)
from ..training import RowBatches, tune
from ._conjugate_gradients import CG_STEPS, solve
from ._critic import SignedBias

__all__ = ["InfluenceTuner"]

# Shares of the gap that the weights are to cancel.
STRENGTHS = (0.5, 1.0, 2.0)

RATES = {"output": 1e-2, "all": 1e-3}

# Rows of a pass, and bytes up to which features of all rows are kept instead of computed anew.
BLOCK, KEPT_BYTES = 1024, 2**28

# Share of a budget that goes into the influence of all parameters, which takes passes of its own.
MEASURING = 1 / 2

# Weight of the squared multipliers, in units of the mean squared influence: a gap that no weights
# of at least 0 can cancel would drive the multipliers to infinity.
RIDGE = 1e-6


@register_editor(max_steps=3, strength=1.0)
class InfluenceTuner(BudgetedEditor):
    """Weigh the rows so that a fine-tuning on them closes the gap (FairIF-style).

    Influence functions tell by how much the gap on the validation rows would change if a row
    counted more in the training. The weights nearest to 1 that cancel the gap to first order are
    found, and the network is tuned on the weighted rows with a plain cross-entropy. It keeps its
    architecture, needs no sensitive attribute to predict, and what the user passed in is not
    changed.

    Parameters
    ----------
    layers : {"output", "all"}, default="output"
        The parameters whose influence is measured and that are tuned: those of the layer that makes
        the logits, or all. The influence of all is measured in many passes over the rows, in fewer
        under a budget (``max_epochs``), of which half goes into them.
    strength : float or None, default=None
        Share of the gap that the weights are to cancel; 0 gives plain fine-tuning. None: 0.5, 1 and
        2 are tried.
    damping : float, default=0.01
        Added to the diagonal of the curvature of the mean loss.
    learning_rate : float or None, default=None
        Learning rate of Adam. None: 1e-2 for "output", 1e-3 for "all".
    max_steps : int or None, default=None
        Cap on the steps of the tuning. None: ``min(300, max(30, n_rows))``, and for images as many
        as ``max_epochs`` buys.

    Attributes
    ----------
    weights_ : ndarray of shape (n_editing,), float64, or None
        Weights of the editing rows in the chosen candidate, at least 0, in the order of the rows;
        None if the untouched network was chosen.
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        See :class:`NetworkEditor`; ``history_`` has ten rows for each strength on tables and three
        on images, with the smallest and the largest weight.

    See Also
    --------
    GapFineTuner : Follows the gap itself.

    Notes
    -----
    The method is that of FairIF (arXiv:2201.05759), whose equations are not public; these are ours.
    With d the signed differences of the soft rates of ``constraint`` on the validation rows, for
    each rate, class and group, and H the curvature of the mean cross-entropy of the editing rows, a
    unit of weight on row i changes d by ``-grad d H^-1 grad l_i / n``. The weights 1 + e solve
    ``min |e|^2`` such that the changes add up to ``-strength d`` and 1 + e >= 0; if that is not
    possible they come as near as they can. Deviations: H is the generalised Gauss-Newton matrix,
    which equals the Hessian for a linear output layer; rates are those at the operating threshold,
    on probabilities sharpened four times; the network is tuned from its trained weights on, not
    trained anew; several strengths are tried, and the untouched network is a candidate.

    The weights need the groups of the validation rows alone. The choice among candidates looks at a
    sample of the editing rows too, as in every editor. Without sensitive features all weights
    are 1.

    Examples
    --------
    >>> from fairsvd import InfluenceTuner
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(800, random_state=0)
    >>> tuner = InfluenceTuner(strength=1.0, tolerance=0.1, max_steps=60, random_state=0)
    >>> tuner = tuner.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> len(tuner.history_)
    11
    """

    layers: str = parameter(StrOptions(set(RATES)), default="output")
    strength: float | None = parameter(at_least_0(), None, default=None)
    damping: float = parameter(positive(), default=0.01)
    learning_rate: float | None = parameter(positive(), None, default=None)
    max_steps: int | None = parameter(positive_int(), None, default=None)

    def _count_candidates(self, task: Task) -> int:
        n_steps, every = self._plan(task)
        return 1 + len(self._strengths(task.data)) * math.ceil(n_steps / every)

    def _plan(self, task: Task) -> tuple[int, int]:
        """Count the steps of a path, and those between two of its candidates."""
        data, budget = task.data, self._budget(task)
        n_steps, looks = count_steps(self.max_steps, data), count_candidates(data, imitates=False)
        if budget is not None:
            spent = FORWARD * (len(data.editing) + len(data.judged))
            if self.layers == "all":
                spent = MEASURING * budget.visits
            visits = budget.less(spent).visits / len(self._strengths(data))
            each = replace(budget, visits=visits)
            looks = each.count_looks(looks)
            n_steps = min(n_steps, each.count_steps(looks, count_step_rows(data)))
        return n_steps, max(1, n_steps // looks)

    def _edit(self, task: Task, rng: np.random.Generator) -> Iterator[Candidate]:
        yield Candidate({}, {"stage": "untouched"}, {"weights_": None})
        data, (n_steps, every) = task.data, self._plan(task)
        leaves = choose_leaves(task, self.layers)
        effects, gaps = np.zeros((0, len(data.editing))), np.zeros(0)
        if data.has_groups:
            budget = self._budget(task)
            effects, gaps = measure_influence(task, leaves, float(self.damping), budget)
        rate = RATES[self.layers] if self.learning_rate is None else self.learning_rate
        paths = [
            WeightedPath.of(
                subtask,
                names=tuple(leaves),
                weights=1 + find_weights(effects, -strength * gaps),
                strength=strength,
                n_steps=n_steps,
                every=every,
                rate=float(rate),
                seed=seed,
            )
            for strength, subtask, seed in task.spread(self._strengths(data), rng, self.n_jobs)
        ]
        yield from run_paths(paths, run_weighted, self.n_jobs)

    def _strengths(self, data: EditData) -> tuple[float, ...]:
        if not data.has_groups:
            return (0.0,)
        return STRENGTHS if self.strength is None else (float(self.strength),)


def choose_leaves(task: Task, layers: str) -> dict[str, Tensor]:
    """Copy the parameters whose influence is measured as leaves."""
    chosen: Mapping[str, Tensor] = float_parameters(task.module)
    if layers == "output":
        chosen = layer_parameters(task.module, task.data.output_layer)
    return {name: value.detach().clone().requires_grad_() for name, value in chosen.items()}


@dataclass(frozen=True)
class Model:
    """How the logits follow from the leaves, and the rows that it takes.

    Attributes
    ----------
    run : callable
        Maps a block of rows to logits (n, n_classes), differentiable in the leaves.
    leaves : list of Tensor
    editing, judged : Batches
        Rows of X, or what enters the output layer.
    """

    run: Callable[[Tensor], Tensor]
    leaves: list[Tensor]
    editing: Batches
    judged: Batches

    def passes(self, rows: Batches) -> Iterator[Tensor]:
        """Yield the logits of one block of rows after the other."""
        for X in rows.blocks(rows.block_size(BLOCK)):
            yield self.run(to_device(X, self.leaves[0].device, self.leaves[0].dtype))

    def push(self, logits: Tensor, directions: Tensor) -> Tensor:
        """Differentiate logits along directions (k, p) of the leaves: (k, n, n_classes)."""
        # Backwards twice: the gradient is linear in the weights of the logits.
        weights = torch.zeros_like(logits, requires_grad=True)
        inner = self._gradient(logits, weights, create_graph=True)
        made = [
            torch.autograd.grad(inner @ each, weights, retain_graph=True)[0] for each in directions
        ]
        return torch.stack(made)

    def pull(self, logits: Tensor, weights: Tensor) -> Tensor:
        """Sum the gradients of logits with weights (k, n, n_classes): (k, p)."""
        return torch.stack([self._gradient(logits, each) for each in weights])

    def _gradient(self, logits: Tensor, weights: Tensor, create_graph: bool = False) -> Tensor:
        parts = torch.autograd.grad(
            logits,
            self.leaves,
            weights,
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
        return torch.cat([part.reshape(-1) for part in parts])


def make_model(task: Task, leaves: Mapping[str, Tensor]) -> Model:
    """Make the model of the whole network, or of a linear output layer on kept features."""
    data, module = task.data, task.module

    def run(X: Tensor) -> Tensor:
        return data.forward(module, leaves, X)

    whole = Model(run, list(leaves.values()), data.editing.X, data.judged)
    head, n_rows = module.get_submodule(data.output_layer), len(data.editing) + len(data.judged)
    if not isinstance(head, nn.Linear) or n_rows * head.in_features * 4 > KEPT_BYTES:
        return whole
    if set(leaves) - set(layer_parameters(module, data.output_layer)):
        return whole
    first, second = (keep_head(task, {}, rows) for rows in (whole.editing, whole.judged))
    if first is None or second is None:
        return whole

    def run_head(features: Tensor) -> Tensor:
        return first.run(leaves, features)

    editing, judged = (as_batches(each.features, data.dtype) for each in (first, second))
    return Model(run_head, whole.leaves, editing, judged)


def measure_influence(
    task: Task, leaves: Mapping[str, Tensor], damping: float, budget: Budget | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measure the signed soft differences of the validation rows, and what every row does to them.

    Parameters
    ----------
    task : Task
    leaves : mapping of parameter name to Tensor
        Require gradients.
    damping : float
    budget : Budget, optional
        Of the whole edit.

    Returns
    -------
    effects : ndarray of shape (n_gaps, n_editing)
        Change of each difference by a unit of weight on each row, to first order.
    gaps : ndarray of shape (n_gaps,)
    """
    data, model = task.data, make_model(task, leaves)
    held = np.flatnonzero(data.judge.parts == 0)
    gaps, slopes = _soft_gaps(task, data.untouched[held], held)
    if not len(gaps):
        return np.zeros((0, len(data.editing))), gaps
    n_rows, classes = len(data.editing), torch.arange(data.n_classes)
    given = data.editing.weights
    # Of mean 1; without weights no number is multiplied.
    times = None if given is None else given[:, None] / given.mean()
    rows = model.judged.subset(held)
    blocks = slopes.to(data.device, data.dtype).split(rows.block_size(BLOCK), dim=1)
    passes = zip(model.passes(rows), blocks, strict=True)
    right = torch.stack([model.pull(*each) for each in passes]).sum(dim=0)

    def product(directions: Tensor) -> Tensor:
        total, start = damping * directions, 0
        for logits in model.passes(model.editing):
            shares, moved = torch.softmax(logits.detach(), dim=1), model.push(logits, directions)
            centred = moved - (moved * shares).sum(dim=2, keepdim=True)
            weighted = shares * centred
            if times is not None:
                weighted = weighted * times[start : start + len(logits)].to(logits)
            start += len(logits)
            total = total + model.pull(logits, weighted) / n_rows
        return total

    most = CG_STEPS
    if budget is not None and model.editing is data.editing.X:
        # Beside the steps, the validation rows and once more the editing rows are passed over.
        most = min(most, max(1, int((MEASURING * budget.visits - len(held)) / n_rows) - 1))
    solved, effects, start = solve(product, right, most), [], 0
    for logits in model.passes(model.editing):
        y = data.editing.y[start : start + len(logits), None] == classes
        residuals = torch.softmax(logits.detach(), dim=1) - y.to(logits)
        if times is not None:
            residuals = residuals * times[start : start + len(logits)].to(logits)
        start += len(logits)
        # The product of a row's gradient and a direction, without the gradients themselves.
        effects.append(-(model.push(logits, solved) * residuals).sum(dim=2).cpu() / n_rows)
    return torch.cat(effects, dim=1).double().numpy(), gaps


def _soft_gaps(
    task: Task, logits: Tensor, held: NDArray[np.int64]
) -> tuple[NDArray[np.float64], Tensor]:
    """Compute the known differences (k,) of soft rates, and their slopes (k, n, n_classes)."""
    data = task.data
    logits = logits.double().requires_grad_()
    scores = torch.softmax(SHARPNESS * shift_logits(logits, data.margin), dim=1)
    y, groups = (torch.as_tensor(column[held]) for column in (data.judge.y, data.judge.groups))
    bias = SignedBias(task.constraint, data.n_classes, data.n_groups)
    given = data.judge.weights
    weights = np.ones(len(y)) if given is None else given[held]
    values, known = bias(scores, y, groups, torch.as_tensor(weights))
    gaps = values[known]
    slopes = [torch.autograd.grad(gap, logits, retain_graph=True)[0] for gap in gaps]
    return gaps.detach().numpy(), torch.stack(slopes) if slopes else logits.detach()[None, :0]


def find_weights(effects: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Find the least changes e >= -1 of the rows' weights with ``effects @ e = wanted``.

    Each is ``max(-1, effects.T @ m)`` for multipliers m that maximise a smooth concave function.

    Parameters
    ----------
    effects : ndarray of shape (k, n)
    wanted : ndarray of shape (k,)

    Returns
    -------
    changes : ndarray of shape (n,)
        If no changes are enough, they come near.
    """
    scale = np.sqrt(np.square(effects).sum(axis=1))
    if not wanted.any() or not scale.all():
        wanted, effects, scale = (each[scale > 0] for each in (wanted, effects, scale))
    if not wanted.any():
        return np.zeros(effects.shape[1])
    rows, goal = effects / scale[:, None], wanted / scale

    def negative_dual(m: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        plain = m @ rows
        changes = np.maximum(plain, -1)
        value = (changes * plain - changes**2 / 2).sum() - m @ goal + RIDGE * (m @ m) / 2
        return float(value), rows @ changes - goal + RIDGE * m

    def curvature(m: NDArray[np.float64]) -> NDArray[np.float64]:
        free = rows * (m @ rows > -1)
        return free @ free.T + RIDGE * np.eye(len(m))

    found = minimize(
        negative_dual, np.zeros(len(goal)), jac=True, hess=curvature, method="trust-exact"
    )
    return np.maximum(found.x @ rows, -1)


@dataclass(frozen=True, kw_only=True)
class WeightedPath(Task):
    """A tuning on weighted rows.

    Attributes
    ----------
    names : tuple of str
        Parameters that are tuned.
    weights : ndarray of shape (n_editing,)
    strength, rate : float
    n_steps, every : int
        Steps, and those between two candidates.
    seed : numpy.random.SeedSequence
    """

    names: tuple[str, ...]
    weights: NDArray[np.float64]
    strength: float
    n_steps: int
    every: int
    rate: float
    seed: np.random.SeedSequence

    def batches(self) -> RowBatches:
        """Go through the editing rows for ever, in a new order in every pass."""
        data = self.data
        return RowBatches(
            data.editing,
            batch_size=count_step_rows(data),
            generator=torch_generator(np.random.default_rng(self.seed)),
            device=data.device,
            dtype=data.dtype,
            weights=torch.as_tensor(self.weights),
        )


def run_weighted(path: WeightedPath) -> Iterator[Candidate]:
    """Tune the leaves on the weighted rows; yield a candidate every few steps."""
    current = dict(path.module.named_parameters())
    leaves = {name: current[name].detach().clone().requires_grad_() for name in path.names}
    record: dict[str, Any] = {
        "stage": "tune",
        "strength": path.strength,
        "least_weight": float(path.weights.min()),
        "largest_weight": float(path.weights.max()),
    }
    steps = tune(
        make_loss(path, lambda: leaves, margin=0.0),
        list(leaves.values()),
        path.batches(),
        n_steps=path.n_steps,
        learning_rate=path.rate,
        every=path.every,
    )
    for step in steps:
        yield judge_state(path, leaves, {**record, "step": step}, {"weights_": path.weights})
