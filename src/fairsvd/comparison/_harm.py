"""The no-harm protocol: every method against one tuned reference.

After NH-Fair (arXiv:2602.03895): a method helps if it makes the gap smaller without a loss of
utility, compared with a network that was tuned as well but for nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from ..objective import count_moves
from ._aims import Aim
from ._fine_tuning import distance_to_ideal
from ._fold import Fold
from ._methods import Method

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["JUDGED", "Run", "against_reference", "count_losses"]

# A row of the table, and the classes that its method predicted, or None where it failed.
Run = tuple[dict[str, Any], NDArray[np.int64] | None]

# Columns of a comparison with a reference.
JUDGED = ("reference", "groups_lost")
CHANGES = ("utility_change", "fairness_change")
LEVEL = 0.95
# Rounding of a difference of rates that is 0.
EQUAL = 1e-12


def count_losses(tasks: list[tuple[Fold, Aim, Method]], runs: list[Run], reference: str) -> None:
    """Add the number of groups that lose against the reference in the same fold to every row.

    A group loses if one of its rates fell beyond noise, in the sense of ``harm``.
    """
    predicted = {(row["fold"], row["constraint"], row["method"]): codes for row, codes in runs}
    for (fold, aim, _), (row, codes) in zip(tasks, runs, strict=True):
        base, lost = predicted[fold.number, aim.name, reference], np.nan
        if codes is not None and base is not None:
            problem, rows = fold.problem, fold.test
            sizes = len(problem.classes), problem.groups.n_groups
            y, groups = problem.codes[rows], fold.groups(rows)
            pair, weights = (base, codes), fold.weights(rows)
            moves = count_moves(y, pair, groups, sizes, problem.pos, weights)
            lost = len({change.group for change in moves.changes(aim.gap) if change.fell})
        row |= {"reference": reference, "groups_lost": lost}


def against_reference(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Compare the methods of one constraint with the reference, the nearest to ideal first.

    Parameters
    ----------
    rows : DataFrame
        Rows of a comparison with a reference.

    Raises
    ------
    ValueError
        If rows of the reference are missing.
    """
    name = rows["reference"].iloc[0]
    base = rows[rows["method"] == name].set_index("fold")
    if base.empty or not (rows["reference"] == name).all():
        raise ValueError(
            f"rows of the reference {name!r} are missing, or rows have several references: select "
            "rows of one comparison, with its reference."
        )
    found = {}
    for method, part in rows.groupby("method", sort=False):
        found[str(method)] = _compare(part.set_index("fold"), base, str(method) == name)
    return dict(sorted(found.items(), key=lambda item: (np.isnan(d := item[1]["distance"]), d)))


def _compare(part: pd.DataFrame, base: pd.DataFrame, is_reference: bool) -> dict[str, Any]:
    base = base.reindex(part.index)
    utility = part["balanced_accuracy"] - base["balanced_accuracy"]
    fairness = base["gap"] - part["gap"]
    known = (utility.notna() & fairness.notna()).to_numpy()
    row: dict[str, Any] = {"quadrant": "reference"}
    for column, changes in zip(CHANGES, (utility, fairness), strict=True):
        row |= _mean_and_interval(column, changes.to_numpy(dtype=np.float64)[known])
    if not is_reference:
        row["quadrant"] = _quadrant(*(row[column] for column in CHANGES))
    row["clear"] = all(row[f"{k}_low"] > 0 or row[f"{k}_high"] < 0 for k in CHANGES)
    row["groups_lost"] = float(part["groups_lost"].mean())
    row["distance"] = float(distance_to_ideal(part["balanced_accuracy"], part["gap"]).mean())
    return row | {"needs_group": bool(part["needs_group"].iloc[0]), "folds": int(known.sum())}


def _quadrant(utility: float, fairness: float) -> str:
    if np.isnan(utility) or np.isnan(fairness):
        return ""
    up = ("down", "up")
    return f"utility {up[utility > -EQUAL]}, fairness {up[fairness > -EQUAL]}"


def _mean_and_interval(name: str, changes: NDArray[np.float64]) -> dict[str, float]:
    """Average paired differences of k folds, with the interval of Nadeau and Bengio (2003).

    It allows for the training rows that folds share: the variance of the mean is that of the
    differences times 1/k + (test rows / training rows), which is 1/(k - 1) for k folds.
    """
    n = len(changes)
    mean = float(changes.mean()) if n else np.nan
    reach = np.nan
    if n > 1:
        error = changes.std(ddof=1) * np.sqrt(1 / n + 1 / (n - 1))
        reach = float(t.ppf((1 + LEVEL) / 2, n - 1) * error)
    return {name: mean, f"{name}_low": mean - reach, f"{name}_high": mean + reach}
