"""The order of the phases: removal, then the spectrum, one path for each trade-off."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any

import numpy as np

from .._rng import one_torch_thread
from ..base import Best, Candidate, lighten
from ..objective import Constraint
from ._edits import Edit
from ._learned import Path, learned_masks, spectrum
from ._removal import Removal

__all__ = ["removed", "run_path"]

# The removal that the spectrum starts from is chosen under this share of the tolerance: the
# spectrum closes the rest, and a looser start costs less utility.
START_FRACTION = 0.6


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
    start, best = Best[Edit](), Best[Edit]()
    limit = START_FRACTION * constraint.tolerance
    for params, edit in removal.edits():
        logits = removal.data.logits(removal.module, edit.state())
        judge = removal.data.judge
        curves = judge.curves(logits)
        if refine:
            start.offer(judge(curves, limit).rank, edit)
        record = {"stage": "removal", **params}
        candidate = edit.candidate(record, attributes, compress, judge(curves), logits)
        yield lighten(candidate, best)
    return (start.edit or removal.nothing()) if refine else None


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
    best, chosen = Best[Edit](), Best[Edit](start)
    with one_torch_thread():
        if start is None:
            for step, edit in learned_masks(path, rngs[0]):
                logits = path.logits(edit)
                curves = judge.curves(logits)
                chosen.offer(judge(curves, limit).rank, edit)
                yield lighten(path.candidate(edit, logits, "masks", step, judge(curves)), best)
        if refine and chosen.edit is not None:
            for step, edit in spectrum(path, chosen.edit, rngs[1]):
                logits = path.logits(edit)
                candidate = path.candidate(edit, logits, "spectrum", step, judge(logits))
                yield lighten(candidate, best)
