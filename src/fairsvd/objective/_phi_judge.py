"""The choice among candidates and thresholds by phi."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ._constraint import Constraint, utility_from_counts
from ._counts import count_table
from ._gaps import gap
from ._judge import GapJudge, Judge
from ._phi import PhiObjective, bin_counts, resamples
from ._verdict import MAX_MARGIN, Curves, Verdict, margin_of_threshold

__all__ = ["PhiCurves", "PhiJudge", "make_judge"]

Counter = Callable[[NDArray[Any] | None], NDArray[np.float64]]


@dataclass(frozen=True)
class PhiCurves(Curves):
    """Utility, gap and phi at every threshold of one candidate.

    Attributes
    ----------
    thresholds, utility, gaps : ndarray of shape (n_cuts,), float64
        Utility and gap of the rows as they are.
    phi : ndarray of shape (n_cuts,), float64
        Mean over the resamples.
    """

    phi: NDArray[np.float64]


@dataclass(frozen=True)
class PhiJudge(Judge):
    """Judges by phi; a call with a limit of its own is answered as by any judge.

    Attributes
    ----------
    y, groups, parts, n_classes, n_groups, constraint, floor, weights
        As of :class:`Judge`; the constraint must have its ``phi``. All rows count, whatever their
        part, so they must be validation rows.
    """

    def __call__(self, logits: Tensor | Curves, limit: float | None = None) -> Verdict:
        """Find the best threshold of a candidate: the first of largest phi.

        Parameters
        ----------
        logits : Tensor of shape (n, n_classes) or Curves
            As for :class:`Judge`.
        limit : float, optional
            Find the threshold of highest utility under this gap instead.
        """
        curves = self.curves(logits)
        if limit is not None or not isinstance(curves, PhiCurves):
            return super().__call__(curves, limit)
        i = int(np.argmax(curves.phi))
        if curves.phi[i] == 0:
            return replace(self.for_utility(curves), feasible=False, value=0.0)
        return Verdict(
            float(curves.thresholds[i]),
            float(curves.utility[i]),
            float(curves.gaps[i]),
            True,
            float(curves.phi[i]),
        )

    def steady(
        self, logits: Tensor | Curves, margin: float, *, for_utility: bool = False
    ) -> Verdict:
        """Find the threshold of highest phi, which has no threshold to keep."""
        return self.for_utility(logits) if for_utility else self(logits)

    def curves(self, logits: Tensor | Curves) -> Curves:
        """Measure utility, gap and phi at every threshold; none if a logit is not finite."""
        if isinstance(logits, Curves):
            return logits
        values = logits.double().numpy()
        if not np.isfinite(values).all():
            return Curves(np.empty(0), np.empty(0), np.empty(0))
        cuts, count = self._counter(values)
        utility, gaps = self._measure(count(self.weights))
        total, n_resamples = np.zeros(len(cuts)), 0
        for drawn in resamples(len(self.y), self.objective):
            times = drawn if self.weights is None else drawn * self.weights
            rho, bias = self._measure(count(times))
            total += np.where(bias < self.objective.limit, rho, 0.0)
            n_resamples += 1
        return PhiCurves(cuts, utility, gaps, total / n_resamples)

    @property
    def objective(self) -> PhiObjective:
        """Return the objective of the constraint."""
        if self.constraint.phi is None:
            raise ValueError("the constraint of a PhiJudge needs phi=PhiObjective(...).")
        return self.constraint.phi

    def _counter(self, logits: NDArray[np.float64]) -> tuple[NDArray[np.float64], Counter]:
        """Return thresholds, and a counter of [cut, group, true, predicted] for weighted rows."""
        if self.n_classes > 2:
            return np.zeros(1), partial(self._count_classes, logits.argmax(axis=1))
        cuts = self._cuts_of_margin()
        margins = np.clip(logits[:, 1] - logits[:, 0], 1 - MAX_MARGIN, MAX_MARGIN - 1)
        # A row is predicted positive strictly above a cut.
        return cuts, partial(self._count_cuts, np.searchsorted(cuts, margins), len(cuts))

    def _cuts_of_margin(self) -> NDArray[np.float64]:
        if self.constraint.threshold is not None:
            return np.array([margin_of_threshold(self.constraint.threshold)])
        grid = np.linspace(0, 1, self.objective.n_thresholds)[1:-1]
        # The ends lie beyond every margin: they predict everybody positive, and nobody.
        return np.concatenate([[-MAX_MARGIN], np.log(grid / (1 - grid)), [MAX_MARGIN]])

    def _count_cuts(
        self, bins: NDArray[np.int64], n_cuts: int, weights: NDArray[Any] | None
    ) -> NDArray[np.float64]:
        n_cells = 2 * self.n_groups
        counts = bin_counts(self.groups * 2 + self.y, bins, n_cells, n_cuts, weights)
        return np.moveaxis(counts.reshape(self.n_groups, 2, 2, n_cuts), -1, 0)

    def _count_classes(
        self, predicted: NDArray[np.int64], weights: NDArray[Any] | None
    ) -> NDArray[np.float64]:
        sizes = self.n_classes, self.n_groups
        counts = count_table(self.y, predicted, self.groups, *sizes, weights)
        return counts[None].astype(np.float64)

    def _measure(
        self, counts: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute utility and gap; a gap that cannot be measured is infinite."""
        utility = utility_from_counts(counts, str(self.constraint.utility))
        if self.n_groups < 2:
            return utility, np.zeros(len(counts))
        gaps = gap(counts, self.constraint.gap, self.constraint.pos)
        return utility, np.where(np.isnan(gaps), np.inf, gaps)


def make_judge(
    y: NDArray[np.int64],
    groups: NDArray[np.int64],
    parts: NDArray[np.int64],
    n_classes: int,
    n_groups: int,
    constraint: Constraint,
    weights: NDArray[np.float64] | None = None,
) -> Judge:
    """Make the judge that a constraint asks for; see :class:`Judge` for the arguments."""
    kind = GapJudge if constraint.phi is None else PhiJudge
    return kind(y, groups, parts, n_classes, n_groups, constraint, weights=weights)
