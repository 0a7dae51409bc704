"""How far long work is: a bar in terminals and notebooks, lines everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from ..objective import Verdict

__all__ = ["Progress", "progress_bar"]

# Seconds between two states of a bar (tqdm's default), and between two lines of a log.
BAR_INTERVAL, LINE_INTERVAL = 0.1, 10.0

# A terminal of 80 columns has no room for a rate.
BAR = "{desc}: {bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
BAR_WITHOUT_TOTAL = "{desc}: {n_fmt}{unit} [{elapsed}{postfix}]"
LINE = (
    "{desc}: {percentage:.0f}% ({n_fmt}/{total_fmt}{unit}), "
    "{elapsed} elapsed, {remaining} left{postfix}"
)
LINE_WITHOUT_TOTAL = "{desc}: {n_fmt}{unit}, {elapsed} elapsed{postfix}"


class Progress:
    """Counts the units of long work and shows what is known about them.

    Parameters
    ----------
    bar : tqdm or None
        None: nothing is shown.
    """

    def __init__(self, bar: Any = None) -> None:
        self._bar = bar

    def __call__(self, status: str = "") -> None:
        """Count one more unit.

        Parameters
        ----------
        status : str, default=""
            What to show beside the count, such as the unit that runs next.
        """
        if self._bar is None:
            return
        if self._bar.total is not None:
            # More units than announced are still counted.
            self._bar.total = max(self._bar.total, self._bar.n + 1)
        # The update shows it, unless the last one was a moment ago.
        self._bar.set_postfix_str(status, refresh=False)
        self._bar.update()

    def candidate(self, record: Mapping[str, Any], best: Verdict) -> None:
        """Count a candidate; show its stage, and the best candidate so far.

        Parameters
        ----------
        record : mapping
            The candidate's row of ``history_``.
        best : Verdict
            Verdict on the best candidate so far.
        """
        if self._bar is not None:
            stage = [str(record["stage"])] if "stage" in record else []
            self(", ".join([*stage, f"best {best.utility:.3f} at gap {best.gap:.3f}"]))

    def end(self) -> None:
        """Declare the work done, even if there were fewer units than announced."""
        if self._bar is not None and self._bar.total is not None:
            self._bar.total = self._bar.n


@contextmanager
def progress_bar(
    verbose: int,
    name: str,
    *,
    unit: str = " candidates",
    total: int | None = None,
    status: str = "",
    every_unit: bool = False,
) -> Iterator[Progress]:
    """Show the progress of a block on stderr, and close it however the block ends.

    A terminal and a notebook get a bar. Everything else gets a line at the start, at most one every
    10 seconds, and one at the end.

    Parameters
    ----------
    verbose : int
        0: nothing is shown.
    name, unit : str
    total : int, optional
        Number of units, if it is known.
    status : str, default=""
        What to show beside the count at first.
    every_unit : bool, default=False
        Show every unit at once. For few long units, of which a reader wants to know the one that
        runs now.

    Yields
    ------
    progress : Progress
        To be called once for each unit.
    """
    stream = sys.stderr
    if not verbose or stream is None:
        yield Progress()
        return
    with _open(stream, every_unit, desc=name, unit=unit, total=total, postfix=status) as bar:
        yield Progress(bar)


def _open(stream: TextIO, every_unit: bool, **settings: Any) -> Any:
    from tqdm.auto import tqdm
    from tqdm.notebook import tqdm_notebook

    # The time left follows from the mean time of all units: candidates and methods take turns in
    # being quick and slow. Without miniters=1 tqdm skips slow units that follow quick ones.
    settings |= {"smoothing": 0, "miniters": 1}
    has_total = settings["total"] is not None
    if issubclass(tqdm, tqdm_notebook) or stream.isatty():
        settings["mininterval"] = 0 if every_unit else BAR_INTERVAL
        return tqdm(file=stream, bar_format=BAR if has_total else BAR_WITHOUT_TOTAL, **settings)
    settings["mininterval"] = 0 if every_unit else LINE_INTERVAL
    # At position 0 tqdm does not move the cursor, even if bars of the user's are open.
    settings |= {"file": _Lines(stream), "position": 0}
    return tqdm(bar_format=LINE if has_total else LINE_WITHOUT_TOTAL, **settings)


class _Lines:
    """Turns what tqdm writes to redraw a bar into lines.

    Parameters
    ----------
    stream : file
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = ""

    def write(self, text: str) -> None:
        """Write a state as a line, unless it is empty or was the last one."""
        line = " ".join(text.split())
        if line and line != self._last:
            self._stream.write(f"{line}\n")
            self._last = line

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()
