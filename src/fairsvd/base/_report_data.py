"""What a fit changed: the counts behind its report, and the tables made of them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._rng import stage_rng
from ..metrics import CalibrationMap, Compared, interval
from ..objective import (
    GAPS,
    Change,
    Constraint,
    Moves,
    Verdict,
    estimate_gaps,
    gap,
    rates,
)
from ._certificate import Certificate
from ._report_asked import tabulate_asked
from ._report_attributes import tables_by_attribute
from ._report_flips import add_flips
from ._report_measures import compare
from ._report_weights import Weighted
from ._summary import OVERALL, RATE_NAMES, THRESHOLD_ONLY, FairnessReport

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ReportData"]

RATES = ("selection_rate", "tpr", "fpr", "accuracy")


@dataclass(frozen=True)
class ReportData:
    """The data from which the report is computed when it is read.

    Attributes
    ----------
    before, after : ndarray of shape (n_groups, n_classes, n_classes), int64
        Counts of validation rows by [group, true, predicted], of the untouched and the chosen
        network; float64 of weighted rows.
    labels : tuple
        Labels of the groups.
    constraint : Constraint
    verdict : Verdict
        Verdict on the chosen candidate.
    classes : ndarray of shape (n_classes,)
    seed : int
    moves : Moves
        Rows whose prediction the edit changed.
    threshold_only : ndarray of shape (n_groups, n_classes, n_classes), int64
        Counts of the untouched network with the chosen threshold.
    scores : (dict, dict)
        Measures of probabilities before and after: by name an array (3, n_groups + 1) of values,
        standard errors and rows, all rows together last.
    certificate : Certificate or None
        What is promised with a confidence.
    n_judged : int or None
        Candidates judged before an interrupt ended the search; None without an interrupt.
    notes : list of str
    rows : str
        What the rows are, as the summary says it.
    weighted : Weighted or None
        None: all rows weigh the same.
    flip_rate : float or None
        Share of the rows of a cell whose group may be another one.
    names : tuple of str
        Names of the attributes.
    calibration : CalibrationMap or None
        What maps the probabilities of the chosen network.
    """

    before: NDArray[Any]
    after: NDArray[Any]
    labels: tuple[Any, ...]
    constraint: Constraint
    verdict: Verdict
    classes: NDArray[Any]
    seed: int
    moves: Moves
    threshold_only: NDArray[Any]
    scores: tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]] = ({}, {})
    certificate: Certificate | None = None
    n_judged: int | None = None
    notes: list[str] = field(default_factory=list)
    rows: str = "validation "
    weighted: Weighted | None = None
    flip_rate: float | None = None
    names: tuple[str, ...] = ()
    calibration: CalibrationMap | None = None

    @property
    def plain(self) -> NDArray[np.int64]:
        """Rows under the chosen network, whatever they weigh."""
        return self.after if self.weighted is None else self.weighted.plain

    @property
    def effective(self) -> NDArray[np.int64]:
        """The same in rows of equal weight that tell as much."""
        return self.after if self.weighted is None else self.weighted.effective

    @property
    def has_groups(self) -> bool:
        """Tell whether there are groups to compare."""
        return len(self.labels) > 0

    @property
    def is_constant(self) -> bool:
        """Tell whether the chosen network predicts one class only."""
        return bool(np.count_nonzero(self.after.sum(axis=(0, 1))) < 2)

    @cached_property
    def changes(self) -> list[Change]:
        """Every rate whose fall would be harm."""
        return self.moves.changes(self.constraint.gap) if self.has_groups else []

    @property
    def lost(self) -> list[Any]:
        """Labels of the groups of which some rate fell beyond noise."""
        return [self.labels[g] for g in sorted(self._groups("fell"))]

    @property
    def gained(self) -> list[Any]:
        """Labels of the groups of which some rate rose beyond noise."""
        return [self.labels[g] for g in sorted(self._groups("rose"))]

    @property
    def traded(self) -> bool:
        """Tell whether a group lost while another gained."""
        lost, gained = self._groups("fell"), self._groups("rose")
        return bool(lost) and bool(gained) and len(lost | gained) > 1

    def _groups(self, how: str) -> set[int]:
        return {each.group for each in self.changes if getattr(each, how)}

    def name(self, group: int) -> str:
        """Name a group in words."""
        label = self.labels[group]
        return "/".join(map(str, label)) if isinstance(label, tuple) else str(label)

    def rate_in_words(self, change: Change) -> str:
        """Name a rate, and the class that it is of if there are more than two."""
        name = RATE_NAMES[change.rate]
        several = len(self.classes) > 2
        return f"{name} of class {self.classes.tolist()[change.place]!r}" if several else name

    def report(self) -> FairnessReport:
        """Compute the tables."""
        return FairnessReport(
            groups=self.group_frame(),
            gaps=self.gap_frame(),
            **tables_by_attribute(self),
            harm=self.harm_frame(),
            measures=self.measure_frame(),
            compared=self.compared,
            constraints=self.constraint_frame(),
            certificate=self.certificate,
            positive=self.positive_in_words(),
            lost=self.lost,
            gained=self.gained,
            traded=self.traded,
            constant=self.is_constant,
            notes=list(self.notes),
            rows=self.rows,
        )

    def positive_in_words(self) -> str:
        """Say which label is the positive one."""
        classes = self.classes.tolist()
        if len(classes) > 2:
            return (
                f"None of the {len(classes)} classes is the positive one: each is compared with "
                "the rest, and rates are means over the classes."
            )
        pos = self.constraint.pos
        return f"The positive label is {classes[pos]!r}, the other one {classes[1 - pos]!r}."

    def group_frame(self) -> pd.DataFrame:
        """Rates before and after, and the change: of every group, overall, by the threshold."""
        import pandas as pd

        before, after, alone = (
            counts.sum(axis=0, keepdims=True)
            for counts in (self.before, self.after, self.threshold_only)
        )
        number = self.plain.sum(axis=(1, 2))
        frames = [
            self.rate_frame(before, after, number.sum(), [OVERALL]),
            self.rate_frame(before, alone, number.sum(), [THRESHOLD_ONLY]),
        ]
        if self.has_groups:
            labels = [str(label) for label in self.labels]
            frames.insert(0, self.rate_frame(self.before, self.after, number, labels))
        return pd.concat(frames).rename_axis("group")

    def rate_frame(
        self, before: NDArray[Any], after: NDArray[Any], number: Any, labels: Any
    ) -> pd.DataFrame:
        """Rates of some groups before and after, and the change."""
        import pandas as pd

        columns: dict[tuple[str, str], Any] = {("", "n"): number}
        for name, old, new in zip(RATES, self._rates(before), self._rates(after), strict=True):
            columns[name, "before"] = old
            columns[name, "after"] = new
            columns[name, "change"] = new - old
        return pd.DataFrame(columns, index=labels)

    def _rates(self, counts: NDArray[Any]) -> list[NDArray[np.float64]]:
        with warnings.catch_warnings():
            # A class that a group lacks has no rate; the mean is taken over the others.
            warnings.simplefilter("ignore", RuntimeWarning)
            return [np.nanmean(rate, axis=-1) for rate in rates(counts, self.constraint.pos)]

    def gap_frame(self) -> pd.DataFrame:
        """Every gap before and after, with its 95 % bounds and the noise floor."""
        import pandas as pd

        if not self.has_groups:
            return pd.DataFrame()
        rng = stage_rng(self.seed, "bootstrap")
        estimates = estimate_gaps(self.effective, GAPS, self.constraint.pos, rng)
        rows = [{**self._gap_row(name), **each._asdict()} for name, each in estimates.items()]
        frame = pd.DataFrame(rows).set_index("gap")
        asked = (frame.index == self.constraint.gap) & (not self.constraint.requirements)
        met = (frame["after"] <= self.constraint.tolerance) & (not self.is_constant)
        frame["tolerance"] = np.where(asked, self.constraint.tolerance, np.nan)
        frame["met"] = [bool(each) if own else None for each, own in zip(met, asked, strict=True)]
        if self.flip_rate is not None:
            add_flips(frame, self.after, self.constraint.pos, self.flip_rate)
        return frame

    def constraint_frame(self) -> pd.DataFrame:
        """Everything that was asked, before and after, and whether it is met on these rows."""
        return tabulate_asked(self)

    def _gap_row(self, name: str) -> dict[str, Any]:
        tables = {"before": self.before, "threshold_only": self.threshold_only, "after": self.after}
        values = {when: float(gap(t, name, self.constraint.pos)) for when, t in tables.items()}
        return {"gap": name, **values}

    @cached_property
    def compared(self) -> tuple[Compared, Compared]:
        """Every measure of every group, before and after."""
        squares = (None, None) if self.weighted is None else self.weighted.squares
        tables = zip((self.before, self.after), squares, self.scores, strict=True)
        first, second = (compare(*each, self.labels, self.constraint.pos) for each in tables)
        return first, second

    def measure_frame(self) -> pd.DataFrame:
        """Every measure of every group, before and after, with the interval of the latter."""
        import pandas as pd

        before, after = self.compared
        parts: list[list[NDArray[np.float64]]] = []
        for name in after.found:
            pairs = (
                (before.found[name], after.found[name]),
                (before.overall[name], after.overall[name]),
            )
            for first, then in pairs:
                parts.append([first.values, then.values, *interval(name, then, 0.95)])
        old, new, low, high = (np.concatenate(column) for column in zip(*parts, strict=True))
        columns = {"before": old, "after": new, "change": new - old, "low": low, "high": high}
        labels = [*map(str, self.labels), OVERALL]
        index = pd.MultiIndex.from_product([list(after.found), labels], names=["measure", "group"])
        return pd.DataFrame(columns, index=index)

    def harm_frame(self) -> pd.DataFrame:
        """Every rate whose fall would be harm, and whether it fell or rose beyond noise."""
        import pandas as pd

        columns = ["group", "rate", "change", "lost", "gained", "rows", "verdict"]
        rows = []
        for each in self.changes:
            verdict = "fell" if each.fell else "rose" if each.rose else "within noise"
            about = (each.change, each.lost, each.gained, each.rows, verdict)
            rows.append((self.name(each.group), self.rate_in_words(each), *about))
        return pd.DataFrame(rows, columns=columns).set_index(["group", "rate"])
