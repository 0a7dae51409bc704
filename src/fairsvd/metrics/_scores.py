"""A gap or ratio as a number, and the encoding of labels for all of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._messages import did_you_mean, listed
from ..containers import label_codes
from ..groups import Groups, encode_groups
from ..objective import GAPS, count_table, gap, ratio

__all__ = ["METRICS", "Encoded", "encode_labels", "fairness_score", "hard_counts", "split_name"]

MOST_COUNTS = 2**27

METRICS = tuple(f"{name}_{kind}" for name in GAPS for kind in ("difference", "ratio"))


class Encoded(NamedTuple):
    """Labels as codes: the classes, the codes of each array, and the code of the positive class."""

    classes: list[Any]
    codes: list[NDArray[np.int64]]
    pos: int | None  # None with more than two classes: one versus the rest


def split_name(name: str) -> tuple[str, bool]:
    """Split a metric's name into the gap's name and whether it is a ratio.

    Raises
    ------
    ValueError
        If there is no such metric; the message names the nearest ones.
    """
    if name not in METRICS:
        hint = did_you_mean(name, METRICS)
        raise ValueError(f"Unknown metric {name!r}: wanted one of {', '.join(METRICS)}.{hint}")
    stem, kind = name.rsplit("_", 1)
    return stem, kind == "ratio"


def measure(counts: NDArray[Any], name: str, pos: int | None) -> float:
    """Compute a metric of ``METRICS`` from a table of counts (n_groups, n_classes, n_classes)."""
    stem, is_ratio = split_name(name)
    return float((ratio if is_ratio else gap)(counts, stem, pos))


def _order_classes(present: list[Any], labels: Sequence[Any] | None, pos_label: Any) -> list[Any]:
    """Order the classes: those of ``labels`` first, the others sorted; at least two."""
    first = [] if labels is None else list(np.asarray(labels).tolist())
    extra = [label for label in dict.fromkeys(present) if label not in first]
    try:
        classes = first + sorted(extra)
    except TypeError as error:
        raise ValueError(
            f"The labels [{listed(extra, show=repr)}] have types that cannot be compared: give "
            "y_true and y_pred labels of the same type."
        ) from error
    if len(classes) == 1:
        # Like fairlearn, take a single 0 or 1 for one of the pair 0, 1.
        default = [0, 1] if classes[0] in (0, 1) else classes
        classes = default if pos_label is None or pos_label in default else [*classes, pos_label]
    if len(classes) < 2:
        raise ValueError(
            f"y_true and y_pred have the single label {classes[0]!r}: name both classes in "
            "labels=, or the positive one in pos_label=."
        )
    return classes


def _positive_code(classes: list[Any], pos_label: Any) -> int | None:
    if len(classes) > 2:
        if pos_label is not None:
            raise ValueError(
                f"pos_label={pos_label!r} was given with {len(classes)} classes, of which each is "
                "compared with the rest: use pos_label=None (or make y binary)."
            )
        return None
    if pos_label is None:
        return 1
    if pos_label not in classes:
        raise ValueError(
            f"pos_label={pos_label!r} is not among the classes [{listed(classes, show=repr)}]."
        )
    return classes.index(pos_label)


def encode_labels(arrays: dict[str, Any], labels: Sequence[Any] | None, pos_label: Any) -> Encoded:
    """Encode arrays of labels with common codes.

    Parameters
    ----------
    arrays : dict of str to array-like of shape (n_samples,)
        Arrays of labels by their names in error messages.
    labels : sequence or None
        Classes in the order of their codes; other labels follow, sorted.
    pos_label : label or None
        None means the second class.

    Returns
    -------
    encoded : Encoded
        Classes, codes and the positive code.

    Raises
    ------
    ValueError
        If labels are missing or cannot be compared, lengths differ, there is a single class, or
        ``pos_label`` is not a class or was given with more than two.
    """
    distinct = {what: label_codes(array, what) for what, array in arrays.items()}
    lengths = {what: len(codes) for what, (_, codes) in distinct.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"The lengths differ: {lengths}. Wanted one entry per row in all.")
    present = [label for values, _ in distinct.values() for label in values]
    classes = _order_classes(present, labels, pos_label)
    place = {label: k for k, label in enumerate(classes)}
    codes = [
        np.array([place[v] for v in values], dtype=np.int64)[codes]
        for values, codes in distinct.values()
    ]
    return Encoded(classes, codes, _positive_code(classes, pos_label))


def check_table_size(n_classes: int, n_groups: int) -> None:
    """Refuse a table of counts that is too large for memory.

    Raises
    ------
    ValueError
        If there are more than 2**27 (group, true, predicted) counts, 1 GiB.
    """
    if n_groups * n_classes**2 > MOST_COUNTS:
        raise ValueError(
            f"y_true and y_pred hold {n_classes} distinct labels, and there are {n_groups} groups: "
            f"a table of counts has {n_groups} x {n_classes} x {n_classes} entries. If these are "
            "scores or numbers of rows, pass class labels; if not, merge classes or groups."
        )


def hard_counts(
    y_true: Any,
    y_pred: Any,
    sensitive_features: Any,
    *,
    pos_label: Any = None,
    labels: Sequence[Any] | None = None,
    missing_group: str = "raise",
) -> tuple[NDArray[np.int64], int | None, Groups]:
    """Count rows by group, true and predicted class.

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
    counts : ndarray of shape (n_groups, n_classes, n_classes), int64
        Rows by [group, true, predicted].
    pos : int or None
        Code of the positive class; None for more than two.
    groups : Groups
    """
    arrays = {"y_true": y_true, "y_pred": y_pred}
    classes, (true, predicted), pos = encode_labels(arrays, labels, pos_label)
    groups = encode_groups(sensitive_features, len(true), missing=missing_group)
    sizes = len(classes), groups.n_groups
    check_table_size(*sizes)
    return count_table(true, predicted, groups.codes, *sizes), pos, groups


def fairness_score(
    name: str,
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    pos_label: Any = None,
    labels: Sequence[Any] | None = None,
    missing_group: str = "raise",
) -> float:
    """Compute a gap or ratio between groups from predictions.

    Parameters
    ----------
    name : str
        "demographic_parity", "equal_opportunity", "equalized_odds", "average_odds",
        "signed_average_odds" or "accuracy_parity", followed by "_difference" or "_ratio".
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
    score : float
        Difference or ratio of rates, in [0, 1]; with more than two classes the mean of one versus
        the rest. NaN if fewer than two groups can be compared, or for a ratio if the largest rate
        is 0.

    Raises
    ------
    ValueError
        If the name is unknown, lengths differ, labels or groups are missing, values are no
        labels, or ``pos_label`` does not fit.

    Notes
    -----
    It equals fairlearn's functions of the same names if every group has rows of both labels; cells
    without rows are skipped here. Average odds of two groups is AIF360's average absolute odds
    difference (arXiv:1810.01943).

    Examples
    --------
    >>> from fairsvd import fairness_score
    >>> y_true, y_pred = [0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 1, 0]
    >>> sex = ["f", "f", "f", "m", "m", "m"]
    >>> fairness_score("equal_opportunity_difference", y_true, y_pred, sensitive_features=sex)
    0.5
    """
    split_name(name)  # report a misspelt name before any error in the data
    counts, pos, _ = hard_counts(
        y_true,
        y_pred,
        sensitive_features,
        pos_label=pos_label,
        labels=labels,
        missing_group=missing_group,
    )
    return measure(counts, name, pos)
