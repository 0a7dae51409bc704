"""Every measure of every group and intersection, in each state, with its interval."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from ..groups import Groups
from ._evaluate import STATES, Evaluation, name_attributes

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LEGAL_RATIO", "MEASURES", "name_group", "slice_frame", "slices"]

# Two sides of a normal interval of 95 %.
Z = float(norm.ppf(0.975))
# The four-fifths rule of the United States' guidelines on selection procedures.
LEGAL_RATIO = 0.8
# Of equal mass; scikit-learn's calibration curves have as many by default as this halved.
BINS = 10

Value = tuple[float, float, float]
UNKNOWN: Value = (float("nan"),) * 3


class Scored(NamedTuple):
    """Rows of one slice, one class against the rest: truth, decision and probability."""

    true: NDArray[np.bool_]
    chosen: NDArray[np.bool_]
    share: NDArray[np.float64]


def proportion(hits: NDArray[np.bool_]) -> Value:
    """Compute a share and Wilson's 95 % interval of it."""
    n = len(hits)
    if n == 0:
        return UNKNOWN
    p = float(hits.mean())
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    arm = Z * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return p, max(0.0, middle - arm), min(1.0, middle + arm)


def auc(rows: Scored) -> Value:
    """Compute the area under the ROC curve, with the interval of Hanley and McNeil (1982)."""
    from sklearn.metrics import roc_auc_score

    n_true = int(rows.true.sum())
    n_false = len(rows.true) - n_true
    if min(n_true, n_false) == 0:
        return UNKNOWN
    a = float(roc_auc_score(rows.true, rows.share))
    one, two = a / (2 - a), 2 * a**2 / (1 + a)
    spread = a * (1 - a) + (n_true - 1) * (one - a**2) + (n_false - 1) * (two - a**2)
    arm = Z * np.sqrt(max(0.0, spread) / (n_true * n_false))
    return a, max(0.0, a - arm), min(1.0, a + arm)


def brier(rows: Scored) -> Value:
    """Compute the mean squared error of the probability, with a normal interval."""
    if len(rows.true) < 2:
        return UNKNOWN
    errors = (rows.share - rows.true) ** 2
    middle, arm = float(errors.mean()), Z * float(errors.std(ddof=1)) / np.sqrt(len(errors))
    return middle, max(0.0, middle - arm), min(1.0, middle + arm)


def calibration_error(rows: Scored) -> Value:
    """Compute the mean distance of probability and frequency in bins of equal mass."""
    if len(rows.true) < BINS:
        return UNKNOWN
    parts = np.array_split(np.argsort(rows.share, kind="stable"), BINS)
    gaps = [abs(rows.share[part].mean() - rows.true[part].mean()) for part in parts]
    error = float(np.average(gaps, weights=[len(part) for part in parts]))
    return error, float("nan"), float("nan")


# A measure is a line: its column, its name in words, and how it is computed.
MEASURES: dict[str, tuple[str, Callable[[Scored], Value]]] = {
    "selection_rate": ("selection rate", lambda r: proportion(r.chosen)),
    "tpr": ("true positive rate", lambda r: proportion(r.chosen[r.true])),
    "fpr": ("false positive rate", lambda r: proportion(r.chosen[~r.true])),
    "ppv": ("precision", lambda r: proportion(r.true[r.chosen])),
    "accuracy": ("accuracy", lambda r: proportion(r.chosen == r.true)),
    "auc": ("AUC", auc),
    "brier": ("Brier score", brier),
    "calibration_error": ("calibration error", calibration_error),
}


def slices(evaluation: Evaluation) -> Iterator[tuple[str, Groups | None, int]]:
    """Yield what is measured: all rows, each attribute's groups, then the intersections.

    Yields
    ------
    name : str
        Of the attribute, or attributes.
    groups : Groups or None
        None for all rows.
    code : int
        Of the group.
    """
    yield "all", None, -1
    for groups in (*evaluation.attributes, evaluation.groups):
        name = name_attributes(groups)
        for code in range(groups.n_groups):
            yield name, groups, code


def name_group(label: Any) -> str:
    """Name a group, or an intersection."""
    return " / ".join(map(str, label)) if isinstance(label, tuple) else str(label)


def slice_frame(evaluation: Evaluation) -> pd.DataFrame:
    """Tabulate every measure.

    Parameters
    ----------
    evaluation : Evaluation

    Returns
    -------
    table : DataFrame
        Columns: attribute, group, state, n (rows), n_positive, then each measure with ``_low`` and
        ``_high``, its 95 % interval, and impact_ratio: the selection rate over that of the most
        selected group of the attribute. With more than two classes measures are means over the
        classes against the rest, without intervals, and there is no impact ratio.
    """
    import pandas as pd

    rows = []
    for attribute, groups, code in slices(evaluation):
        own = np.ones(len(evaluation.y), dtype=bool) if groups is None else groups.codes == code
        label = "all rows" if groups is None else name_group(groups.labels[code])
        for state in STATES:
            about = {"attribute": attribute, "group": label, "state": state, "n": int(own.sum())}
            rows.append(about | _measure(evaluation, own, state))
    table = pd.DataFrame(rows)
    several = evaluation.positive is None
    best = table.groupby(["attribute", "state"])["selection_rate"].transform("max")
    table["impact_ratio"] = np.nan if several else table["selection_rate"] / best.where(best > 0)
    return table


def _measure(evaluation: Evaluation, own: NDArray[np.bool_], state: str) -> dict[str, Any]:
    y, shares = evaluation.y[own], evaluation.shares[state][own]
    predicted = shares.argmax(axis=1)
    positive = evaluation.positive
    classes = range(len(evaluation.classes)) if positive is None else [positive]
    views = [Scored(y == k, predicted == k, shares[:, k]) for k in classes]
    found: dict[str, Any] = {
        "n_positive": int((y == positive).sum()) if positive is not None else -1
    }
    for name, (_, compute) in MEASURES.items():
        value = _mean_of_classes([compute(view) for view in views])
        if name == "accuracy":
            value = proportion(y == predicted)
        found |= dict(zip((name, f"{name}_low", f"{name}_high"), value, strict=True))
    return found


def _mean_of_classes(values: list[Value]) -> Value:
    """Average over the classes against the rest, without an interval; one class is as it is."""
    if len(values) == 1:
        return values[0]
    with warnings.catch_warnings():
        # A class that a slice lacks has no rate; the mean is taken over the others.
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(np.nanmean([value for value, _, _ in values])), float("nan"), float("nan")
