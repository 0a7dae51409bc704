"""The bases of editors that have a budget of visits, and of those that minimise a loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np

from ..base import (
    Candidate,
    Interval,
    NetworkEditor,
    StrOptions,
    Task,
    parameter,
    positive_int,
    with_parameters,
)
from ._batches import is_table
from ._budget import Budget, brief_margin, find_budget
from ._cells import JOINTS, count_teachers
from ._teacher import Teacher, find_teacher

__all__ = ["BudgetedEditor", "TuningEditor"]


# Share of a budget that goes into the teacher.
TEACHING = 1 / 3


@with_parameters
class BudgetedEditor(NetworkEditor):
    """Base class of the editors whose cost can be limited.

    Parameters
    ----------
    max_epochs : float or None, default=None
        Budget of the edit, judging included, in passes over the editing rows: a row that is learned
        from costs one visit, a row that is only judged a third. The budget decides how many steps,
        trials and candidates there are. Where a soft gap is followed, one weight of it is tried, in
        batches of 64 rows, and a threshold is moved only where that gains more than noise. None: 15
        for images, unless a number of steps or trials is given (``max_steps``, ``n_trials``,
        ``n_calls``); no budget for tables, as for ``numpy.inf``.
    """

    max_epochs: float | None = parameter(
        Interval(Real, 0, None, closed="right"), None, default=None
    )

    def _budget(self, task: Task) -> Budget | None:
        """Find what the edit may cost; None: what its other parameters say."""
        return find_budget(task.data, self.max_epochs, self._asked_steps())

    def _asked_steps(self) -> int | None:
        """Return the number of steps or trials that the user asked for."""
        asked: int | None = getattr(self, "max_steps", None)
        return asked


@with_parameters
class TuningEditor(BudgetedEditor):
    """Base class of the editors that tune a network under a loss.

    Parameters
    ----------
    objective : {"auto", "teacher", "soft_gap"}, default="auto"
        What the edit follows. "teacher": the fair Bayes rule on predicted (label, group) cells,
        imitated row by row. "soft_gap": the labels and the soft gap of each batch. "auto":
        "teacher" for tables with groups, unless ``gap_weight`` is given; else "soft_gap".
    joint : {"auto", "refit", "finetune", "head"}, default="auto"
        Origin of the teacher's networks, see :class:`BlindPostProcessor`. "auto": "refit" for
        tables, "finetune" for images.
    n_teachers : int or None, default=None
        Networks of the teacher, whose probabilities are averaged. None: 2, and 1 for tables of at
        least 5,000 editing rows and under a budget.
    balance : {"auto", "cells", "classes"} or None, default="auto"
        How the cross-entropy weighs rows: every (label, group) cell alike, every class alike, or
        every row alike. "auto": "cells" where some cell holds less than half the rows that
        independence of label and group would give it, else "classes". Not used with a teacher.

    Attributes
    ----------
    objective_ : {"teacher", "soft_gap"}
        What the edit followed.
    balance_ : {"cells", "classes"} or None
        How the cross-entropy weighed rows.
    """

    objective: str = parameter(StrOptions({"auto", "teacher", "soft_gap"}), default="auto")
    joint: str = parameter(StrOptions({"auto", *JOINTS}), default="auto")
    n_teachers: int | None = parameter(positive_int(), None, default=None)
    balance: str | None = parameter(StrOptions({"auto", "cells", "classes"}), None, default="auto")

    def _loss_balance(self) -> str | None:
        return self.balance

    def _budget(self, task: Task, imitates: bool = False) -> Budget | None:
        """Find what the edit may cost beside its teacher; None: what its other parameters say."""
        budget = super()._budget(task)
        if budget is None or not imitates:
            return budget
        return budget.less(TEACHING * budget.visits)

    def _followed(self, task: Task, imitates: bool) -> dict[str, Any]:
        """Return the fitted attributes that say what the loss followed."""
        return {
            "balance_": task.constraint.balance,
            "objective_": "teacher" if imitates else "soft_gap",
        }

    def _first_candidate(
        self,
        task: Task,
        params: Mapping[str, Any],
        attributes: Mapping[str, Any],
        *,
        imitates: bool,
    ) -> Candidate:
        """Make the first candidate; under a budget it is judged as the others are."""
        verdict = None
        if not imitates and self._budget(task) is not None:
            verdict = task.data.judge.steady(task.data.untouched, brief_margin(task.data))
        return Candidate({}, {"stage": "untouched", **params}, attributes, verdict=verdict)

    def _imitates(self, task: Task, gap_weight: float | None) -> bool:
        """Tell whether the edit imitates a teacher.

        Raises
        ------
        ValueError
            A teacher is requested, and a weight of the soft gap too, or there is no rule to teach.
        """
        if self.objective == "teacher" and gap_weight is not None:
            raise ValueError(
                f"gap_weight={gap_weight!r} is the weight of the soft gap, which "
                "objective='teacher' does not follow. Use objective='soft_gap', or gap_weight=None."
            )
        if self.objective == "teacher" and not task.constraint.has_rule:
            names = ", ".join(each.name for each in task.constraint.listed)
            raise ValueError(
                f"objective='teacher' needs a gap whose fair rule is known, which {names} is not: "
                "use objective='auto' or 'soft_gap', or add such a gap to constraint=."
            )
        if self.objective != "auto":
            return self.objective == "teacher"
        known = task.data.has_groups and task.constraint.has_rule
        return is_table(task.data) and known and gap_weight is None

    def _find_teacher(self, task: Task, rng: np.random.Generator) -> Teacher:
        """Train the teacher.

        The generator is not advanced, so that an edit's other draws do not depend on the teacher.
        """
        joint = self.joint
        if joint == "auto":
            joint = "refit" if is_table(task.data) else "finetune"
        seed = np.random.SeedSequence(int(rng.spawn(1)[0].integers(2**63 - 1)))
        budget = self._budget(task)
        n_teachers = count_teachers(self.n_teachers, task.data)
        if budget is not None:
            n_teachers = self.n_teachers or 1
            budget = replace(budget, visits=TEACHING * budget.visits)
        return find_teacher(task, joint, n_teachers, seed, budget)
