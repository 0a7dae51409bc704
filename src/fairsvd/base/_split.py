"""Choice of the validation rows, within every (label, group) cell or by the user's splitter."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._messages import listed
from ._weights import Passed

__all__ = ["draw_sample", "split_rows"]


def split_rows(
    validation: Any,
    cells: NDArray[np.int64],
    y: NDArray[np.int64],
    rng: np.random.Generator,
    classes: NDArray[Any] | None = None,
    passed: Passed | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split row numbers into editing and validation rows.

    Parameters
    ----------
    validation : float in (0, 1) or splitter
        A fraction of every cell (at least one row of each that has two), or a splitter of exactly
        one split, whose test side is validation.
    cells, y : ndarray of shape (n,), int64
        Codes of the (label, group) cells and of the classes.
    rng : numpy.random.Generator
    classes : ndarray of shape (n_classes,), optional
        Labels of the codes, for messages. None: the codes are the labels.
    passed : Passed, optional
        All rows, to which a splitter's row numbers refer; None: these.

    Returns
    -------
    editing, validation : ndarray of int64
        Sorted. If no cell has two rows, both hold all rows.
    """
    if hasattr(validation, "split"):
        editing, held = _from_splitter(validation, y, passed)
    else:
        editing, held = _from_fraction(validation, cells, rng)
    missing = np.flatnonzero(np.bincount(y) > 0)
    missing = missing[np.bincount(y[editing], minlength=int(y.max()) + 1)[missing] == 0]
    if len(missing):
        missing = missing if classes is None else classes[missing]
        raise ValueError(
            f"validation takes every row of the classes {listed(missing.tolist())}, so "
            "that none is left to edit on: hold fewer rows back."
        )
    return editing, held


def _from_splitter(
    splitter: Any, y: NDArray[np.int64], passed: Passed | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    labels = y if passed is None else passed.labels
    splits = list(splitter.split(np.zeros((len(labels), 1)), labels))
    if len(splits) != 1:
        raise ValueError(
            f"validation is a splitter of {len(splits)} splits; it must make exactly one, e.g. "
            "PredefinedSplit or ShuffleSplit(n_splits=1)."
        )
    editing, held = (np.sort(np.asarray(side)) for side in splits[0])
    if passed is not None:
        editing, held = passed.within(editing), passed.within(held)
    if len(held) == 0 or len(editing) == 0:
        raise ValueError("validation makes a split with an empty side; both need rows.")
    return editing, held


def _from_fraction(
    fraction: float, cells: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any]]:
    shuffled = rng.permutation(len(cells))
    order = shuffled[np.argsort(cells[shuffled], kind="stable")]
    # Rows without a group have negative cells.
    counts = np.bincount(cells - cells.min())
    starts = np.cumsum(counts) - counts
    n_held = np.clip(np.rint(fraction * counts), 1, np.maximum(counts - 1, 0)).astype(np.int64)
    n_held = np.where(counts == 1, 0, n_held)
    place = np.arange(len(order)) - np.repeat(starts, counts)
    held = order[place < np.repeat(n_held, counts)]
    if len(held) == 0:
        everything = np.arange(len(cells))
        return everything, everything
    is_held = np.zeros(len(cells), dtype=bool)
    is_held[held] = True
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def draw_sample(
    rows: NDArray[np.int64], n_rows: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw up to ``n_rows`` of the rows, in their order."""
    if len(rows) <= n_rows:
        return rows
    return np.sort(rng.choice(rows, size=n_rows, replace=False))
