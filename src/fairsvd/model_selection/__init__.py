"""Folds that all hold every (label, group) cell, and the choice under a gap limit."""

from __future__ import annotations

from ._choice import best_under_gap
from ._split import JointStratifiedKFold

__all__ = ["JointStratifiedKFold", "best_under_gap"]
