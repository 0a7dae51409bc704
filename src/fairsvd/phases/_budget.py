"""A budget of an edit in visits of rows: how many steps and candidates it buys."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..base import EditData
from ._batches import is_table, list_gap_weights

__all__ = ["FORWARD", "Budget", "brief_margin", "brief_weights", "find_budget"]

# A pass without gradients costs a third of one with them.
FORWARD = 1 / 3

# Epochs that an edit of images may cost if the user has no other wish.
IMAGE_BUDGET = 15.0

# More passes over the rows than this were no better on development rows of faces and of tinted
# Fashion-MNIST, whatever the budget.
MOST_EPOCHS = 10.0

# Rows of a step under a budget: small batches make more steps of the same visits.
BRIEF_ROWS = 64

# The weight of the soft gap that a budget tries. With 3 the accuracy on development rows of faces
# fell by several points.
BRIEF_WEIGHT = 1.0

# Visits of the few rows on which a network is tried before it is edited.
TRIED = 64

# At most this share of a budget is spent on judging, so that few rows are learned from enough.
JUDGING = 1 / 3


@dataclass(frozen=True)
class Budget:
    """Visits of rows that are left to an edit.

    A row that is learned from costs one visit, a row that is only judged a third.

    Attributes
    ----------
    visits : float
    n_editing, n_judged : int
    step_rows : int
        Rows of one step.
    """

    visits: float
    n_editing: int
    n_judged: int
    step_rows: int

    def asked(self, loyalty: float) -> float:
        """Count the visits of a step that ask the untouched network, which the loss holds on to.

        Parameters
        ----------
        loyalty : float
            Weight of what the untouched network says in the loss; with 0 it is not asked.
        """
        return FORWARD * self.step_rows if loyalty else 0.0

    @property
    def look(self) -> float:
        """Visits that judging one candidate costs."""
        return FORWARD * self.n_judged

    def less(self, visits: float) -> Budget:
        """Take visits away."""
        return replace(self, visits=max(0.0, self.visits - visits))

    def count_trials(self, most: int) -> int:
        """Count the candidates that can be judged if nothing is learned: at least 1."""
        return max(1, min(most, int(self.visits / max(self.look, 1e-9))))

    def keep_features(self) -> tuple[Budget, bool]:
        """Add a pass over the editing rows to every look, if one look can be paid; say whether."""
        kept = replace(self, n_judged=self.n_judged + self.n_editing)
        affordable = kept.look <= JUDGING * self.visits
        return (kept if affordable else self), affordable

    def count_looks(self, most: int) -> int:
        """Count the candidates that can be judged: at least 1, at most ``most``."""
        return max(1, min(most, int(JUDGING * self.visits / max(self.look, 1e-9))))

    def count_steps(self, n_looks: int, a_step: float | None = None, asked: float = 0.0) -> int:
        """Count the steps that are left beside the candidates: as many before each, at least 1.

        Parameters
        ----------
        n_looks : int
            Candidates to be judged.
        a_step : float, optional
            Visits of a step; None: one for each of :attr:`step_rows`.
        asked : float, default=0.0
            Visits of a step that only ask the untouched network; the most passes leave them out.
        """
        a_step = self.step_rows if a_step is None else a_step
        afforded = (self.visits - n_looks * self.look) / (a_step + asked)
        n_steps = math.floor(min(afforded, MOST_EPOCHS * self.n_editing / a_step))
        return max(1, n_steps - n_steps % n_looks)

    def shrink(
        self, n_steps: int, n_candidates: int, a_step: float, n_paths: int
    ) -> tuple[int, int]:
        """Cut the steps and candidates of paths that are tried for a third before the best runs.

        Parameters
        ----------
        n_steps, n_candidates : int
            As many as the path that runs to its end would have without a budget.
        a_step : float
            Visits of a step.
        n_paths : int
        """
        runs = 1 + n_paths / 3 if n_paths > 1 else 1.0
        # Every run looks at its start, and rounds its third up by a step and a candidate.
        fixed = (1 + n_paths) * self.look + n_paths * (a_step + self.look) * (n_paths > 1)
        each = replace(self, visits=max(0.0, self.visits - fixed) / runs)
        n_candidates = each.count_looks(n_candidates)
        return min(n_steps, each.count_steps(n_candidates, a_step)), n_candidates

    def count_lessons(self, n_steps: int, n_candidates: int, rows: int) -> tuple[int, int]:
        """Cut the steps and candidates of an imitation, for which a third of the budget is left.

        Parameters
        ----------
        n_steps, n_candidates : int
            As many as there would be without a budget.
        rows : int
            Rows of a step, for which the teacher answers, too.
        """
        third = replace(self, visits=self.visits / 3)
        n_candidates = third.count_looks(n_candidates)
        return min(n_steps, third.count_steps(n_candidates, (1 + FORWARD) * rows)), n_candidates


def brief_weights(data: EditData, asked: float | None) -> tuple[float, ...]:
    """List the one weight of the soft gap that a budget tries: the requested one, or 1."""
    return list_gap_weights(data, BRIEF_WEIGHT if asked is None else asked)


def brief_margin(data: EditData) -> float:
    """Return the threshold at which brief edits are tuned: the network's own, if it serves.

    Tuned thresholds follow the noise of the judged rows, which costs the worst cell more on other
    rows than it gains.
    """
    return data.judge.steady(data.untouched, 0.0, for_utility=True).margin


def find_budget(
    data: EditData, max_epochs: float | None, asked: int | None = None
) -> Budget | None:
    """Find what an edit may still cost once the untouched network is judged.

    Parameters
    ----------
    data : EditData
    max_epochs : float or None
        None: 15 for images, unless ``asked`` is given; else there is no budget, as for an
        infinite one.
    asked : int or None
        Steps or trials that the user asked for.
    """
    if max_epochs is None and (asked is not None or is_table(data)):
        return None
    epochs = IMAGE_BUDGET if max_epochs is None else float(max_epochs)
    if math.isinf(epochs):
        return None
    n_editing, n_judged = len(data.editing), len(data.judged)
    rows = min(BRIEF_ROWS, data.batch_size, n_editing)
    return Budget(epochs * n_editing, n_editing, n_judged, rows).less(FORWARD * n_judged + TRIED)
