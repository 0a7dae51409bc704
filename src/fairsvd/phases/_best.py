"""The best of what a search has seen."""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ["Best"]

P = TypeVar("P")


class Best(Generic[P]):
    """The value of highest rank so far; one of equal rank does not replace it."""

    def __init__(self, value: P | None = None) -> None:
        self.rank: tuple[bool, float] | None = None
        self.value = value

    def offer(self, rank: tuple[bool, float], value: P | None = None) -> bool:
        """Take the value if it is better, and tell whether it was."""
        if self.rank is not None and rank <= self.rank:
            return False
        self.rank, self.value = rank, value
        return True
