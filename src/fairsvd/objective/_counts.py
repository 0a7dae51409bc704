"""Tables of counts [group, true, predicted], from which all rates, gaps and utilities come."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["count_table", "divide", "positive_counts", "sum_slices", "total_counts"]

# Longest axis on which adding slices is the faster sum.
SHORT = 8


def count_table(
    y: NDArray[np.integer],
    predictions: NDArray[np.integer],
    groups: NDArray[np.integer],
    n_classes: int,
    n_groups: int,
    weights: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Count the rows of every (group, true class, predicted class).

    Parameters
    ----------
    y, predictions : ndarray of shape (n,), integer
        Class codes in [0, n_classes).
    groups : ndarray of shape (n,), integer
        Group codes in [0, n_groups); rows with code -1 are left out.
    n_classes, n_groups : int
        Sizes of the table.
    weights : ndarray of shape (n,), optional
        How often each row counts; None: once.

    Returns
    -------
    counts : ndarray of shape (n_groups, n_classes, n_classes), int64, or float64 with weights
        Indexed [group, true, predicted].

    Raises
    ------
    ValueError
        If a code lies outside its range.
    """
    has_group = groups >= 0
    codes = tuple(np.asarray(a)[has_group].astype(np.int64) for a in (groups, y, predictions))
    shape = (n_groups, n_classes, n_classes)
    for what, code, size in zip(("groups", "y", "predictions"), codes, shape, strict=True):
        if code.size and not 0 <= int(code.min()) <= int(code.max()) < size:
            raise ValueError(
                f"{what} holds codes from {code.min()} to {code.max()}, codes in [0, {size}) were "
                "wanted: encode the labels first, or give the right number of classes and groups."
            )
    cells = (codes[0] * n_classes + codes[1]) * n_classes + codes[2]
    if weights is not None:
        weights = np.asarray(weights, dtype=np.float64)[has_group]
    return np.bincount(cells, weights, minlength=int(np.prod(shape))).reshape(shape)


def divide(top: NDArray[Any], bottom: NDArray[Any]) -> NDArray[np.float64]:
    """Divide; NaN where the denominator is 0."""
    # Without ``where`` and ``out`` numpy takes a fifth of the time, and keeps the memory's order.
    measured = bottom > 0
    if measured.all():
        return np.divide(top, bottom)
    return np.divide(top, np.where(measured, bottom, np.nan))


def sum_slices(array: NDArray[Any], axis: int) -> NDArray[Any]:
    """Sum over a short axis: adding slices is several times faster than a reduction there."""
    if array.shape[axis] > SHORT and array.dtype.kind in "iu":  # the order of the sum is no matter
        return array.sum(axis=axis)
    # What np.moveaxis gives, which takes longer than the sum.
    first = axis % array.ndim
    parts = array.transpose(first, *(k for k in range(array.ndim) if k != first))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def positive_counts(counts: NDArray[Any], pos: int | None) -> tuple[NDArray[Any], ...]:
    """Count selected, truly positive and rightly selected rows, each (..., n_groups, C)."""
    n_classes = counts.shape[-1]
    if n_classes == 2 and pos is not None:
        pos_slice = slice(pos, pos + 1)
        selected = sum_slices(counts[..., pos_slice], -2)
        positive = sum_slices(counts[..., pos_slice, :], -1)
        return selected, positive, counts[..., pos, pos_slice]
    return sum_slices(counts, -2), sum_slices(counts, -1), np.diagonal(counts, axis1=-2, axis2=-1)


def total_counts(counts: NDArray[Any]) -> NDArray[Any]:
    """Count the rows of every group, (..., n_groups, 1)."""
    return sum_slices(sum_slices(counts, -1), -1)[..., None]
