"""Harm, in one definition: a rate that fell for a group, beyond noise.

The rates are the true positive and the true negative rate and, under demographic parity, where
being selected is the good, the selection rate. Both networks are compared on the same rows, so only
rows whose prediction changed carry information, and the test is McNemar's in its exact form. Of
weighted rows it is approximate: it takes the number of rows of equal weight that tell as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from ._counts import divide

__all__ = ["Change", "Moves", "count_moves", "judged_rates"]

RATES = ("tpr", "tnr", "selection_rate")

# Smaller falls are no harm, however many rows show them.
LEAST = 0.02
# Chance that any fall is called harm if no rate changes at all.
LEVEL = 0.05


def judged_rates(gap: str) -> tuple[str, ...]:
    """Name the rates whose fall is harm if a gap is to be closed."""
    return RATES if gap == "demographic_parity" else RATES[:2]


class Change(NamedTuple):
    """The change of one rate of one group.

    Attributes
    ----------
    rate : {"tpr", "tnr", "selection_rate"}
    group : int
        Code of the group.
    place : int
        Position among the compared classes: 0 for two classes, else the code of the class.
    change : float
        After minus before, in [-1, 1].
    lost, gained, rows : int, or float of weighted rows
        Rows that count for the rate no longer, that newly do, and all that it is measured on.
    beyond_noise : bool
        Whether the change is at least ``LEAST`` and more than chance.
    """

    rate: str
    group: int
    place: int
    change: float
    lost: float
    gained: float
    rows: float
    beyond_noise: bool

    @property
    def fell(self) -> bool:
        """Tell whether this is harm."""
        return self.beyond_noise and self.change < 0

    @property
    def rose(self) -> bool:
        """Tell whether the group gained."""
        return self.beyond_noise and self.change > 0


@dataclass(frozen=True)
class Moves:
    """How many rows an edit moved out of and into what each rate counts.

    Attributes
    ----------
    lost, gained, rows : ndarray of shape (3, n_groups, C), int64, or float64 of weighted rows
        For the true positive, the true negative and the selection rate. C is 1 for two classes,
        else the number of classes, each against the rest.
    squares : ndarray of the same shape, optional
        Squared weights of the moved rows; None: all weights are 1.
    """

    lost: NDArray[Any]
    gained: NDArray[Any]
    rows: NDArray[Any]
    squares: NDArray[np.float64] | None = None

    def changes(self, gap: str) -> list[Change]:
        """Judge every rate that has rows, under the gap that was to be closed."""
        judged = len(judged_rates(gap))
        lost, gained, rows = (each[:judged] for each in (self.lost, self.gained, self.rows))
        change = divide(gained - lost, rows)
        # The chance of so uneven a split if a changed row is as likely to be lost as gained,
        # divided among all rates that are looked at.
        side, moved = np.maximum(lost, gained), lost + gained
        if self.squares is not None:
            # Kish's effective number of rows.
            scale = np.nan_to_num(divide(moved, self.squares[:judged]))
            side, moved = np.rint(side * scale), np.rint(moved * scale)
        chance = binom.sf(side - 1, moved, 0.5)
        sure = (chance * max(1, np.count_nonzero(rows)) < LEVEL) & (lost + gained > 0)
        beyond = sure & (np.abs(change) > LEAST)

        def at(r: int, g: int, k: int) -> Change:
            n_lost, n_gained, n_rows = (each[r, g, k].item() for each in (lost, gained, rows))
            size, sure = float(change[r, g, k]), bool(beyond[r, g, k])
            return Change(RATES[r], g, k, size, n_lost, n_gained, n_rows, sure)

        return [at(*place) for place in np.argwhere(rows > 0).tolist()]

    def harm(self, gap: str) -> float:
        """Return the largest fall of a rate beyond noise, in [0, 1]; 0 if there is none."""
        return max((-each.change for each in self.changes(gap) if each.fell), default=0.0)


def count_moves(
    y: NDArray[np.integer],
    predictions: tuple[NDArray[np.integer], NDArray[np.integer]],
    groups: NDArray[np.integer],
    sizes: tuple[int, int],
    pos: int | None,
    weights: NDArray[np.float64] | None = None,
) -> Moves:
    """Count the rows whose prediction changed.

    Parameters
    ----------
    y, groups : ndarray of shape (n,), integer
        Codes of classes and groups; rows with the group -1 are left out.
    predictions : (ndarray, ndarray) of shape (n,), integer
        Codes of the predicted classes before and after.
    sizes : (int, int)
        Numbers of classes and of groups.
    pos : int or None
        Code of the positive class of two; None: every class against the rest.
    weights : ndarray of shape (n,), float64, optional
        How often each row counts; None: once.
    """
    n_classes, n_groups = sizes
    known = groups >= 0
    y, before, after, groups = (
        np.asarray(codes)[known].astype(np.int64) for codes in (y, *predictions, groups)
    )
    mass = None if weights is None else weights[known]
    moved = before != after

    def moves(mass: NDArray[np.float64] | None) -> list[NDArray[Any]]:
        def count(rows: NDArray[np.bool_], codes: NDArray[np.int64]) -> NDArray[Any]:
            cells = groups[rows] * n_classes + codes[rows]
            own = None if mass is None else mass[rows]
            counts = np.bincount(cells, own, minlength=n_groups * n_classes)
            return counts.reshape(n_groups, n_classes)

        positive = count(np.ones_like(moved), y)
        total = np.broadcast_to(positive.sum(axis=1, keepdims=True), positive.shape)
        lost = [count(moved & (before == y), before), count(moved & (after != y), after)]
        gained = [count(moved & (after == y), after), count(moved & (before != y), before)]
        lost.append(count(moved, before))
        gained.append(count(moved, after))
        columns = slice(None) if pos is None or n_classes > 2 else slice(pos, pos + 1)
        tables = (np.stack(each) for each in (lost, gained, [positive, total - positive, total]))
        return [each[..., columns] for each in tables]

    lost, gained, rows = moves(mass)
    if mass is None:
        return Moves(lost, gained, rows)
    squares = moves(mass**2)
    return Moves(lost, gained, rows, squares[0] + squares[1])
