"""Paths of an edit, one for each tried weight: their loss, their phases, and how they are run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch
from joblib import effective_n_jobs
from torch import Tensor

from .._parallel import in_parallel
from .._rng import one_torch_thread
from ..base import Candidate, EditData, Task
from ..networks import explaining
from ..objective import Curves, Judge, RunningMeans, Verdict
from ..training import Batch, tune
from ._batches import make_batches
from ._best import Best
from ._budget import brief_margin, judge_steadily
from ._edit import Edit
from ._loss import ExtraLoss, State, make_loss
from ._teacher import Teacher, make_lessons

__all__ = [
    "START_FRACTION",
    "TuningPath",
    "count_best",
    "count_settling",
    "judge_edits",
    "run_best",
    "run_paths",
    "run_phases",
    "settles",
    "tune_edit",
]

# Several settings of a path run for this share of their steps; only the best one runs to the end.
SCOUTING = 1 / 3

# The start of a second tuning is chosen under this share of the tolerance: the tuning closes the
# rest of the gap, and a looser start costs less utility.
START_FRACTION = 0.6

# The soft gap is followed for so many steps after an imitation, at so small a share of the rates.
SETTLING_STEPS, SETTLING_CANDIDATES, SETTLING_SCALE = 150, 3, 0.3

# Under a budget a batch has a few rows of every cell, on which steeper soft rates are noise.
BRIEF_SHARPNESS = 1.0

# Under a budget the loss also holds on to what the untouched network says: so much times its value,
# the utility less the gap above the tolerance. On development rows of faces, where that is .7, this
# cost no fairness and gained .003 accuracy on average of five seeds. An edit of a biased network,
# whose value is near 0, would keep more of its gap.
LOYALTY = 0.45

P = TypeVar("P")
E = TypeVar("E", bound=Edit)
TP = TypeVar("TP", bound="TuningPath[Any]")


@dataclass(frozen=True, kw_only=True)
class TuningPath(Task, Generic[E]):
    """The phases of an edit under one weight of the soft gap, or in imitation of a teacher.

    Attributes
    ----------
    gap_weight : float
        Weight of the soft gap in the loss.
    teacher : Teacher, optional
        Whom the edit imitates instead of following labels and the soft gap.
    n_steps : int
        Number of steps of each phase.
    seed : numpy.random.SeedSequence
    attributes : dict
        Fitted attributes that do not depend on the candidate.
    share : float, default=1.0
        Weight of the cross-entropy in the loss.
    extra_loss : callable, optional
        A term that a method adds to the loss.
    n_candidates : int, default=10
        Candidates that each phase yields.
    rate_scale : float, default=1.0
        Factor of all learning rates.
    rows : int, optional
        Rows of a step under a budget; a threshold is then moved only where that gains more than
        noise. None: there is no budget.
    head : bool, default=False
        Under a budget, tune the output layer of every candidate alone before it is judged.
    module, data, constraint
        See :class:`fairsvd.base.Task`.
    """

    gap_weight: float = 0.0
    teacher: Teacher | None = None
    n_steps: int
    seed: np.random.SeedSequence
    attributes: dict[str, Any]
    share: float = 1.0
    extra_loss: ExtraLoss | None = None
    n_candidates: int = 10
    rate_scale: float = 1.0
    rows: int | None = None
    head: bool = False

    @cached_property
    def margin(self) -> float:
        """The threshold of the losses of a phase that starts from the untouched network."""
        return self.data.margin if self.rows is None else brief_margin(self.data)

    @classmethod
    def find_loyalty(cls, data: EditData, share: float = 1.0) -> float:
        """Find the weight of the divergence from the untouched network, under a budget.

        Parameters
        ----------
        data : EditData
        share : float, default=1.0
            Weight of the cross-entropy in the loss.
        """
        value = data.judge.steady(data.untouched, brief_margin(data)).value
        return LOYALTY * share * min(1.0, max(0.0, value))

    @property
    def every(self) -> int:
        """Steps between two candidates."""
        return max(1, self.n_steps // self.n_candidates)

    def settling(self) -> Self:
        """Make the path that follows the soft gap for a moment after an imitation.

        An imitation that agrees with its teacher on 97 % of the rows may still shift a rate by more
        than the tolerance, which labels and the soft gap put right.
        """
        n_steps = min(SETTLING_STEPS, self.n_steps)
        return replace(
            self,
            teacher=None,
            gap_weight=1.0,
            n_steps=n_steps,
            n_candidates=SETTLING_CANDIDATES,
            rate_scale=SETTLING_SCALE,
        )

    def shortened(self) -> Self:
        """Make the path that tries the same for a share of the steps."""
        n_steps, n = math.ceil(SCOUTING * self.n_steps), math.ceil(SCOUTING * self.n_candidates)
        # A copy, since a seed counts its children, and a trial may run in another process.
        seed = np.random.SeedSequence(self.seed.entropy, spawn_key=self.seed.spawn_key)
        return replace(self, n_steps=n_steps, n_candidates=n, seed=seed)

    def steps(
        self,
        state: Callable[[], State],
        leaves: Sequence[Tensor],
        margin: float,
        rng: np.random.Generator,
        rate: float | Sequence[float],
        after_step: Callable[[], None] | None = None,
        optimizer: str | Sequence[str] = "adam",
    ) -> Iterator[int]:
        """Minimise the path's loss over the leaves that the state depends on.

        Yields
        ------
        step : int
            Whenever a candidate is due.
        """
        batches: Iterable[Batch]
        if self.teacher is None:
            batches = make_batches(self.data, self.constraint.balance, rng, size=self.rows)
        else:
            batches = make_lessons(self.data, self.teacher, rng)
        weights: dict[str, Any] = {"gap_weight": self.gap_weight, "share": self.share}
        weights |= {"teacher": self.teacher, "extra": self.extra_loss}
        if self.rows is not None:
            weights["sharpness"] = BRIEF_SHARPNESS
            follows = self.teacher is None
            weights["loyalty"] = self.find_loyalty(self.data, self.share) if follows else 0.0
            weights["running"] = RunningMeans()
        if self.rate_scale != 1:
            rates = rate if isinstance(rate, Sequence) else [rate] * len(leaves)
            rate = [each * self.rate_scale for each in rates]
        return tune(
            make_loss(self, state, margin=margin, **weights),
            leaves,
            batches,
            n_steps=self.n_steps,
            learning_rate=rate,
            every=self.every,
            schedule="constant" if self.teacher is None else "cosine",
            optimizer=optimizer,
            after_step=after_step,
        )

    @cached_property
    def judge(self) -> Judge:
        """The judge of the path's candidates.

        A network that has memorised its rows shows no gap on them, but an imitation forgets what
        the network has memorised: its teacher was stopped early.
        """
        return self.data.judge if self.teacher is None else self.data.judge.together()

    def measure(self, edit: E) -> tuple[Tensor, Curves]:
        """Compute the logits of the judged rows, and their utility and gap at every threshold."""
        with torch.no_grad():
            logits = self.data.logits(self.module, edit.state())
        return logits, self.judge.curves(logits)

    def judged(self, curves: Curves) -> Verdict:
        """Judge a candidate, by its best threshold or under a budget by a steady one."""
        if self.rows is None or self.teacher is not None:
            return self.judge(curves)
        return judge_steadily(self.data, curves, self.margin)

    def candidate(
        self, edit: E, stage: str, step: int, logits: Tensor, curves: Curves, **record: Any
    ) -> Candidate:
        """Judge an edit and pack it, with a record of its origin."""
        aim = {"gap_weight": self.gap_weight}
        if self.teacher is not None:
            aim = {"alpha": self.teacher.rule.alpha}
        if self.rate_scale != 1:
            aim["rate_scale"] = self.rate_scale
        params = {**aim, "stage": stage, "step": step, **record}
        return edit.pack(params, self.attributes, self.judged(curves), logits)


def run_paths(
    paths: Sequence[P], run: Callable[[P], Iterator[Candidate]], n_jobs: int | None = None
) -> Iterator[Candidate]:
    """Run paths one by one or in parallel, with equal results.

    Parameters
    ----------
    paths : sequence
        Self-contained; no two that run at the same time share a module.
    run : callable
        Yields the candidates of a path; can be pickled.
    n_jobs : int or None, default=None

    Yields
    ------
    candidate : Candidate
        In the order of the paths. Its state is dropped if an earlier candidate of its path ranks at
        least as high, so that memory holds few networks; it may hold tensors that are being tuned,
        so that what is kept has to be copied (:meth:`Candidate.owned`).
    """
    if len(paths) == 1 or effective_n_jobs(n_jobs) == 1:
        for path in paths:
            yield from _run(run, path)
        return
    for candidates in in_parallel(partial(_run_to_end, run), [(path,) for path in paths], n_jobs):
        yield from candidates


def _run(run: Callable[[P], Iterator[Candidate]], path: P) -> Iterator[Candidate]:
    best = Best[Candidate]()
    task = path.path if isinstance(path, _Numbered) else path
    certified = isinstance(task, Task) and task.constraint.confidence is not None
    # Explained here, since the error may be raised in another process.
    with one_torch_thread(), explaining():
        for candidate in run(path):
            yield candidate if certified else forget_beaten(candidate, best)
            # What was not kept is freed before the next one is made.
            del candidate


def _run_to_end(run: Callable[[P], Iterator[Candidate]], path: P) -> list[Candidate]:
    return [candidate.owned() for candidate in _run(run, path)]


def forget_beaten(candidate: Candidate, best: Best[Candidate]) -> Candidate:
    """Drop the state of a candidate if an earlier one ranks at least as high."""
    if candidate.verdict is None or best.offer(candidate.verdict.rank):
        return candidate
    return replace(candidate, state={}, attributes={}, finish=None, logits=None)


def run_best(
    paths: Sequence[TP],
    run: Callable[[TP], Iterator[Candidate]],
    scout: Callable[[TP], Iterator[Candidate]],
    n_jobs: int | None,
) -> Iterator[Candidate]:
    """Try every path for a share of its steps, and run only the one with the best candidate.

    Parameters
    ----------
    paths : sequence of TuningPath
        They differ in ``gap_weight`` or ``rate``.
    run : callable
        Yields the candidates of a path to its end.
    scout : callable
        The same for a path that is tried.
    n_jobs : int or None
        Paths that are tried in parallel.

    Yields
    ------
    candidate : Candidate
        Those of all trials, then those of the path that ran to its end.
    """
    chosen = 0
    if len(paths) > 1:
        best = Best[int]()
        numbered = [_Numbered(k, path.shortened()) for k, path in enumerate(paths)]
        for candidate in run_paths(numbered, partial(_run_numbered, scout), n_jobs):
            number = candidate.params["path"]
            params = {name: v for name, v in candidate.params.items() if name != "path"}
            if candidate.verdict is not None:
                best.offer(candidate.verdict.rank, number)
            yield replace(candidate, params=params)
            del candidate
        chosen = best.value or 0
    yield from run_paths([paths[chosen]], run)


def count_best(n_paths: int, n_steps: int, n_candidates: int, n_phases: int) -> int:
    """Count the candidates of :func:`run_best`, whose chosen path has some phases."""

    def count(steps: int, candidates: int) -> int:
        return math.ceil(steps / max(1, steps // candidates))

    tried = count(math.ceil(SCOUTING * n_steps), math.ceil(SCOUTING * n_candidates))
    return (n_paths * tried if n_paths > 1 else 0) + n_phases * count(n_steps, n_candidates)


def settles(data: EditData) -> bool:
    """Tell whether labels and the soft gap follow an imitation.

    They do not if the network has memorised its rows: what it says about them tells nothing of the
    gap, and it would learn them by heart again.
    """
    return not data.judge.separate


def count_settling(n_steps: int) -> int:
    """Count the candidates of :meth:`TuningPath.settling` after an imitation of some steps."""
    return count_best(1, min(SETTLING_STEPS, n_steps), SETTLING_CANDIDATES, 1)


@dataclass(frozen=True)
class _Numbered(Generic[P]):
    number: int
    path: P


def _run_numbered(
    scout: Callable[[P], Iterator[Candidate]], numbered: _Numbered[P]
) -> Iterator[Candidate]:
    """Write the number of its path into every candidate's record."""
    for candidate in scout(numbered.path):
        yield replace(candidate, params={**candidate.params, "path": numbered.number})
        del candidate


# One phase: maps a path, an edit to start from and a generator to (step, edit).
Phase = Callable[[Any, E, np.random.Generator], Iterator[tuple[int, E]]]


def run_phases(
    path: TuningPath[E],
    first: tuple[str, Callable[[Any, np.random.Generator], Iterator[tuple[int, E]]]],
    second: tuple[str, Phase[E]] | None,
    start: E | None = None,
    beside: tuple[str, Callable[[Any, np.random.Generator], Iterator[tuple[int, E]]]] | None = None,
) -> Iterator[Candidate]:
    """Run the phases of one path; each has the name that the record uses.

    Parameters
    ----------
    path : TuningPath
    first : (str, callable)
        Makes edits from the path alone and yields (step, edit), such as learned masks.
    second : (str, callable) or None
        Continues from the best edit of the first phase, and yields (step, edit).
    start : edit, optional
        Start of the second phase; the first phase is then skipped.
    beside : (str, callable), optional
        Runs in addition to a first phase and starts from the untouched network.

    Yields
    ------
    candidate : Candidate
    """
    rngs = [np.random.default_rng(seed) for seed in path.seed.spawn(3)]
    limit, chosen = START_FRACTION * path.constraint.tolerance, Best[E](start)
    if start is None:
        for step, edit in first[1](path, rngs[0]):
            logits, curves = path.measure(edit)
            if second is not None and chosen.offer(path.judge(curves, limit).rank):
                # In its place in memory, and one copy for both the candidate and the start.
                edit = chosen.value = edit.detached()
            yield path.candidate(edit, first[0], step, logits, curves)
            del edit
    phases = []
    if second is not None and chosen.value is not None:
        phases.append((second[0], second[1](path, chosen.value, rngs[1])))
        chosen.value = None
    if beside is not None and start is None:
        phases.append((beside[0], beside[1](path, rngs[2])))
    for name, edits in phases:
        yield from judge_edits(path, name, edits)


def judge_edits(
    path: TuningPath[E], stage: str, edits: Iterable[tuple[int, E]], before: int = 0
) -> Iterator[Candidate]:
    """Judge the edits (step, edit) of a stage, which begins after some steps."""
    for step, edit in edits:
        yield path.candidate(edit, stage, before + step, *path.measure(edit))
        del edit


def tune_edit(
    path: TuningPath[E],
    start: E,
    leaves: Sequence[Tensor],
    edited: Callable[[], E],
    rng: np.random.Generator,
    rate: float | Sequence[float],
) -> Iterator[tuple[int, E]]:
    """Tune an edit at its start's best threshold; yield (step, edit) when a candidate is due.

    The edit may hold the leaves: what is to outlive the next step has to be detached.

    Parameters
    ----------
    path : TuningPath
    start : edit
    leaves : sequence of Tensor
        Changed in place.
    edited : callable
        Makes the edit from the current leaves.
    rng : numpy.random.Generator
    rate : float or sequence of float
        Learning rate, or one for each leaf.
    """
    margin = path.margin
    if path.teacher is None and path.rows is None:
        margin = path.judge.for_utility(path.measure(start)[1]).margin
    del start
    for step in path.steps(lambda: edited().state(), leaves, margin, rng, rate):
        yield step, edited().shown()
