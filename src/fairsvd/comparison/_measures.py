"""Measure predictions for the table of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._rng import stage_rng
from ..metrics import Compared, Rows, disparity_frame, effective_counts, rates_frame
from ..objective import (
    GapLimit,
    Moves,
    OneAttribute,
    Seen,
    count_moves,
    count_table,
    estimate_gaps,
    gap,
    merge_groups,
    resampled_counts,
    utility_from_counts,
)
from ._aims import Aim
from ._answers import Answer
from ._fold import Fold

__all__ = ["MEASURES", "change_columns", "group_columns", "measure"]

# Columns of every row that do not depend on the groups.
MEASURES = (
    *("accuracy", "balanced_accuracy", "equalized_odds_difference"),
    *("demographic_parity_difference", "gap", "gap_low", "gap_high", "gap_upper", "noise_floor"),
    *("worst_cell", "psi", "psi_low", "psi_high", "phi", "harm"),
)
TAILS = (0.025, 0.975)
# What is said of a measure by group: the columns of ``disparity_table``.
OF_GROUPS = (
    *("overall", "difference", "difference_low", "difference_high", "difference_upper"),
    *("noise_floor", "ratio", "ratio_low", "ratio_high", "worst_group", "worst"),
    *("worst_low", "worst_high"),
)


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
    return [f"{rate}_change_{_name(label)}" for rate in ("tpr", "fpr") for label in labels]


def group_columns(names: Sequence[str]) -> list[str]:
    """Return the names of the columns with measures by group."""
    return [f"{name}_{column}" for name in names for column in OF_GROUPS]


def measure(fold: Fold, aim: Aim, answer: Answer) -> dict[str, Any]:
    """Measure what a method says of the test rows.

    Parameters
    ----------
    fold : Fold
    aim : Aim
        Its gap is the one in psi and phi.
    answer : Answer

    Returns
    -------
    row : dict
        Values of ``MEASURES``, :func:`change_columns` and :func:`group_columns`.
    """
    problem, codes = fold.problem, answer.codes
    counts, before, pos = count(fold, codes), count(fold, fold.before), problem.pos
    effective = counts
    if problem.weights is not None:
        effective = effective_counts(counts, count(fold, codes, power=2))
    balanced = float(utility_from_counts(counts, "balanced_accuracy"))
    value = float(aim.measure(counts, pos, before, problem.tolerance))
    rng = stage_rng(fold.seed, "bootstrap")
    return {
        "accuracy": float(utility_from_counts(counts, "accuracy")),
        "balanced_accuracy": balanced,
        "equalized_odds_difference": float(gap(counts, "equalized_odds", pos)),
        "demographic_parity_difference": float(gap(counts, "demographic_parity", pos)),
        "gap": value,
        "worst_cell": float(utility_from_counts(counts, "worst_cell_accuracy")),
        "psi": float(psi(balanced, value, problem.tolerance)),
        "phi": phi(balanced, value, problem.tolerance),
        **_bounds(fold, aim, (effective, before), codes, rng),
        **_psi_interval(fold, aim, (effective, before), rng),
        "harm": _harm(fold, aim.gap, codes),
        **_changes(fold, counts, before),
        **_by_group(fold, answer),
    }


def count(fold: Fold, predicted: NDArray[np.int64], power: int = 1) -> NDArray[Any]:
    """Count the test rows, or add up their weights, by group, true and predicted class.

    Raises
    ------
    ValueError
        If there is not one prediction per row.
    """
    problem, rows, weights = fold.problem, fold.test, fold.weights(fold.test)
    if predicted.shape != rows.shape:
        raise ValueError(
            f"predicted an array of shape {predicted.shape} for {len(rows)} rows: wanted one "
            "label per row."
        )
    sizes = len(problem.classes), problem.groups.n_groups
    times = None if weights is None else weights**power
    return count_table(problem.codes[rows], predicted, fold.groups(rows), *sizes, times)


def _bounds(
    fold: Fold,
    aim: Aim,
    tables: tuple[NDArray[Any], NDArray[Any]],
    codes: NDArray[np.int64],
    rng: np.random.Generator,
) -> dict[str, float]:
    """Bound the gap with 95 % confidence, and estimate what equal treatment would show.

    Of requirements that are no gaps alone there is only the one-sided bound.
    """
    names = ("gap_low", "gap_high", "gap_upper", "noise_floor")
    (counts, before), problem = tables, fold.problem
    pos, tolerance = problem.pos, problem.tolerance
    if not aim.requirements:
        found = estimate_gaps(counts, [aim.gap], pos, rng)[aim.gap]
        return dict(zip(names, found, strict=True))
    asked = [e.requirement if isinstance(e, OneAttribute) else e for e in aim.requirements]
    limits = [each for each in asked if isinstance(each, GapLimit)]
    if len(limits) == len(asked):
        bounds = []
        for each, limit in zip(aim.requirements, limits, strict=True):
            table = counts if each.members is None else merge_groups(counts, each.members, 0)
            of_gap = estimate_gaps(table, [limit.gap], pos, rng)[limit.gap]
            bounds.append(np.array(of_gap) - limit.limit + tolerance)
        return dict(zip(names, np.max(bounds, axis=0).tolist(), strict=True))
    seen = Seen(counts, before, _moves(fold, codes), pos)
    excess = [each.bound(seen, 0.95, rng) - each.limit for each in aim.requirements]
    upper = float("nan") if problem.weights is not None else tolerance + max(excess)
    return {**dict.fromkeys(names, float("nan")), "gap_upper": upper}


def _psi_interval(
    fold: Fold, aim: Aim, tables: tuple[NDArray[Any], NDArray[Any]], rng: np.random.Generator
) -> dict[str, float]:
    """Bootstrap the test rows for a 95 % interval of psi."""
    (counts, before), problem = tables, fold.problem
    drawn = resampled_counts(counts, rng)
    gaps = aim.measure(drawn, problem.pos, before, problem.tolerance)
    worth = psi(utility_from_counts(drawn, "balanced_accuracy"), gaps, problem.tolerance)
    defined = worth[np.isfinite(worth)]
    low, high = np.quantile(defined, TAILS) if len(defined) else (np.nan, np.nan)
    return {"psi_low": float(low), "psi_high": float(high)}


def _moves(fold: Fold, predicted: NDArray[np.int64]) -> Moves:
    """Count the test rows whose prediction is not the untouched network's."""
    problem, rows = fold.problem, fold.test
    sizes = len(problem.classes), problem.groups.n_groups
    columns = problem.codes[rows], (fold.before, predicted), fold.groups(rows)
    return count_moves(*columns, sizes, problem.pos, fold.weights(rows))


def _harm(fold: Fold, constraint: str, predicted: NDArray[np.int64]) -> float:
    """Find the largest fall of a group's rate against the untouched network, beyond noise."""
    return _moves(fold, predicted).harm(constraint)


def _by_group(fold: Fold, answer: Answer) -> dict[str, Any]:
    """Measure the groups in every measure that was asked for and that the method allows."""
    problem, rows = fold.problem, fold.test
    measured = Rows(
        problem.codes[rows],
        fold.groups(rows),
        len(problem.classes),
        problem.groups.n_groups,
        problem.pos,
        answer.codes,
        answer.shares,
        fold.weights(rows),
    )
    names = [name for name in problem.measures if measured.can_measure(name)]
    if not names:
        return {}
    found = Compared.of(measured, problem.groups.labels, names)
    frame = disparity_frame(found, stage_rng(fold.seed, "bootstrap"))
    return {
        f"{name}_{column}": _name(frame.loc[name, column]) if column == "worst_group" else value
        for name in names
        for column, value in frame.loc[name].items()
    }


def _name(label: Any) -> str:
    return "/".join(map(str, label)) if isinstance(label, tuple) else str(label)


def _changes(fold: Fold, after: NDArray[Any], before: NDArray[Any]) -> dict[str, float]:
    """Compare every group's rates with the untouched network's."""
    labels, pos = fold.problem.groups.labels, fold.problem.pos
    tables = [rates_frame(counts, pos, labels) for counts in (after, before)]
    tpr, fpr = (tables[0][rate].to_numpy() - tables[1][rate].to_numpy() for rate in ("tpr", "fpr"))
    changes = np.concatenate([tpr, fpr]).tolist()
    return dict(zip(change_columns(labels), changes, strict=True))
