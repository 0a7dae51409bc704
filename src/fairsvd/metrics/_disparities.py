"""How far groups differ in every measure, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._rng import stage_rng
from ..objective import OF_ALL_CLASSES, GapEstimate, estimate_gaps, estimate_spread, gap, ratio
from ._margins import divisions, name_attributes
from ._measured import GroupValues, Rows, interval, measure_groups
from ._read import read_rows
from ._registry import MEASURES
from ._scores import between, farthest
from ._tables import choose_measures

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Compared", "disparity_frame", "disparity_table", "effective_counts", "scaled_counts"]


@dataclass(frozen=True)
class Compared:
    """Measures of groups that are to be compared.

    Attributes
    ----------
    found : dict of str to GroupValues
        The measures of every group.
    overall : dict of str to GroupValues
        Those of all rows together, as of one group.
    labels : sequence
        Labels of the groups.
    pos : int or None
        Code of the positive class of two.
    counts : ndarray of shape (n_groups, n_classes, n_classes), optional
        Rows, or sums of weights, by [group, true, predicted], for measures of counts.
    effective : ndarray of the same shape, int64, optional
        Numbers of rows of weight 1 that tell as much; None: ``counts`` are such.
    """

    found: dict[str, GroupValues]
    overall: dict[str, GroupValues]
    labels: Sequence[Any]
    pos: int | None
    counts: NDArray[Any] | None = None
    effective: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, rows: Rows, labels: Sequence[Any], names: Sequence[str]) -> Compared:
        """Measure rows."""
        found = {name: measure_groups(name, rows) for name in names}
        overall = {name: measure_groups(name, rows.overall) for name in names}
        if rows.predicted is None:
            return cls(found, overall, labels, rows.pos)
        squares = rows.squares
        effective = None if squares is None else effective_counts(rows.counts, squares)
        return cls(found, overall, labels, rows.pos, rows.counts, effective)

    def bounds(self, rng: np.random.Generator, level: float) -> dict[str, GapEstimate]:
        """Bound the difference of every measure."""
        counted = [name for name in self.found if MEASURES[name].of_scores is None]
        found: dict[str, GapEstimate] = {}
        counts = self.counts if self.effective is None else self.effective
        if counted and counts is not None:
            found |= estimate_gaps(counts, counted, self.pos, rng, level=level)
        for name, (values, errors, _) in self.found.items():
            if name not in found:
                found[name] = estimate_spread(values, errors, rng, level=level)
        return found

    def size(self, name: str, kind: str) -> float:
        """Compute the difference or the ratio between the extreme groups."""
        if not MEASURES[name].positive and kind == "ratio":
            return float("nan")
        if MEASURES[name].of_scores is None and self.counts is not None:
            return float((ratio if kind == "ratio" else gap)(self.counts, name, self.pos))
        return between(self.found[name].values, kind)

    def worst(self, name: str) -> float:
        """Find the value that is farthest from the best one; NaN if there is none."""
        values = self.found[name].values
        at = farthest(values, MEASURES[name].best)
        return float("nan") if at is None else float(values[at])

    def bound_ratio(self, name: str, rng: np.random.Generator, level: float) -> tuple[float, float]:
        """Bound the ratio of the smallest to the largest value, on the scale of logarithms."""
        values, errors, rows = self.found[name]
        several = self.counts is not None and self.counts.shape[-1] > 2
        if not MEASURES[name].positive or (several and name not in OF_ALL_CLASSES):
            # The ratio of several classes is a mean of ratios.
            return float("nan"), float("nan")
        if MEASURES[name].bounded:
            # Half a row is added to both outcomes; a share of 0 has no logarithm.
            rows = np.where(rows > 0, rows, np.nan)
            values = (values * rows + 0.5) / (rows + 1)
            errors = np.sqrt(values * (1 - values) / (rows + 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = estimate_spread(np.log(values), errors / values, rng, level=level)
        return float(np.exp(-spread.high)), float(np.exp(-spread.low))


def effective_counts(counts: NDArray[Any], squares: NDArray[Any]) -> NDArray[np.int64]:
    """Turn sums of weights into the numbers of rows of equal weight that tell as much.

    Parameters
    ----------
    counts, squares : ndarray of shape (n_groups, n_classes, n_classes), float64
        Sums of weights and of squared weights by [group, true, predicted].

    Returns
    -------
    rows : ndarray of the same shape, int64
        Each group's rates are kept, but for rounding; its number of rows is Kish's.
    """
    return np.rint(scaled_counts(counts, squares)).astype(np.int64)


def scaled_counts(counts: NDArray[Any], squares: NDArray[Any]) -> NDArray[np.float64]:
    """Scale the sums of weights of each group so that they add up to Kish's number of rows.

    Parameters
    ----------
    counts, squares : ndarray of shape (n_groups, n_classes, n_classes), float64
        As of :func:`effective_counts`.
    """
    total, square = (table.sum(axis=(1, 2), keepdims=True) for table in (counts, squares))
    return np.asarray(counts * total / np.where(square > 0, square, 1.0))


def disparity_frame(
    compared: Compared, rng: np.random.Generator, *, level: float = 0.95
) -> pd.DataFrame:
    """Make the table of :func:`disparity_table` from measured groups.

    Parameters
    ----------
    compared : Compared
    rng : numpy.random.Generator
        Draws the noise of the intervals.
    level : float in (0, 1), default=0.95
        Confidence of the intervals.

    Returns
    -------
    table : DataFrame
    """
    import pandas as pd

    bounds = compared.bounds(rng, level)
    ratios = {name: compared.bound_ratio(name, rng, level) for name in compared.found}
    lines = [
        {
            "overall": float(compared.overall[name].values[0]),
            "difference": compared.size(name, "difference"),
            "difference_low": bounds[name].low,
            "difference_high": bounds[name].high,
            "difference_upper": bounds[name].upper,
            "noise_floor": bounds[name].noise_floor,
            "ratio": compared.size(name, "ratio"),
            "ratio_low": ratios[name][0],
            "ratio_high": ratios[name][1],
            **_worst(name, compared, level),
        }
        for name in compared.found
    ]
    return pd.DataFrame(lines, index=pd.Index(list(compared.found), name="measure"))


def _worst(name: str, compared: Compared, level: float) -> dict[str, Any]:
    found = compared.found[name]
    at = farthest(found.values, MEASURES[name].best)
    low, high = interval(name, found, level)
    columns = {"worst": found.values, "worst_low": low, "worst_high": high}
    group = None if at is None else compared.labels[at]
    return {
        "worst_group": group,
        **{key: float("nan") if at is None else float(v[at]) for key, v in columns.items()},
    }


def disparity_table(
    y_true: Any,
    y_pred: Any,
    sensitive_features: Any,
    *,
    y_score: Any = None,
    measures: str | Sequence[str] | None = "all",
    level: float = 0.95,
    margins: bool = False,
    pos_label: Any = None,
    labels: Sequence[Any] | None = None,
    missing_group: str = "raise",
    sample_weight: Any = None,
    random_state: int = 0,
) -> pd.DataFrame:
    """Tabulate how far groups differ in every measure, and how the worst group fares.

    Parameters
    ----------
    y_true, y_pred, sensitive_features : array-like
        As in :func:`group_table`.
    y_score : array-like, default=None
        As in :func:`group_table`.
    measures : "all", str, list of str or None, default="all"
        As in :func:`group_table`.
    level : float in (0, 1), default=0.95
        Confidence of the intervals.
    margins : bool, default=False
        With several columns: also the groups of every column alone, and of some of them if there
        are more than two. The index then begins with the columns that the groups differ in.
    pos_label : label or None, default=None
        As in :func:`group_table`.
    labels : sequence or None, default=None
        As in :func:`group_table`.
    missing_group : {"raise", "ignore", "own_group"}, default="raise"
        As in :func:`group_table`.
    sample_weight : array-like of shape (n_samples,), default=None
        As in :func:`group_table`.
    random_state : int, default=0
        Seed of the draws behind the intervals.

    Returns
    -------
    table : DataFrame
        Index: the measures. Columns: overall, the value of all rows together; difference, its
        interval (difference_low, difference_high), a one-sided bound (difference_upper) and its
        noise_floor, the mean difference that equal groups would show; ratio with its interval (not
        for the mean ratio of several classes); worst_group, the group farthest from the best value,
        its value worst and the interval of that group.

    Raises
    ------
    ValueError
        As in :func:`group_table`.

    Notes
    -----
    Intervals of differences allow for the bias of a maximum over groups, as those of ``report_``
    do; those of ratios do so on the scale of logarithms. ``benchmarks/coverage.py`` checks them.

    Examples
    --------
    >>> from fairsvd.metrics import disparity_table
    >>> y_true, y_pred = [0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 1, 0]
    >>> table = disparity_table(y_true, y_pred, ["f", "f", "f", "m", "m", "m"], measures="tpr")
    >>> float(table.loc["tpr", "difference"]), table.loc["tpr", "worst_group"]
    (0.5, 'm')
    """
    import pandas as pd

    read = read_rows(
        y_true,
        y_pred,
        sensitive_features,
        y_score=y_score,
        pos_label=pos_label,
        labels=labels,
        missing_group=missing_group,
        sample_weight=sample_weight,
    )
    rng = stage_rng(random_state, "bootstrap")
    parts = {
        name_attributes(groups): disparity_frame(
            Compared.of(rows, groups.labels, choose_measures(measures, rows)), rng, level=level
        )
        for rows, groups in divisions(read, margins)
    }
    return pd.concat(parts, names=["attributes"]) if margins else next(iter(parts.values()))
