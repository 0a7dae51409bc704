"""The report of a fit: what the network predicts for the validation rows, before and after."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor, nn

from ..arrays import LabelledRows
from ..metrics import CalibrationMap, Rows
from ..objective import Constraint, count_moves, count_table
from ._choice import Outcome
from ._complaints import chosen_by_phi
from ._inputs import FitInputs
from ._report_calibration import Scores, measure_calibrated, measure_scores, say_calibrated
from ._report_data import ReportData
from ._report_flips import say_flips
from ._report_weights import Weighted
from ._task import EditData

__all__ = ["describe"]

WEIGHTED = (
    "Rows are weighted (sample_weight): rates and gaps are those of the weighted rows, and what "
    "depends on their number uses that of rows of equal weight that tell as much (Kish's effective "
    "number)."
)


def describe(
    inputs: FitInputs,
    held: LabelledRows,
    data: EditData,
    after: tuple[nn.Module, float],
    constraint: Constraint,
    outcome: Outcome,
    seed: int,
    *,
    shift: bool = True,
    calibrate: str | None = None,
    flip_rate: float | None = None,
) -> ReportData:
    """Count the network's predictions for the validation rows, before and after the edit.

    Parameters
    ----------
    inputs : FitInputs
    held : LabelledRows
        Validation rows, with which the judge's rows begin.
    data : EditData
    after : (nn.Module, float)
        The edited network and its threshold, in units of the margin.
    constraint : Constraint
    outcome : Outcome
    seed : int
        Seed of the bootstrap.
    shift : bool, default=True
        Whether the probabilities are shifted by the threshold.
    calibrate : {"temperature", "isotonic"}, optional
        The map of the edited network's probabilities.
    flip_rate : float, optional
        Share of the rows of a cell whose group may be another one; None: the groups are certain.
    """
    y, groups = held.y.numpy(), held.groups.numpy()
    sizes = len(inputs.classes), inputs.n_groups

    def shifted(logits: Tensor, offset: float) -> NDArray[np.float64]:
        # The judge's rows begin with the validation rows.
        values = logits[: len(held)].double().numpy()
        values[:, 1] -= offset
        return values

    def predict(logits: Tensor, offset: float) -> NDArray[np.int64]:
        return shifted(logits, offset).argmax(axis=1)

    module, offset = after
    edited = outcome.logits if outcome.logits is not None else data.logits(module, {})
    old, new = predict(data.untouched, 0.0), predict(edited, offset)
    weights = None if held.weights is None else held.weights.numpy()
    rows = Rows(y, groups, *sizes, constraint.pos, weights=weights)

    def count(predicted: NDArray[np.int64]) -> NDArray[Any]:
        return count_table(y, predicted, groups, *sizes, weights)

    shown = shifted(data.untouched, 0.0), shifted(edited, offset if shift else 0.0)
    scores, calibration = _measure_shown(rows, *shown, calibrate)
    report = ReportData(
        before=count(old),
        after=count(new),
        labels=inputs.group_labels,
        constraint=constraint,
        verdict=outcome.verdict,
        classes=inputs.classes,
        seed=seed,
        moves=count_moves(y, (old, new), groups, sizes, constraint.pos, weights),
        threshold_only=count(predict(data.untouched, offset)),
        scores=scores,
        certificate=outcome.certificate,
        n_judged=len(outcome.history) if outcome.interrupted else None,
        weighted=Weighted.of(rows, old, new),
        flip_rate=flip_rate,
        names=inputs.names,
        calibration=calibration,
    )
    report.notes.extend(_say_assumed(report))
    return report


def _say_assumed(report: ReportData) -> list[str]:
    """Say what was assumed, what was asked, and what is promised."""
    constraint, notes = report.constraint, []
    if report.calibration is not None:
        notes.append(say_calibrated(report.calibration))
    if report.flip_rate is not None:
        pair = constraint.gap, constraint.pos
        notes.append(say_flips(report.after, *pair, report.flip_rate))
    if report.weighted is not None:
        notes.append(WEIGHTED)
    notes.extend(_say_asked(constraint))
    if report.certificate is not None:
        notes.append(str(report.certificate))
    if constraint.phi is not None:
        notes.append(chosen_by_phi(report, constraint.phi))
    return notes


def _measure_shown(
    rows: Rows,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    calibrate: str | None,
) -> tuple[tuple[Scores, Scores], CalibrationMap | None]:
    """Measure the probabilities of both networks, and fit the map of those of the edited one."""
    first = measure_scores(rows, softmax(before, axis=1))
    if calibrate is None:
        return (first, measure_scores(rows, softmax(after, axis=1))), None
    calibration = CalibrationMap.fit(calibrate, after, rows.y, rows.weights)
    return (first, measure_calibrated(calibration, after, rows)), calibration


def _say_asked(constraint: Constraint) -> list[str]:
    """Say what of several requirements guided the edit, and what was only checked."""
    notes = []
    if any(each.members is not None for each in constraint.requirements):
        notes.append(
            "Attributes alone were asked about: the choice, soft gaps and a teacher follow these; "
            "what else follows a gap by its name compares the intersections."
        )
    if not constraint.requirements or constraint.has_rule:
        return notes
    names = ", ".join(each.name for each in constraint.requirements)
    return [
        *notes,
        f"No fair rule is known for {names}: methods that imitate one followed the soft form "
        "instead, where it has one. Candidates and thresholds were chosen by the constraint "
        "itself.",
    ]
