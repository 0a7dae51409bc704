"""The template that every editor shares."""

from __future__ import annotations

from ._apply import apply_to_copy
from ._candidate import Candidate
from ._choice import choose
from ._classifying import ClassifiesByLogits
from ._editor import NetworkEditor
from ._export import Scores
from ._inputs import FitInputs, Reading, read_fit_inputs, read_predict_inputs
from ._lazy_state import LazyState
from ._parameters import (
    HasMethods,
    Interval,
    Splitter,
    StrOptions,
    at_least_0,
    fraction,
    parameter,
    positive,
    positive_int,
    with_parameters,
)
from ._prepare import Prepared, prepare
from ._progress import Progress, progress_bar
from ._registry import EDITORS, QUICK, register_editor
from ._request import as_device, make_constraint, positive_code
from ._restore import restored_on_failure
from ._split import draw_sample, split_rows
from ._task import EditData, Task, without_gradients
from ._untouched import report_on, untouched_logits
from ._weights import read_fit_weights

__all__ = [
    "EDITORS",
    "QUICK",
    "Candidate",
    "ClassifiesByLogits",
    "EditData",
    "FitInputs",
    "HasMethods",
    "Interval",
    "LazyState",
    "NetworkEditor",
    "Prepared",
    "Progress",
    "Reading",
    "Scores",
    "Splitter",
    "StrOptions",
    "Task",
    "apply_to_copy",
    "as_device",
    "at_least_0",
    "choose",
    "draw_sample",
    "fraction",
    "make_constraint",
    "parameter",
    "positive",
    "positive_code",
    "positive_int",
    "prepare",
    "progress_bar",
    "read_fit_inputs",
    "read_fit_weights",
    "read_predict_inputs",
    "register_editor",
    "report_on",
    "restored_on_failure",
    "split_rows",
    "untouched_logits",
    "with_parameters",
    "without_gradients",
]
