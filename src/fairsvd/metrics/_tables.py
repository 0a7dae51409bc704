"""Tables of rates by group and of all gaps, from predictions or counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..objective import GAPS, gap, rates, ratio
from ._scores import hard_counts

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["gap_table", "gaps_frame", "group_table", "rates_frame"]


def _class_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over the classes, the last axis, skipping NaN; NaN if all are."""
    defined = ~np.isnan(values)
    number = defined.sum(axis=-1)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _group_index(labels: Sequence[Any], names: Sequence[str]) -> pd.Index[Any]:
    import pandas as pd

    if len(names) > 1:
        return pd.MultiIndex.from_tuples(list(labels), names=list(names))
    return pd.Index(list(labels), name=names[0] if names else None, tupleize_cols=False)


def rates_frame(
    counts: NDArray[Any], pos: int | None, labels: Sequence[Any], names: Sequence[str] = ()
) -> pd.DataFrame:
    """Make the table of :func:`group_table` from counts.

    Parameters
    ----------
    counts : ndarray of shape (n_groups, n_classes, n_classes)
        Indexed [group, true, predicted].
    pos : int or None
        Code of the positive class; with None or more than two classes: mean of one versus the
        rest.
    labels : sequence of length n_groups
        Labels of the groups; tuples if there are several names.
    names : sequence of str, default=()
        Names of the sensitive columns.

    Returns
    -------
    table : DataFrame
        Index: the groups; columns n, selection_rate, tpr, fpr, accuracy.
    """
    import pandas as pd

    of_groups = rates(counts, pos)
    columns = {
        "n": counts.sum(axis=(-2, -1)),
        "selection_rate": _class_mean(of_groups.selection),
        "tpr": _class_mean(of_groups.tpr),
        "fpr": _class_mean(of_groups.fpr),
        "accuracy": of_groups.accuracy[..., 0],
    }
    return pd.DataFrame(columns, index=_group_index(labels, names))


def gaps_frame(counts: NDArray[Any], pos: int | None) -> pd.DataFrame:
    """Make the table of :func:`gap_table` from counts.

    Parameters
    ----------
    counts : ndarray of shape (n_groups, n_classes, n_classes)
        As in :func:`rates_frame`.
    pos : int or None
        As in :func:`rates_frame`.

    Returns
    -------
    table : DataFrame
        Index: the names of the gaps; columns difference, ratio.
    """
    import pandas as pd

    columns = {
        "difference": [float(gap(counts, name, pos)) for name in GAPS],
        "ratio": [float(ratio(counts, name, pos)) for name in GAPS],
    }
    return pd.DataFrame(columns, index=pd.Index(GAPS, name="gap"))


def group_table(
    y_true: Any,
    y_pred: Any,
    sensitive_features: Any,
    *,
    pos_label: Any = None,
    labels: Sequence[Any] | None = None,
    missing_group: str = "raise",
) -> pd.DataFrame:
    """Tabulate the rates of every group.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True class labels: integers, booleans or strings.
    y_pred : array-like of shape (n_samples,)
        Predicted class labels; scores and probabilities are refused.
    sensitive_features : array-like of shape (n_samples,) or (n_samples, n_columns)
        Groups, of any type; several columns are intersected.
    pos_label : label or None, default=None
        The positive class of two; None means the second.
    labels : sequence or None, default=None
        All classes in order; None means those in ``y_true`` and ``y_pred``, sorted.
    missing_group : {"raise", "ignore", "own_group"}, default="raise"
        Rows whose group is missing: an error, left out, or a group "missing".

    Returns
    -------
    table : DataFrame
        Index: the groups that occur (several columns: a MultiIndex). Columns: n (rows),
        selection_rate, tpr, fpr, accuracy, in [0, 1], NaN if a group has no row for a rate. With
        more than two classes selection_rate, tpr and fpr are means of one versus the rest; the
        selection rate is then 1 / n_classes for every group.

    Raises
    ------
    ValueError
        As in :func:`fairness_score`.

    Examples
    --------
    >>> from fairsvd import group_table
    >>> y_true, y_pred = [0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 1, 0]
    >>> group_table(y_true, y_pred, ["f", "f", "f", "m", "m", "m"])[["n", "tpr", "fpr"]]
                       n  tpr  fpr
    sensitive_feature
    f                  3  1.0  0.0
    m                  3  0.5  0.0
    """
    counts, pos, groups = hard_counts(
        y_true,
        y_pred,
        sensitive_features,
        pos_label=pos_label,
        labels=labels,
        missing_group=missing_group,
    )
    return rates_frame(counts, pos, groups.labels, groups.names)


def gap_table(
    y_true: Any,
    y_pred: Any,
    sensitive_features: Any,
    *,
    pos_label: Any = None,
    labels: Sequence[Any] | None = None,
    missing_group: str = "raise",
) -> pd.DataFrame:
    """Tabulate every gap as a difference and as a ratio.

    Parameters
    ----------
    y_true, y_pred, sensitive_features : array-like
        As in :func:`group_table`.
    pos_label : label or None, default=None
        As in :func:`group_table`.
    labels : sequence or None, default=None
        As in :func:`group_table`.
    missing_group : {"raise", "ignore", "own_group"}, default="raise"
        As in :func:`group_table`.

    Returns
    -------
    table : DataFrame
        Index: the names of the gaps. Columns: difference and ratio, in [0, 1], as in
        :func:`fairness_score`.

    Raises
    ------
    ValueError
        As in :func:`fairness_score`.

    Examples
    --------
    >>> from fairsvd.metrics import gap_table
    >>> y_true, y_pred = [0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 1, 0]
    >>> table = gap_table(y_true, y_pred, ["f", "f", "f", "m", "m", "m"])
    >>> float(table.loc["equal_opportunity", "difference"])
    0.5
    """
    counts, pos, _ = hard_counts(
        y_true,
        y_pred,
        sensitive_features,
        pos_label=pos_label,
        labels=labels,
        missing_group=missing_group,
    )
    return gaps_frame(counts, pos)
