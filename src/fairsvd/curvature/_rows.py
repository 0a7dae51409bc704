"""Sort batches by group, and sum squares over each group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Batch", "Rows", "sorted_batches"]

Batch: TypeAlias = tuple[Tensor, Tensor, Tensor]

# Rows collected per group: then one in four of the sorted batches of 256 rows holds a second group.
# Each additional group in a batch reads and writes all sums of a layer once more.
ROWS_PER_GROUP = 1024
COPIES = 2  # of the collected rows: the originals, and the concatenated ones


@dataclass(frozen=True)
class Rows:
    """The place of each group's rows in a batch that is sorted by group.

    Attributes
    ----------
    bounds : tuple of int, length n_groups + 1
        Group g has the rows ``bounds[g]`` to ``bounds[g + 1] - 1``.
    classes : tuple of int
        Least and greatest class code of all rows that were sorted together.
    """

    bounds: tuple[int, ...]
    classes: tuple[int, int]

    def __len__(self) -> int:
        return self.bounds[-1]

    def parts(self, start: int, stop: int) -> Iterator[tuple[int, slice]]:
        """Yield (group, slice relative to ``start``) for the groups in rows start to stop - 1."""
        for group, (low, high) in enumerate(pairwise(self.bounds)):
            low, high = max(low, start), min(high, stop)
            if low < high:
                yield group, slice(low - start, high - start)

    def part(self, start: int, size: int) -> Rows:
        """Return at most ``size`` rows from ``start`` on."""
        bounds = tuple(min(max(bound - start, 0), size) for bound in self.bounds)
        return Rows(bounds, self.classes)

    def add_squares(self, total: Tensor, values: Tensor, start: int) -> None:
        """Square ``values`` in place and add them, row by row, to their groups in ``total``.

        Parameters
        ----------
        total : Tensor of shape (n_groups, ...)
            Running sums, changed in place.
        values : Tensor of shape (k, ...)
            Rows start to start + k - 1 of the batch; overwritten.
        start : int
            Position of the first of these rows in the batch.
        """
        values.square_()
        for group, part in self.parts(start, start + len(values)):
            total[group] += values[part].sum(0)


def sorted_batches(
    batches: Iterable[Batch], n_groups: int, max_memory: int
) -> Iterator[tuple[Rows, Tensor, Tensor]]:
    """Sort batches by group and drop the rows without one.

    With several groups, some batches are collected and sorted together. So each sorted batch holds
    few groups, and the products run over many rows of a group at a time.

    Parameters
    ----------
    batches : iterable of (x, y, group)
        x (n, ...); y (n,) class codes; group (n,) codes in [0, n_groups), -1 for rows to leave out.
    n_groups : int
    max_memory : int
        Limit in bytes of all copies of the collected rows; one batch is always taken.

    Yields
    ------
    rows : Rows
    x, y : Tensor
        The kept rows in the order of ``rows``, at most as many as in the largest batch.

    Raises
    ------
    ValueError
        If the lengths differ or a group code lies outside [-1, n_groups).
    """
    window: list[Batch] = []
    held = 0
    for batch in batches:
        n_rows = _check_lengths(batch)
        if window and not _can_join(window[0], batch):
            yield from _sort(window, n_groups)
            held = 0
        window.append(batch)
        held += n_rows
        if held + n_rows > _capacity(batch, n_groups, max_memory):
            yield from _sort(window, n_groups)
            held = 0
        else:
            # Copied, since the caller may reuse the tensors for the next batch.
            window[-1] = batch[0].clone(), batch[1].clone(), batch[2].clone()
    if window:
        yield from _sort(window, n_groups)


def _check_lengths(batch: Batch) -> int:
    n_rows = [len(part) for part in batch]
    if len(set(n_rows)) > 1:
        raise ValueError(
            "batches: x, y and group of a batch must have the same length, got "
            f"{n_rows[0]}, {n_rows[1]} and {n_rows[2]}."
        )
    return n_rows[0]


def _can_join(one: Batch, other: Batch) -> bool:
    return one[0].shape[1:] == other[0].shape[1:] and one[0].dtype == other[0].dtype


def _capacity(batch: Batch, n_groups: int, max_memory: int) -> int:
    """Return the number of rows to collect; 0 if there is nothing to gain."""
    if n_groups == 1 or not len(batch[0]):
        return 0
    row_bytes = sum(part.nbytes for part in batch) // len(batch[0])
    return min(ROWS_PER_GROUP * n_groups, max_memory // (COPIES * row_bytes))


def _sort(window: list[Batch], n_groups: int) -> Iterator[tuple[Rows, Tensor, Tensor]]:
    """Empty the window in batches of the size of its largest one."""
    size = max(1, *(len(y) for _, y, _ in window))
    x, y, group = window[0] if len(window) == 1 else map(torch.cat, zip(*window, strict=True))
    window.clear()
    order, bounds = _order(group, n_groups)
    y = y[order]
    low, high = y.aminmax() if len(y) else (0, 0)
    rows = Rows(bounds, (int(low), int(high)))
    for start in range(0, len(order), size):
        part = slice(start, start + size)
        yield rows.part(start, size), x[order[part]], y[part]


def _order(group: Tensor, n_groups: int) -> tuple[Tensor, tuple[int, ...]]:
    # Code -1 is counted in slot 0 and sorted first.
    counts = torch.bincount((group + 1).clamp_min(0), minlength=n_groups + 1).tolist()
    if len(counts) > n_groups + 1 or (len(group) and int(group.min()) < -1):
        raise ValueError(
            f"batches: group codes must lie in [0, {n_groups}), or be -1 to leave a row out; got "
            f"codes from {int(group.min())} to {int(group.max())}. Check n_groups={n_groups}."
        )
    return torch.argsort(group, stable=True)[counts[0] :], (0, *accumulate(counts[1:]))
