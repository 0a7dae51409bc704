"""Compare methods on the same folds, in one table of accuracy and gaps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._compare import compare
from ._encode import table_encoder

if TYPE_CHECKING:
    from ._table import Comparison

__all__ = ["Comparison", "compare", "table_encoder"]


def __getattr__(name: str) -> object:
    """Import the class that derives from one of pandas on first use."""
    if name != "Comparison":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ._table import Comparison

    return Comparison


def __dir__() -> list[str]:
    """List the names here, including those imported on first use."""
    return sorted({*globals(), *__all__})
