"""The scores of every method of the benchmark, and the rule by which its own methods choose.

This is plain numpy, independent of ``fairsvd``, so that it checks the package instead of using it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.tasks import Rows
from fairsvd.objective import count_moves

__all__ = [
    "CONSTRAINTS",
    "TOLERANCE",
    "Choice",
    "best_threshold",
    "chance_of",
    "choose",
    "evaluate",
    "gap_of_rates",
    "mean_behind",
    "phi",
    "psi",
    "rates_above",
    "smallest_cell",
    "utility_of_rates",
]

CONSTRAINTS = ("equalized_odds", "demographic_parity")
TOLERANCE = 0.05
# What is chosen at the tolerance itself misses it on unseen rows in a third of the runs.
FRACTION = 0.4
# Leads of training rows over validation rows beyond which the base network (and with it every
# candidate), or a single candidate, counts as over-fitted.
OVERFIT = 0.10
OVERFIT_CANDIDATE = 0.05
# A single candidate is tested for this only if every validation cell holds at least so many rows.
MIN_CELL = 20


def cell_counts(rows: Rows, n_groups: int) -> np.ndarray:
    """Count the rows of every (group, label) cell; shape (n_groups, 2)."""
    return np.bincount(rows.g * 2 + rows.y, minlength=2 * n_groups).reshape(n_groups, 2)


def rates_above(
    scores: np.ndarray, rows: Rows, thresholds: np.ndarray, n_groups: int
) -> np.ndarray:
    """Compute the share of every cell that scores above every threshold.

    Parameters
    ----------
    scores : ndarray of shape (n,)
    rows : Rows
    thresholds : ndarray of shape (t,)
    n_groups : int

    Returns
    -------
    rates : float64 ndarray of shape (t, n_groups, 2)
        [:, g, 1] is the true positive rate of group g, [:, g, 0] its false positive rate; NaN for
        an empty cell.
    """
    rates = np.full((len(thresholds), n_groups, 2), np.nan)
    for group in range(n_groups):
        for label in (0, 1):
            cell = np.sort(scores[(rows.g == group) & (rows.y == label)])
            if len(cell):
                below = np.searchsorted(cell, thresholds, side="right")
                rates[:, group, label] = 1 - below / len(cell)
    return rates


def gap_of_rates(rates: np.ndarray, counts: np.ndarray, constraint: str) -> np.ndarray:
    """Compute the gap between groups, largest minus smallest rate.

    Parameters
    ----------
    rates : ndarray of shape (..., n_groups, 2)
    counts : ndarray of shape (n_groups, 2)
    constraint : {"equalized_odds", "demographic_parity"}

    Returns
    -------
    gap : ndarray of shape (...,), in [0, 1]
    """
    if constraint == "equalized_odds":
        spread = np.nanmax(rates, axis=-2) - np.nanmin(rates, axis=-2)
        return spread.max(axis=-1)
    if constraint != "demographic_parity":
        raise ValueError(f"constraint must be one of {CONSTRAINTS}, got {constraint!r}")
    selected = (np.nan_to_num(rates) * counts).sum(axis=-1) / counts.sum(axis=-1)
    return selected.max(axis=-1) - selected.min(axis=-1)


def utility_of_rates(rates: np.ndarray, counts: np.ndarray, utility: str) -> np.ndarray:
    """Compute balanced accuracy, the average (label, group) cell, or its mean with the worst.

    Parameters
    ----------
    rates : ndarray of shape (..., n_groups, 2)
    counts : ndarray of shape (n_groups, 2)
    utility : {"balanced_accuracy", "cell_balanced_accuracy", "mean_and_worst_cell_accuracy"}

    Returns
    -------
    utility : ndarray of shape (...,), in [0, 1]
    """
    right = np.stack([1 - rates[..., 0], rates[..., 1]], axis=-1)
    if utility == "cell_balanced_accuracy":
        return np.nanmean(right, axis=(-2, -1))
    if utility == "mean_and_worst_cell_accuracy":
        return (np.nanmean(right, axis=(-2, -1)) + np.nanmin(right, axis=(-2, -1))) / 2
    return (np.nan_to_num(right) * counts / counts.sum(axis=0)).sum(axis=-2).mean(axis=-1)


def chance_of(utility: str, n_classes: int = 2) -> float:
    """Give the utility of a constant prediction, whose worst cell is all wrong."""
    return 1 / n_classes if utility == "balanced_accuracy" else 0.5 / n_classes


def thresholds_between(scores: np.ndarray) -> np.ndarray:
    """List the midpoints between neighbouring scores."""
    distinct = np.unique(scores)
    if len(distinct) == 1:
        return distinct
    return (distinct[1:] + distinct[:-1]) / 2


def best_threshold(
    scores: np.ndarray, rows: Rows, n_groups: int, utility: str = "balanced_accuracy"
) -> float:
    """Find the threshold of highest utility, whatever the gap."""
    thresholds = thresholds_between(scores)
    rates = rates_above(scores, rows, thresholds, n_groups)
    return float(thresholds[utility_of_rates(rates, cell_counts(rows, n_groups), utility).argmax()])


class Choice(NamedTuple):
    """The outcome of the selection rule.

    Attributes
    ----------
    candidate : int
        Position among the candidates.
    threshold : float
        A row is positive where its score is above.
    met : bool
        Whether some candidate was feasible.
    utility, gap : float
        On the rows that chose.
    """

    candidate: int
    threshold: float
    met: bool
    utility: float
    gap: float


class Sweep(NamedTuple):
    """All thresholds of one candidate: ``thresholds``, ``utility``, ``gap``, each of shape (t,)."""

    thresholds: np.ndarray
    utility: np.ndarray
    gap: np.ndarray


def sweep(
    scores: Sequence[np.ndarray], parts: Sequence[Rows], constraint: str, utility: str, apart: bool
) -> Sweep:
    """Measure one candidate at every threshold.

    Parameters
    ----------
    scores : sequence of ndarray
        The candidate's scores on the validation rows and on the sample of training rows.
    parts : sequence of Rows
        The same two sets of rows.
    constraint, utility : str
    apart : bool
        Take the larger of both gaps, and the first set's utility, instead of pooling the sets.

    Returns
    -------
    sweep : Sweep
    """
    pooled = np.concatenate(scores)
    thresholds = thresholds_between(pooled)
    n_groups = 1 + max(int(rows.g.max()) for rows in parts)
    sets = list(zip(scores, parts, strict=True)) if apart else [(pooled, pool(parts))]
    gaps, utilities = [], []
    for values, rows in sets:
        rates, counts = rates_above(values, rows, thresholds, n_groups), cell_counts(rows, n_groups)
        gaps.append(gap_of_rates(rates, counts, constraint))
        utilities.append(utility_of_rates(rates, counts, utility))
    return Sweep(thresholds, utilities[0], np.max(gaps, axis=0))


def pool(parts: Sequence[Rows]) -> Rows:
    """Stack several sets of rows into one."""
    return Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def smallest_cell(rows: Rows) -> int:
    """Count the rows of the smallest (label, group) cell that has any."""
    counts = np.unique(np.stack([rows.y, rows.g]), axis=1, return_counts=True)[1]
    return int(counts.min())


def mean_behind(utility: str) -> str:
    """Name the mean accuracy behind a utility: the mean over cells or over classes."""
    return utility if utility == "balanced_accuracy" else "cell_balanced_accuracy"


def excess(
    scores: Sequence[np.ndarray], parts: Sequence[Rows], utility: str, mean: str | None = None
) -> float:
    """Compute by how much training rows are fitted better than validation rows.

    It compares a mean accuracy, at the threshold of highest utility on all rows.

    Parameters
    ----------
    scores, parts, utility
        See :func:`sweep`.
    mean : {"balanced_accuracy", "cell_balanced_accuracy"}, default=None
        None: the one behind the utility.
    """
    n_groups = 1 + max(int(rows.g.max()) for rows in parts)
    threshold = np.array([best_threshold(np.concatenate(scores), pool(parts), n_groups, utility)])
    mean = mean_behind(utility) if mean is None else mean
    validation, training = (
        utility_of_rates(
            rates_above(values, rows, threshold, n_groups), cell_counts(rows, n_groups), mean
        )[0]
        for values, rows in zip(scores, parts, strict=True)
    )
    return float(training - validation)


def choose(
    candidates: Sequence[Sequence[np.ndarray]],
    parts: Sequence[Rows],
    constraint: str,
    *,
    utility: str = "balanced_accuracy",
    tolerance: float = TOLERANCE,
    fraction: float = FRACTION,
    first: int = 0,
) -> Choice:
    """Choose a candidate and its threshold by the benchmark's one selection rule.

    A candidate is feasible at a threshold if its gap is at most ``tolerance`` and its utility is at
    least the floor, which is chance plus half the lead of candidate 0, the untouched network. The
    feasible candidate with the best utility minus the gap's excess over ``fraction * tolerance``
    wins. If none is feasible, the best such value above the floor wins. Ties go to the earlier
    candidate. An over-fitted candidate is measured on each set of rows separately if validation
    cells are large enough; if candidate 0 is over-fitted, all candidates are.

    Parameters
    ----------
    candidates : sequence of (validation scores, training-sample scores)
        Candidate 0 is the untouched network.
    parts : (validation rows, training-sample rows)
    constraint : {"equalized_odds", "demographic_parity"}
    utility : {"balanced_accuracy", "mean_and_worst_cell_accuracy"}, default="balanced_accuracy"
    tolerance : float in (0, 1), default=0.05
    fraction : float in (0, 1], default=0.4
    first : {0, 1}, default=0
        1 leaves the untouched network out of the choice, so that it only sets the floor. If no
        other candidate reaches the floor, there is no floor.

    Returns
    -------
    choice : Choice
    """
    always = excess(candidates[0], parts, utility, "balanced_accuracy") > OVERFIT
    able = smallest_cell(parts[0]) >= MIN_CELL
    sweeps = []
    for scores in candidates:
        apart = always or (able and excess(scores, parts, utility) > OVERFIT_CANDIDATE)
        sweeps.append(sweep(scores, parts, constraint, utility, apart))
    chance = chance_of(utility)
    floor = chance + (sweeps[0].utility.max() - chance) / 2
    values = worth(sweeps[first:], floor, tolerance, fraction * tolerance)
    best = int(np.argmax([value.max() for value in values]))
    at, won = int(values[best].argmax()), sweeps[first + best]
    met = bool(won.gap[at] <= tolerance and won.utility[at] >= floor)
    return Choice(
        first + best, float(won.thresholds[at]), met, float(won.utility[at]), float(won.gap[at])
    )


def worth(sweeps: Sequence[Sweep], floor: float, limit: float, target: float) -> list[np.ndarray]:
    """Rank every threshold of every candidate: higher is better, and -inf is not allowed."""
    if not any((s.utility >= floor).any() for s in sweeps):
        floor = 0.0
    met = any(((s.gap <= limit) & (s.utility >= floor)).any() for s in sweeps)
    allowed = [(s.utility >= floor) & ((s.gap <= limit) | (not met)) for s in sweeps]
    return [
        np.where(ok, s.utility - np.maximum(0, s.gap - target), -np.inf)
        for s, ok in zip(sweeps, allowed, strict=True)
    ]


def psi(balanced_accuracy: float, gap: float, tolerance: float = TOLERANCE) -> float:
    """Compute balanced accuracy minus the excess of the gap over the tolerance."""
    return balanced_accuracy - max(0.0, gap - tolerance)


def phi(balanced_accuracy: float, gap: float, tolerance: float = TOLERANCE) -> float:
    """Compute balanced accuracy where the gap is below the tolerance, else 0."""
    return balanced_accuracy if gap < tolerance else 0.0


def evaluate(
    predictions: np.ndarray, rows: Rows, constraint: str, before: np.ndarray | None = None
) -> dict[str, object]:
    """Measure hard predictions on the test rows.

    Parameters
    ----------
    predictions : int ndarray of shape (n,)
        0 or 1.
    rows : Rows
    constraint : {"equalized_odds", "demographic_parity"}
        The gap that psi and phi use.
    before : int ndarray of shape (n,), default=None
        Predictions of the untouched network at its best threshold, for the change of every group's
        rates.

    Returns
    -------
    metrics : dict
        ``tpr_change`` and ``fpr_change`` are lists with one entry a group; ``harm`` is the largest
        fall of a group's rate beyond noise, as everywhere in the package.
    """
    n_groups = int(rows.g.max()) + 1
    rates = rates_above(np.asarray(predictions, float), rows, np.array([0.5]), n_groups)[0]
    counts = cell_counts(rows, n_groups)
    balanced = float(utility_of_rates(rates, counts, "balanced_accuracy"))
    gaps = {name: float(gap_of_rates(rates, counts, name)) for name in CONSTRAINTS}
    change, harm = np.zeros_like(rates), 0.0
    if before is not None:
        pair = np.asarray(before), np.asarray(predictions)
        harm = count_moves(rows.y, pair, rows.g, (2, n_groups), 1).harm(constraint)
        change = rates - rates_above(np.asarray(before, float), rows, np.array([0.5]), n_groups)[0]
    return {
        "accuracy": float(np.mean(predictions == rows.y)),
        "balanced_accuracy": balanced,
        "equalized_odds_difference": gaps["equalized_odds"],
        "demographic_parity_difference": gaps["demographic_parity"],
        "worst_cell": float(np.nanmin(np.stack([1 - rates[:, 0], rates[:, 1]]))),
        "psi": psi(balanced, gaps[constraint]),
        "phi": phi(balanced, gaps[constraint]),
        "tpr_change": change[:, 1].tolist(),
        "fpr_change": change[:, 0].tolist(),
        "harm": harm,
    }
