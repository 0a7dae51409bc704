"""Means over folds with their intervals, and the methods that no other beats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["HEADLINES", "average", "mean_and_interval", "pareto_front"]

# Averaged over the folds, with intervals; the first one sorts the summary.
HEADLINES = ("psi", "balanced_accuracy", "gap", "phi", "worst_cell", "harm")
N_DRAWS = 2000
TAILS = (0.025, 0.975)


def average(rows: pd.DataFrame) -> dict[str, Any]:
    """Average the folds of one method, and bootstrap them."""
    values = rows[list(HEADLINES)].to_numpy(dtype=np.float64)
    values = values[~np.isnan(rows["balanced_accuracy"].to_numpy(dtype=np.float64))]
    averages: dict[str, Any] = {}
    for name, column in zip(HEADLINES, values.T, strict=True):
        averages |= mean_and_interval(name, column)
    return averages | {
        "needs_group": bool(rows["needs_group"].iloc[0]),
        "seconds": float(rows["seconds"].mean()),
        "folds": len(values),
        "failed": len(rows) - len(values),
    }


def mean_and_interval(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    """Average a figure over folds, with a 95 % bootstrap interval, under three names."""
    keys = name, f"{name}_low", f"{name}_high"
    defined = values[np.isfinite(values)]
    if not len(defined):
        return dict.fromkeys(keys, float("nan"))
    # The same draws for every method.
    drawn = np.random.default_rng(0).integers(len(defined), size=(N_DRAWS, len(defined)))
    ends = np.quantile(defined[drawn].mean(axis=1), TAILS)
    return dict(zip(keys, map(float, (defined.mean(), *ends)), strict=True))


def pareto_front(utility: NDArray[np.float64], gaps: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the points that no other point beats: at least as good in both, better in one.

    Parameters
    ----------
    utility, gaps : ndarray of shape (n,)
        Utility is better if higher, a gap if lower; a point with NaN beats nothing and is never
        in the front.

    Returns
    -------
    front : ndarray of shape (n,), bool
    """
    # NaN compares as false, so it beats nothing.
    at_least = (utility[:, None] >= utility) & (gaps[:, None] <= gaps)
    better = (utility[:, None] > utility) | (gaps[:, None] < gaps)
    beaten = (at_least & better).any(axis=0)
    return ~beaten & ~np.isnan(utility) & ~np.isnan(gaps)
