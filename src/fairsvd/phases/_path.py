"""Paths of an edit, one for each tried weight: their loss, their phases, and how they are run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
from joblib import effective_n_jobs
from torch import Tensor

from .._parallel import in_parallel
from .._rng import one_torch_thread
from ..base import Candidate, Task
from ..caching import Cache
from ..masks import clamp_masks, harden, mask_variables, straight_through
from ..objective import SHARPNESS, Curves, edit_loss
from ..training import Batch, tune
from ._batches import count_step_rows, count_steps, list_gap_weights, make_batches
from ._edit import Edit, MaskedEdit
from ._leaves import copy_biases, copy_head_and_biases, rate_for_depth

__all__ = [
    "START_FRACTION",
    "Best",
    "MaskingPath",
    "TuningPath",
    "learn_masks",
    "make_loss",
    "mask_and_tune",
    "run_paths",
    "run_phases",
    "tune_edit",
    "tune_rest",
    "tune_whole",
]

# Candidates that each phase yields.
N_CANDIDATES = 10

# The start of a second tuning is chosen under this share of the tolerance: the tuning closes the
# rest of the gap, and a looser start costs less utility.
START_FRACTION = 0.6

# Masks must be able to cross zero within the budget: 0.5 / 3e-2 is about 17 steps one way.
MASK_RATE = 3e-2

# Mask variables of more bytes (256 MiB), those of large networks, are not kept for other caps.
MAX_KEPT = 2**28

P = TypeVar("P")
E = TypeVar("E", bound=Edit)
M = TypeVar("M", bound=MaskedEdit)
State = Mapping[str, Tensor]

# Maps the entries of the state that were replaced, the logits and the batch to a scalar.
ExtraLoss = Callable[[State, Tensor, Batch], Tensor]


@dataclass(frozen=True, kw_only=True)
class TuningPath(Task, Generic[E]):
    """The phases of an edit under one weight of the soft gap.

    Attributes
    ----------
    gap_weight : float
        Weight of the soft gap in the loss.
    n_steps : int
        Number of steps of each phase.
    seed : numpy.random.SeedSequence
    attributes : dict
        Fitted attributes that do not depend on the candidate.
    share : float, default=1.0
        Weight of the cross-entropy in the loss.
    extra_loss : callable, optional
        A term that a method adds to the loss.
    module, data, constraint
        See :class:`fairsvd.base.Task`.
    """

    gap_weight: float
    n_steps: int
    seed: np.random.SeedSequence
    attributes: dict[str, Any]
    share: float = 1.0
    extra_loss: ExtraLoss | None = None

    @property
    def every(self) -> int:
        """Steps between two candidates."""
        return max(1, self.n_steps // N_CANDIDATES)

    def steps(
        self,
        state: Callable[[], State],
        leaves: Sequence[Tensor],
        margin: float,
        rng: np.random.Generator,
        rate: float,
        after_step: Callable[[], None] | None = None,
    ) -> Iterator[int]:
        """Minimise the path's loss over the leaves that the state depends on.

        Yields
        ------
        step : int
            After every tenth of the steps.
        """
        weights = {"gap_weight": self.gap_weight, "share": self.share}
        return tune(
            make_loss(self, state, margin=margin, extra=self.extra_loss, **weights),
            leaves,
            make_batches(self.data, self.constraint.balance, rng),
            n_steps=self.n_steps,
            learning_rate=rate,
            every=self.every,
            after_step=after_step,
        )

    def measure(self, edit: E) -> tuple[Tensor, Curves]:
        """Compute the logits of the judged rows, and their utility and gap at every threshold."""
        logits = self.data.logits(self.module, edit.state())
        return logits, self.data.judge.curves(logits)

    def candidate(
        self, edit: E, stage: str, step: int, logits: Tensor, curves: Curves
    ) -> Candidate:
        """Judge an edit and pack it, with a record of its origin."""
        params = {"gap_weight": self.gap_weight, "stage": stage, "step": step}
        return edit.pack(params, self.attributes, self.data.judge(curves), logits)


def make_loss(
    task: Task,
    state: Callable[[], State],
    *,
    margin: float,
    gap_weight: float,
    share: float = 1.0,
    sharpness: float = SHARPNESS,
    extra: ExtraLoss | None = None,
) -> Callable[[Batch], Tensor]:
    """Make the loss of a batch for a state that depends on trainable tensors.

    Parameters
    ----------
    task : Task
    state : callable
        Returns the replaced entries of the module's state; called for every batch.
    margin : float
        Operating threshold, in units of the logit margin.
    gap_weight, share, sharpness : float
        As in :func:`fairsvd.objective.edit_loss`.
    extra : callable, optional
        Maps (entries, logits, batch) to a term that is added.
    """
    data = task.data
    weights = {"gap_weight": gap_weight, "share": share, "sharpness": sharpness}

    def loss(batch: Batch) -> Tensor:
        entries = state()
        logits = data.forward(task.module, entries, batch.X)
        settings: dict[str, Any] = {"margin": margin, "n_groups": data.n_groups, **weights}
        value = edit_loss(logits, batch, task.constraint, **settings)
        return value if extra is None else value + extra(entries, logits, batch)

    return loss


class Best(Generic[P]):
    """The value of highest rank so far; one of equal rank does not replace it."""

    def __init__(self, value: P | None = None) -> None:
        self.rank: tuple[bool, float] | None = None
        self.value = value

    def offer(self, rank: tuple[bool, float], value: P | None = None) -> bool:
        """Take the value if it is better, and tell whether it was."""
        if self.rank is not None and rank <= self.rank:
            return False
        self.rank, self.value = rank, value
        return True


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
        least as high, so that memory holds few networks.
    """
    if len(paths) == 1 or effective_n_jobs(n_jobs) == 1:
        for path in paths:
            yield from _run(run, path)
        return
    for candidates in in_parallel(partial(_run_to_end, run), [(path,) for path in paths], n_jobs):
        yield from candidates


def _run(run: Callable[[P], Iterator[Candidate]], path: P) -> Iterator[Candidate]:
    best = Best[Candidate]()
    with one_torch_thread():
        for candidate in run(path):
            yield forget_beaten(candidate, best)


def _run_to_end(run: Callable[[P], Iterator[Candidate]], path: P) -> list[Candidate]:
    return list(_run(run, path))


def forget_beaten(candidate: Candidate, best: Best[Candidate]) -> Candidate:
    """Drop the state of a candidate if an earlier one ranks at least as high."""
    if candidate.verdict is None or best.offer(candidate.verdict.rank):
        return candidate
    return replace(candidate, state={}, attributes={}, finish=None, logits=None)


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
            chosen.offer(path.data.judge(curves, limit).rank, edit)
            yield path.candidate(edit, first[0], step, logits, curves)
    phases = []
    if second is not None and chosen.value is not None:
        phases.append((second[0], second[1](path, chosen.value, rngs[1])))
    if beside is not None and start is None:
        phases.append((beside[0], beside[1](path, rngs[2])))
    for name, edits in phases:
        for step, edit in edits:
            yield path.candidate(edit, name, step, *path.measure(edit))


def tune_edit(
    path: TuningPath[E],
    start: E,
    leaves: Sequence[Tensor],
    edited: Callable[[], E],
    rng: np.random.Generator,
    rate: float,
) -> Iterator[tuple[int, E]]:
    """Tune an edit at its start's best threshold; yield (step, edit) every tenth of the steps.

    Parameters
    ----------
    path : TuningPath
    start : edit
    leaves : sequence of Tensor
        Changed in place.
    edited : callable
        Makes the edit from the current leaves.
    rng : numpy.random.Generator
    rate : float
        Learning rate.
    """
    margin = path.data.judge.for_utility(path.measure(start)[1]).margin
    for step in path.steps(lambda: edited().state(), leaves, margin, rng, rate):
        yield step, edited().detached()


@dataclass(frozen=True, kw_only=True)
class MaskingPath(TuningPath[M]):
    """A path that removes entries of the network, then tunes what is left.

    Attributes
    ----------
    whole : MaskedEdit
        The edit that keeps every entry.
    max_removed : float or None
        Cap on the removed share.
    module, data, constraint, gap_weight, n_steps, seed, attributes, share, extra_loss
        See :class:`TuningPath`.
    """

    whole: M
    max_removed: float | None

    def key(self) -> dict[str, Any]:
        """Return what a training of masks depends on, besides the scope of the data's cache."""
        return {
            # By value: another solver has other factors of equal shape.
            "entries": self.whole.entries(),
            "gap_weight": self.gap_weight,
            "margin": self.data.margin,
            "constraint": vars(self.constraint),
            "n_steps": self.n_steps,
            "rows": count_step_rows(self.data),
            "seed": [self.seed.entropy, self.seed.spawn_key],
        }


def mask_and_tune(
    task: Task,
    whole: M,
    start: M | None,
    stage: str | None,
    *,
    gap_weight: float | None,
    max_removed: float | None,
    max_steps: int,
    attributes: dict[str, Any],
    rng: np.random.Generator,
    n_jobs: int | None,
) -> Iterator[Candidate]:
    """Learn masks or start from a removal, then tune the rest: one path per weight of the gap.

    Parameters
    ----------
    task : Task
    whole : MaskedEdit
        Keeps every entry.
    start : MaskedEdit or None
        The removal that is tuned instead of learned masks.
    stage : str or None
        Name of the tuning in the record; None: masks are learned and nothing is tuned.
    gap_weight : float or None
        Weight of the soft gap; None: several are tried.
    max_removed, max_steps, attributes, rng, n_jobs
        As the parameters of the editors and of :class:`MaskingPath`.
    """
    paths = [
        MaskingPath[M].of(
            subtask,
            gap_weight=weight,
            n_steps=count_steps(max_steps, task.data),
            seed=seed,
            attributes=attributes,
            whole=whole,
            max_removed=max_removed,
        )
        for weight, subtask, seed in task.spread(
            list_gap_weights(task.data, gap_weight), rng, n_jobs
        )
    ]
    run = partial(run_phases, first=("masks", learn_masks), second=None, start=start)
    if stage is not None:
        # Some networks, mostly of images, lose too much accuracy if anything is removed.
        run = partial(run, second=(stage, tune_rest), beside=("nothing removed", tune_whole))
    yield from run_paths(paths, run, n_jobs)


def learn_masks(path: MaskingPath[M], rng: np.random.Generator) -> Iterator[tuple[int, M]]:
    """Learn which entries to remove, the weights untouched.

    The training does not depend on the cap, which applies when masks are hardened; with a cache one
    training therefore serves every cap.

    Yields
    ------
    step, edit
        With hardened masks, after every tenth of the steps.
    """
    values = path.whole.entries()

    def train() -> Iterator[tuple[int, dict[str, Tensor]]]:
        masks = mask_variables(values)

        def state() -> State:
            return path.whole.remove({n: straight_through(v) for n, v in masks.items()}).state()

        leaves, clamp = list(masks.values()), partial(clamp_masks, masks)
        for step in path.steps(state, leaves, path.data.margin, rng, MASK_RATE, clamp):
            yield step, masks

    size = sum(value.nbytes for value in values.values())
    cache = path.data.cache if N_CANDIDATES * size <= MAX_KEPT else Cache()
    for step, masks in cache.stream("masks", path.key(), train):
        hard = harden(masks, path.max_removed)
        yield step, path.whole.remove({n: mask.to(path.data.device) for n, mask in hard.items()})


def tune_rest(path: MaskingPath[M], start: M, rng: np.random.Generator) -> Iterator[tuple[int, M]]:
    """Tune the rest after a removal, and the biases; removed entries stay removed.

    Yields
    ------
    step, edit
        Every tenth of the steps.
    """
    return _tune_masked(path, start, copy_biases(path.module), rng)


def tune_whole(path: MaskingPath[M], rng: np.random.Generator) -> Iterator[tuple[int, M]]:
    """Tune the same and the output layer, with nothing removed.

    Yields
    ------
    step, edit
        Every tenth of the steps.
    """
    head = path.data.output_layer
    plain = copy_head_and_biases(path.module, head, path.whole.weights())
    return _tune_masked(path, path.whole, plain, rng)


def _tune_masked(
    path: MaskingPath[M], start: M, plain: dict[str, Tensor], rng: np.random.Generator
) -> Iterator[tuple[int, M]]:
    edit, scales = start.loosen(plain)
    leaves, rate = [*scales, *plain.values()], rate_for_depth(len(scales))
    return tune_edit(path, start, leaves, lambda: edit, rng, rate)
