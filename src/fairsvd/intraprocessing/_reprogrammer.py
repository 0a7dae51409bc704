"""Reprogramming: a trigger on the input makes a frozen network fairer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from ..base import (
    Candidate,
    EditData,
    Interval,
    StrOptions,
    Task,
    at_least_0,
    parameter,
    positive,
    positive_int,
    register_editor,
)
from ..objective import Verdict, edit_loss, make_shift
from ..phases import (
    FORWARD,
    Edit,
    TuningEditor,
    TuningPath,
    count_best,
    count_candidates,
    count_lessons,
    count_steps,
    list_gap_weights,
    run_best,
    run_phases,
    tune_edit,
)
from ..training import Batch
from ._adapters import Opponent
from ._debiasing import project
from ._direct_effect import locate
from ._make_trigger import make_trigger
from ._trigger import Trigger, Triggered

__all__ = ["FairReprogrammer"]

# Weights of the adversary that are tried; 0.05 and 0.5 are in the commands and the defaults of the
# code of arXiv:2209.10222, whose adversary is larger.
ADVERSARY_WEIGHTS = (0.05, 0.5, 3.0)

# Candidates of a path under a budget.
FEW_LOOKS = 3

# The gradients of the labels' loss and of the adversary are two more passes back.
BACKWARDS = 2 * 2 * FORWARD


@register_editor(max_steps=3, n_teachers=1)
class FairReprogrammer(TuningEditor):
    """Learn a trigger on the input that makes a frozen network fairer.

    No weight of the network changes. What is learned stands before it: a vector that is added to
    every row, constants in the place of some columns, a patch or a border of an image, or soft
    tokens behind a text. The result is one module, the trigger and the network. It needs no
    sensitive attribute to predict, and what the user passed in is not changed.

    Parameters
    ----------
    trigger : {"auto", "additive", "patch", "border", "tokens"}, default="auto"
        "additive": a vector is added to every row; of an image it stays within ``size`` times half
        of each channel's range. "patch": the columns named in ``columns`` are replaced by
        constants, or a square in the upper left corner of an image by pixels. "border": the image
        is made smaller, and a frame of pixels is put around it. "tokens": vectors are appended to
        the embedded tokens of a text. "auto": "additive" for tables and
        images, "tokens" for texts.
    size : int, float in (0, 1) or None, default=None
        Side of the patch or width of the border, in pixels or as a share of the image's shorter
        side; number of tokens; bound of an additive trigger of images. None: 30/224, 20/224, 5
        (fewer if the network's positions leave no room), and 0.2.
    columns : str, int, list of these or None, default=None
        Columns of a table that a patch replaces, by name or position.
    adversary_weight : float or None, default=None
        Lambda, the weight of the adversary of ``objective="adversary"``. None: 0.05, 0.5 and 3 are
        tried, and 0.5 alone under a budget.
    gap_weight : float or None, default=None
        Weight of the soft gap in the loss. None: several are tried, and 1 alone under a budget. Not
        used with a teacher or an adversary.
    learning_rate : float, default=0.03
        Learning rate of Adam. A trigger of a table is in units of each column's standard deviation.
    max_steps : int or None, default=None
        Cap on the steps of each path. None: as in :class:`GapFineTuner`.
    objective : {"auto", "teacher", "soft_gap", "adversary"}, default="auto"
        The loss. "teacher": the fair Bayes rule on predicted (label, group) cells is imitated row
        by row. "soft_gap": the labels, and the soft gap of each batch. "adversary": the labels,
        against an adversary that predicts the group from the predictions. "auto": "teacher" for
        tables with groups, unless ``gap_weight`` is given; else "soft_gap".

    Attributes
    ----------
    trigger_ : ndarray or None
        The trigger in units of the rows: what is added to a row, or put into it and 0 elsewhere, of
        a row's shape; tokens (n_tokens, width). None if the untouched network was chosen.
    balance_ : {"cells", "classes"} or None
    objective_ : {"teacher", "soft_gap", "adversary"}
        What the edit followed.
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        See :class:`NetworkEditor`; ``module_.network`` is the network, if a trigger was chosen.

    See Also
    --------
    AdversarialDebiasing : The same adversary, against the weights.
    AdapterFineTuner : Few numbers beside the weights.

    Notes
    -----
    After FairReprogram (arXiv:2209.10222) and its code. With g the trigger's gradient of the
    cross-entropy and h that of the adversary's loss, the update is ``g - proj_h g - lambda h``, as
    there. Deviations: the adversary is that of :class:`AdversarialDebiasing`, a linear one; the
    paper's is a perceptron of width 512 on the same inputs. The teacher and the soft gap are ours.
    Pixels stay within the range of their channel on the editing rows; the paper's are hyperbolic
    tangents of a normalised image. An additive trigger, and constants in tables, are not in the
    paper; constant features cannot be appended to a network whose width is fixed, so they take the
    place of columns. Soft tokens are free vectors, not mixtures of words.

    One trigger for all rows cannot do what a change of the weights can: on a table an additive
    trigger shifts every row alike. A trigger helps where the network's bias depends on where in its
    input the rows lie, or on something that the trigger covers.

    Examples
    --------
    >>> from fairsvd import FairReprogrammer
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(800, random_state=0)
    >>> editor = FairReprogrammer(gap_weight=1.0, max_steps=60, tolerance=0.1, random_state=0)
    >>> editor = editor.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> editor.predict(data.data).shape
    (800,)
    """

    trigger: str = parameter(
        StrOptions({"auto", "additive", "patch", "border", "tokens"}), default="auto"
    )
    size: float | None = parameter(
        positive_int(), Interval(Real, 0, 1, closed="neither"), None, default=None
    )
    columns: Any = parameter(str, Integral, list, tuple, None, default=None)
    adversary_weight: float | None = parameter(at_least_0(), None, default=None)
    gap_weight: float | None = parameter(at_least_0(), None, default=None)
    learning_rate: float = parameter(positive(), default=0.03)
    max_steps: int | None = parameter(positive_int(), None, default=None)
    objective: str = parameter(
        StrOptions({"auto", "teacher", "soft_gap", "adversary"}), default="auto"
    )

    def _count_candidates(self, task: Task) -> int:
        weights, fields = self._plan(task, self._imitates(task, self.gap_weight))
        return 1 + count_best(len(weights), fields["n_steps"], fields["n_candidates"], 1)

    def _edit(self, task: Task, rng: np.random.Generator) -> Iterator[Candidate]:
        imitates = self._imitates(task, self.gap_weight)
        trigger = make_trigger(
            task.module, task.data, self.trigger, self.size, self._positions(task), rng
        )
        shared = self._followed(task, imitates)
        if self.objective == "adversary":
            shared["objective_"] = "adversary"
        untouched = {**shared, "trigger_": None}
        yield self._first_candidate(task, {}, untouched, imitates=imitates)
        weights, fields = self._plan(task, imitates)
        opposes = self._opposes(task)
        teacher = self._find_teacher(task, rng) if imitates else None
        paths = [
            TriggerPath.of(
                replace(subtask, module=Triggered(subtask.module, trigger)),
                gap_weight=0.0 if opposes else weight,
                adversary_weight=weight if opposes else None,
                teacher=teacher,
                seed=seed,
                attributes=shared,
                trigger=trigger,
                rate=float(self.learning_rate),
                **fields,
            )
            for weight, subtask, seed in task.spread(weights, rng, self.n_jobs)
        ]
        run = partial(run_phases, first=("trigger", tune_trigger), second=None)
        yield from run_best(paths, run, run, self.n_jobs)

    def _positions(self, task: Task) -> list[int] | None:
        shape = task.data.editing.X.item_shape
        if self.columns is None or len(shape) != 1:
            return self.columns
        names = getattr(self, "feature_names_in_", None)
        return locate(self.columns, None if names is None else list(names), shape[0], "columns")

    def _opposes(self, task: Task) -> bool:
        return self.objective == "adversary" and task.data.has_groups

    def _plan(self, task: Task, imitates: bool) -> tuple[tuple[float, ...], dict[str, Any]]:
        """List the weights to try, and count steps and candidates, which a budget limits."""
        data, opposes = task.data, self._opposes(task)
        n_steps = (count_lessons if imitates else count_steps)(self.max_steps, data)
        n_candidates = count_candidates(data, imitates)
        weights = (0.0,) if imitates else list_gap_weights(data, self.gap_weight)
        if opposes:
            asked = self.adversary_weight
            weights = ADVERSARY_WEIGHTS if asked is None else (float(asked),)
        budget = self._budget(task, imitates)
        if budget is None:
            return weights, {"n_steps": n_steps, "n_candidates": n_candidates}
        if imitates:
            rows = min(data.batch_size, len(data.lesson_rows))
            n_steps, n_candidates = budget.count_lessons(n_steps, n_candidates, rows)
            return weights, {"n_steps": n_steps, "n_candidates": n_candidates}
        looks = budget.count_looks(FEW_LOOKS)
        a_step = (1 + BACKWARDS * opposes) * budget.step_rows
        bought = budget.count_steps(looks, a_step, budget.asked(TriggerPath.find_loyalty(data)))
        n_steps = bought if self.max_steps is None else min(bought, self.max_steps)
        fields = {"n_steps": n_steps, "n_candidates": looks, "rows": budget.step_rows}
        return weights[len(weights) // 2 :][:1], fields


@dataclass(frozen=True)
class TriggerEdit(Edit):
    """A trigger before the network, which is not changed.

    Attributes
    ----------
    trigger : Trigger
        Whose numbers are replaced.
    weight : Tensor
    output_layer : str
        Of the network without the trigger.
    """

    trigger: Trigger
    weight: Tensor
    output_layer: str

    def state(self) -> dict[str, Tensor]:
        """Return what differs in the module of trigger and network."""
        return {"trigger.weight": self.weight}

    def kept_state(self) -> dict[str, Tensor]:
        """Return nothing: the network itself keeps its state."""
        return {}

    def detached(self) -> Self:
        """Return a copy that later steps do not change."""
        return replace(self, weight=self.weight.detach().clone())

    def attributes(self) -> dict[str, Any]:
        """Return the trigger as a fitted attribute."""
        return {"trigger_": self.trigger.with_weight(self.weight).array()}

    def finish(self) -> Callable[[nn.Module], nn.Module]:
        """Return the function that puts the trigger before the network."""
        return partial(Triggered, trigger=self.trigger.with_weight(self.weight))

    def pack(
        self,
        params: Mapping[str, Any],
        attributes: Mapping[str, Any],
        verdict: Verdict,
        logits: Tensor,
    ) -> Candidate:
        """Make a candidate, in which the network is a part of the module."""
        made = super().pack(params, attributes, verdict, logits)
        return replace(made, reading={"output_layer": f"network.{self.output_layer}"})


@dataclass(frozen=True, kw_only=True)
class TriggerPath(TuningPath[TriggerEdit]):
    """A training of a trigger; the module is the network behind it.

    Attributes
    ----------
    trigger : Trigger
    adversary_weight : float or None
        None: there is no adversary.
    rate : float
    """

    trigger: Trigger
    adversary_weight: float | None
    rate: float

    @classmethod
    def find_loyalty(cls, data: EditData, share: float = 1.0) -> float:
        """Return 0: behind the trigger that it starts with the network is not the untouched one."""
        return 0.0

    def candidate(self, *args: Any, **record: Any) -> Candidate:
        """Judge an edit; the record has the adversary's weight, if there is one."""
        made = super().candidate(*args, **record)
        if self.adversary_weight is None:
            return made
        return replace(made, params={**made.params, "adversary_weight": self.adversary_weight})


def tune_trigger(path: TriggerPath, rng: np.random.Generator) -> Iterator[tuple[int, TriggerEdit]]:
    """Tune a trigger from the one that it starts as."""
    leaf = path.trigger.weight.detach().clone().requires_grad_()
    edit = TriggerEdit(path.trigger, leaf, path.data.output_layer)
    if path.adversary_weight is not None:
        path = replace(path, extra_loss=ProjectedOpponent(path, path.adversary_weight, leaf))
    yield from tune_edit(path, edit, [leaf], lambda: edit, rng, path.rate)


class ProjectedOpponent(Opponent):
    """An adversary that is opposed; what would help it is taken out of the labels' gradient.

    Its value means nothing: its gradient, added to that of the cross-entropy, is the update.

    Parameters
    ----------
    path : TriggerPath
    weight : float
    leaf : Tensor
        What is tuned.
    """

    def __init__(self, path: TriggerPath, weight: float, leaf: Tensor) -> None:
        super().__init__(path, 1.0)
        self.path, self.strength, self.leaf = path, weight, leaf

    def __call__(self, state: Mapping[str, Tensor], logits: Tensor, batch: Batch) -> Tensor:
        """Let the adversary learn from a batch, then correct the update of the leaf."""
        data = self.path.data
        opposed = super().__call__(state, logits, batch)
        shift = make_shift(self.path.margin, data.device, data.dtype)
        settings: dict[str, Any] = {"margin": shift, "gap_weight": 0.0, "n_groups": data.n_groups}
        entropy = edit_loss(logits, batch, self.path.constraint, **settings)
        own, other = (
            torch.autograd.grad(loss, [self.leaf], retain_graph=True)[0]
            for loss in (entropy, -opposed)
        )
        return (self.leaf * (project(own, other, self.strength) - own)).sum()
