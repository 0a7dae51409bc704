"""The order of the phases: removal, then the spectrum, one path for each trade-off."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any

from torch import Tensor

from ..base import Candidate
from ..objective import Constraint, Verdict
from ..phases import judged, run_phases
from ._edits import Edit
from ._learned import Path, learned_masks, spectrum, whole
from ._removal import Removal

__all__ = ["removed", "run_path"]


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

    def pack(edit: Edit, params: Mapping[str, Any], verdict: Verdict, logits: Tensor) -> Candidate:
        return edit.candidate(params, attributes, compress, verdict, logits)

    start = yield from judged(removal.edits(), removal.module, removal.data, constraint, pack)
    return (start or removal.nothing()) if refine else None


def run_path(path: Path, start: Edit | None, refine: bool) -> Iterator[Candidate]:
    """Run the phases of one trade-off; see :func:`fairsvd.base.run_phases`."""
    if not refine:
        return run_phases(path, start, learned_masks, None, "spectrum")
    return run_phases(path, start, learned_masks, spectrum, "spectrum", whole=whole)
