"""Every measure of every group and intersection, in each state, with its interval."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..groups import Groups
from ..metrics import GroupValues, Rows, calibration_frame, interval, measure_groups
from ._evaluate import STATES, Evaluation, name_attributes

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LEGAL_RATIO", "SHOWN", "calibration_by_slice", "name_group", "share_of", "slice_frame"]

LEVEL = 0.95
# The four-fifths rule of the United States' guidelines on selection procedures.
LEGAL_RATIO = 0.8
# The measures of a report, by their names in ``fairsvd.metrics.MEASURES``, in words.
SHOWN = {
    "selection_rate": "selection rate",
    "tpr": "true positive rate",
    "fpr": "false positive rate",
    "ppv": "precision",
    "accuracy": "accuracy",
    "auc": "AUC",
    "brier": "Brier score",
    "calibration_error": "calibration error",
}


def share_of(hits: float, total: float) -> tuple[float, float, float]:
    """Compute a share of rows and Wilson's 95 % interval of it; NaN without rows."""
    if not total > 0:
        return (float("nan"),) * 3
    p, n = np.array([hits / total]), np.array([float(total)])
    low, high = interval("accuracy", GroupValues(p, np.sqrt(p * (1 - p) / n), n), LEVEL)
    return float(p[0]), float(low[0]), float(high[0])


def name_group(label: Any) -> str:
    """Name a group, or an intersection."""
    return " / ".join(map(str, label)) if isinstance(label, tuple) else str(label)


def _slicings(evaluation: Evaluation) -> Iterator[tuple[str, Groups]]:
    """Yield the ways in which rows are taken apart: not at all, by attribute, by intersection."""
    codes = np.where(evaluation.counted, 0, -1)
    everybody = Groups(codes, ("all rows",), ("all",))
    for groups in (everybody, *evaluation.attributes, evaluation.groups):
        yield name_attributes(groups), groups


def slice_frame(evaluation: Evaluation) -> pd.DataFrame:
    """Tabulate every measure.

    Parameters
    ----------
    evaluation : Evaluation

    Returns
    -------
    table : DataFrame
        Columns: attribute, group, state, n (rows, whatever they weigh) and n_positive of them (-1
        for more than two classes), then each measure with ``_low`` and ``_high``, its 95 %
        interval, and impact_ratio: the selection rate over that of the most selected group of the
        attribute; NaN for more than two classes.
    """
    import pandas as pd

    parts = [
        _measure(evaluation, attribute, groups, state).assign(order=k, state=state)
        for attribute, groups in _slicings(evaluation)
        for k, state in enumerate(STATES)
    ]
    table = pd.concat(parts, ignore_index=True)
    place = pd.factorize(table["attribute"])[0]
    ordered = table.assign(place=place).sort_values(["place", "code", "order"], kind="stable")
    first = ["attribute", "group", "state", "n", "n_positive"]
    table = ordered.drop(columns=["place", "code", "order"]).reset_index(drop=True)
    return table[[*first, *table.columns.drop(first)]]


def calibration_by_slice(evaluation: Evaluation) -> pd.DataFrame:
    """Tabulate the calibration of every slice in each state.

    Parameters
    ----------
    evaluation : Evaluation

    Returns
    -------
    table : DataFrame
        Index: attribute, group, state; columns of :func:`fairsvd.metrics.calibration_table`.
    """
    import pandas as pd

    parts = {}
    for attribute, groups in _slicings(evaluation):
        plain = Groups(groups.codes, tuple(map(name_group, groups.labels)), ("group",))
        sizes = len(evaluation.classes), groups.n_groups
        for state in STATES:
            shares = evaluation.shares[state]
            pos = evaluation.positive
            rows = Rows(evaluation.y, groups.codes, *sizes, pos, None, shares, evaluation.weights)
            parts[attribute, state] = calibration_frame(rows, plain)
    table = pd.concat(parts, names=["attribute", "state"])
    return table.reorder_levels(["attribute", "group", "state"])


def _measure(evaluation: Evaluation, attribute: str, groups: Groups, state: str) -> pd.DataFrame:
    """Measure the groups of one attribute in one state."""
    import pandas as pd

    n, pos = groups.n_groups, evaluation.positive
    shares = evaluation.shares[state]
    sizes = len(evaluation.classes), n
    predicted = evaluation.predicted(state)
    rows = Rows(evaluation.y, groups.codes, *sizes, pos, predicted, shares, evaluation.weights)
    positive = groups.codes[evaluation.y == pos] if pos is not None else np.array([], np.int64)
    columns: dict[str, Any] = {
        "attribute": attribute,
        "group": [name_group(label) for label in groups.labels],
        "code": np.arange(n),
        "n": groups.counts(),
        "n_positive": np.bincount(positive[positive >= 0], minlength=n) if pos is not None else -1,
    }
    for name in SHOWN:
        found = measure_groups(name, rows)
        low, high = interval(name, found, LEVEL)
        columns |= {name: found.values, f"{name}_low": low, f"{name}_high": high}
    rate = columns["selection_rate"]
    best = np.nanmax(rate)
    ratio = rate / best if pos is not None and best > 0 else np.full(n, np.nan)
    return pd.DataFrame({**columns, "impact_ratio": ratio})
