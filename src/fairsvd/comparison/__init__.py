"""Several methods on the same folds: one table of how well they predict and how evenly."""

from __future__ import annotations

from ._compare import compare
from ._table import Comparison

__all__ = ["Comparison", "compare"]
