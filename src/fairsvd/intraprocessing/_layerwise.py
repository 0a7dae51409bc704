"""Layer-wise optimisation: a search of one parameter tensor at a time, guided by a surrogate."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.ensemble import GradientBoostingRegressor
from torch import Tensor, nn

from .._messages import did_you_mean, listed
from ..arrays import to_device
from ..base import (
    Candidate,
    StrOptions,
    Task,
    parameter,
    positive,
    positive_int,
    register_editor,
)
from ..exceptions import NetworkError
from ..objective import Verdict
from ..phases import BudgetedEditor, float_parameters, run_paths

__all__ = ["LayerwiseOptimizer"]

# Points of each tensor in the paper's code.
CALLS = 20

# Score of a network whose logits are not finite, below every other score.
WORST = -4.0

# Median, and about one standard deviation of a normal distribution to either side.
QUANTILES = (0.16, 0.5, 0.84)
N_TREES = 30

# Coordinates that a split considers: all of a few hundred. With thousands, considering all of them
# made a fit three times as slow, although most of them split twenty points alike.
MOST_COORDINATES = 256

# Random points of which the most promising is taken; fewer in many dimensions, to save memory.
MOST_POINTS, LEAST_POINTS, MOST_NUMBERS = 4096, 64, 2**20

# Smallest improvement that counts, one point of a utility in [0, 1].
LEAST_GAIN = 0.01


@register_editor(parameters=2, n_calls=4, n_initial=3)
class LayerwiseOptimizer(BudgetedEditor):
    """Search the entries of one parameter tensor at a time for the best edit of a network.

    Each of the chosen tensors is searched alone, with the others unchanged, in a box around its
    values: first at random points, then at those that a surrogate of the objective,
    gradient-boosted trees, finds most promising. The best edit of the best tensor is kept, or none.
    The search needs no gradient, and works with any network and any utility. The network keeps its
    architecture, needs no sensitive attribute to predict, and what the user passed in is not
    changed.

    Parameters
    ----------
    parameters : int, list of str or re.Pattern, default=5
        How many of the last parameter tensors, in the order in which the network registers them; or
        names of parameters, or of layers for all their parameters; or a pattern that is searched in
        the names of the parameters, such as ``"output.bias"``.
    max_entries : int, default=5000
        Number of entries, drawn at random, that are searched in a larger tensor.
    n_calls : int or None, default=None
        Points of each tensor that are judged. None: 20, and for images at most as many as
        ``max_epochs`` buys.
    n_initial : int, default=10
        How many of these points are random; if the budget buys fewer than 20 points, at most half.
    surrogate : {"gbrt", "random"}, default="gbrt"
        "random": all points are random, a control.
    width : float, default=2.2
        Half the side of the box, in standard deviations of the tensor's entries.

    Attributes
    ----------
    edited_parameter_ : str or None
        Name of the one tensor that differs; None if the untouched network was chosen.
    searched_entries_ : dict of parameter name to int
        How many entries of each tensor were searched; 0 if all of them are alike.
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        See :class:`NetworkEditor`; ``history_`` has a row for each call.

    See Also
    --------
    RandomPerturbation : Changes all tensors at once, at random.
    BiasMaskFineTuner : Follows gradients.

    Notes
    -----
    The second method of arXiv:2006.08564, with the box and the numbers of tensors and calls of its
    code, and its ``max_entries`` for images (100,000 for tables there). Deviations: the best tensor
    is the one with the best result, not the last one; exactly ``max_entries`` entries are drawn,
    not that many on average; every threshold is tried; the untouched network is among the
    candidates, and the choice is that of every editor.

    The surrogate estimates the quantiles .16, .5 and .84 of the objective by scikit-learn's
    ``GradientBoostingRegressor`` of 30 trees, and takes the point of largest expected improvement
    among up to 4,096 random ones. This is what scikit-optimize's ``gbrt_minimize`` does, which the
    code calls but whose release 0.10.2 does not run with scikit-learn 1.9. On six synthetic tables
    of 1,500 rows guided calls gained .008 of utility over random ones. The objective is 1 + utility
    if the candidate is feasible, else the utility minus the excess of the gap over the limit; below
    the smallest utility that may be chosen, utility minus gap minus 1.

    A tensor whose entries are all alike, such as the single bias of a network with one logit, has a
    box without width and is left out.

    Examples
    --------
    >>> from fairsvd import LayerwiseOptimizer
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(800, random_state=0)
    >>> editor = LayerwiseOptimizer(parameters=2, n_calls=12, tolerance=0.1, random_state=0)
    >>> editor = editor.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> editor.searched_entries_
    {'output.weight': 128, 'output.bias': 2}
    >>> len(editor.history_)
    25
    """

    parameters: Any = parameter(positive_int(), list, tuple, re.Pattern, default=5)
    max_entries: int = parameter(positive_int(), default=5000)
    n_calls: int | None = parameter(positive_int(), None, default=None)
    n_initial: int = parameter(positive_int(), default=10)
    surrogate: str = parameter(StrOptions({"gbrt", "random"}), default="gbrt")
    width: float = parameter(positive(), default=2.2)

    def _count_candidates(self, task: Task) -> int:
        names = select_parameters(task.module, self.parameters)
        entries = searched_entries(task.module, names, self.max_entries)
        n_searched = sum(count > 0 for count in entries.values())
        return 1 + n_searched * self._count_calls(task, n_searched)[0]

    def _asked_steps(self) -> int | None:
        return self.n_calls

    def _count_calls(self, task: Task, n_searched: int) -> tuple[int, int]:
        """Count the points of each tensor, and how many of them are random."""
        n_calls, budget = self.n_calls or CALLS, self._budget(task)
        if budget is None:
            return n_calls, self.n_initial
        bought = budget.count_trials(n_calls * n_searched) // max(1, n_searched)
        if bought >= n_calls:
            return n_calls, self.n_initial
        return max(1, bought), min(self.n_initial, math.ceil(max(1, bought) / 2))

    def _edit(self, task: Task, rng: np.random.Generator) -> Iterator[Candidate]:
        names = select_parameters(task.module, self.parameters)
        entries = searched_entries(task.module, names, self.max_entries)
        n_calls, n_initial = self._count_calls(task, sum(count > 0 for count in entries.values()))
        shared = {"searched_entries_": entries}
        untouched = {**shared, "edited_parameter_": None}
        yield Candidate({}, {"stage": "untouched", "parameter": None, "call": 0}, untouched)
        searches = [
            TensorSearch.of(
                subtask,
                name=name,
                n_calls=n_calls,
                n_initial=n_initial,
                max_entries=self.max_entries,
                width=float(self.width),
                guided=self.surrogate == "gbrt",
                attributes=shared,
                seed=seed,
            )
            for name, subtask, seed in task.spread(names, rng, self.n_jobs)
        ]
        yield from run_paths(searches, run_search, self.n_jobs)


@dataclass(frozen=True)
class TensorSearch(Task):
    """The search of one tensor.

    Attributes
    ----------
    name : str
        Name of the parameter.
    n_calls, n_initial : int
    max_entries : int
    width : float
        Half the side of the box, in standard deviations of the tensor's entries.
    guided : bool
        Let the surrogate choose after the initial calls; else continue to draw.
    attributes : dict
        Fitted attributes that do not depend on the candidate.
    seed : numpy.random.SeedSequence
    """

    name: str
    n_calls: int
    n_initial: int
    max_entries: int
    width: float
    guided: bool
    attributes: dict[str, Any]
    seed: np.random.SeedSequence


def select_parameters(module: nn.Module, parameters: Any) -> list[str]:
    """Resolve the ``parameters`` parameter to names, in the network's order.

    Parameters
    ----------
    module : nn.Module
    parameters : int, list of str or re.Pattern
        How many of the last; names of parameters, or of modules for all below them; a pattern that
        is searched in the names of the parameters.

    Raises
    ------
    NetworkError
        A name does not exist, or nothing is left to search.
    """
    names = list(float_parameters(module))
    if isinstance(parameters, Integral):
        chosen = names[-int(parameters) :]
    elif isinstance(parameters, re.Pattern):
        chosen = [name for name in names if parameters.search(name)]
    else:
        chosen = _named(names, parameters)
    if not chosen:
        raise NetworkError(
            f"parameters={parameters!r} leaves nothing to search; the network has "
            f"[{listed(names, show=repr)}]. Pass a number of tensors, names, or a pattern that "
            "matches some of these."
        )
    return chosen


def _named(names: list[str], requested: Iterable[str]) -> list[str]:
    matches: set[str] = set()
    for each in requested:
        below = {name for name in names if name == each or name.startswith(f"{each}.")}
        if not below:
            raise NetworkError(
                f"parameters names {each!r}, which is no parameter of the network and no module "
                f"with parameters; it has [{listed(names, show=repr)}].{did_you_mean(each, names)}"
            )
        matches |= below
    return [name for name in names if name in matches]


def searched_entries(module: nn.Module, names: list[str], most: int) -> dict[str, int]:
    """Count the entries of each tensor that a search moves; 0 where its box has no width."""
    parameters = float_parameters(module)
    return {
        name: min(parameters[name].numel(), most) if _deviation(parameters[name]) > 0 else 0
        for name in names
    }


def _deviation(values: Tensor) -> float:
    """Compute the standard deviation of the entries; exactly 0 where they are alike."""
    if not values.numel() or bool((values == values.flatten()[0]).all()):
        return 0.0
    return float(values.double().std(correction=0))


def score(verdict: Verdict) -> float:
    """Convert a verdict to one finite number for the surrogate; greater is better.

    Feasible candidates get 1 + utility, which is above all others (for utilities in [0, 1]). Others
    get utility minus the excess of the gap, if they are above the floor of the choice; below it
    they get utility minus gap minus 1, so that improvements still show.
    """
    if not np.isfinite(verdict.utility):
        return WORST
    if np.isfinite(verdict.value):
        return float(verdict.feasible) + verdict.value
    return verdict.utility - min(1.0, verdict.gap) - 1.0


def run_search(search: TensorSearch) -> Iterator[Candidate]:
    """Judge random points of the box, then those that the surrogate proposes.

    Yields
    ------
    candidate : Candidate
        Its state is the one tensor. Nothing is yielded if all entries of the tensor are alike,
        since the box has no width.
    """
    rng = np.random.default_rng(search.seed)
    original = float_parameters(search.module)[search.name]
    radius = search.width * _deviation(original)
    if radius == 0:
        return
    entries = _draw_entries(original.numel(), search.max_entries, rng)
    rows = search.data.judged.held()
    where = to_device(torch.from_numpy(entries), original.device)
    points: list[NDArray[np.float32]] = []
    scores: list[float] = []
    for call in range(1, search.n_calls + 1):
        guided = search.guided and call > search.n_initial
        points.append(
            propose(np.stack(points), np.array(scores), rng)
            if guided
            else rng.random(len(entries), dtype=np.float32)
        )
        state = {search.name: _move(original, where, radius, points[-1])}
        candidate = _judge(search, state, rows, call, "guided" if guided else "random")
        scores.append(score(candidate.verdict))  # type: ignore[arg-type]
        yield candidate
        del candidate, state


def _draw_entries(size: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw the entries to search, without repeats; all of them if they are few."""
    if size <= most:
        return np.arange(size)
    return np.sort(rng.choice(size, most, replace=False))


def _move(original: Tensor, where: Tensor, radius: float, point: NDArray[np.float32]) -> Tensor:
    """Copy the tensor with its entries moved to a point of the unit box."""
    shift = radius * (2 * torch.from_numpy(point).double() - 1)
    flat = original.flatten().clone()
    flat[where] = (flat[where].double() + to_device(shift, flat.device)).to(flat.dtype)
    return flat.reshape(original.shape)


def _judge(
    search: TensorSearch, state: dict[str, Tensor], rows: Any, call: int, stage: str
) -> Candidate:
    logits = search.data.logits(search.module, state, rows)
    return Candidate(
        state,
        {"stage": stage, "parameter": search.name, "call": call},
        {**search.attributes, "edited_parameter_": search.name},
        verdict=search.data.judge(logits),
        logits=logits,
    )


def expected_improvement(
    middle: NDArray[Any], spread: NDArray[Any], best: float
) -> NDArray[np.float64]:
    """Compute how far a normal distribution is expected to lie above ``best + LEAST_GAIN``.

    Parameters
    ----------
    middle, spread : ndarray of shape (n_points,)
        Mean and standard deviation; if the latter is 0, the improvement is certain.
    best : float
    """
    gain = np.asarray(middle, dtype=np.float64) - best - LEAST_GAIN
    spread = np.maximum(spread, 1e-12)
    z = gain / spread
    return gain * norm.cdf(z) + spread * norm.pdf(z)


def propose(
    points: NDArray[Any], scores: NDArray[Any], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw random points of the unit box and return the one of largest expected improvement.

    Three gradient-boosted tree models estimate quantiles of the score.

    Parameters
    ----------
    points : ndarray of shape (n_seen, n_dimensions)
        In [0, 1].
    scores : ndarray of shape (n_seen,)
        Greater is better; finite.
    rng : numpy.random.Generator

    Returns
    -------
    point : ndarray of shape (n_dimensions,), float32
    """
    width = points.shape[1]
    n_points = int(np.clip(MOST_NUMBERS // width, LEAST_POINTS, MOST_POINTS))
    pool = rng.random((n_points, width), dtype=np.float32)
    seeds = rng.integers(2**31 - 1, size=len(QUANTILES))
    # The inputs are our own; to check them for ninety small trees takes as long as the trees.
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        low, middle, high = (
            GradientBoostingRegressor(
                loss="quantile",
                alpha=quantile,
                n_estimators=N_TREES,
                max_features=min(width, MOST_COORDINATES),
                random_state=int(seed),
            )
            .fit(points, scores)
            .predict(pool)
            for quantile, seed in zip(QUANTILES, seeds, strict=True)
        )
    # Quantiles that are fitted separately may cross.
    gains = expected_improvement(middle, np.abs(high - low) / 2, float(scores.max()))
    return pool[int(gains.argmax())]
