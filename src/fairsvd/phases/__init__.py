"""What methods that tune a network share: paths, steps and removal."""

from __future__ import annotations

from ._path import TuningPath, judged, run_phases
from ._privileged import find_privileged, privileged_group
from ._removal import SPARSITIES, ScoredRemoval
from ._steps import head_and_biases, layer_biases, layered_rate, trained_masks, tuned
from ._tuning import (
    GAP_WEIGHTS,
    START_FRACTION,
    Best,
    gap_weights,
    judged_state,
    lighten,
    loss_of,
    rows_a_step,
    run_paths,
    stratified,
)

__all__ = [
    "GAP_WEIGHTS",
    "SPARSITIES",
    "START_FRACTION",
    "Best",
    "ScoredRemoval",
    "TuningPath",
    "find_privileged",
    "gap_weights",
    "head_and_biases",
    "judged",
    "judged_state",
    "layer_biases",
    "layered_rate",
    "lighten",
    "loss_of",
    "privileged_group",
    "rows_a_step",
    "run_paths",
    "run_phases",
    "stratified",
    "trained_masks",
    "tuned",
]
