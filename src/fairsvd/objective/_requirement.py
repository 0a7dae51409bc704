"""The form of what is asked of an edit, and the rows on which a promise is tested.

A requirement measures how badly a table of counts does, in numbers of which smaller is better, and
is met where the number is at most its limit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .._messages import did_you_mean
from ._harm import Moves
from ._soft_statistic import SoftRows

__all__ = ["Requirement", "Seen", "check_name", "check_share"]


@dataclass(frozen=True)
class Seen:
    """Rows on which a promise is tested; nothing was chosen on them.

    Attributes
    ----------
    counts : ndarray of shape (n_groups, n_classes, n_classes)
        Rows by [group, true, predicted], of the edited network.
    before : ndarray of the same shape
        The same of the untouched network.
    moves : Moves
        Rows whose prediction the edit changed.
    pos : int or None
        Code of the positive class of two.
    """

    counts: NDArray[Any]
    before: NDArray[Any]
    moves: Moves
    pos: int | None

    def times(self, factor: float) -> Seen:
        """Show what so many times the rows would, at the same rates."""
        each: tuple[Any, ...] = self.moves.lost, self.moves.gained, self.moves.rows
        scaled = Moves(*(number * factor for number in each))
        return Seen(self.counts * factor, self.before * factor, scaled, self.pos)


class Requirement(ABC):
    """One thing that is asked of an edit.

    Attributes
    ----------
    limit : float
        Largest accepted value of :meth:`measure`.
    """

    limit: float

    @property
    @abstractmethod
    def name(self) -> str:
        """What is limited, in words."""

    @property
    def guide(self) -> str | None:
        """The gap of ``GAPS`` whose fair rule closes this one; None if no rule does."""
        return None

    @property
    def is_exact(self) -> bool:
        """Tell whether :meth:`bound` holds for any number of rows."""
        return True

    @property
    def compares(self) -> bool:
        """Tell whether it compares with the untouched network."""
        return False

    @property
    def is_fast(self) -> bool:
        """Tell whether many tables can be measured at once, such as those of all thresholds."""
        return True

    @property
    def members(self) -> tuple[int, ...] | None:
        """The value of each group that it asks about; None: it asks about the groups."""
        return None

    @abstractmethod
    def check(self) -> None:
        """Check the parameters.

        Raises
        ------
        ValueError
            A parameter is out of its range; the message names it.
        """

    def measure(
        self, counts: NDArray[Any], pos: int | None, before: NDArray[Any] | None = None
    ) -> NDArray[np.float64]:
        """Measure tables of counts.

        Parameters
        ----------
        counts : ndarray of shape (..., n_groups, n_classes, n_classes)
            Rows by [group, true, predicted].
        pos : int or None
            Code of the positive class of two.
        before : ndarray of shape (n_groups, n_classes, n_classes), optional
            The same of the untouched network.

        Returns
        -------
        values : ndarray of shape (...), float64
            Smaller is better; NaN where it cannot be measured.
        """
        return self._measure(counts, pos, before)

    def bound(self, seen: Seen, confidence: float, rng: np.random.Generator) -> float:
        """Bound the measured value on all rows of that kind from above.

        Parameters
        ----------
        seen : Seen
            Rows that nothing was chosen on.
        confidence : float in (0, 1)
        rng : numpy.random.Generator
            Used by bounds that are not exact.

        Returns
        -------
        upper : float
        """
        return self._bound(seen, confidence, rng)

    def soft(self, rows: SoftRows, before: NDArray[Any] | None) -> Tensor | None:
        """Measure the excess on probabilities, differentiably.

        Parameters
        ----------
        rows : SoftRows
        before : ndarray of shape (n_groups, n_classes, n_classes) or None
            As for :meth:`measure`.

        Returns
        -------
        excess : Tensor of shape () or None
            None if this cannot be done.
        """
        return self._soft(rows, before)

    @abstractmethod
    def _measure(
        self, counts: NDArray[Any], pos: int | None, before: NDArray[Any] | None
    ) -> NDArray[np.float64]: ...

    @abstractmethod
    def _bound(self, seen: Seen, confidence: float, rng: np.random.Generator) -> float: ...

    def _soft(self, rows: SoftRows, before: NDArray[Any] | None) -> Tensor | None:
        return None


def check_name(kind: object, name: str, value: Any, known: tuple[str, ...]) -> None:
    """Refuse a name that is none of the known ones."""
    if value not in known:
        raise ValueError(
            f"{name}={value!r} of {type(kind).__name__}: wanted one of {', '.join(known)}."
            f"{did_you_mean(str(value), known)}"
        )


def check_share(kind: object, name: str, value: Any) -> None:
    """Refuse what is no number in [0, 1]."""
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r} of {type(kind).__name__}: pass a number in [0, 1].")
