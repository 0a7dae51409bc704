"""Warnings that point at the user's line, however deep the code is that raises them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, NamedTuple

from .exceptions import FairsvdWarning

__all__ = ["categories_of", "merged_warnings", "warn"]

# A call goes through these before it reaches code of ours.
THROUGH = frozenset({"fairsvd", "sklearn", "joblib", "contextlib", "imblearn"})


class _Part(NamedTuple):
    """One warning that waits to be merged."""

    message: str
    category: type[Warning]


_WAITING: ContextVar[list[_Part] | None] = ContextVar("waiting", default=None)


def warn(message: str, category: type[Warning]) -> None:
    """Warn, naming the innermost line that belongs neither to us nor to what calls us.

    Within :func:`merged_warnings` the warning waits for its end.

    Parameters
    ----------
    message : str
    category : type of Warning
    """
    waiting = _WAITING.get()
    if waiting is not None:
        waiting.append(_Part(message, category))
        return
    _, level = _user_frame()
    warnings.warn(message, category, stacklevel=level)


@contextmanager
def merged_warnings(what: str) -> Iterator[None]:
    """Collect the warnings of a block and raise them as one at its end.

    The user's filters apply to each part by itself: an ignored category leaves the message, one
    that is an error raises alone. What is left is one warning, which is of all its categories.

    Parameters
    ----------
    what : str
        What warns, for the first line of the merged message.
    """
    if _WAITING.get() is not None:  # an outer block merges them
        yield
        return
    parts: list[_Part] = []
    token = _WAITING.set(parts)
    try:
        yield
    except BaseException:
        _WAITING.reset(token)
        # The error itself must not be hidden by a warning that is one.
        with suppress(Warning):
            _raise(parts, what)
        raise
    _WAITING.reset(token)
    _raise(parts, what)


def categories_of(category: type[Warning]) -> tuple[type[Warning], ...]:
    """Return the categories that are merged in the category of a warning."""
    return getattr(category, "merged", (category,))


def _raise(parts: list[_Part], what: str) -> None:
    """Raise what the filters let through, as one warning."""
    frame, _ = _user_frame()
    parts = list(dict.fromkeys(parts))
    actions = [_action(part, frame) for part in parts]
    for part, action in zip(parts, actions, strict=True):
        if action == "error":
            warn(*part)
    shown = [part for part, action in zip(parts, actions, strict=True) if action != "ignore"]
    if len(shown) == 1:
        warn(*shown[0])
    elif shown:
        listed = "\n".join(f"- {part.category.__name__}: {part.message}" for part in shown)
        kinds = tuple(dict.fromkeys(part.category for part in shown))
        warn(f"{what} has {len(shown)} warnings.\n{listed}", _merge(kinds))


def _action(part: _Part, frame: Any) -> str:
    """Find what the first matching filter does, as ``warnings.warn`` would."""
    module, line = str(frame.f_globals.get("__name__", "")), frame.f_lineno
    for action, message, category, place, lineno in warnings.filters:
        if (
            issubclass(part.category, category)
            and (message is None or _matches(message, part.message))
            and (place is None or _matches(place, module))
            and lineno in (0, line)
        ):
            return str(action)
    return str(warnings.defaultaction)  # type: ignore[attr-defined]


def _matches(pattern: Any, text: str) -> bool:
    # Python's own first filters, set before ``re`` is imported, are plain strings.
    return pattern == text if isinstance(pattern, str) else pattern.match(text) is not None


@lru_cache
def _merge(categories: tuple[type[Warning], ...]) -> type[Warning]:
    """Make a category that is a kind of each of several."""
    if len(categories) == 1:
        return categories[0]
    names = {
        "merged": categories,
        "__doc__": "Several warnings of one fit.",
        "__reduce__": lambda self: (_rebuild, (categories, self.args)),
        # Its own name would be found nowhere by what looks categories up.
        "__module__": FairsvdWarning.__module__,
        "__qualname__": FairsvdWarning.__qualname__,
    }
    return type(FairsvdWarning.__name__, categories, names)


def _rebuild(categories: tuple[type[Warning], ...], args: tuple[Any, ...]) -> Warning:
    return _merge(categories)(*args)


def _user_frame() -> tuple[Any, int]:
    """Find the user's frame and its level for the function that asks."""
    frame, level = sys._getframe(2), 2
    while frame.f_back is not None and _package(frame.f_globals) in THROUGH:
        frame, level = frame.f_back, level + 1
    return frame, level


def _package(names: dict[str, object]) -> str:
    return str(names.get("__name__", "")).partition(".")[0]
