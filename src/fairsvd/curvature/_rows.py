"""The rows of one batch, sorted by group, and sums of squares over each group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["Rows", "sort_rows"]


@dataclass(frozen=True)
class Rows:
    """Where each group's rows lie in a batch that is sorted by group.

    Attributes
    ----------
    bounds : tuple of int, length n_groups + 1
        Group g has the rows ``bounds[g]`` to ``bounds[g + 1] - 1``.
    """

    bounds: tuple[int, ...]

    def __len__(self) -> int:
        return self.bounds[-1]

    def parts(self, start: int, stop: int) -> Iterator[tuple[int, slice]]:
        """Yield (group, slice relative to ``start``) for the groups in rows start to stop - 1."""
        for group, (low, high) in enumerate(pairwise(self.bounds)):
            low, high = max(low, start), min(high, stop)
            if low < high:
                yield group, slice(low - start, high - start)

    def add_squares(self, total: Tensor, values: Tensor, start: int) -> None:
        """Square ``values`` in place and add them, row by row, to their groups in ``total``.

        Parameters
        ----------
        total : Tensor of shape (n_groups, ...)
            Running sums, changed in place.
        values : Tensor of shape (k, ...)
            Rows start to start + k - 1 of the batch; overwritten.
        start : int
            Position of the first of them in the batch.
        """
        values.square_()
        for group, part in self.parts(start, start + len(values)):
            total[group] += values[part].sum(0)


def sort_rows(x: Tensor, y: Tensor, group: Tensor, n_groups: int) -> tuple[Rows, Tensor, Tensor]:
    """Sort a batch by group and drop the rows without one.

    Parameters
    ----------
    x : Tensor of shape (n, ...)
    y : Tensor of shape (n,), int64
        Class codes.
    group : Tensor of shape (n,), int64
        Group codes in [0, n_groups); -1 marks a row to leave out.
    n_groups : int

    Returns
    -------
    rows : Rows
    x, y : Tensor
        The kept rows in the order of ``rows``.

    Raises
    ------
    ValueError
        If the lengths differ or a group code lies outside [-1, n_groups).
    """
    if not len(x) == len(y) == len(group):
        raise ValueError(
            "batches: x, y and group of a batch must have the same length, got "
            f"{len(x)}, {len(y)} and {len(group)}."
        )
    # Code -1 is counted in slot 0 and, sorted, comes first.
    counts = torch.bincount((group + 1).clamp_min(0), minlength=n_groups + 1).tolist()
    if len(counts) > n_groups + 1 or (len(group) and int(group.min()) < -1):
        raise ValueError(
            f"batches: group codes must lie in [0, {n_groups}), or be -1 to leave a row out; got "
            f"codes from {int(group.min())} to {int(group.max())}. Check n_groups={n_groups}."
        )
    order = torch.argsort(group, stable=True)[counts[0] :]
    bounds = [0]
    for count in counts[1:]:
        bounds.append(bounds[-1] + count)
    return Rows(tuple(bounds)), x[order], y[order]
