"""The report of a fit: every group's rates before and after, gaps with their uncertainty."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch
from torch import Tensor, nn

from .._rng import stage_rng
from .._warn import warn
from ..arrays import LabelledRows
from ..exceptions import (
    ConstantPredictionsWarning,
    ConstraintNotMetWarning,
    InterruptedFitWarning,
    LevellingDownWarning,
    OverfittedNetworkWarning,
    SmallCellWarning,
)
from ..objective import (
    GAPS,
    Constraint,
    PhiObjective,
    Verdict,
    count_table,
    gap,
    gap_interval,
    noise_floor,
    rates,
)
from ._choice import Outcome
from ._inputs import FitInputs
from ._task import EditData

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ReportData", "describe"]

RATES = ("selection_rate", "tpr", "fpr", "accuracy")

# A group counts as harmed when its balanced accuracy falls by more than this and by more than
# two standard errors.
HARM = 0.02


@dataclass(frozen=True)
class ReportData:
    """The data from which the report is computed when it is read.

    Attributes
    ----------
    before, after : ndarray of shape (n_groups, n_classes, n_classes), int64
        Counts of validation rows by [group, true, predicted], of the untouched and the chosen
        network.
    labels : tuple
        Labels of the groups.
    constraint : Constraint
    verdict : Verdict
        Verdict on the chosen candidate.
    classes : ndarray of shape (n_classes,)
    seed : int
    n_judged : int or None
        Candidates judged before an interrupt ended the search; None without an interrupt.
    notes : list of str
    """

    before: NDArray[np.int64]
    after: NDArray[np.int64]
    labels: tuple[Any, ...]
    constraint: Constraint
    verdict: Verdict
    classes: NDArray[Any]
    seed: int
    n_judged: int | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def has_groups(self) -> bool:
        """Tell whether there are groups to compare."""
        return len(self.labels) > 0

    def report(self) -> Bunch:
        """Compute the tables."""
        return Bunch(groups=self.group_frame(), gaps=self.gap_frame(), notes=list(self.notes))

    def group_frame(self) -> pd.DataFrame:
        """Rates of every group before and after, and the change."""
        import pandas as pd

        before, after = self._rates(self.before), self._rates(self.after)
        columns: dict[tuple[str, str], Any] = {("", "n"): self.after.sum(axis=(1, 2))}
        for i, name in enumerate(RATES):
            columns[name, "before"] = before[i]
            columns[name, "after"] = after[i]
            columns[name, "change"] = after[i] - before[i]
        labels = [str(label) for label in self.labels] or ["all"]
        return pd.DataFrame(columns, index=pd.Index(labels, name="group"))

    def _rates(self, counts: NDArray[np.int64]) -> list[NDArray[np.float64]]:
        with warnings.catch_warnings():
            # A class that a group lacks has no rate; the mean is taken over the others.
            warnings.simplefilter("ignore", RuntimeWarning)
            return [np.nanmean(rate, axis=-1) for rate in rates(counts, self.constraint.pos)]

    def gap_frame(self) -> pd.DataFrame:
        """Every gap before and after, with a 95 % interval and the noise floor."""
        import pandas as pd

        frame = pd.DataFrame([self._gap_row(name) for name in GAPS] if self.has_groups else [])
        return frame.set_index("gap") if len(frame) else frame

    def _gap_row(self, name: str) -> dict[str, Any]:
        pos, constrained = self.constraint.pos, name == self.constraint.gap
        rng = stage_rng(self.seed, "bootstrap")
        after = float(gap(self.after, name, pos))
        low, high = gap_interval(self.after, name, pos, rng)
        tolerance = self.constraint.tolerance
        return {
            "gap": name,
            "before": float(gap(self.before, name, pos)),
            "after": after,
            "low": low,
            "high": high,
            "noise_floor": noise_floor(self.after, name, pos, rng),
            "tolerance": tolerance if constrained else np.nan,
            "met": bool(after <= tolerance) if constrained else None,
        }

    def warn(self, overfitted: float | None) -> None:
        """Warn about everything that a user must not overlook, and note it."""
        complaints = self._complaints(overfitted) if self.has_groups else []
        if self.n_judged is not None:
            complaints.insert(0, (InterruptedFitWarning, _interrupted(self.n_judged)))
        for category, text in complaints:
            self.notes.append(text)
            warn(text, category)

    def _complaints(self, overfitted: float | None) -> list[tuple[type[Warning], str]]:
        complaints: list[tuple[type[Warning], str]] = []
        if not self.verdict.feasible:
            complaints.append((ConstraintNotMetWarning, self._not_met()))
        if np.count_nonzero(self.after.sum(axis=(0, 1))) < 2:
            text = "The chosen network predicts one class only on the validation rows."
            complaints.append((ConstantPredictionsWarning, text))
        if overfitted is not None:
            complaints.append((OverfittedNetworkWarning, _overfitted(overfitted)))
        harmed = self._harmed()
        if harmed:
            complaints.append((LevellingDownWarning, _levelled_down(harmed)))
        small = self._small_cells()
        if small:
            complaints.append((SmallCellWarning, self._too_small(small)))
        return complaints

    def _not_met(self) -> str:
        c, v = self.constraint, self.verdict
        if c.phi is not None:
            return (
                f"No candidate has {c.gap} below {c.limit:.3f} (epsilon - slack) in any resample "
                f"of the validation rows: the untouched network was kept, with {v.gap:.3f}."
            )
        return (
            f"No candidate keeps {c.gap} within the tolerance of {c.limit:.3g} at "
            f"an acceptable utility; the chosen one has {v.gap:.3f}. Raise tolerance, pass more "
            "rows, or read report_."
        )

    def _harmed(self) -> list[str]:
        before, se = _balanced(self.before)
        after, _ = _balanced(self.after)
        lost = before - after
        worse = lost > np.maximum(HARM, 2 * se)
        return [f"{self.labels[g]} ({-lost[g]:+.3f})" for g in np.flatnonzero(worse)]

    def _small_cells(self) -> list[str]:
        # The standard error of a rate is at most 0.5 / sqrt(n).
        needed = 0.25 / max(self.constraint.tolerance, 1e-3) ** 2
        cells = self.after.sum(axis=2)
        return [
            f"(label {self.classes[k]}, group {self.labels[g]}): {cells[g, k]}"
            for g, k in np.argwhere(cells < needed)
        ]

    def _too_small(self, cells: list[str]) -> str:
        shown = ", ".join(cells[:6]) + (f" and {len(cells) - 6} more" if len(cells) > 6 else "")
        tolerance = self.constraint.tolerance
        return (
            f"Too few validation rows to certify a tolerance of {tolerance}: {shown} rows. About "
            f"{0.25 / max(tolerance, 1e-3) ** 2:.0f} a cell are needed; read the gap beside its "
            "interval and noise floor in report_.gaps."
        )


def describe(
    inputs: FitInputs,
    held: LabelledRows,
    data: EditData,
    after: tuple[nn.Module, float],
    constraint: Constraint,
    outcome: Outcome,
    seed: int,
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
    """

    def counts(logits: Tensor, offset: float) -> NDArray[np.int64]:
        # The judge's rows begin with the validation rows.
        shifted = logits[: len(held)].numpy().astype(np.float64)
        shifted[:, 1] -= offset
        codes = held.y.numpy(), shifted.argmax(axis=1), held.groups.numpy()
        return count_table(*codes, len(inputs.classes), inputs.n_groups)

    module, offset = after
    phi = constraint.phi
    edited = outcome.logits if outcome.logits is not None else data.logits(module, {})
    return ReportData(
        before=counts(data.untouched, 0.0),
        after=counts(edited, offset),
        labels=inputs.group_labels,
        constraint=constraint,
        verdict=outcome.verdict,
        classes=inputs.classes,
        seed=seed,
        n_judged=len(outcome.history) if outcome.interrupted else None,
        notes=[] if phi is None else [_by_phi(phi, constraint, len(held))],
    )


def _balanced(counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the balanced accuracy of every group and its standard error."""
    total = counts.sum(axis=2)
    right = np.diagonal(counts, axis1=1, axis2=2)
    recall = np.divide(right, total, out=np.full(total.shape, np.nan), where=total > 0)
    n_seen = np.maximum((total > 0).sum(axis=1), 1)
    spread = np.nan_to_num(recall * (1 - recall)) / np.maximum(total, 1)
    return np.nan_to_num(recall).sum(axis=1) / n_seen, np.sqrt(spread.sum(axis=1)) / n_seen


def _by_phi(phi: PhiObjective, constraint: Constraint, n_rows: int) -> str:
    how = f"the mean over {phi.n_bootstrap} resamples of" if phi.n_bootstrap else "on"
    return (
        f"Candidate and threshold were chosen by phi: {constraint.utility} where {phi.measure} is "
        f"below {phi.limit:.3g} (epsilon - slack), else 0; {how} the {n_rows} validation rows."
    )


def _interrupted(n_judged: int) -> str:
    count = "1 candidate" if n_judged == 1 else f"{n_judged} candidates"
    return (
        f"The fit was interrupted after {count}, the untouched network being the first: the best "
        "so far was kept (on_interrupt='keep')."
    )


def _overfitted(excess: float) -> str:
    return (
        f"The network's balanced accuracy is {excess:.2f} higher on its editing rows than on "
        "validation: gaps on the editing rows say little. Both sets are held to the limit each."
    )


def _levelled_down(harmed: list[str]) -> str:
    return (
        "The gap closed partly by serving some groups worse than the network did before, in "
        f"balanced accuracy: {', '.join(harmed)}. report_.groups has the rates."
    )
