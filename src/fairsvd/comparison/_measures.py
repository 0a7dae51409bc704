"""What the table says of predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._rng import stage_rng
from ..metrics import rates_frame
from ..objective import count_table, gap, noise_floor, resampled_counts, utility_from_counts
from ._fold import Fold

__all__ = ["MEASURES", "change_columns", "measured"]

# Columns of every row, whatever the groups are called.
MEASURES = (
    *("accuracy", "balanced_accuracy", "equalized_odds_difference"),
    *("demographic_parity_difference", "gap", "gap_low", "gap_high", "noise_floor"),
    *("worst_cell", "psi", "psi_low", "psi_high", "phi", "harm"),
)
TAILS = (0.025, 0.975)


def psi(balanced: Any, gaps: Any, tolerance: float) -> Any:
    """Compute balanced accuracy less the excess of the gap over the tolerance."""
    return balanced - np.maximum(0.0, gaps - tolerance)


def phi(balanced: float, found: float, tolerance: float) -> float:
    """Compute balanced accuracy where the gap is below the tolerance, else 0."""
    if np.isnan(found):
        return float("nan")
    return balanced if found < tolerance else 0.0


def change_columns(labels: tuple[Any, ...]) -> list[str]:
    """Name the columns of the changes of every group's rates."""
    names = ["/".join(map(str, k)) if isinstance(k, tuple) else str(k) for k in labels]
    return [f"{rate}_change_{name}" for rate in ("tpr", "fpr") for name in names]


def measured(fold: Fold, constraint: str, predicted: NDArray[np.int64]) -> dict[str, Any]:
    """Measure predictions for the test rows.

    Parameters
    ----------
    fold : Fold
    constraint : str
        The gap that psi and phi are about.
    predicted : ndarray of shape (n_test,), int64
        Class codes.

    Returns
    -------
    row : dict
        ``MEASURES`` and :func:`change_columns`.
    """
    counts, pos = counted(fold, predicted), fold.problem.pos
    tolerance = fold.problem.tolerance
    balanced = float(utility_from_counts(counts, "balanced_accuracy"))
    found = float(gap(counts, constraint, pos))
    rng = stage_rng(fold.seed, "bootstrap")
    return {
        "accuracy": float(utility_from_counts(counts, "accuracy")),
        "balanced_accuracy": balanced,
        "equalized_odds_difference": float(gap(counts, "equalized_odds", pos)),
        "demographic_parity_difference": float(gap(counts, "demographic_parity", pos)),
        "gap": found,
        "worst_cell": float(utility_from_counts(counts, "worst_cell_accuracy")),
        "psi": float(psi(balanced, found, tolerance)),
        "phi": phi(balanced, found, tolerance),
        **_intervals(counts, constraint, pos, tolerance, rng),
        "noise_floor": noise_floor(counts, constraint, pos, rng),
        **_changes(fold, counts, counted(fold, fold.before)),
    }


def counted(fold: Fold, predicted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the test rows by group, true and predicted class.

    Raises
    ------
    ValueError
        There is not one prediction a row.
    """
    problem, rows = fold.problem, fold.test
    if predicted.shape != rows.shape:
        raise ValueError(
            f"predicted an array of shape {predicted.shape} for {len(rows)} rows: wanted one "
            "label a row."
        )
    sizes = len(problem.classes), problem.groups.n_groups
    return count_table(problem.codes[rows], predicted, fold.groups(rows), *sizes)


def _intervals(
    counts: NDArray[np.int64],
    constraint: str,
    pos: int | None,
    tolerance: float,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Bootstrap the test rows: 95 % intervals of the gap and of psi."""
    drawn = resampled_counts(counts, rng)
    gaps = gap(drawn, constraint, pos)
    worth = psi(utility_from_counts(drawn, "balanced_accuracy"), gaps, tolerance)
    found = {}
    for name, values in (("gap", gaps), ("psi", worth)):
        known = values[np.isfinite(values)]
        ends = np.quantile(known, TAILS) if len(known) else (np.nan, np.nan)
        found[f"{name}_low"], found[f"{name}_high"] = map(float, ends)
    return found


def _changes(fold: Fold, after: NDArray[np.int64], before: NDArray[np.int64]) -> dict[str, float]:
    """Compare the rates of every group with the untouched network's; harm is the largest fall."""
    labels, pos = fold.problem.groups.labels, fold.problem.pos
    tables = [rates_frame(counts, pos, labels) for counts in (after, before)]
    tpr, fpr = (tables[0][rate].to_numpy() - tables[1][rate].to_numpy() for rate in ("tpr", "fpr"))
    falls = np.concatenate([[0.0], -tpr, fpr])
    changes = np.concatenate([tpr, fpr]).tolist()
    named = dict(zip(change_columns(labels), changes, strict=True))
    return {"harm": max(0.0, float(np.nanmax(falls))), **named}
