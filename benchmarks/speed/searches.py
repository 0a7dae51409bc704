"""The searches that are timed, and the trainings that every search needs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import GridSearchCV

from benchmarks.tasks import Rows
from fairsvd import (
    FairLRFTransformer,
    FairLRFTransformerCV,
    JointStratifiedKFold,
    best_under_gap,
    fairness_scorer,
)

__all__ = ["N_FOLDS", "Grid", "base_trainings", "differences", "grid_search", "own_search"]

N_FOLDS = 5
# The utility of the scorer, so that the grid and the CV class rank by the same numbers.
COMMON: dict[str, Any] = {
    "criterion": "curvature",
    "refine": None,
    "utility": "balanced_accuracy",
    "random_state": 0,
}

Grid = Mapping[str, Sequence[float]]


def grid_search(
    rows: Rows, grid: Grid, *, memory: bool = True, refit: bool = True, **settings: Any
) -> GridSearchCV:
    """Search with scikit-learn; every call has a new folder for ``memory=``."""
    gap = fairness_scorer("equalized_odds_difference")
    rule = best_under_gap("utility", "gap", limit=0.05)
    with tempfile.TemporaryDirectory() as folder:
        kept = {"memory": folder} if memory else {}
        search = GridSearchCV(
            FairLRFTransformer(**{**COMMON, **kept, **settings}),
            {name: list(values) for name, values in grid.items()},
            scoring={"utility": "balanced_accuracy", "gap": gap},
            cv=JointStratifiedKFold(N_FOLDS),
            refit=rule if refit else False,
            error_score="raise",
        )
        return search.fit(rows.X, rows.y, sensitive_features=rows.g)


def own_search(rows: Rows, grid: Grid, **settings: Any) -> FairLRFTransformerCV:
    """Search the same grid with ``FairLRFTransformerCV``."""
    search = FairLRFTransformerCV(
        ranks=grid["rank"],
        sparsities=grid["sparsity"],
        cv=JointStratifiedKFold(N_FOLDS),
        refit=best_under_gap("utility", "gap", limit=0.05),
        **{**COMMON, **settings},
    )
    return search.fit(rows.X, rows.y, sensitive_features=rows.g)


def base_trainings(rows: Rows) -> Callable[[], list[Any]]:
    """Make the training of every fold's network, on the rows on which an editor trains it."""
    from fairsvd._rng import stage_rng
    from fairsvd.arrays import LabelledRows, as_batches
    from fairsvd.base import split_rows
    from fairsvd.networks import adopt

    X, y, g = rows
    seed = COMMON["random_state"]
    folds = []
    for train, _ in JointStratifiedKFold(N_FOLDS).split(X, y, sensitive_features=g):
        cells = 2 * y[train] + g[train]
        editing, _ = split_rows(0.25, cells, y[train], stage_rng(seed, "split"))
        part = train[editing]
        labels = torch.as_tensor(y[part]), torch.as_tensor(g[part])
        folds.append(LabelledRows(as_batches(X[part]), *labels))

    def run() -> list[Any]:
        classes = np.unique(y)
        return [
            adopt(None, fold, classes, batch_size=256, rng=stage_rng(seed, "base"))
            for fold in folds
        ]

    return run


def differences(mine: Any, other: Any) -> tuple[bool, float]:
    """Say whether two searches chose the same, and the largest difference of a score."""
    keys = ("rank", "sparsity")
    alike = all(mine.best_params_[key] == other.best_params_[key] for key in keys)
    names = [key for key in other.cv_results_ if key.startswith("split") and "_test_" in key]
    pairs = [(mine.cv_results_[name], other.cv_results_[name]) for name in names]
    return alike, float(max(np.abs(a - b).max() for a, b in pairs))
