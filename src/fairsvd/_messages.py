"""Hints in error messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["did_you_mean"]


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Return " Did you mean 'a' or 'b'?" with the known names nearest to ``name``, or "".

    The leading space lets it follow a sentence.
    """
    near = get_close_matches(str(name), [str(each) for each in known], n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
