"""A requirement of the groups of one attribute, measured on counts of intersections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..groups import Groups
from ._harm import Moves
from ._requirement import Requirement, Seen
from ._soft_statistic import SoftRows

__all__ = ["OneAttribute", "merge_groups"]


@dataclass(frozen=True)
class OneAttribute(Requirement):
    """A requirement of the groups of one attribute, measured on counts of intersections.

    Attributes
    ----------
    requirement : Requirement
    attribute : str
        Its name.
    values : tuple of int
        The code of every intersection's value.
    """

    requirement: Requirement
    attribute: str
    values: tuple[int, ...]

    @property
    def limit(self) -> float:  # type: ignore[override]
        """The limit of what is wrapped."""
        return self.requirement.limit

    @property
    def name(self) -> str:
        """What is limited, and of what."""
        return f"{self.requirement.name} by {self.attribute}"

    @property
    def guide(self) -> str | None:
        """The gap of what is wrapped."""
        return self.requirement.guide

    @property
    def is_exact(self) -> bool:
        """Tell whether the bound of what is wrapped is exact."""
        return self.requirement.is_exact

    @property
    def compares(self) -> bool:
        """Tell whether what is wrapped compares with the untouched network."""
        return self.requirement.compares

    @property
    def is_fast(self) -> bool:
        """Tell whether what is wrapped measures many tables at once."""
        return self.requirement.is_fast

    @property
    def members(self) -> tuple[int, ...]:
        """The value of every intersection."""
        return self.values

    def check(self) -> None:
        """Check what is wrapped."""
        self.requirement.check()

    def _measure(
        self, counts: NDArray[Any], pos: int | None, before: NDArray[Any] | None
    ) -> NDArray[np.float64]:
        former = None if before is None else self.merged(before)
        return self.requirement.measure(self.merged(counts), pos, former)

    def _bound(self, seen: Seen, confidence: float, rng: np.random.Generator) -> float:
        moves = seen.moves
        parts = moves.lost, moves.gained, moves.rows, moves.squares
        of_values = (
            None if each is None else merge_groups(each, self.values, -2) for each in parts
        )
        alone = replace(
            seen,
            counts=self.merged(seen.counts),
            before=self.merged(seen.before),
            moves=Moves(*of_values),  # type: ignore[arg-type]
        )
        return self.requirement.bound(alone, confidence, rng)

    def _soft(self, rows: SoftRows, before: NDArray[Any] | None) -> Tensor | None:
        # The code -1 reads the last entry.
        values = _on_device((*self.values, -1), rows.groups.device)[rows.groups]
        alone = replace(rows, groups=values, n_groups=1 + max(self.values))
        return self.requirement.soft(alone, None if before is None else self.merged(before))

    def again(self, groups: Groups) -> Requirement | None:
        """Ask it of other groups; None if they do not know the attribute."""
        if self.attribute not in groups.names:
            return None
        if len(groups.names) < 2:
            return self.requirement
        whole = Groups(np.arange(groups.n_groups), groups.labels, groups.names)
        alone = whole.alone(groups.names.index(self.attribute))
        return OneAttribute(self.requirement, self.attribute, tuple(alone.codes.tolist()))

    def merged(self, counts: NDArray[Any]) -> NDArray[Any]:
        """Count the rows of the attribute's groups (..., n_values, n_classes, n_classes)."""
        return merge_groups(counts, self.values, -3)


def merge_groups(table: NDArray[Any], members: Sequence[int], axis: int) -> NDArray[Any]:
    """Add up what a table has of the groups that share a value, along the axis of the groups."""
    parts = np.moveaxis(table, axis, 0)
    # Slices are added rather than reduced, since the memory's order may be that of many cuts.
    sums: list[Any] = [None] * (1 + max(members))
    for value, part in zip(members, parts, strict=True):
        sums[value] = part if sums[value] is None else sums[value] + part
    return np.moveaxis(np.stack(sums), 0, axis)


@lru_cache(maxsize=64)
def _on_device(codes: tuple[int, ...], device: torch.device) -> Tensor:
    """Send codes to a device once, and not in every step."""
    return torch.tensor(codes, device=device)
