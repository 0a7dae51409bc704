"""Synthetic rows from a generator that is fitted on the editing rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..arrays import LabelledRows, as_batches
from ..base import EditData
from ..generative.sampler import CellRequest, draw_cells, fresh_generator

__all__ = ["generate_rows"]

# Limit in bytes of the rows that a generator is fitted on, and of those that it makes.
MOST_BYTES = 2**28


def generate_rows(
    generator: Any, data: EditData, n_per_cell: int | None, seed: np.random.SeedSequence
) -> LabelledRows:
    """Fit a generator on the editing rows and draw equally many rows of every cell that occurs.

    Parameters
    ----------
    generator : str or object
        As the editor's parameter.
    data : EditData
    n_per_cell : int or None
        None: as many as the largest cell has, within 256 MB.
    seed : numpy.random.SeedSequence

    Returns
    -------
    rows : LabelledRows
    """
    rng = np.random.default_rng(seed)
    rows = data.editing.repeated(data.n_groups)
    row_bytes = math.prod(rows.X.item_shape) * rows.X.dtype.itemsize
    most = max(2, MOST_BYTES // max(1, row_bytes))
    cells = rows.cells(data.n_groups).numpy()
    present, place, counts = np.unique(cells, return_inverse=True, return_counts=True)
    if rows.X.fields is not None:
        _check_copies(generator)
        return rows.subset(_drawn_again(place, n_per_cell or int(counts.max()), rng))
    chosen = _within(place, counts, most, rng)
    X = torch.cat(list(rows.X.subset(chosen).blocks(1024))).cpu().numpy()
    n_each = n_per_cell or max(1, min(int(counts.max()), most // len(present)))
    classes, groups = present // data.n_groups, present % data.n_groups
    keys = list(zip(classes.tolist(), groups.tolist(), strict=True))
    if isinstance(generator, str) and generator == "auto":
        generator = "copula" if X.ndim == 2 else "smoothed"
    number = int(rng.integers(2**31 - 1))
    request = CellRequest(
        X=X,
        y=rows.y.numpy()[chosen],
        groups=rows.groups.numpy()[chosen] if data.has_groups else None,
        cells=place[chosen],
        drawn=np.full(len(present), n_each),
        keys=keys if data.has_groups else classes.tolist(),
    )
    # A generator that trains a network does so where the edit runs.
    device = None if data.device.type == "cpu" else str(data.device)
    fresh = fresh_generator(generator, number, device)
    _, drawn = draw_cells(fresh, request, number)
    return LabelledRows(
        as_batches(np.ascontiguousarray(drawn), rows.X.dtype),
        torch.as_tensor(np.repeat(classes, n_each)),
        torch.as_tensor(np.repeat(groups, n_each)),
    )


def _check_copies(generator: Any) -> None:
    """Refuse a generator for rows of named inputs, such as words, which are drawn again instead.

    Raises
    ------
    ValueError
    """
    if not (isinstance(generator, str) and generator == "auto"):
        raise ValueError(
            f"generator={generator!r} makes new numbers, but X has named inputs, whose numbers "
            "stand for words and the like: leave generator='auto', which draws copies, or pass "
            "synthetic=, rows that you made."
        )


def _drawn_again(
    place: NDArray[np.int64], n_each: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw rows of every cell with replacement."""
    cells = range(int(place.max()) + 1)
    return np.concatenate([rng.choice(np.flatnonzero(place == cell), n_each) for cell in cells])


def _within(
    place: NDArray[np.int64], counts: NDArray[np.int64], most: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Choose rows that fit in memory: an equal number of every cell that is too large."""
    if len(place) <= most:
        return np.arange(len(place))
    limit = max(1, most // len(counts))
    order = rng.permutation(len(place))
    order = order[np.argsort(place[order], kind="stable")]
    number = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[number < limit])
