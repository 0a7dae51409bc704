"""How far probabilities are calibrated, and what a calibration within the groups would mend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.isotonic import IsotonicRegression

from .._rng import stage_rng
from ..groups import Groups
from ._calibration_map import CALIBRATIONS, best_factor
from ._margins import divisions
from ._measured import Rows, interval, measure_groups
from ._read import read_rows
from ._score_measures import EPS
from ._tables import group_index

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["calibration_frame", "calibration_table"]

MEASURED = ("calibration_error", "calibration_slope", "calibration_intercept")


def calibration_table(
    y_true: Any,
    y_score: Any,
    sensitive_features: Any,
    *,
    method: str = "isotonic",
    n_folds: int = 5,
    level: float = 0.95,
    margins: bool = False,
    pos_label: Any = None,
    labels: Sequence[Any] | None = None,
    missing_group: str = "raise",
    sample_weight: Any = None,
    random_state: int = 0,
) -> pd.DataFrame:
    """Tabulate how far each group's probabilities are calibrated, and what could mend it.

    It is for reporting: nothing is changed. A map within the groups needs the group at prediction.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True class labels.
    y_score : array-like of shape (n_samples,) or (n_samples, n_classes)
        Probabilities as of :func:`group_table`.
    sensitive_features : array-like of shape (n_samples,) or (n_samples, n_columns)
        Groups; several columns are intersected.
    method : {"isotonic", "temperature"}, default="isotonic"
        The map that is fitted: an isotonic regression of each class, or one factor of the logits.
    n_folds : int, default=5
        A row is mapped by what was fitted on the other folds, at least 2.
    level : float in (0, 1), default=0.95
        Confidence of the intervals.
    margins : bool, default=False
        As in :func:`group_table`.
    pos_label : label or None, default=None
        As in :func:`group_table`.
    labels : sequence or None, default=None
        As in :func:`group_table`.
    missing_group : {"raise", "ignore", "own_group"}, default="raise"
        As in :func:`group_table`.
    sample_weight : array-like of shape (n_samples,), default=None
        As in :func:`group_table`.
    random_state : int, default=0
        Seed of the folds.

    Returns
    -------
    table : DataFrame
        Index: the groups. Columns: n; calibration_error, calibration_slope and
        calibration_intercept, each with ``_low`` and ``_high``; one_map, the calibration error
        after one map for all rows; own_map, that after a map of each group's own. Where own_map is
        smaller than one_map, groups are miscalibrated in different ways.

    Raises
    ------
    ValueError
        As in :func:`fairness_score`, or if ``method`` or ``n_folds`` is none of these.

    Notes
    -----
    The calibration error is that of :func:`fairness_score`, with bins of equal mass and debiased,
    so that it is near 0 for calibrated probabilities of few rows, too. A group whose rows are of
    one label, or fewer than the folds, has no map of its own: NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from fairsvd.metrics import calibration_table
    >>> rng = np.random.default_rng(0)
    >>> share, sex = rng.random(4000), np.repeat(["f", "m"], 2000)
    >>> y = rng.random(4000) < np.where(sex == "f", share, share**2)
    >>> table = calibration_table(y, share, sex)
    >>> (table["own_map"] < 0.03).tolist(), bool(table.loc["f", "one_map"] > 0.05)
    ([True, True], True)
    """
    if method not in CALIBRATIONS:
        raise ValueError(f"method={method!r}: wanted one of {', '.join(CALIBRATIONS)}.")
    if not isinstance(n_folds, (int, np.integer)) or n_folds < 2:
        raise ValueError(f"n_folds={n_folds!r}: wanted an integer of at least 2.")
    if not 0 < level < 1:
        raise ValueError(f"level={level!r}: wanted a confidence between 0 and 1, such as 0.95.")
    read = read_rows(
        y_true,
        None,
        sensitive_features,
        y_score=y_score,
        pos_label=pos_label,
        labels=labels,
        missing_group=missing_group,
        sample_weight=sample_weight,
    )
    import pandas as pd

    parts = [
        calibration_frame(rows, groups, method, int(n_folds), level, random_state)
        for rows, groups in divisions(read, margins)
    ]
    return parts[0] if len(parts) == 1 else pd.concat(parts)


def calibration_frame(
    rows: Rows,
    groups: Groups,
    method: str = "isotonic",
    n_folds: int = 5,
    level: float = 0.95,
    random_state: int = 0,
) -> pd.DataFrame:
    """Make the table of :func:`calibration_table` from rows that are read already.

    Parameters
    ----------
    rows : Rows
        With probabilities.
    groups : Groups
    method : {"isotonic", "temperature"}, default="isotonic"
        As of :func:`calibration_table`.
    n_folds : int, default=5
        As of :func:`calibration_table`.
    level : float in (0, 1), default=0.95
        As of :func:`calibration_table`.
    random_state : int, default=0
        As of :func:`calibration_table`.

    Returns
    -------
    table : DataFrame
    """
    import pandas as pd

    columns: dict[str, Any] = {"n": groups.counts()}
    for name in MEASURED:
        found = measure_groups(name, rows)
        low, high = interval(name, found, level)
        columns |= {name: found.values, f"{name}_low": low, f"{name}_high": high}
    folds = stage_rng(random_state, "split").permutation(len(rows.y)) % n_folds
    known = np.flatnonzero(rows.groups >= 0)
    for column, sets in (("one_map", [known]), ("own_map", rows.of_groups)):
        mapped = np.full_like(_shares_of(rows), np.nan)
        for own in sets:
            mapped[own] = _cross_mapped(rows, own, folds[own], method)
        columns[column] = _errors(rows, mapped)
    return pd.DataFrame(columns, index=group_index(groups.labels, groups.names))


def _shares_of(rows: Rows) -> NDArray[np.float64]:
    if rows.shares is None:
        raise ValueError("y_score=None: calibration needs probabilities.")
    return rows.shares


def _errors(rows: Rows, mapped: NDArray[np.float64]) -> NDArray[np.float64]:
    """Measure the calibration error of groups all of whose rows could be mapped."""
    missing: NDArray[np.bool_] = np.asarray(np.isnan(mapped).any(axis=1))
    errors = measure_groups("calibration_error", replace(rows, shares=np.nan_to_num(mapped))).values
    lacking = [bool(missing[own].any()) or not len(own) for own in rows.of_groups]
    return np.where(lacking, np.nan, errors)


def _cross_mapped(
    rows: Rows, own: NDArray[np.int64], folds: NDArray[np.int64], method: str
) -> NDArray[np.float64]:
    """Map rows by what was fitted on the other folds; NaN where these have one label only."""
    shares = _shares_of(rows)[own]
    y, mapped = rows.y[own], np.full_like(shares, np.nan)
    weights = np.ones(len(own)) if rows.weights is None else rows.weights[own]
    fit_map = _isotonic if method == "isotonic" else _temperature
    for train, test in _sides(folds):
        counted = train & (weights > 0)
        if len(np.unique(y[counted])) > 1:
            mapped[test] = fit_map(shares[counted], y[counted], weights[counted], shares[test])
    return mapped


def _sides(folds: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    for fold in np.unique(folds):
        yield folds != fold, folds == fold


def _isotonic(
    shares: NDArray[np.float64],
    y: NDArray[np.int64],
    weights: NDArray[np.float64],
    new: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Fit each class against the rest, and let the shares add up to 1 again."""
    columns = range(shares.shape[1]) if shares.shape[1] > 2 else [1]
    maps = [
        IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        .fit(shares[:, k], y == k, sample_weight=weights)
        .predict(new[:, k])
        for k in columns
    ]
    mapped = np.stack(maps, axis=1)
    if len(columns) == 1:
        return np.hstack([1 - mapped, mapped])
    total = mapped.sum(axis=1, keepdims=True)
    equal = np.full_like(mapped, 1 / mapped.shape[1])
    return np.divide(mapped, total, out=equal, where=total > 0)


def _temperature(
    shares: NDArray[np.float64],
    y: NDArray[np.int64],
    weights: NDArray[np.float64],
    new: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Fit one factor of the logits by the log loss."""
    logits, others = (np.log(np.clip(each, EPS, 1 - EPS)) for each in (shares, new))
    return np.asarray(softmax(best_factor(logits, y, weights) * others, axis=1))
