"""The template that every editor shares."""

from __future__ import annotations

from ._candidates import Candidate, EditData, choose, edited_copy
from ._editor import NetworkEditor
from ._inputs import FitInputs
from ._params import SHARED_CONSTRAINTS, HasMethods, Interval, StrOptions, positive_int
from ._prepare import Prepared, prepare
from ._request import make_constraint

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
    "edited_copy",
    "make_constraint",
    "positive_int",
    "prepare",
]
