"""Plain fine-tuning, tuned: the reference of the no-harm protocol."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ..exceptions import MissingSensitiveFeaturesWarning
from ..intraprocessing import GapFineTuner
from ..objective import count_table, gap, utility_from_counts
from ._answers import Answer, ask
from ._fold import Fold

__all__ = ["distance_to_ideal", "fine_tune"]

# The range over which NH-Fair (arXiv:2602.03895) draws the learning rate of its reference.
RATES = (1e-5, 1e-4, 1e-3, 1e-2)


def distance_to_ideal(utility: Any, gaps: Any) -> Any:
    """Compute the distance to the ideal point, of utility 1 and gap 0."""
    return np.hypot(1.0 - utility, gaps)


def fine_tune(fold: Fold, constraint: str) -> Answer:
    """Fine-tune the base network on cross-entropy alone, and choose the learning rate.

    For each rate the step and the threshold of best balanced accuracy are chosen, as editors do.
    Among the rates the one nearest to the ideal point on the validation rows is taken.
    """
    tuned = [_tune(fold, rate) for rate in RATES]
    nearest = min(tuned, key=lambda editor: _distance(editor, fold, constraint))
    return ask(nearest, fold, fold.X(fold.test))


def _tune(fold: Fold, rate: float) -> GapFineTuner:
    """Tune without groups, which makes it plain."""
    problem, rows = fold.problem, fold.fitting
    tuner = GapFineTuner(
        fold.network,
        learning_rate=rate,
        utility="balanced_accuracy",
        pos_label=None if problem.pos is None else problem.classes[problem.pos],
        validation=fold.split,
        random_state=fold.seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MissingSensitiveFeaturesWarning)
        return tuner.fit(fold.X(rows), fold.y(rows), sample_weight=fold.weights(rows))


def _distance(tuner: GapFineTuner, fold: Fold, constraint: str) -> float:
    problem, rows = fold.problem, fold.validation
    codes = fold.codes_of_labels(tuner.predict(fold.X(rows)))
    sizes = len(problem.classes), problem.groups.n_groups
    columns = problem.codes[rows], codes, fold.groups(rows)
    counts = count_table(*columns, *sizes, fold.weights(rows))
    balanced = utility_from_counts(counts, "balanced_accuracy")
    distance = float(distance_to_ideal(balanced, gap(counts, constraint, problem.pos)))
    # Where no rows of a group can be compared, no rate is nearer than another.
    return np.inf if np.isnan(distance) else distance
