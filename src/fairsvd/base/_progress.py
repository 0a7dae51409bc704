"""The progress bar of long work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(
    verbose: int, name: str, *, unit: str = " candidates", total: int | None = None
) -> Iterator[Callable[[], object]]:
    """Show a progress bar for a block, and close it however the block ends.

    Parameters
    ----------
    verbose : int
        0: no bar.
    name, unit : str
    total : int, optional
        Number of units, if it is known.

    Yields
    ------
    tick : callable
        To be called once for each unit.
    """
    if not verbose:
        yield lambda: None
        return
    from tqdm.auto import tqdm

    with tqdm(desc=name, unit=unit, total=total) as bar:
        yield bar.update
