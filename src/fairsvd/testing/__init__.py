"""Checks for a test suite: a model must keep its gaps small, with a stated confidence."""

from __future__ import annotations

from ._assert import assert_gap_below, assert_met

__all__ = ["assert_gap_below", "assert_met"]
