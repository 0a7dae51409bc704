"""Fine-tuning against the direct effect that the group's own columns have on a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._messages import did_you_mean, listed
from ..arrays import Batches, LabelledRows
from ..base import (
    Candidate,
    FitInputs,
    Task,
    at_least_0,
    parameter,
    positive,
    positive_int,
    register_editor,
)
from ..objective import Constraint, Curves, shift_logits
from ..phases import (
    TuningEditor,
    TuningPath,
    Values,
    count_best,
    count_candidates,
    count_lessons,
    count_step_rows,
    count_steps,
    float_parameters,
    run_best,
    run_phases,
    tune_from,
)
from ..training import Batch

__all__ = ["DirectEffectFineTuner"]

EFFECT_WEIGHTS = (1.0, 10.0, 100.0)

# A named column varies with the group if its F statistic is above this, as chance makes it in one
# of twenty columns for two groups.
LEAST_F = 4.0


@register_editor(max_steps=3, effect_weight=1.0, n_teachers=1)
class DirectEffectFineTuner(TuningEditor):
    """Fine-tune a network so that its predictions do not change if the group's columns do.

    The loss gets ``effect_weight`` times the mean squared difference between what the network says
    of a row and what it would say if the columns that hold the group held another group's values.
    This does nothing about proxies: what other columns tell of the group may be used as before. The
    network keeps its architecture and needs no sensitive attribute beside X to predict, and what
    the user passed in is not changed.

    Parameters
    ----------
    effect_weight : float or None, default=None
        Weight of the squared direct effect; 0 gives plain fine-tuning. None: 1, 10 and 100 are
        tried.
    group_columns : None, str, int or list of these, default=None
        Names or positions of the columns of X that hold the group. None: those that are constant
        within every group and not the same in all of them, such as 0/1 columns, one-hot columns and
        scaled ones.
    gap_weight : float or None, default=None
        Weight of the soft gap beside the effect. None: 0, the loss of the paper.
    learning_rate : float, default=3e-3
        Learning rate of Adam.
    max_steps : int or None, default=None
        Cap on the steps. None: as in :class:`GapFineTuner`.
    objective : {"auto", "teacher", "soft_gap"}, default="auto"
        What the edit follows beside the effect. "teacher": the fair Bayes rule on predicted (label,
        group) cells, imitated row by row. "auto" and "soft_gap": the labels, and the soft gap of
        each batch if ``gap_weight`` is given.

    Attributes
    ----------
    group_columns_ : list of str or int
        Columns that were exchanged; empty if no column tells the group.
    direct_effect_ : float in [0, 1]
        Root of the mean squared direct effect of the chosen network, on the rows of the judge.
    balance_ : {"cells", "classes"} or None
    objective_ : {"teacher", "soft_gap"}
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        See :class:`NetworkEditor`; ``history_`` has the direct effect of every candidate.

    See Also
    --------
    GapFineTuner : Follows the gap, whatever causes it.

    Notes
    -----
    The causal regulariser of arXiv:2002.10774, zero controlled direct effect; its exact form is not
    public, and the square is ours. f is the probability at the operating threshold. With several
    values of the columns the square is the mean over pairs of them; with several classes it is half
    the squared distance of the probabilities. A column that is named and varies within a group
    takes the group's mean there. Candidates are chosen by the gap and the utility, as in every
    editor, so the chosen network may have a larger direct effect than others in ``history_``: pass
    one large ``effect_weight`` if the effect itself is the aim.

    If no column tells the group (it was taken out of X, or X are images), the direct effect is zero
    by definition. The network is then tuned under the plain loss, and ``report_.notes`` say so.

    Examples
    --------
    >>> import numpy as np
    >>> from fairsvd import DirectEffectFineTuner
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(800, random_state=0)
    >>> X = np.column_stack([data.data, data.groups])
    >>> tuner = DirectEffectFineTuner(effect_weight=10.0, tolerance=0.1, random_state=0)
    >>> tuner = tuner.fit(X, data.target, sensitive_features=data.sensitive_features)
    >>> tuner.group_columns_
    [10]
    """

    effect_weight: float | None = parameter(at_least_0(), None, default=None)
    group_columns: Any = parameter(str, Integral, list, tuple, None, default=None)
    gap_weight: float | None = parameter(at_least_0(), None, default=None)
    learning_rate: float = parameter(positive(), default=3e-3)
    max_steps: int | None = parameter(positive_int(), None, default=None)

    def _settle(
        self, inputs: FitInputs, constraint: Constraint, seed: int
    ) -> tuple[None, GroupColumns]:
        names = getattr(self, "feature_names_in_", None)
        return None, find_columns(
            inputs, self.group_columns, None if names is None else list(names)
        )

    def _fit(
        self, X: Any, y: Any, sensitive_features: Any, sample_weight: Any
    ) -> DirectEffectFineTuner:
        super()._fit(X, y, sensitive_features, sample_weight)
        self._report.notes.append(
            f"The direct effect of the columns {self.group_columns_} was measured and penalised; "
            "what other columns tell of the group (proxies) was not."
            if self.group_columns_
            else "No column of X tells the group by itself, so the network has no direct effect of "
            "it to penalise: the edit is a tuning under the plain loss."
        )
        return self

    def _count_candidates(self, task: Task) -> int:
        n_steps, n_candidates, weights = self._counts(task)
        return 1 + count_best(len(weights), n_steps, n_candidates, 1)

    def _edit(self, task: Task, rng: np.random.Generator) -> Iterator[Candidate]:
        imitates = self.objective == "teacher" and self._imitates(task, self.gap_weight)
        columns: GroupColumns = task.settled
        shared = {**self._followed(task, imitates), "group_columns_": columns.names}
        before = DirectEffect(task, columns).measure({})
        record = {"stage": "untouched", "direct_effect": before}
        yield Candidate({}, record, {**shared, "direct_effect_": before})
        n_steps, n_candidates, weights = self._counts(task)
        teacher = self._find_teacher(task, rng) if imitates else None
        start = Values(float_parameters(task.module))
        paths = [
            EffectPath.of(
                subtask,
                effect=DirectEffect(subtask, columns),
                effect_weight=weight,
                gap_weight=0.0 if self.gap_weight is None else float(self.gap_weight),
                teacher=teacher,
                n_steps=n_steps,
                seed=seed,
                attributes=shared,
                n_candidates=n_candidates,
                extra_loss=partial(DirectEffect(subtask, columns).loss, weight=weight),
            )
            for weight, subtask, seed in task.spread(weights, rng, self.n_jobs)
        ]
        first = ("tune", partial(tune_from, start, rate=float(self.learning_rate)))
        run = partial(run_phases, first=first, second=None)
        yield from run_best(paths, run, run, self.n_jobs)

    def _counts(self, task: Task) -> tuple[int, int, tuple[float, ...]]:
        """Count the steps and the candidates of a path, and list the weights to try."""
        imitates = self.objective == "teacher"
        count = count_lessons if imitates else count_steps
        weights = EFFECT_WEIGHTS if self.effect_weight is None else (float(self.effect_weight),)
        if not task.settled.names:
            weights = (0.0,)
        counts = count(self.max_steps, task.data), count_candidates(task.data, imitates)
        budget = self._budget(task, imitates)
        if budget is not None:
            # The effect runs every row with the other groups, too.
            counts = budget.shrink(*counts, 3 * count_step_rows(task.data), len(weights))
        return *counts, weights


class GroupColumns(NamedTuple):
    """The columns of X that hold the group, and the values that they take.

    Attributes
    ----------
    names : list of str or int
    places : list of int
    values : ndarray of shape (n_values, n_columns), float64
        Different from each other.
    """

    names: list[Any]
    places: list[int]
    values: NDArray[np.float64]


NO_COLUMNS = GroupColumns([], [], np.zeros((0, 0)))


class Moments(NamedTuple):
    """Statistics of every column within every group: arrays of shape (n_groups, width)."""

    counts: NDArray[np.float64]
    sums: NDArray[np.float64]
    squares: NDArray[np.float64]
    least: NDArray[np.float64]
    largest: NDArray[np.float64]

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean of each column in each group; exact where it is constant."""
        return np.where(self.least == self.largest, self.least, self.sums / self.counts)

    def f_statistics(self) -> NDArray[np.float64]:
        """Compute the variance between groups over that within them, for every column."""
        n_groups, total = len(self.counts), self.counts.sum(axis=0)
        inside = np.maximum(self.squares - self.counts * self.means**2, 0)
        inside = np.where(self.least == self.largest, 0, inside).sum(axis=0)
        inside = inside / np.maximum(total - n_groups, 1)
        middle = (self.counts * self.means).sum(axis=0) / total
        between = (self.counts * (self.means - middle) ** 2).sum(axis=0) / max(1, n_groups - 1)
        constant = np.ptp(self.means, axis=0) == 0
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(constant, 0.0, between / inside)


def measure_columns(rows: LabelledRows, n_groups: int, width: int) -> Moments:
    """Measure every column within every group in one pass; rows without a group are left out."""
    shape = n_groups, width
    counts, sums, squares = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
    least, largest = torch.full_like(sums, torch.inf), torch.full_like(sums, -torch.inf)
    for X, _, groups in rows.batches(1024, torch.device("cpu")):
        inside = groups >= 0
        block = X[inside].double()
        place = groups[inside][:, None].expand_as(block)
        counts.scatter_add_(0, place, torch.ones_like(block))
        sums.scatter_add_(0, place, block)
        squares.scatter_add_(0, place, block.square())
        least.scatter_reduce_(0, place, block, "amin")
        largest.scatter_reduce_(0, place, block, "amax")
    return Moments(*(each.numpy() for each in (counts, sums, squares, least, largest)))


def find_columns(inputs: FitInputs, asked: Any, names: Sequence[str] | None) -> GroupColumns:
    """Find the columns that hold the group, and their value in every group.

    Raises
    ------
    ValueError
        A column is named that does not exist or does not vary with the group, or X has none.
    """
    shape = inputs.rows.X.item_shape
    if len(shape) != 1 or not inputs.has_groups:
        if asked is not None and inputs.has_groups:
            raise ValueError(
                f"group_columns={asked!r}, but X are images of the shape {tuple(shape)}, which "
                "have no columns. Leave group_columns out."
            )
        return NO_COLUMNS
    moments = measure_columns(inputs.rows, inputs.n_groups, shape[0])
    if asked is None:
        constant = (moments.least == moments.largest).all(axis=0)
        places = np.flatnonzero(constant & (np.ptp(moments.least, axis=0) > 0)).tolist()
    else:
        places = locate(asked, names, shape[0])
        f_statistics = moments.f_statistics()
        same = [place for place in places if not f_statistics[place] > LEAST_F]
        if same:
            raise ValueError(
                f"group_columns={asked!r}: the columns at the positions {same} do not vary with "
                "the group beyond chance, so they do not hold it. Name others, or pass None to let "
                "them be found."
            )
    if not places:
        return NO_COLUMNS
    shown = places if names is None else [names[place] for place in places]
    return GroupColumns(shown, places, np.unique(moments.means[:, places], axis=0))


def locate(
    asked: Any, names: Sequence[str] | None, width: int, argument: str = "group_columns"
) -> list[int]:
    """Turn names and positions of columns into positions, sorted."""
    known, places = list(names or []), []
    for key in asked if isinstance(asked, list | tuple) else [asked]:
        if isinstance(key, str) and key in known:
            places.append(known.index(key))
        elif _is_position(key) and -width <= key < width:
            places.append(int(key) % width)
        else:
            have = f"the columns [{listed(known, show=repr)}]" if known else f"{width} columns"
            hint = did_you_mean(key, known) if isinstance(key, str) and known else ""
            raise ValueError(f"{argument} has {key!r}, but X has {have}.{hint}")
    return sorted(set(places))


def _is_position(key: Any) -> bool:
    return isinstance(key, Integral) and not isinstance(key, bool)


@dataclass(frozen=True)
class DirectEffect:
    """What changes in a network's predictions if the group's columns do.

    Attributes
    ----------
    task : Task
    columns : GroupColumns
    """

    task: Task
    columns: GroupColumns

    def loss(
        self, state: Mapping[str, Tensor], logits: Tensor, batch: Batch, *, weight: float
    ) -> Tensor:
        """Compute ``weight`` times the mean squared effect of a batch, differentiably."""
        if weight == 0 or not self.columns.places:
            return logits.new_zeros(())
        data, module = self.task.data, self.task.module
        shares = [
            self._shares(data.forward(module, state, exchange(batch.X, self.columns.places, each)))
            for each in self.columns.values
        ]
        return weight * (squared_effects(torch.stack(shares)) * batch.gap_weights).mean()

    def measure(self, state: Mapping[str, Tensor]) -> float:
        """Compute the root of the mean squared effect on the judged rows."""
        if not self.columns.places:
            return 0.0
        data = self.task.data
        shares = [
            self._shares(data.logits(self.task.module, state, self._exchanged(each)).double())
            for each in self.columns.values
        ]
        squares = squared_effects(torch.stack(shares)).cpu().numpy()
        return float(np.sqrt(np.average(squares, weights=data.judge.weights)))

    def _shares(self, logits: Tensor) -> Tensor:
        return torch.softmax(shift_logits(logits, self.task.data.margin), dim=1)

    def _exchanged(self, values: NDArray[np.float64]) -> Batches:
        rows = self.task.data.judged
        return replace(rows, fetch=partial(_fetch, rows.fetch, self.columns.places, values))


def exchange(X: Tensor, places: Sequence[int], values: NDArray[np.float64]) -> Tensor:
    """Copy rows, with values in some columns."""
    X = X.clone()
    X[:, list(places)] = torch.as_tensor(values).to(X)
    return X


def _fetch(fetch: Any, places: Sequence[int], values: Any, index: NDArray[np.int64]) -> Tensor:
    return exchange(fetch(index), places, values)


def squared_effects(shares: Tensor) -> Tensor:
    """Average half the squared distance of every two values' probabilities.

    Parameters
    ----------
    shares : Tensor of shape (n_values, n, n_classes)

    Returns
    -------
    squares : Tensor of shape (n,), in [0, 1]
    """
    # The sum over pairs is n_values times the squared deviations from the mean.
    deviations = (shares - shares.mean(dim=0)).square().sum(dim=(0, 2))
    return deviations / (len(shares) - 1)


@dataclass(frozen=True, kw_only=True)
class EffectPath(TuningPath[Values]):
    """A tuning under one weight of the direct effect, which every candidate's record has.

    Attributes
    ----------
    effect : DirectEffect
    effect_weight : float
    """

    effect: DirectEffect
    effect_weight: float

    def candidate(
        self, edit: Values, stage: str, step: int, logits: Tensor, curves: Curves, **record: Any
    ) -> Candidate:
        """Judge an edit, and measure its direct effect."""
        made = super().candidate(edit, stage, step, logits, curves, **record)
        with torch.no_grad():
            left = self.effect.measure(edit.state())
        params = {**made.params, "effect_weight": self.effect_weight, "direct_effect": left}
        return replace(made, params=params, attributes={**made.attributes, "direct_effect_": left})
