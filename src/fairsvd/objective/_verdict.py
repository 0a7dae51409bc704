"""How a candidate performs at its thresholds, and at the best of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_MARGIN", "Curves", "Verdict", "best_cut", "margin_of_threshold", "steady_cut"]

# Margins beyond this mean probabilities that differ from 0 or 1 by less than 1e-13.
MAX_MARGIN = 30.0


def margin_of_threshold(threshold: float) -> float:
    """Convert a probability in (0, 1) to the logit margin it stands for."""
    return float(np.log(threshold / (1 - threshold)))


@dataclass(frozen=True)
class Curves:
    """Utility and gap at every threshold of one candidate.

    Attributes
    ----------
    thresholds, utility, gaps : ndarray of shape (n_cuts,), float64
    apart : bool
        Measured on validation and editing rows separately.
    """

    thresholds: NDArray[np.float64]
    utility: NDArray[np.float64]
    gaps: NDArray[np.float64]
    apart: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class Verdict:
    """How one candidate performs at its best threshold.

    Attributes
    ----------
    margin : float
        The threshold, in units of the logit margin; 0 for more than two classes.
    utility, gap : float
        On the rows it was judged on.
    feasible : bool
        Gap within the limit and utility above the floor.
    value : float
        Ranks candidates of equal feasibility.
    """

    margin: float
    utility: float
    gap: float
    feasible: bool
    value: float

    @property
    def rank(self) -> tuple[bool, float]:
        """Larger is better; equal ranks go to the earlier candidate."""
        return self.feasible, self.value


def best_cut(curves: Curves, limit: float, target: float, floor: float) -> Verdict:
    """Find the best threshold: gap under a limit, utility above a floor."""
    utility, gaps = curves.utility, curves.gaps
    if not len(utility):
        return Verdict(0.0, -np.inf, np.inf, False, -np.inf)
    feasible = (utility >= floor) & (gaps <= limit)
    value = _values(curves, target)
    allowed = feasible if feasible.any() else utility >= floor
    # If all are below the floor, the largest value wins: a fixed threshold is always kept.
    i = int(np.argmax(np.where(allowed, value, -np.inf) if allowed.any() else value))
    return _verdict(curves, i, value[i] if allowed[i] else -np.inf, bool(feasible[i]))


def steady_cut(
    curves: Curves,
    margin: float,
    noise: float,
    limit: float,
    target: float,
    floor: float,
    *,
    strict: bool = False,
) -> Verdict:
    """Keep a threshold unless the best one is better by more than noise.

    Parameters
    ----------
    curves : Curves
    margin : float
        The threshold to keep; the nearest one of the curves stands for it.
    noise : float
        Values that differ by no more count as equal.
    limit, target, floor : float
        As in :func:`best_cut`.
    strict : bool, default=False
        Leave the threshold for any that is feasible if it is not; False: being feasible by less
        than noise counts for nothing, either.
    """
    best = best_cut(curves, limit, target, floor)
    if not len(curves.thresholds):
        return best
    i = int(np.abs(curves.thresholds - margin).argmin())
    above = bool(curves.utility[i] >= floor)
    value = float(_values(curves, target)[i]) if above else -np.inf
    kept = _verdict(curves, i, value, above and bool(curves.gaps[i] <= limit))
    if strict and best.feasible and not kept.feasible:
        return best
    return best if best.value - kept.value > noise else kept


def _values(curves: Curves, target: float) -> NDArray[np.float64]:
    # Without a limit an infinite gap (one that cannot be measured) exceeds nothing.
    if not np.isfinite(target):
        return curves.utility
    return np.asarray(curves.utility - np.maximum(0, curves.gaps - target))


def _verdict(curves: Curves, i: int, value: float, feasible: bool) -> Verdict:
    margin, utility, gap = curves.thresholds[i], curves.utility[i], curves.gaps[i]
    return Verdict(float(margin), float(utility), float(gap), feasible, float(value))
