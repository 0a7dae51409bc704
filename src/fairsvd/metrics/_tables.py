"""Tables of measures by group, from predictions or counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._messages import did_you_mean
from ..groups import Groups
from ..objective import class_mean, rates
from ._margins import divisions
from ._measured import Rows, interval, measure_groups
from ._read import read_rows
from ._registry import MEASURES

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "choose_measures",
    "few_rows",
    "group_index",
    "group_table",
    "measures_frame",
    "rates_frame",
]

# The columns of a table unless others are asked for.
SHORT_TABLE = ("selection_rate", "tpr", "fpr", "accuracy")
# With fewer rows a rate's standard error can exceed 0.05, the usual tolerance.
FEWEST_ROWS = 100


def group_index(labels: Sequence[Any], names: Sequence[str]) -> pd.Index[Any]:
    """Make an index of the labels of groups, with a level for each attribute.

    Parameters
    ----------
    labels : sequence
        Labels of the groups; tuples if there are several names.
    names : sequence of str
        Names of the attributes.
    """
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
        "selection_rate": class_mean(of_groups.selection),
        "tpr": class_mean(of_groups.tpr),
        "fpr": class_mean(of_groups.fpr),
        "accuracy": of_groups.accuracy[..., 0],
    }
    return pd.DataFrame(columns, index=group_index(labels, names))


def choose_measures(measures: str | Sequence[str] | None, rows: Rows) -> list[str]:
    """List the measures that a user asked for.

    Raises
    ------
    ValueError
        If a name is unknown, or what a measure needs was not passed.
    """
    if measures is None:
        return list(SHORT_TABLE)
    if isinstance(measures, str):
        measures = [n for n in MEASURES if rows.can_measure(n)] if measures == "all" else [measures]
    for name in measures:
        if name not in MEASURES:
            hint = did_you_mean(name, MEASURES)
            raise ValueError(
                f"measures={name!r}: wanted 'all' or some of {', '.join(MEASURES)}.{hint}"
            )
        if not rows.can_measure(name):
            what = "y_pred" if MEASURES[name].of_scores is None else "y_score"
            raise ValueError(f"{what}=None: the measure {name!r} needs it.")
    return list(measures)


def measures_frame(
    rows: Rows,
    groups: Groups,
    classes: Sequence[Any],
    measures: str | Sequence[str] | None = "all",
    level: float | None = None,
) -> pd.DataFrame:
    """Make the table of :func:`group_table` from rows that are read already.

    Parameters
    ----------
    rows : Rows
    groups : Groups
        Labels of the groups and names of the sensitive columns.
    classes : sequence
        Labels of the classes.
    measures : "all", str, list of str or None, default="all"
        As for :func:`group_table`.
    level : float in (0, 1) or None, default=None
        As for :func:`group_table`.

    Returns
    -------
    table : DataFrame
    """
    import pandas as pd

    if level is not None and not 0 < level < 1:
        raise ValueError(f"level={level!r}: wanted a confidence between 0 and 1, such as 0.95.")
    columns: dict[str, Any] = {"n": groups.counts()}
    for name in choose_measures(measures, rows):
        found = measure_groups(name, rows)
        columns[name] = found.values
        if level is not None:
            columns[f"{name}_low"], columns[f"{name}_high"] = interval(name, found, level)
    if level is not None:
        known = rows.groups >= 0
        cells = np.bincount(
            rows.groups[known] * rows.n_classes + rows.y[known],
            minlength=rows.n_groups * rows.n_classes,
        )
        columns["few_rows"] = few_rows(cells.reshape(rows.n_groups, -1), classes)
    return pd.DataFrame(columns, index=group_index(groups.labels, groups.names))


def few_rows(cells: NDArray[np.int64], classes: Sequence[Any]) -> list[str]:
    """Name the labels of which a group has too few rows for a rate to be known well.

    Parameters
    ----------
    cells : ndarray of shape (n_groups, n_classes), int64
        Rows of each label.
    classes : sequence
        Labels of the classes.
    """
    return [
        ", ".join(
            f"label {classes[k]}: {own[k]}" for k in np.flatnonzero(own < FEWEST_ROWS).tolist()
        )
        for own in cells
    ]


def group_table(
    y_true: Any,
    y_pred: Any,
    sensitive_features: Any,
    *,
    y_score: Any = None,
    measures: str | Sequence[str] | None = None,
    level: float | None = None,
    margins: bool = False,
    pos_label: Any = None,
    labels: Sequence[Any] | None = None,
    missing_group: str = "raise",
    sample_weight: Any = None,
) -> pd.DataFrame:
    """Tabulate measures of every group, with intervals if asked.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True class labels: integers, booleans or strings.
    y_pred : array-like of shape (n_samples,) or None
        Predicted class labels; scores and probabilities are refused. None: only measures of
        ``y_score``.
    sensitive_features : array-like of shape (n_samples,) or (n_samples, n_columns)
        Groups, of any type; several columns are intersected.
    y_score : array-like of shape (n_samples,) or (n_samples, n_classes), default=None
        Probabilities in [0, 1]: of the positive class of two, or a column for each class.
    measures : "all", str, list of str or None, default=None
        Names of measures as of :func:`fairness_score`, without the last word; "all": those that
        ``y_pred`` and ``y_score`` allow; None: selection_rate, tpr, fpr and accuracy.
    level : float in (0, 1) or None, default=None
        Confidence of intervals, in the columns ``<measure>_low`` and ``<measure>_high``, for
        example 0.95; the column ``few_rows`` then names labels of which a group has fewer than 100
        rows. None: no intervals.
    margins : bool, default=False
        With several columns: also the groups of every column alone, and of some of them if there
        are more than two; columns that are left out read "(all)".
    pos_label : label or None, default=None
        The positive class of two; None means the second.
    labels : sequence or None, default=None
        All classes in order; None means those in ``y_true`` and ``y_pred``, sorted.
    missing_group : {"raise", "ignore", "own_group"}, default="raise"
        Rows whose group is missing: an error, left out (of the margins, too), or a group
        "missing".
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of every row, at least 0; 2 counts a row twice. ``n`` counts rows.

    Returns
    -------
    table : DataFrame
        Index: the groups that occur (several columns: a MultiIndex). Columns: n (rows) and the
        measures, NaN if a group has no row for one. With more than two classes rates are means of
        one versus the rest; the selection rate is then 1 / n_classes for every group.

    Raises
    ------
    ValueError
        As in :func:`fairness_score`; if a measure is unknown or lacks what it needs.

    Notes
    -----
    Intervals of measures in [0, 1] are Wilson's, on as many rows as give the standard error of the
    delta method (AUC: DeLong's); the others are those of a normal distribution.

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
    parts = [
        measures_frame(rows, groups, read.classes, measures, level)
        for rows, groups in divisions(read, margins)
    ]
    return parts[0] if len(parts) == 1 else pd.concat(parts)
