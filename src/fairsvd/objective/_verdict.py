"""How a candidate performs at its thresholds, and at the best of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_MARGIN", "Curves", "Verdict", "best_cut", "margin_of_threshold"]

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
    """

    thresholds: NDArray[np.float64]
    utility: NDArray[np.float64]
    gaps: NDArray[np.float64]


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
    # Without a limit an infinite gap (one that cannot be measured) exceeds nothing.
    value = utility - np.maximum(0, gaps - target) if np.isfinite(target) else utility
    allowed = feasible if feasible.any() else utility >= floor
    # If all are below the floor, the largest value wins: a fixed threshold is always kept.
    i = int(np.argmax(np.where(allowed, value, -np.inf) if allowed.any() else value))
    return Verdict(
        float(curves.thresholds[i]),
        float(utility[i]),
        float(gaps[i]),
        bool(feasible[i]),
        float(value[i]) if allowed[i] else -np.inf,
    )
