"""The template that every editor shares."""

from __future__ import annotations

from ._candidates import Candidate, EditData, choose, edited_copy
from ._editor import NetworkEditor
from ._inputs import FitInputs
from ._params import SHARED_CONSTRAINTS, HasMethods, Interval, StrOptions, positive_int
from ._prepare import Prepared, prepare
from ._privileged import find_privileged, privileged_group
from ._request import make_constraint
from ._tuning import Best, lighten, loss_of, rows_a_step, run_paths, stratified

__all__ = [
    "SHARED_CONSTRAINTS",
    "Best",
    "Candidate",
    "EditData",
    "FitInputs",
    "HasMethods",
    "Interval",
    "NetworkEditor",
    "Prepared",
    "StrOptions",
    "choose",
    "edited_copy",
    "find_privileged",
    "lighten",
    "loss_of",
    "make_constraint",
    "positive_int",
    "prepare",
    "privileged_group",
    "rows_a_step",
    "run_paths",
    "stratified",
]
