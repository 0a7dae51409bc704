"""Inspection of a function's parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["takes"]


def takes(method: Callable[..., Any], name: str) -> bool:
    """Tell whether a method has a parameter of that name."""
    return name in inspect.signature(method).parameters
