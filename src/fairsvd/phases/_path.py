"""The phases of an edit that removes entries: removal, or learned masks, then a tuning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from torch import Tensor, nn

from .._rng import one_torch_thread
from ..base import Candidate, EditData
from ..objective import Constraint, Verdict
from ..training import CellBatches
from ._tuning import START_FRACTION, Best, lighten, loss_of, rows_a_step, stratified

__all__ = ["N_CANDIDATES", "TuningPath", "judged", "run_phases"]

# Candidates that each phase leaves.
N_CANDIDATES = 10


class Edit(Protocol):
    """What differs from the untouched network."""

    def state(self) -> Mapping[str, Tensor]:
        """Return the entries of the state dict that differ."""
        ...

    def detached(self) -> Self:
        """Copy, so that later steps do not change it."""
        ...


E = TypeVar("E", bound=Edit)


@dataclass(frozen=True, kw_only=True)
class TuningPath(ABC, Generic[E]):
    """One trade-off's way through the phases, self-contained so that it can run anywhere.

    Attributes
    ----------
    module : nn.Module
        Not shared with another path, its parameters frozen.
    data : EditData
    constraint : Constraint
    tradeoff : float
        Weight of the soft gap.
    max_removed : float or None
        Cap on the removed share.
    n_steps : int
        Of each phase.
    seed : numpy.random.SeedSequence
    attributes : dict
        Fitted attributes that do not depend on the candidate.
    """

    module: nn.Module
    data: EditData
    constraint: Constraint
    tradeoff: float
    max_removed: float | None
    n_steps: int
    seed: np.random.SeedSequence
    attributes: dict[str, Any]

    @abstractmethod
    def pack(
        self, edit: E, params: Mapping[str, Any], verdict: Verdict, logits: Tensor
    ) -> Candidate:
        """Make a candidate of a judged edit."""

    @property
    def every(self) -> int:
        """Steps between two candidates."""
        return max(1, self.n_steps // N_CANDIDATES)

    def key(self) -> dict[str, Any]:
        """Tell what a training of masks depends on, beside the scope of the data's cache."""
        return {
            "tradeoff": self.tradeoff,
            "margin": self.data.margin,
            "constraint": vars(self.constraint),
            "n_steps": self.n_steps,
            "rows": rows_a_step(self.data),
            "seed": [self.seed.entropy, self.seed.spawn_key],
        }

    def batches(self, rng: np.random.Generator) -> CellBatches:
        """Cell-stratified batches of the editing rows."""
        return stratified(self.data, self.constraint.balance, rng)

    def loss(self, state: Callable[[], Mapping[str, Tensor]], margin: float) -> Any:
        """Make the loss of a batch for a state that depends on trainable tensors."""
        settings = {"margin": margin, "tradeoff": self.tradeoff}
        return loss_of(self.module, self.data, self.constraint, state, **settings)

    def logits(self, edit: E) -> Tensor:
        """Logits of the judged rows."""
        return self.data.logits(self.module, edit.state())

    def candidate(
        self, edit: E, logits: Tensor, stage: str, step: int, verdict: Verdict
    ) -> Candidate:
        """Pack a judged edit, with a record of where it comes from."""
        params = {"tradeoff": self.tradeoff, "stage": stage, "step": step}
        return self.pack(edit, params, verdict, logits)


def judged(
    edits: Iterator[tuple[dict[str, object], E]],
    module: nn.Module,
    data: EditData,
    constraint: Constraint,
    pack: Callable[[E, Mapping[str, Any], Verdict, Tensor], Candidate],
) -> Generator[Candidate, None, E | None]:
    """Judge every removal by a score.

    Yields
    ------
    candidate : Candidate
        Its state is left out where an earlier one ranks at least as high, so that memory holds
        few networks.

    Returns
    -------
    start : edit or None
        The best of them for a tuning to start from; None where there was no edit.
    """
    start, best = Best[E](), Best[E]()
    limit = START_FRACTION * constraint.tolerance
    for params, edit in edits:
        logits = data.logits(module, edit.state())
        curves = data.judge.curves(logits)
        start.offer(data.judge(curves, limit).rank, edit)
        record = {"stage": "removal", **params}
        yield lighten(pack(edit, record, data.judge(curves), logits), best)
    return start.edit


def run_phases(
    path: TuningPath[E],
    start: E | None,
    masks: Callable[[Any, np.random.Generator], Iterator[tuple[int, E]]],
    tuning: Callable[[Any, E, np.random.Generator], Iterator[tuple[int, E]]] | None,
    stage: str,
    first: str = "masks",
    whole: Callable[[Any, np.random.Generator], Iterator[tuple[int, E]]] | None = None,
) -> Iterator[Candidate]:
    """Run the phases of one trade-off.

    Parameters
    ----------
    path : TuningPath
    start : edit or None
        What the tuning starts from; None: masks are learned first.
    masks : callable
        Learns masks on a path and yields (step, edit).
    tuning : callable or None
        Tunes an edit and yields (step, edit); None: nothing comes after the masks.
    stage, first : str
        What the record calls the tuning, and what comes before it.
    whole : callable, optional
        Tunes with nothing removed, beside learned masks, and yields (step, edit): some networks,
        those of images above all, can spare little of what carries the gap.

    Yields
    ------
    candidate : Candidate
        Its state is left out where an earlier one of the path ranks at least as high, so that
        memory holds few networks.
    """
    rngs = [np.random.default_rng(seed) for seed in path.seed.spawn(3)]
    limit, judge = START_FRACTION * path.constraint.tolerance, path.data.judge
    best, chosen = Best[E](), Best[E](start)
    with one_torch_thread():
        if start is None:
            for step, edit in masks(path, rngs[0]):
                logits = path.logits(edit)
                curves = judge.curves(logits)
                chosen.offer(judge(curves, limit).rank, edit)
                yield lighten(path.candidate(edit, logits, first, step, judge(curves)), best)
        tunings = []
        if tuning is not None and chosen.edit is not None:
            tunings.append((stage, tuning(path, chosen.edit, rngs[1])))
        if whole is not None and start is None:
            tunings.append(("nothing removed", whole(path, rngs[2])))
        for name, edits in tunings:
            for step, edit in edits:
                logits = path.logits(edit)
                yield lighten(path.candidate(edit, logits, name, step, judge(logits)), best)
