"""A fit that fails leaves its estimator as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["restored_on_failure"]


@contextmanager
def restored_on_failure(estimator: Any) -> Iterator[None]:
    """Put an estimator's attributes back where the block raises, an interrupt included.

    Half a fit must not pass for a fitted estimator.
    """
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise
