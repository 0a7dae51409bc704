"""The template that every editor shares."""

from __future__ import annotations

from ._candidates import Candidate, EditData, edited_copy
from ._choice import choose
from ._editor import NetworkEditor
from ._inputs import FitInputs, read_fit_inputs, read_predict_inputs
from ._params import SHARED_CONSTRAINTS, HasMethods, Interval, StrOptions, positive_int
from ._phase_steps import head_and_biases, layer_biases, layered_rate, trained_masks, tuned
from ._phases import TuningPath, judged, run_phases
from ._prepare import Prepared, prepare
from ._privileged import find_privileged, privileged_group
from ._progress import progress_bar
from ._removal import SPARSITIES, ScoredRemoval
from ._request import make_constraint, positive_code
from ._restore import restored_on_failure
from ._split import draw_sample, split_rows
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
    "SHARED_CONSTRAINTS",
    "SPARSITIES",
    "START_FRACTION",
    "Best",
    "Candidate",
    "EditData",
    "FitInputs",
    "HasMethods",
    "Interval",
    "NetworkEditor",
    "Prepared",
    "ScoredRemoval",
    "StrOptions",
    "TuningPath",
    "choose",
    "draw_sample",
    "edited_copy",
    "find_privileged",
    "gap_weights",
    "head_and_biases",
    "judged",
    "judged_state",
    "layer_biases",
    "layered_rate",
    "lighten",
    "loss_of",
    "make_constraint",
    "positive_code",
    "positive_int",
    "prepare",
    "privileged_group",
    "progress_bar",
    "read_fit_inputs",
    "read_predict_inputs",
    "restored_on_failure",
    "rows_a_step",
    "run_paths",
    "run_phases",
    "split_rows",
    "stratified",
    "trained_masks",
    "tuned",
]
