"""Judging of candidates, on real rows if their groups are known, else on synthetic rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..arrays import LabelledRows
from ..base import Candidate, EditData, Task
from ..objective import Constraint, Judge, Verdict, make_judge
from ..phases import judge_state

__all__ = ["Choice", "synthetic_judge"]


@dataclass(frozen=True)
class Choice:
    """Judges states of a module.

    Attributes
    ----------
    data : EditData
        The real rows, with the judge that every editor has.
    held : LabelledRows or None
        Synthetic rows on which nothing is tuned; None: the real rows' own judge decides.
    held_judge : Judge or None
        Judge of the rows in ``held``.
    """

    data: EditData
    held: LabelledRows | None = None
    held_judge: Judge | None = None

    def judge(
        self,
        module: nn.Module,
        state: Mapping[str, Tensor],
        params: Mapping[str, Any],
        attributes: Mapping[str, Any],
    ) -> Candidate:
        """Judge a state and pack it."""
        if self.held is None or self.held_judge is None:
            task = Task(module, self.data, self.data.judge.constraint)
            return judge_state(task, state, params, attributes)
        logits = self.data.logits(module, state)
        verdict = self.held_judge(self.data.logits(module, state, self.held.X))
        verdict = self._place(verdict, logits)
        return Candidate(state, params, attributes, verdict=verdict, logits=logits)

    def _place(self, verdict: Verdict, logits: Tensor) -> Verdict:
        """Take the threshold from the real rows, and reject a candidate of low utility there.

        The labels of the real rows are known, and a threshold from the synthetic rows would carry
        over their shift.
        """
        real = self.data.judge.for_utility(logits)
        verdict = replace(verdict, margin=real.margin)
        if real.utility >= self.data.judge.floor:
            return verdict
        return replace(verdict, feasible=False, value=-np.inf)


def synthetic_judge(
    held: LabelledRows, logits: Tensor, n_classes: int, n_groups: int, constraint: Constraint
) -> Judge:
    """Make a judge of synthetic rows, its floor set by the untouched network.

    Parameters
    ----------
    held : LabelledRows
    logits : Tensor of shape (n_held, n_classes)
        Of the untouched network.
    n_classes, n_groups : int
    constraint : Constraint
    """
    y, groups = held.y.numpy(), held.groups.numpy()
    parts = np.zeros(len(y), dtype=np.int64)
    judge = make_judge(y, groups, parts, n_classes, n_groups, constraint)
    return judge.referring(logits).against(logits)
