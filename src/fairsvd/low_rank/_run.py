"""The order of the phases: removal, then the spectrum, one path for each trade-off."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from joblib import effective_n_jobs

from .._parallel import in_parallel
from .._rng import one_torch_thread
from ..base import Candidate
from ..objective import Constraint
from ._edits import Edit
from ._learned import Path, learned_masks, spectrum
from ._removal import Removal

__all__ = ["removed", "run_path", "run_paths"]

# The removal that the spectrum starts from is chosen under this share of the tolerance: the
# spectrum closes the rest, and a looser start costs less utility.
START_FRACTION = 0.6


class _Best:
    """The edit of highest rank so far; an equal one does not replace it."""

    def __init__(self) -> None:
        self.rank: tuple[bool, float] | None = None
        self.edit: Edit | None = None

    def offer(self, rank: tuple[bool, float], edit: Edit | None = None) -> bool:
        """Take the edit if it is better, and tell whether it was."""
        if self.rank is not None and rank <= self.rank:
            return False
        self.rank, self.edit = rank, edit
        return True


def removed(
    removal: Removal,
    constraint: Constraint,
    attributes: Mapping[str, Any],
    *,
    compress: bool,
    refine: bool,
) -> Generator[Candidate, None, Edit | None]:
    """Judge every removal by a score.

    Yields
    ------
    candidate : Candidate

    Returns
    -------
    start : Edit or None
        The best of them, for the spectrum to start from; None where nothing comes after.
    """
    start, best = _Best(), _Best()
    limit = START_FRACTION * constraint.tolerance
    for params, edit in removal.edits():
        logits = removal.data.logits(removal.module, edit.state())
        judge = removal.data.judge
        curves = judge.curves(logits)
        if refine:
            start.offer(judge(curves, limit).rank, edit)
        record = {"stage": "removal", **params}
        candidate = edit.candidate(record, attributes, compress, judge(curves), logits)
        yield _lighten(candidate, best)
    return (start.edit or removal.nothing()) if refine else None


def run_paths(
    paths: list[Path], start: Edit | None, refine: bool, n_jobs: int | None
) -> Iterator[Candidate]:
    """Run the paths one by one, or at the same time, with equal results.

    Parameters
    ----------
    paths : list of Path
    start : Edit or None
        The removal, where it is made by a score; None: it is learned.
    refine : bool
        Tune the spectrum afterwards.
    n_jobs : int or None

    Yields
    ------
    candidate : Candidate
    """
    if len(paths) == 1 or effective_n_jobs(n_jobs) == 1:
        for path in paths:
            yield from run_path(path, start, refine)
        return
    for candidates in in_parallel(_whole, [(path, start, refine) for path in paths], n_jobs):
        yield from candidates


def _whole(path: Path, start: Edit | None, refine: bool) -> list[Candidate]:
    return list(run_path(path, start, refine))


def run_path(path: Path, start: Edit | None, refine: bool) -> Iterator[Candidate]:
    """Run the phases of one trade-off.

    Parameters
    ----------
    path : Path
    start : Edit or None
    refine : bool

    Yields
    ------
    candidate : Candidate
        Its state is left out where an earlier one of the path ranks at least as high, so that
        memory holds few networks.
    """
    rngs = [np.random.default_rng(seed) for seed in path.seed.spawn(2)]
    limit, judge = START_FRACTION * path.constraint.tolerance, path.data.judge
    best, chosen = _Best(), _Best()
    chosen.edit = start
    with one_torch_thread():
        if start is None:
            for step, edit in learned_masks(path, rngs[0]):
                logits = path.logits(edit)
                curves = judge.curves(logits)
                chosen.offer(judge(curves, limit).rank, edit)
                yield _lighten(path.candidate(edit, logits, "masks", step, judge(curves)), best)
        if refine and chosen.edit is not None:
            for step, edit in spectrum(path, chosen.edit, rngs[1]):
                logits = path.logits(edit)
                candidate = path.candidate(edit, logits, "spectrum", step, judge(logits))
                yield _lighten(candidate, best)


def _lighten(candidate: Candidate, best: _Best) -> Candidate:
    if candidate.verdict is None or best.offer(candidate.verdict.rank):
        return candidate
    return replace(candidate, state={}, attributes={}, finish=None, logits=None)
