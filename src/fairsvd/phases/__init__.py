"""Shared parts of methods that tune a network: paths, phases, edits, leaves, removal."""

from __future__ import annotations

from ._batches import (
    GAP_WEIGHTS,
    count_step_rows,
    count_steps,
    list_gap_weights,
    make_batches,
)
from ._edit import Edit, MaskedEdit, judge_state
from ._editor import TuningEditor
from ._leaves import copy_biases, float_parameters
from ._path import (
    START_FRACTION,
    Best,
    MaskingPath,
    TuningPath,
    make_loss,
    mask_and_tune,
    run_paths,
    run_phases,
    tune_edit,
)
from ._privileged import find_privileged, privileged_group
from ._removal import SPARSITIES, ScoredRemoval, judge_removals
from ._values import Values, tune_from, tune_values

__all__ = [
    "GAP_WEIGHTS",
    "SPARSITIES",
    "START_FRACTION",
    "Best",
    "Edit",
    "MaskedEdit",
    "MaskingPath",
    "ScoredRemoval",
    "TuningEditor",
    "TuningPath",
    "Values",
    "copy_biases",
    "count_step_rows",
    "count_steps",
    "find_privileged",
    "float_parameters",
    "judge_removals",
    "judge_state",
    "list_gap_weights",
    "make_batches",
    "make_loss",
    "mask_and_tune",
    "privileged_group",
    "run_paths",
    "run_phases",
    "tune_edit",
    "tune_from",
    "tune_values",
]
