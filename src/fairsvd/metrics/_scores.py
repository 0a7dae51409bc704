"""A measure of groups as a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .._messages import did_you_mean
from ..groups import Groups
from ..objective import GAPS, Requirement, gap, on_groups, ratio
from ._measured import Rows, measure_groups
from ._read import read_rows
from ._registry import MEASURES, NAMES

__all__ = [
    "fairness_score",
    "farthest",
    "hard_counts",
    "measure",
    "merit",
    "needs_scores",
    "split_name",
]


# What a scorer may be asked for: a metric by its name, or requirements.
Asked = str | Requirement | Sequence[Requirement]


def split_name(name: str) -> tuple[str, str]:
    """Split a metric's name into that of the gap or measure, and one of ``KINDS``.

    Raises
    ------
    ValueError
        If there is no such metric; the message names the nearest ones.
    """
    if not isinstance(name, str) or name not in NAMES:
        raise ValueError(
            f"Unknown metric {name!r}: wanted one of {', '.join([*GAPS, *MEASURES])}, followed by "
            f"_difference, _ratio or _worst (no _worst of a gap).{did_you_mean(name, NAMES)}"
        )
    return NAMES[name]


def check_asked(name: Asked) -> None:
    """Check a metric's name, or requirements.

    Raises
    ------
    ValueError
        If there is no such metric, or a requirement cannot be scored.
    """
    if isinstance(name, str):
        split_name(name)
        return
    for each in _entries(name):
        if isinstance(each, Requirement):
            each.check()
        if not isinstance(each, Requirement) or each.compares:
            raise ValueError(
                f"{each!r} cannot be scored: wanted the name of a metric, GapLimit, RatioLimit, "
                "MinimumRate, CountLimit or EachAttribute of one of these (NoHarm compares with a "
                "network that is not there)."
            )


def _entries(name: Requirement | Sequence[Requirement]) -> list[Requirement]:
    return list(name) if isinstance(name, (list, tuple)) else [cast(Requirement, name)]


def needs_scores(name: Asked) -> bool:
    """Tell whether a metric is computed from probabilities."""
    if not isinstance(name, str):
        return False
    stem, _ = split_name(name)
    return stem in MEASURES and MEASURES[stem].of_scores is not None


def farthest(values: NDArray[np.float64], best: float) -> int | None:
    """Find the group whose value is farthest from the best one; None if no group has a value."""
    if np.isnan(values).all():
        return None
    return int(np.nanargmax(np.abs(values - best)))


def measure(rows: Rows, name: Asked, groups: Groups) -> float:
    """Compute a metric of ``NAMES``, or the largest excess over the limits of requirements."""
    if not isinstance(name, str):
        asked = on_groups(_entries(name), groups)
        found = [float(each.measure(rows.counts, rows.pos)) - each.limit for each in asked]
        return float(np.max([*found, 0.0]))
    stem, kind = split_name(name)
    if kind == "worst":
        values = measure_groups(stem, rows).values
        worst = farthest(values, MEASURES[stem].best)
        return float("nan") if worst is None else float(values[worst])
    if stem in GAPS or MEASURES[stem].of_scores is None:
        return float((ratio if kind == "ratio" else gap)(rows.counts, stem, rows.pos))
    return between(measure_groups(stem, rows).values, kind)


def merit(name: Asked, value: float) -> float:
    """Turn a metric into a score of which greater is better."""
    if not isinstance(name, str):
        return 0.0 - value
    stem, kind = split_name(name)
    if kind == "ratio" or (kind == "worst" and MEASURES[stem].bounded and MEASURES[stem].best == 1):
        return value
    # 0 minus, since minus 0 looks odd.
    return 0.0 - (abs(value - MEASURES[stem].best) if kind == "worst" else value)


def between(values: NDArray[np.float64], kind: str) -> float:
    """Compute the difference or the ratio of the extreme values; NaN if fewer than two exist."""
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return float("nan")
    low, high = float(known.min()), float(known.max())
    if kind == "difference":
        return high - low
    return low / high if high > 0 else float("nan")


def hard_counts(
    y_true: Any,
    y_pred: Any,
    sensitive_features: Any,
    *,
    pos_label: Any = None,
    labels: Sequence[Any] | None = None,
    missing_group: str = "raise",
    sample_weight: Any = None,
) -> tuple[NDArray[Any], int | None, Groups]:
    """Count rows by group, true and predicted class.

    Parameters
    ----------
    y_true, y_pred, sensitive_features : array-like
        As in :func:`group_table`.
    pos_label, labels, missing_group, sample_weight : optional
        As in :func:`group_table`.

    Returns
    -------
    counts : ndarray of shape (n_groups, n_classes, n_classes), int64
        Rows by [group, true, predicted]; float64 with weights.
    pos : int or None
        Code of the positive class; None for more than two.
    groups : Groups
    """
    rows, groups, _ = read_rows(
        y_true,
        y_pred,
        sensitive_features,
        pos_label=pos_label,
        labels=labels,
        missing_group=missing_group,
        sample_weight=sample_weight,
    )
    return rows.counts, rows.pos, groups


def fairness_score(
    name: str,
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    y_score: Any = None,
    pos_label: Any = None,
    labels: Sequence[Any] | None = None,
    missing_group: str = "raise",
    sample_weight: Any = None,
) -> float:
    """Compute how far groups differ, or how the worst group fares, from predictions.

    Parameters
    ----------
    name : str
        What is compared, followed by "_difference" (largest minus smallest), "_ratio" (smallest
        over largest) or "_worst" (the group farthest from the best value).
        Gaps, which have no worst: "demographic_parity", "equal_opportunity", "equalized_odds",
        "average_odds", "signed_average_odds", "accuracy_parity".
        Of predictions: "selection_rate", "tpr", "fpr", "tnr", "fnr", "ppv", "npv",
        "false_discovery_rate", "false_omission_rate", "accuracy", "f1", "balanced_accuracy".
        Of ``y_score``: "auc", "average_precision", "brier", "log_loss", "calibration_error",
        "calibration_slope", "calibration_intercept" (the last three have no ratio).
    y_true : array-like of shape (n_samples,)
        True class labels: integers, booleans or strings.
    y_pred : array-like of shape (n_samples,) or None
        Predicted class labels; scores and probabilities are refused. None: only measures of
        ``y_score``.
    sensitive_features : array-like of shape (n_samples,) or (n_samples, n_columns)
        Groups, of any type; several columns are intersected.
    y_score : array-like of shape (n_samples,) or (n_samples, n_classes), default=None
        Probabilities in [0, 1]: of the positive class of two, or a column for each class.
    pos_label : label or None, default=None
        The positive class of two; None means the second.
    labels : sequence or None, default=None
        All classes in order; None means those in ``y_true`` and ``y_pred``, sorted.
    missing_group : {"raise", "ignore", "own_group"}, default="raise"
        Rows whose group is missing: an error, left out, or a group "missing".
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of every row, at least 0; 2 counts a row twice. None: all weigh 1.

    Returns
    -------
    score : float
        Differences and ratios of rates are in [0, 1]; with more than two classes the mean of one
        versus the rest (Brier score and log loss: those of all classes together). NaN if fewer
        than two groups can be compared, or for a ratio if the largest value is 0.

    Raises
    ------
    ValueError
        If the name is unknown, lengths differ, labels or groups are missing, values are no
        labels or no probabilities, ``pos_label`` does not fit, or what the measure needs is None.

    Notes
    -----
    It equals fairlearn's functions of the same names if every group has rows of both labels; cells
    without rows are skipped here. Average odds of two groups is AIF360's average absolute odds
    difference (arXiv:1810.01943). Measures of probabilities are scikit-learn's where these exist.
    The calibration error has up to 15 bins of equal mass and is debiased (arXiv:1909.10155; weights
    change its noise, so that it alone differs from repeated rows); slope and intercept are those of
    a logistic regression on the logit, for the intercept with a slope of 1.

    Examples
    --------
    >>> from fairsvd import fairness_score
    >>> y_true, y_pred = [0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 1, 0]
    >>> sex = ["f", "f", "f", "m", "m", "m"]
    >>> fairness_score("equal_opportunity_difference", y_true, y_pred, sensitive_features=sex)
    0.5
    >>> fairness_score("tpr_worst", y_true, y_pred, sensitive_features=sex)
    0.5
    """
    split_name(name)  # report a misspelt name before any error in the data
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
    return measure(read.rows, name, read.groups)
