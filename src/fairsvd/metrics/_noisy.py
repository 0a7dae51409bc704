"""Bounds of a gap whose groups are a proxy, or a record with errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..objective import FLIPPABLE, bound_under_flips, gap
from ._scores import hard_counts

__all__ = ["NoisyGap", "noisy_gap"]


class NoisyGap(NamedTuple):
    """A gap between recorded groups, and the bounds of that between the true ones.

    Attributes
    ----------
    measured, low, high : float in [0, 1]
    """

    measured: float
    low: float
    high: float


def noisy_gap(
    name: str,
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    flip_rate: float,
    pos_label: Any = None,
    labels: Sequence[Any] | None = None,
    missing_group: str = "raise",
    sample_weight: Any = None,
) -> NoisyGap:
    """Bound a gap of which the groups are a proxy, or a record with errors.

    Parameters
    ----------
    name : str
        "demographic_parity", "equal_opportunity", "equalized_odds", "average_odds" or
        "accuracy_parity".
    y_true, y_pred, sensitive_features : array-like
        As in :func:`fairness_score`; groups as they are recorded.
    flip_rate : float in [0, 1)
        Of the rows of every recorded group and label, at most this share belong to another group.
    pos_label, labels, missing_group, sample_weight : optional
        As in :func:`fairness_score`.

    Returns
    -------
    found : NoisyGap
        The gap between the recorded groups, and bounds of that between the true ones on the same
        rows: no noise of sampling is in them.

    Raises
    ------
    ValueError
        If the name is none of these, the rate is out of its range, or as in
        :func:`fairness_score`.

    Notes
    -----
    Nothing is assumed of which rows are recorded wrongly, so that the bounds are wide: the worst
    case, as in arXiv:2002.09343. For two groups and a gap of one rate both bounds are reached by
    some true groups.

    Examples
    --------
    >>> from fairsvd.metrics import noisy_gap
    >>> y_true, y_pred = [1] * 40, [1] * 15 + [0] * 5 + [1] * 5 + [0] * 15
    >>> sex = ["f"] * 20 + ["m"] * 20
    >>> found = noisy_gap(
    ...     "equal_opportunity", y_true, y_pred, sensitive_features=sex, flip_rate=0.1
    ... )
    >>> [round(value, 3) for value in found]
    [0.5, 0.3, 0.7]
    """
    if name not in FLIPPABLE:
        raise ValueError(f"name={name!r}: wanted one of {', '.join(FLIPPABLE)}.")
    if not 0 <= flip_rate < 1:
        raise ValueError(f"flip_rate={flip_rate!r}: wanted a share of rows in [0, 1), such as 0.1.")
    counts, pos, _ = hard_counts(
        y_true,
        y_pred,
        sensitive_features,
        pos_label=pos_label,
        labels=labels,
        missing_group=missing_group,
        sample_weight=sample_weight,
    )
    measured = float(gap(counts, name, pos))
    return NoisyGap(measured, *bound_under_flips(counts, name, pos, flip_rate))
