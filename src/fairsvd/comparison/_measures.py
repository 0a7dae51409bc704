"""Measure predictions for the table of a comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._rng import stage_rng
from ..metrics import rates_frame
from ..objective import (
    count_moves,
    count_table,
    estimate_gaps,
    gap,
    resampled_counts,
    utility_from_counts,
)
from ._fold import Fold

__all__ = ["MEASURES", "change_columns", "measure"]

# Columns of every row that do not depend on the groups.
MEASURES = (
    *("accuracy", "balanced_accuracy", "equalized_odds_difference"),
    *("demographic_parity_difference", "gap", "gap_low", "gap_high", "gap_upper", "noise_floor"),
    *("worst_cell", "psi", "psi_low", "psi_high", "phi", "harm"),
)
TAILS = (0.025, 0.975)


def psi(balanced: Any, gaps: Any, tolerance: float) -> Any:
    """Compute balanced accuracy minus the excess of the gap over the tolerance."""
    return balanced - np.maximum(0.0, gaps - tolerance)


def phi(balanced: float, gap: float, tolerance: float) -> float:
    """Compute balanced accuracy if the gap is below the tolerance, else 0."""
    if np.isnan(gap):
        return float("nan")
    return balanced if gap < tolerance else 0.0


def change_columns(labels: tuple[Any, ...]) -> list[str]:
    """Return the names of the columns with the changes of every group's rates."""
    names = ["/".join(map(str, k)) if isinstance(k, tuple) else str(k) for k in labels]
    return [f"{rate}_change_{name}" for rate in ("tpr", "fpr") for name in names]


def measure(fold: Fold, constraint: str, predicted: NDArray[np.int64]) -> dict[str, Any]:
    """Measure predictions for the test rows.

    Parameters
    ----------
    fold : Fold
    constraint : str
        The gap in psi and phi.
    predicted : ndarray of shape (n_test,), int64
        Class codes.

    Returns
    -------
    row : dict
        Values of ``MEASURES`` and :func:`change_columns`.
    """
    counts, pos = count(fold, predicted), fold.problem.pos
    tolerance = fold.problem.tolerance
    balanced = float(utility_from_counts(counts, "balanced_accuracy"))
    value = float(gap(counts, constraint, pos))
    rng = stage_rng(fold.seed, "bootstrap")
    return {
        "accuracy": float(utility_from_counts(counts, "accuracy")),
        "balanced_accuracy": balanced,
        "equalized_odds_difference": float(gap(counts, "equalized_odds", pos)),
        "demographic_parity_difference": float(gap(counts, "demographic_parity", pos)),
        "gap": value,
        "worst_cell": float(utility_from_counts(counts, "worst_cell_accuracy")),
        "psi": float(psi(balanced, value, tolerance)),
        "phi": phi(balanced, value, tolerance),
        **_bounds(counts, constraint, pos, rng),
        **_psi_interval(counts, constraint, pos, tolerance, rng),
        "harm": _harm(fold, constraint, predicted),
        **_changes(fold, counts, count(fold, fold.before)),
    }


def count(fold: Fold, predicted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the test rows by group, true and predicted class.

    Raises
    ------
    ValueError
        If there is not one prediction per row.
    """
    problem, rows = fold.problem, fold.test
    if predicted.shape != rows.shape:
        raise ValueError(
            f"predicted an array of shape {predicted.shape} for {len(rows)} rows: wanted one "
            "label per row."
        )
    sizes = len(problem.classes), problem.groups.n_groups
    return count_table(problem.codes[rows], predicted, fold.groups(rows), *sizes)


def _bounds(
    counts: NDArray[np.int64], constraint: str, pos: int | None, rng: np.random.Generator
) -> dict[str, float]:
    """Bound the gap with 95 % confidence, and estimate what equal treatment would show."""
    found = estimate_gaps(counts, [constraint], pos, rng)[constraint]
    bounds = {"gap_low": found.low, "gap_high": found.high, "gap_upper": found.upper}
    return {**bounds, "noise_floor": found.noise_floor}


def _psi_interval(
    counts: NDArray[np.int64],
    constraint: str,
    pos: int | None,
    tolerance: float,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Bootstrap the test rows for a 95 % interval of psi."""
    drawn = resampled_counts(counts, rng)
    gaps = gap(drawn, constraint, pos)
    worth = psi(utility_from_counts(drawn, "balanced_accuracy"), gaps, tolerance)
    defined = worth[np.isfinite(worth)]
    low, high = np.quantile(defined, TAILS) if len(defined) else (np.nan, np.nan)
    return {"psi_low": float(low), "psi_high": float(high)}


def _harm(fold: Fold, constraint: str, predicted: NDArray[np.int64]) -> float:
    """Find the largest fall of a group's rate against the untouched network, beyond noise."""
    problem, rows = fold.problem, fold.test
    sizes = len(problem.classes), problem.groups.n_groups
    pair = fold.before, predicted
    moves = count_moves(problem.codes[rows], pair, fold.groups(rows), sizes, problem.pos)
    return moves.harm(constraint)


def _changes(fold: Fold, after: NDArray[np.int64], before: NDArray[np.int64]) -> dict[str, float]:
    """Compare every group's rates with the untouched network's."""
    labels, pos = fold.problem.groups.labels, fold.problem.pos
    tables = [rates_frame(counts, pos, labels) for counts in (after, before)]
    tpr, fpr = (tables[0][rate].to_numpy() - tables[1][rate].to_numpy() for rate in ("tpr", "fpr"))
    changes = np.concatenate([tpr, fpr]).tolist()
    return dict(zip(change_columns(labels), changes, strict=True))
