"""A fit whose batches do not fit into a device's memory starts again with smaller ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from ..networks import fewer_rows

__all__ = ["in_smaller_batches"]

R = TypeVar("R")


def in_smaller_batches(editor: Any, fit: Callable[..., R], *args: Any) -> R:
    """Call ``fit(*args)``, again with half the ``batch_size`` for as long as memory is lacking.

    It starts from the beginning, so that the result is that of a fit with this ``batch_size``. The
    editor's parameter is as it was afterwards.
    """
    given = editor.batch_size
    try:
        while True:
            try:
                return fit(*args)
            except torch.OutOfMemoryError:
                if editor.batch_size == 1:
                    raise
            editor.batch_size = fewer_rows(editor.batch_size, "The fit starts again in batches of")
    finally:
        editor.batch_size = given
