"""The template that every editor shares."""

from __future__ import annotations

from ._candidates import Candidate, EditData
from ._editor import NetworkEditor
from ._params import SHARED_CONSTRAINTS, HasMethods, Interval, StrOptions, positive_int

__all__ = [
    "SHARED_CONSTRAINTS",
    "Candidate",
    "EditData",
    "HasMethods",
    "Interval",
    "NetworkEditor",
    "StrOptions",
    "positive_int",
]
