"""Shared parts of methods that tune a network: paths, phases, edits, leaves, removal."""

from __future__ import annotations

from ._batches import (
    GAP_WEIGHTS,
    RATE_SCALES,
    count_candidates,
    count_lessons,
    count_step_rows,
    count_steps,
    is_table,
    list_gap_weights,
    make_batches,
)
from ._best import Best
from ._brief import Average, tune_averaged
from ._brief_head import has_free_head
from ._budget import FORWARD, Budget, brief_margin, brief_weights, find_budget
from ._cell_network import average_cells
from ._cells import JOINTS, count_teachers, train_cells
from ._edit import Deferred, Edit, MaskedEdit, judge_state
from ._editor import BudgetedEditor, TuningEditor
from ._kept_head import KeptHead, keep_head
from ._leaves import copy_biases, float_parameters
from ._loss import make_loss
from ._masking import MaskingPath, count_masked, mask_and_tune
from ._path import (
    START_FRACTION,
    TuningPath,
    count_best,
    count_settling,
    run_best,
    run_paths,
    run_phases,
    settles,
    tune_edit,
)
from ._privileged import find_privileged, privileged_group
from ._removal import SPARSITIES, ScoredRemoval, judge_removals
from ._teacher import (
    Teacher,
    cell_probabilities,
    find_teacher,
    judge_rules,
    make_lessons,
    unknown_probabilities,
)
from ._unknown import with_unknown
from ._values import VALUE_LOOKS, Values, run_brief_values, tune_from, tune_values

__all__ = [
    "FORWARD",
    "GAP_WEIGHTS",
    "JOINTS",
    "RATE_SCALES",
    "SPARSITIES",
    "START_FRACTION",
    "VALUE_LOOKS",
    "Average",
    "Best",
    "Budget",
    "BudgetedEditor",
    "Deferred",
    "Edit",
    "KeptHead",
    "MaskedEdit",
    "MaskingPath",
    "ScoredRemoval",
    "Teacher",
    "TuningEditor",
    "TuningPath",
    "Values",
    "average_cells",
    "brief_margin",
    "brief_weights",
    "cell_probabilities",
    "copy_biases",
    "count_best",
    "count_candidates",
    "count_lessons",
    "count_masked",
    "count_settling",
    "count_step_rows",
    "count_steps",
    "count_teachers",
    "find_budget",
    "find_privileged",
    "find_teacher",
    "float_parameters",
    "has_free_head",
    "is_table",
    "judge_removals",
    "judge_rules",
    "judge_state",
    "keep_head",
    "list_gap_weights",
    "make_batches",
    "make_lessons",
    "make_loss",
    "mask_and_tune",
    "privileged_group",
    "run_best",
    "run_brief_values",
    "run_paths",
    "run_phases",
    "settles",
    "train_cells",
    "tune_averaged",
    "tune_edit",
    "tune_from",
    "tune_values",
    "unknown_probabilities",
    "with_unknown",
]
