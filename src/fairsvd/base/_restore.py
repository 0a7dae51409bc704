"""A fit that fails leaves its estimator as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["restored_on_failure"]


@contextmanager
def restored_on_failure(estimator: Any) -> Iterator[None]:
    """Restore an estimator's attributes if the block raises, also by an interrupt.

    Otherwise a half-fitted estimator would pass for a fitted one.
    """
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise
