"""Choice among candidates and thresholds by utility under a gap; never a collapsed network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..groups import cell_codes
from ._constraint import Constraint, ask_utility, chance_utility, utility_from_counts
from ._sweep import Cuts, as_pairs, or_infinite, pooled, quantiles, sweep
from ._verdict import MAX_MARGIN, Curves, Verdict, best_cut, margin_of_threshold, steady_cut

__all__ = ["GapJudge", "Judge"]

# A callable utility is computed at this many quantiles of the margin, not at every value.
N_CALLABLE_CUTS = 101

# A candidate that fits editing rows better than validation rows by more than this is judged on each
# separately.
OVERFIT_CANDIDATE = 0.05

# If a validation cell holds fewer rows, a gap on validation rows alone is noise: the standard error
# of its rate may exceed a tenth.
MIN_CELL = 20

# Standard errors that a threshold must gain, since the best of many is more often chance. With one
# an edit of faces by age lost .33 of the worst cell on development rows.
GAP_NOISE = 2.0

# Utilities over cells; under these the fit of a candidate is measured over cells, too.
OF_CELLS = ("cell_balanced_accuracy", "worst_cell_accuracy", "mean_and_worst_cell_accuracy")


@dataclass(frozen=True)
class Judge(ABC):
    """Rows with known labels and groups, on which candidates are compared.

    Attributes
    ----------
    y, groups : ndarray of shape (n,), int64
    parts : ndarray of shape (n,), int64
        0 for validation rows, 1 for editing rows.
    n_classes, n_groups : int
    constraint : Constraint
    floor : float
        Smallest utility of a candidate that may be chosen.
    weights : ndarray of shape (n,), float64, optional
        How often each row counts; None: once.
    """

    y: NDArray[np.int64]
    groups: NDArray[np.int64]
    parts: NDArray[np.int64]
    n_classes: int
    n_groups: int
    constraint: Constraint
    floor: float = -np.inf
    weights: NDArray[np.float64] | None = field(default=None, kw_only=True)

    @abstractmethod
    def curves(self, logits: Tensor | Curves) -> Curves:
        """Measure utility and gap at every threshold; no threshold if a logit is not finite."""

    def __call__(self, logits: Tensor | Curves, limit: float | None = None) -> Verdict:
        """Find the best threshold of a candidate.

        Parameters
        ----------
        logits : Tensor of shape (n, n_classes) or Curves
            Logits of the judge's rows, in order, or their curves, to measure them only once.
        limit : float, optional
            Replaces both the constraint's limit and its target.
        """
        constraint = self.constraint
        bounds = (constraint.limit, constraint.target) if limit is None else (limit, limit)
        return best_cut(self.curves(logits), *bounds, floor=self.floor)

    def for_utility(self, logits: Tensor | Curves) -> Verdict:
        """Find the threshold of highest utility, whatever the gap."""
        return best_cut(self.curves(logits), np.inf, np.inf, floor=-np.inf)

    def steady(
        self, logits: Tensor | Curves, margin: float, *, for_utility: bool = False
    ) -> Verdict:
        """Keep a threshold unless another one is better by more than chance explains.

        Parameters
        ----------
        logits : Tensor of shape (n, n_classes) or Curves
        margin : float
            The threshold to keep.
        for_utility : bool, default=False
            Whatever the gap.
        """
        asked = self.constraint.limit, self.constraint.target, self.floor
        bounds = (np.inf, np.inf, -np.inf) if for_utility else asked
        noise = self.noise * (1.0 if for_utility else GAP_NOISE)
        # What a user has required is met wherever a threshold meets it.
        strict = bool(self.constraint.requirements)
        return steady_cut(self.curves(logits), margin, noise, *bounds, strict=strict)

    @cached_property
    def noise(self) -> float:
        """Standard error of the difference of two rates of .5 on the smallest validation cell."""
        cells = self._count(np.zeros_like(self.y))[0].sum(axis=2)
        return float(np.sqrt(0.5 / max(1, cells[cells > 0].min(initial=len(self.y)))))

    def against(self, logits: Tensor | Curves) -> Judge:
        """Set the floor: chance plus half of the untouched network's lead over chance.

        Where the worst cell counts, chance is a coin if the network beats it, not a constant.
        """
        y, groups = self.y[self.utility_rows], self.groups[self.utility_rows]
        cells = cell_codes(y, groups, self.n_groups)
        weights = None if self.weights is None else self.weights[self.utility_rows]
        table = np.bincount(cells, weights, minlength=self.n_classes * self.n_groups)
        table = table.reshape(self.n_classes, self.n_groups)
        chance = chance_utility(y, groups, table, self.constraint.utility)
        best = self.for_utility(logits).utility
        if self.constraint.utility in OF_CELLS and best > 1 / self.n_classes:
            chance = max(chance, 1 / self.n_classes)
        return replace(self, floor=chance + max(0.0, best - chance) / 2)

    def referring(self, logits: Tensor) -> Self:
        """Remember the untouched network's decisions, if the constraint compares with them."""
        if not self.constraint.compares:
            return self
        before = self._count(logits.double().numpy().argmax(axis=1))
        return replace(self, constraint=replace(self.constraint, reference=before))

    @property
    def utility_rows(self) -> NDArray[np.bool_]:
        """Mark the rows on which the utility is measured."""
        return np.ones(len(self.y), dtype=bool)

    @property
    def separate(self) -> bool:
        """Tell whether validation and editing rows are judged separately."""
        return False

    def apart(self) -> Judge:
        """Judge validation and editing rows separately, if the rule can."""
        return self

    def together(self) -> Judge:
        """Judge validation and editing rows together, for what cannot memorise the latter."""
        return self

    @property
    def comparable(self) -> bool:
        """Tell whether there are groups, and rows of both parts."""
        return self.n_groups > 1 and 0 < int(self.parts.sum()) < len(self.parts)

    def excess(
        self, logits: NDArray[np.floating[Any]], margin: float, mean: str | None = None
    ) -> float:
        """Measure how much better editing rows are fitted than validation rows.

        Parameters
        ----------
        logits : ndarray of shape (n, n_classes)
        margin : float
            The threshold; not used for more than two classes.
        mean : {"balanced_accuracy", "cell_balanced_accuracy"}, optional
            None: over cells if the utility is one over cells, else over classes.

        Returns
        -------
        excess : float
            Difference of the mean accuracies.
        """
        if mean is None:
            of_cells = self.constraint.utility in OF_CELLS
            mean = "cell_balanced_accuracy" if of_cells else "balanced_accuracy"
        predicted = logits.argmax(axis=1)
        if self.n_classes == 2:
            predicted = (logits[:, 1] - logits[:, 0] > margin).astype(np.int64)
        validation, editing = utility_from_counts(self._count(predicted), mean)
        return float(editing - validation)

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """Index of every row in a flat table of counts, without its predicted class."""
        of_group = self.parts * self.n_groups + self.groups
        return (of_group * self.n_classes + self.y) * self.n_classes

    def _count(self, predictions: NDArray[np.int64]) -> NDArray[Any]:
        """Count [part, group, true, predicted]."""
        shape = (2, self.n_groups, self.n_classes, self.n_classes)
        counts = np.bincount(self._places + predictions, self.weights, minlength=math.prod(shape))
        return counts.reshape(shape)


@dataclass(frozen=True)
class GapJudge(Judge):
    """Judges by the utility under a limit on the gap, the package's own rule.

    Attributes
    ----------
    held_apart : bool
        Hold validation and editing rows to the limit separately, and measure the utility on
        validation rows alone, for networks that are over-fitted to the editing rows. False: do so
        only for over-fitted candidates, if validation cells are large enough to tell.
    y, groups, parts, n_classes, n_groups, constraint, floor, weights
        See :class:`Judge`.
    """

    held_apart: bool = False

    @property
    def separate(self) -> bool:
        """Tell whether validation and editing rows are judged separately."""
        return self.held_apart

    def apart(self) -> GapJudge:
        """Judge validation and editing rows separately."""
        return replace(self, held_apart=True)

    def together(self) -> GapJudge:
        """Judge validation and editing rows together unless a candidate is over-fitted itself."""
        return replace(self, held_apart=False)

    @property
    def utility_rows(self) -> NDArray[np.bool_]:
        """Mark the rows on which the utility is measured."""
        return (self.parts == 0) | (not self.separate)

    def curves(self, logits: Tensor | Curves) -> Curves:
        """Measure utility and gap at every threshold; no threshold if a logit is not finite."""
        if isinstance(logits, Curves):
            return logits
        values = logits.double().numpy()
        if not np.isfinite(values).all():
            return Curves(np.empty(0), np.empty(0), np.empty(0))
        curves = self._measure(values)
        if self.separate or not self.can_tell:
            return curves
        if self.excess(values, curves.thresholds[curves.utility.argmax()]) <= OVERFIT_CANDIDATE:
            return curves
        # An over-fitted candidate's gap on its own rows is uninformative, and they outnumber the
        # validation rows.
        return replace(self.apart()._measure(values), apart=True)

    @cached_property
    def can_tell(self) -> bool:
        """Tell whether every (label, group) cell of validation rows that has any has enough."""
        cells = self._count(np.zeros_like(self.y))[0]
        return self.comparable and bool(cells[cells > 0].min() >= MIN_CELL)

    def _measure(self, logits: NDArray[np.float64]) -> Curves:
        parts = [
            (cuts.thresholds, self._utility(cuts), self._gap(cuts.counts))
            for cuts in self._cuts(logits)
        ]
        return Curves(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _cuts(self, logits: NDArray[np.float64]) -> Iterator[Cuts]:
        if self.n_classes > 2:
            yield Cuts(np.zeros(1), self._count(logits.argmax(axis=1))[None])
            return
        # One less than the largest threshold, so that the cuts beyond both ends stay in range.
        margins = np.clip(logits[:, 1] - logits[:, 0], 1 - MAX_MARGIN, MAX_MARGIN - 1)
        tuned = self.constraint.threshold is None
        if tuned and self.constraint.swept:
            # Parts that are judged together share one table, which halves the counting.
            parts = self.parts if self.separate else np.zeros_like(self.parts)
            codes, sizes = (self.y, self.groups, parts), (self.n_groups, 1 + int(self.separate))
            yield from sweep(margins, *codes, *sizes, self.weights)
            return
        cuts = [margin_of_threshold(self.constraint.threshold or 0.5)]
        if tuned:
            cuts = quantiles(margins, np.linspace(0, 1, N_CALLABLE_CUTS), self.weights).tolist()
        for cut in cuts:
            yield Cuts(np.array([cut]), self._count((margins > cut).astype(np.int64))[None])

    def _utility(self, cuts: Cuts) -> NDArray[np.float64]:
        counts = cuts.counts[:, 0] if self.separate else pooled(cuts.counts)
        name = self.constraint.utility
        if not callable(name):
            return utility_from_counts(counts, name)
        return np.array([ask_utility(name, *as_pairs(table)) for table in counts])

    def _gap(self, counts: NDArray[Any]) -> NDArray[np.float64]:
        if self.n_groups < 2:
            return np.zeros(len(counts))
        measure, before = self.constraint.measure, self.constraint.reference
        if not self.separate:
            whole = None if before is None else before.sum(axis=0)
            return or_infinite(measure(pooled(counts), whole))
        both = measure(counts, before)
        return or_infinite(np.fmax(both[:, 0], both[:, 1]))
