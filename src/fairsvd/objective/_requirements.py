"""What may be asked of an edit besides one gap: limits, ratios, minimum rates, no harm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ._bounds import bound_gap, bound_ratio, bound_shares, bound_statistic
from ._gap_names import GAPS
from ._gaps import gap, ratio
from ._requirement import Requirement, Seen, check_name, check_share
from ._resampling import resampled_counts
from ._soft_gap import soft_gap
from ._soft_statistic import SoftRows, soft_spread, soft_statistic
from ._statistics import STATISTICS, statistic

__all__ = ["CountLimit", "GapLimit", "MinimumRate", "NoHarm", "RatioLimit"]

# The gap whose fair rule closes the difference of a statistic.
RULED = dict.fromkeys(("tpr", "fnr"), "equal_opportunity")
RULED |= {"selection_rate": "demographic_parity", "accuracy": "accuracy_parity"}
HARMED = ("tpr", "tnr")


@dataclass(frozen=True)
class GapLimit(Requirement):
    """The difference of a rate between any two groups is at most a tolerance.

    Parameters
    ----------
    gap : str
        A gap that ``constraint=`` takes, such as "equalized_odds", or a statistic:
        "selection_rate", "tpr", "fpr", "tnr", "fnr", "ppv" (predictive parity), "npv",
        "false_discovery_rate", "false_omission_rate", "accuracy", "f1", "balanced_accuracy".
    tolerance : float in [0, 1], default=0.05
        The accepted difference.

    Examples
    --------
    >>> from fairsvd import GapFineTuner, GapLimit, MinimumRate
    >>> asked = [GapLimit("false_omission_rate", 0.1), MinimumRate("tpr", 0.7)]
    >>> GapFineTuner(constraint=asked).constraint[0].tolerance
    0.1
    """

    gap: str
    tolerance: float = 0.05

    @property
    def limit(self) -> float:  # type: ignore[override]
        """The tolerance."""
        return float(self.tolerance)

    @property
    def name(self) -> str:
        """The name of the gap."""
        return self.gap if self.gap in GAPS else f"{self.gap}_difference"

    @property
    def guide(self) -> str | None:
        """The gap itself, if the fair rule knows it."""
        return self.gap if self.gap in GAPS else RULED.get(self.gap)

    def check(self) -> None:
        """Check the parameters."""
        check_name(self, "gap", self.gap, (*GAPS, *STATISTICS))
        check_share(self, "tolerance", self.tolerance)

    def _measure(
        self, counts: NDArray[Any], pos: int | None, before: NDArray[Any] | None
    ) -> NDArray[np.float64]:
        return gap(counts, self.gap, pos)

    def _bound(self, seen: Seen, confidence: float, rng: np.random.Generator) -> float:
        return bound_gap(seen.counts, self.gap, seen.pos, confidence)

    def _soft(self, rows: SoftRows, before: NDArray[Any] | None) -> Tensor | None:
        if self.gap in GAPS:
            return soft_gap(*rows.parts, self.gap, rows.pos, rows.n_groups)
        return soft_spread(*soft_statistic(rows, self.gap))


@dataclass(frozen=True)
class RatioLimit(Requirement):
    """A group's rate is at least a share of any other group's: of selection rates, four fifths.

    Parameters
    ----------
    statistic : str, default="selection_rate"
        A statistic of :class:`GapLimit`.
    minimum : float in [0, 1], default=0.8
        The smallest accepted ratio of the smallest to the largest rate. Where a history or a report
        shows one number for the constraint, it is 1 minus the ratio.
    """

    statistic: str = "selection_rate"
    minimum: float = 0.8

    @property
    def limit(self) -> float:  # type: ignore[override]
        """One minus the smallest accepted ratio."""
        return 1.0 - self.minimum

    @property
    def name(self) -> str:
        """The name of the ratio."""
        return f"1 - {self.statistic}_ratio"

    @property
    def guide(self) -> str | None:
        """The gap of the same rate."""
        return RULED.get(self.statistic)

    def check(self) -> None:
        """Check the parameters."""
        check_name(self, "statistic", self.statistic, tuple(STATISTICS))
        check_share(self, "minimum", self.minimum)

    def _measure(
        self, counts: NDArray[Any], pos: int | None, before: NDArray[Any] | None
    ) -> NDArray[np.float64]:
        return 1.0 - ratio(counts, self.statistic, pos)

    def _bound(self, seen: Seen, confidence: float, rng: np.random.Generator) -> float:
        return 1.0 - bound_ratio(seen.counts, self.statistic, seen.pos, confidence)

    def _soft(self, rows: SoftRows, before: NDArray[Any] | None) -> Tensor | None:
        return soft_spread(*soft_statistic(rows, self.statistic), factor=self.minimum)


@dataclass(frozen=True)
class MinimumRate(Requirement):
    """No group's rate is below a minimum: a demand that levels up instead of down.

    Parameters
    ----------
    statistic : str
        "tpr" (recall), "tnr", "ppv", "npv", "accuracy", "f1", "balanced_accuracy" or
        "selection_rate".
    minimum : float in [0, 1]
        The smallest accepted rate. Where a history or a report shows one number for the constraint,
        it is the minimum less the smallest rate of a group: the shortfall, below 0 where met.
    """

    statistic: str
    minimum: float

    @property
    def limit(self) -> float:  # type: ignore[override]
        """No shortfall."""
        return 0.0

    @property
    def name(self) -> str:
        """What falls short."""
        return f"{self.minimum:g} - smallest {self.statistic}"

    def check(self) -> None:
        """Check the parameters."""
        good = tuple(name for name, line in STATISTICS.items() if line.best == 1)
        check_name(self, "statistic", self.statistic, good)
        check_share(self, "minimum", self.minimum)

    def _measure(
        self, counts: NDArray[Any], pos: int | None, before: NDArray[Any] | None
    ) -> NDArray[np.float64]:
        return self.minimum - _fmin(statistic(counts, self.statistic, pos))

    def _bound(self, seen: Seen, confidence: float, rng: np.random.Generator) -> float:
        found = bound_statistic(seen.counts, self.statistic, seen.pos, 1 - confidence)
        return self.minimum - float(found.low.min())

    def _soft(self, rows: SoftRows, before: NDArray[Any] | None) -> Tensor | None:
        rate, present = soft_statistic(rows, self.statistic)
        return ((self.minimum - rate).clamp(min=0) * present).sum()


@dataclass(frozen=True)
class NoHarm(Requirement):
    """No group's true positive or true negative rate falls by more than a tolerance.

    It is compared with the untouched network at its own threshold.

    Parameters
    ----------
    tolerance : float in [0, 1], default=0.02
        The accepted fall.
    """

    tolerance: float = 0.02

    @property
    def limit(self) -> float:  # type: ignore[override]
        """The tolerance."""
        return float(self.tolerance)

    @property
    def name(self) -> str:
        """What is limited."""
        return "largest fall of a rate"

    @property
    def compares(self) -> bool:
        """Tell that the untouched network's counts are needed."""
        return True

    def check(self) -> None:
        """Check the parameters."""
        check_share(self, "tolerance", self.tolerance)

    def _measure(
        self, counts: NDArray[Any], pos: int | None, before: NDArray[Any] | None
    ) -> NDArray[np.float64]:
        if before is None:
            raise ValueError("NoHarm compares with the untouched network, whose counts are missing")
        falls = [statistic(before, r, pos) - statistic(counts, r, pos) for r in HARMED]
        return -_fmin(-np.concatenate(falls, axis=-1))

    def _bound(self, seen: Seen, confidence: float, rng: np.random.Generator) -> float:
        moves = seen.moves
        lost, gained = (
            bound_shares(each[:2], moves.rows[:2], 1 - confidence)
            for each in (moves.lost, moves.gained)
        )
        error = np.hypot(lost.high - lost.value, gained.value - gained.low)
        fall = np.where(moves.rows[:2] > 0, lost.value - gained.value + error, 1.0)
        return float(fall.max())

    def _soft(self, rows: SoftRows, before: NDArray[Any] | None) -> Tensor | None:
        if before is None:
            return None
        total = rows.parts[0].new_zeros(())
        for name in HARMED:
            rate, present = soft_statistic(rows, name)
            lowest = statistic(before, name, rows.pos) - self.tolerance
            floor = rate.new_tensor(np.nan_to_num(lowest, nan=-1.0))
            total = total + ((floor - rate).clamp(min=0) * present).sum()
        return total


@dataclass(frozen=True)
class CountLimit(Requirement):
    """A user's own function of the counts is at most a limit.

    Parameters
    ----------
    function : callable
        Maps the rows by [group, true, predicted], an array of int64 of shape (n_groups, n_classes,
        n_classes), to one number, of which smaller is better; NaN if it cannot be measured.
    limit : float
        The largest accepted number.
    """

    function: Callable[[NDArray[Any]], float]
    limit: float

    @property
    def is_exact(self) -> bool:
        """Tell that the bound is a bootstrap's."""
        return False

    @property
    def is_fast(self) -> bool:
        """Tell that every table is a call of the function."""
        return False

    @property
    def name(self) -> str:
        """The name of the function."""
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    def check(self) -> None:
        """Check the parameters."""
        if not callable(self.function):
            raise ValueError(f"function={self.function!r} of CountLimit: pass a function.")
        if not isinstance(self.limit, (int, float)) or not np.isfinite(self.limit):
            raise ValueError(f"limit={self.limit!r} of CountLimit: pass a finite number.")

    def _measure(
        self, counts: NDArray[Any], pos: int | None, before: NDArray[Any] | None
    ) -> NDArray[np.float64]:
        tables = counts.reshape(-1, *counts.shape[-3:])
        values = np.array([float(self.function(table)) for table in tables])
        return values.reshape(counts.shape[:-3])

    def _bound(self, seen: Seen, confidence: float, rng: np.random.Generator) -> float:
        counts = np.rint(seen.counts).astype(np.int64)
        drawn = self._measure(resampled_counts(counts, rng), seen.pos, None)
        return float(np.quantile(np.nan_to_num(drawn, nan=np.inf), confidence))


def _fmin(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Find the smallest value over groups and classes, skipping NaN; NaN if there is none."""
    return np.asarray(np.fmin.reduce(np.fmin.reduce(values, axis=-1), axis=-1))
