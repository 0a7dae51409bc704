"""Hints and lists in error messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

__all__ = ["counted", "did_you_mean", "listed"]

# A message names at most this many of a list, and of each at most this many characters.
MOST_NAMED = 10
MOST_CHARACTERS = 60


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Return " Did you mean 'a' or 'b'?" with the known names nearest to ``name``, or "".

    The leading space lets it follow a sentence.
    """
    near = get_close_matches(str(name), [str(each) for each in known], n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def listed(
    values: Iterable[object],
    most: int = MOST_NAMED,
    show: Callable[[object], str] = str,
    longest: int | None = MOST_CHARACTERS,
) -> str:
    """List the first values with commas and count the others, so that a message stays short.

    Parameters
    ----------
    values : iterable
    most : int, default=10
        Number of values that are named.
    show : callable, default=str
        Makes the text of one; ``repr`` for labels, so that the string '1' differs from the number.
    longest : int or None, default=60
        Number of characters of one that are shown; None: all.
    """
    values = list(values)
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(_cut(show(value), longest) for value in values[:most]) + more


def counted(counts: Mapping[Any, object]) -> str:
    """List keys and their values like :func:`listed`, in braces."""
    return "{" + listed(f"{key!r}: {value!r}" for key, value in counts.items()) + "}"


def _cut(text: str, longest: int | None) -> str:
    if longest is None or len(text) <= longest:
        return text
    return f"{text[:longest]} (and {len(text) - longest} more characters)"
