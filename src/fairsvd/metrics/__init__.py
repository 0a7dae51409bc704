"""Measures of groups, gaps and ratios between them, as numbers, tables and scikit-learn scorers."""

from __future__ import annotations

from ._calibration import calibration_frame, calibration_table
from ._calibration_map import CALIBRATIONS, OWN_SHARE, CalibrationMap
from ._disparities import (
    Compared,
    disparity_frame,
    disparity_table,
    effective_counts,
    scaled_counts,
)
from ._gap_tables import gap_table, gaps_frame
from ._margins import margins_of, name_attributes
from ._measured import GroupValues, Rows, interval, measure_counts, measure_groups
from ._noisy import NoisyGap, noisy_gap
from ._read import read_weights, scale_weights
from ._registry import MEASURES, METRICS, Measure
from ._scorer import fairness_scorer
from ._scores import fairness_score, hard_counts
from ._tables import few_rows, group_index, group_table, measures_frame, rates_frame

__all__ = [
    "CALIBRATIONS",
    "MEASURES",
    "METRICS",
    "OWN_SHARE",
    "CalibrationMap",
    "Compared",
    "GroupValues",
    "Measure",
    "NoisyGap",
    "Rows",
    "calibration_frame",
    "calibration_table",
    "disparity_frame",
    "disparity_table",
    "effective_counts",
    "fairness_score",
    "fairness_scorer",
    "few_rows",
    "gap_table",
    "gaps_frame",
    "group_index",
    "group_table",
    "hard_counts",
    "interval",
    "margins_of",
    "measure_counts",
    "measure_groups",
    "measures_frame",
    "name_attributes",
    "noisy_gap",
    "rates_frame",
    "read_weights",
    "scale_weights",
    "scaled_counts",
]
