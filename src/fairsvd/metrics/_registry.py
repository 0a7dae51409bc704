"""The measures that groups are compared by, in one table: a measure is a line."""

from __future__ import annotations

from dataclasses import dataclass

from ..objective import GAPS, STATISTICS
from ._score_measures import (
    ScoreMeasure,
    auc,
    average_precision,
    brier,
    calibration_error,
    calibration_intercept,
    calibration_slope,
    log_loss,
)

__all__ = ["KINDS", "MEASURES", "METRICS", "NAMES", "Measure"]


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes
    ----------
    best : float
        Its value for the best classifier; the worst group is the one farthest from it.
    bounded : bool
        Whether it lies in [0, 1], so that its interval must.
    positive : bool
        Whether it is above 0 except where it is perfect or empty, so that ratios have a meaning.
    of_scores : callable or None
        Computes it from probabilities; None: from counts, see ``objective.STATISTICS``.
    over_classes : {"mean", "half_sum", "label"}
        What several classes give: the mean, or half the sum, of every class against the rest; or
        what the probability of every row's own label gives.
    """

    best: float
    bounded: bool = True
    positive: bool = True
    of_scores: ScoreMeasure | None = None
    over_classes: str = "mean"


# fmt: off
MEASURES: dict[str, Measure] = {
    **{name: Measure(line.best) for name, line in STATISTICS.items()},
    "auc":                   Measure(1.0, of_scores=auc),
    "average_precision":     Measure(1.0, of_scores=average_precision),
    "brier":                 Measure(0.0, of_scores=brier, over_classes="half_sum"),
    "log_loss":              Measure(0.0, False, of_scores=log_loss, over_classes="label"),
    "calibration_error":     Measure(0.0, positive=False, of_scores=calibration_error),
    "calibration_slope":     Measure(1.0, False, False, calibration_slope),
    "calibration_intercept": Measure(0.0, False, False, calibration_intercept),
}
# fmt: on

# How groups are compared: largest minus smallest, smallest over largest, the worst group's value.
KINDS = ("difference", "ratio", "worst")

METRICS = tuple(f"{name}_{kind}" for name in GAPS for kind in KINDS[:2])

# Every name that fairness_score and fairness_scorer know, with its two parts.
NAMES = {
    **{f"{name}_{kind}": (name, kind) for name in GAPS for kind in KINDS[:2]},
    **{
        f"{name}_{kind}": (name, kind)
        for name, measure in MEASURES.items()
        for kind in KINDS
        if measure.positive or kind != "ratio"
    },
}
