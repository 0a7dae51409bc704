"""The template that every editor shares."""

from __future__ import annotations

from ._candidates import Candidate, EditData, edited_copy
from ._choice import choose
from ._editor import NetworkEditor
from ._inputs import FitInputs, read_fit_inputs, read_predict_inputs
from ._params import SHARED_CONSTRAINTS, HasMethods, Interval, StrOptions, positive_int
from ._prepare import Prepared, prepare
from ._progress import progress_bar
from ._request import make_constraint, positive_code
from ._restore import restored_on_failure
from ._split import draw_sample, split_rows

__all__ = [
    "SHARED_CONSTRAINTS",
    "Candidate",
    "EditData",
    "FitInputs",
    "HasMethods",
    "Interval",
    "NetworkEditor",
    "Prepared",
    "StrOptions",
    "choose",
    "draw_sample",
    "edited_copy",
    "make_constraint",
    "positive_code",
    "positive_int",
    "prepare",
    "progress_bar",
    "read_fit_inputs",
    "read_predict_inputs",
    "restored_on_failure",
    "split_rows",
]
