"""Several methods on the same folds: one table of how well they predict and how evenly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._compare import compare

if TYPE_CHECKING:
    from ._table import Comparison

__all__ = ["Comparison", "compare"]


def __getattr__(name: str) -> object:
    """Import what is derived from a class of pandas when it is first asked for."""
    if name != "Comparison":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ._table import Comparison

    return Comparison


def __dir__() -> list[str]:
    """List what is here and what would be imported on first use."""
    return sorted({*globals(), *__all__})
