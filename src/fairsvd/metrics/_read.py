"""What a user passes for a measure, read into codes, probabilities and weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..groups import Groups, encode_groups
from ._labels import check_table_size, encode_labels
from ._measured import Rows

__all__ = ["Read", "read_rows", "read_weights", "scale_weights"]


class Read(NamedTuple):
    """Rows to be measured, their groups and the classes in the order of their codes."""

    rows: Rows
    groups: Groups
    classes: list[Any]


def read_rows(
    y_true: Any,
    y_pred: Any,
    sensitive_features: Any,
    *,
    y_score: Any = None,
    pos_label: Any = None,
    labels: Sequence[Any] | None = None,
    missing_group: str = "raise",
    sample_weight: Any = None,
    names: Sequence[str] | None = None,
) -> Read:
    """Read labels, predictions, probabilities, groups and weights; see ``fairness_score``."""
    arrays = {"y_true": y_true} | ({} if y_pred is None else {"y_pred": y_pred})
    classes, codes, pos = encode_labels(arrays, labels, pos_label)
    n_rows = len(codes[0])
    groups = encode_groups(sensitive_features, n_rows, missing=missing_group, names=names)
    sizes = len(classes), groups.n_groups
    if y_pred is not None:
        check_table_size(*sizes)
    rows = Rows(
        codes[0],
        groups.codes,
        *sizes,
        pos,
        predicted=None if y_pred is None else codes[1],
        shares=None if y_score is None else _read_shares(y_score, n_rows, classes, pos),
        weights=None if sample_weight is None else read_weights(sample_weight, n_rows),
    )
    return Read(rows, groups, classes)


def read_weights(sample_weight: Any, n_rows: int) -> NDArray[np.float64]:
    """Read one weight a row.

    Parameters
    ----------
    sample_weight : array-like of shape (n_rows,)
    n_rows : int

    Returns
    -------
    weights : ndarray of shape (n_rows,), float64

    Raises
    ------
    ValueError
        If there is not one weight a row, or a weight is negative or not finite, or all are 0.
    """
    try:
        weights = np.asarray(sample_weight, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"sample_weight is a {type(sample_weight).__name__} that holds no numbers ({error}): "
            "pass one weight a row."
        ) from error
    if weights.shape != (n_rows,):
        raise ValueError(
            f"sample_weight has shape {weights.shape} for {n_rows} rows: wanted one weight a row."
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(
            f"sample_weight holds values from {weights.min()} to {weights.max()}: wanted finite "
            "weights of at least 0."
        )
    if not weights.any():
        raise ValueError("sample_weight is zero in every row: pass rows of which some count.")
    return weights


def scale_weights(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale weights to a mean of 1 over the rows that count, unless they stand for copies.

    So what depends on the number of rows gets theirs. Integers are numbers of copies and stay.

    Parameters
    ----------
    weights : ndarray of shape (n_rows,), float64
        At least 0, not all 0.
    """
    return weights / weights[weights > 0].mean() if (weights % 1).any() else weights


def _read_shares(
    y_score: Any, n_rows: int, classes: list[Any], pos: int | None
) -> NDArray[np.float64]:
    shares = np.asarray(y_score, dtype=np.float64)
    n_classes = len(classes)
    if shares.shape not in ((n_rows,), (n_rows, n_classes)) or (shares.ndim == 1 and pos is None):
        raise ValueError(
            f"y_score has shape {shares.shape} for {n_rows} rows of {n_classes} classes: wanted "
            f"({n_rows}, {n_classes}), a column for each class in sorted order (or that of "
            "labels=), or for two classes the probability of the positive one alone."
        )
    if not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError(
            f"y_score holds values from {np.min(shares):.4g} to {np.max(shares):.4g}: wanted "
            "probabilities in [0, 1], as of predict_proba."
        )
    if shares.ndim == 2:
        return shares
    return np.column_stack([1 - shares, shares] if pos == 1 else [shares, 1 - shares])
