"""A promise with a confidence: candidates of rising risk, tested on rows kept out of the choice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from .._rng import stage_rng
from ..arrays import LabelledRows, to_device
from ..networks import fast_logits, to_logits
from ..objective import (
    Constraint,
    Requirement,
    Seen,
    Verdict,
    count_moves,
    count_table,
    rows_needed,
)
from ._apply import apply_to_copy
from ._candidate import Candidate
from ._task import EditData

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Certificate", "Ladder", "Rung"]

# How much stricter than the limit the candidates are chosen that are tested, in multiples of what
# the bound adds to a measured value on so many rows. The one that seems safest comes first: if it
# fails, nothing is promised.
STRICTER = (1.6, 1.2, 0.9, 0.6, 0.3, 0.0)


@dataclass(frozen=True)
class Certificate:
    """What is promised of an edited network on new people, and on what grounds.

    Attributes
    ----------
    confidence : float in [0.5, 1)
        A promise is wrong with a chance of at most 1 - confidence.
    given : bool
        Whether everything that was asked is promised.
    n_rows : int
        Rows on which the promise was tested. Nothing was trained or chosen on them.
    rows_needed : float
        How many rows the promise would take if they showed the same rates; infinite if the
        measured values do not meet the limits themselves, or only just.
    n_tested : int
        Candidates that were tested, the safest first, until one failed.
    entries : tuple of dict
        The rows of ``table``.
    """

    confidence: float
    given: bool
    n_rows: int
    rows_needed: float
    n_tested: int
    entries: tuple[dict[str, Any], ...]

    @property
    def table(self) -> pd.DataFrame:
        """What was asked: limit, measured, bound, met, rows_needed; one row for each constraint."""
        import pandas as pd

        return pd.DataFrame(list(self.entries)).set_index("constraint")

    def __str__(self) -> str:
        parts = [
            f"{each['constraint']} at most {each['limit']:.3g} (measured {each['measured']:.3f}, "
            f"bound {each['bound']:.3f})"
            for each in self.entries
        ]
        asked = "; ".join(parts)
        on = f"on {self.n_rows} rows kept out of the choice"
        if self.given:
            exact = all(each["exact"] for each in self.entries)
            how = "" if exact else " (of your own function by a bootstrap, which is approximate)"
            return f"Promised with {self.confidence:.0%} confidence{how}, {on}: {asked}."
        if all(each["met"] for each in self.entries):
            failed = "a candidate that seemed safer failed, after which no other is tested"
            return f"Not promised with {self.confidence:.0%} confidence, {on}: {asked}; {failed}."
        more = (
            f"about {self.rows_needed:,.0f} such rows of the same rates would be needed"
            if np.isfinite(self.rows_needed)
            else "no number of such rows of the same rates would do"
        )
        return f"Not promised with {self.confidence:.0%} confidence, {on}: {asked}; {more}."


@dataclass(frozen=True)
class Rung:
    """The best candidate under one limit.

    Attributes
    ----------
    candidate : Candidate
    verdict : Verdict
    logits : Tensor or None
        Of the judged rows.
    place : int
        Position of the candidate in the history.
    """

    candidate: Candidate
    verdict: Verdict
    logits: Tensor | None
    place: int


class Ladder:
    """The best candidates under limits of several strictness.

    They are tested in an order that the certifying rows have no part in, each at the full level,
    until one fails: that any promise is wrong then has a chance of at most 1 - confidence (fixed
    sequence testing, as in arXiv:2110.01052).

    Parameters
    ----------
    data : EditData
        With rows to certify on.
    """

    def __init__(self, data: EditData) -> None:
        self.data = data
        self.constraint: Constraint = data.judge.constraint
        self.rungs: list[Rung | None] = [None] * len(STRICTER)
        limit, error = self.constraint.limit, self._error()
        self.limits = [limit - share * error if share else None for share in STRICTER]

    def offer(self, candidate: Candidate, logits: Tensor | None, place: int) -> None:
        """Let a candidate take every rung on which it is the best so far."""
        if logits is None or not logits.isfinite().all():
            return
        judge = self.data.judge
        curves = judge.curves(logits)
        for k, limit in enumerate(self.limits):
            verdict, best = judge(curves, limit), self.rungs[k]
            if best is None or verdict.rank > best.verdict.rank:
                self.rungs[k] = Rung(candidate, verdict, logits, place)

    def _error(self) -> float:
        """Find what a bound adds to a measured value, by the untouched network's choosing rows."""
        seen = self._choosing(self.data.untouched, self.data.margin)
        errors = [
            self._bound(each, seen) - float(each.measure(seen.counts, seen.pos, seen.before))
            for each in self.constraint.listed
        ]
        return max((error for error in errors if np.isfinite(error)), default=0.0)

    def _risk(self, rung: Rung) -> float:
        """Guess by how much a candidate will miss what is asked, on the choosing rows."""
        if rung.logits is None:
            return float("inf")
        seen = self._choosing(rung.logits, rung.verdict.margin)
        return max(self._bound(each, seen) - each.limit for each in self.constraint.listed)

    def _choosing(self, logits: Tensor, margin: float) -> Seen:
        """Count the predictions for the validation rows that candidates are chosen on."""
        data, judge = self.data, self.data.judge
        held = judge.parts == 0
        before, after = (each.double().numpy()[held] for each in (data.untouched, logits))
        after = after - np.array([0.0, margin] + [0.0] * (data.n_classes - 2))
        pair, sizes = (before.argmax(axis=1), after.argmax(axis=1)), (data.n_classes, data.n_groups)
        return see(judge.y[held], pair, judge.groups[held], sizes, self.constraint.pos)

    def _bound(self, requirement: Requirement, seen: Seen) -> float:
        # The same draws for every number of rows.
        level = float(self.constraint.confidence or 0.0)
        return requirement.bound(seen, level, stage_rng(0, "certificate"))

    def certify(self, module: nn.Module, chosen: Rung) -> tuple[Rung, Certificate]:
        """Test the rungs; without a promise keep what was chosen without one.

        Returns
        -------
        rung : Rung
        certificate : Certificate
        """
        rungs = {(r.place, r.verdict.margin): r for r in self.rungs if r is not None}
        best: Rung | None = None
        tested = 0
        for rung in sorted(rungs.values(), key=self._risk):
            tested += 1
            seen = self._see(module, rung)
            if any(self._bound(each, seen) > each.limit for each in self.constraint.listed):
                break
            if best is None or rung.verdict.utility > best.verdict.utility:
                best = rung
        rung = chosen if best is None else best
        seen = self._see(module, rung)
        entries = tuple(self._entry(each, seen) for each in self.constraint.listed)
        needed = max(each["rows_needed"] for each in entries)
        level, n_rows = float(self.constraint.confidence or 0.0), int(seen.counts.sum())
        return rung, Certificate(level, best is not None, n_rows, needed, tested, entries)

    def _entry(self, requirement: Requirement, seen: Seen) -> dict[str, Any]:
        limit, n_rows = requirement.limit, int(seen.counts.sum())
        upper = self._bound(requirement, seen)

        def meets(factor: float) -> bool:
            return self._bound(requirement, seen.times(factor)) <= limit

        return {
            "constraint": requirement.name,
            "limit": limit,
            "measured": float(requirement.measure(seen.counts, seen.pos, seen.before)),
            "bound": upper,
            "met": bool(upper <= limit),
            "rows_needed": rows_needed(meets, n_rows),
            "exact": requirement.is_exact,
        }

    def _see(self, module: nn.Module, rung: Rung) -> Seen:
        """Count the predictions for the certifying rows, before and after."""
        data, rows = self.data, self.data.certifying
        if rows is None:
            raise ValueError("There are no rows to certify on.")
        before = data.logits(module, {}, rows.X).argmax(dim=1).numpy()
        after = _logits_of(module, rung.candidate, data, rows).double().numpy()
        after[:, 1] -= rung.verdict.margin
        pair, sizes = (before, after.argmax(axis=1)), (data.n_classes, data.n_groups)
        return see(rows.y.numpy(), pair, rows.groups.numpy(), sizes, self.constraint.pos)


def see(
    y: NDArray[np.int64],
    predictions: tuple[NDArray[np.int64], NDArray[np.int64]],
    groups: NDArray[np.int64],
    sizes: tuple[int, int],
    pos: int | None,
) -> Seen:
    """Count predictions before and after, and what changed; arguments as of ``count_moves``."""
    before, after = (count_table(y, each, groups, *sizes) for each in predictions)
    return Seen(after, before, count_moves(y, predictions, groups, sizes, pos), pos)


def _logits_of(
    module: nn.Module, candidate: Candidate, data: EditData, rows: LabelledRows
) -> Tensor:
    if candidate.finish is None:
        return data.logits(module, candidate.state, rows.X)
    built = apply_to_copy(module, candidate)
    kind = candidate.reading.get("kind", data.kind)
    read = partial(to_logits, kind=kind, key=candidate.reading.get("output_key", data.output_key))
    return fast_logits(lambda X: read(built(to_device(X, data.device, data.dtype))), rows.X)
