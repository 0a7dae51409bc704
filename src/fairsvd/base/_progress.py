"""The progress bar of an edit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(verbose: int, name: str) -> Iterator[Callable[[], object] | None]:
    """Show how many candidates came, and close the bar however the block ends.

    Yields
    ------
    tick : callable or None
        To be called once a candidate; None where nothing is to be shown.
    """
    if not verbose:
        yield None
        return
    from tqdm.auto import tqdm

    with tqdm(desc=name, unit=" candidates") as bar:
        yield bar.update
