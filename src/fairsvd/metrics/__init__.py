"""Gaps and ratios between groups as numbers, tables and scikit-learn scorers."""

from __future__ import annotations

from ._scorer import fairness_scorer
from ._scores import METRICS, fairness_score, hard_counts
from ._tables import gap_table, gaps_frame, group_table, rates_frame

__all__ = [
    "METRICS",
    "fairness_score",
    "fairness_scorer",
    "gap_table",
    "gaps_frame",
    "group_table",
    "hard_counts",
    "rates_frame",
]
