"""Warnings that point at the user's line, however deep the code is that raises them."""

from __future__ import annotations

import sys
import warnings

__all__ = ["warn"]

# A call goes through these before it reaches code of ours.
THROUGH = frozenset({"fairsvd", "sklearn", "joblib", "contextlib", "imblearn"})


def warn(message: str, category: type[Warning]) -> None:
    """Warn, naming the innermost line that belongs neither to us nor to what calls us.

    Parameters
    ----------
    message : str
    category : type of Warning
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _package(frame.f_globals) in THROUGH:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _package(names: dict[str, object]) -> str:
    return str(names.get("__name__", "")).partition(".")[0]
