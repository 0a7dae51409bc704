"""The phases of an edit that removes entries: removal, or learned masks, then a tuning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from torch import Tensor, nn

from .._rng import one_torch_thread
from ..caching import Cache
from ..layers import layer_parameters
from ..masks import clamp_masks, straight_through
from ..objective import Constraint, Verdict
from ..training import CellBatches, tune
from ._candidates import Candidate, EditData
from ._tuning import START_FRACTION, Best, lighten, loss_of, rows_a_step, stratified

__all__ = [
    "TuningPath",
    "head_leaves",
    "judged",
    "layer_biases",
    "run_phases",
    "trained_masks",
    "tuned",
]

# Masks must be able to cross zero within the budget: 0.5 / 3e-2 is about 17 steps one way.
MASK_RATE = 3e-2
TUNING_RATE = 1e-2

# Candidates that each phase leaves.
N_CANDIDATES = 10

# Mask variables of more bytes, those of large networks, are not kept for another cap: 256 MiB.
MAX_KEPT = 2**28


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


def trained_masks(
    path: TuningPath[E],
    variables: Callable[[], dict[str, Tensor]],
    size: int,
    masked: Callable[[Mapping[str, Tensor]], E],
    rng: np.random.Generator,
) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
    """Learn which entries to remove, the weights untouched.

    The training does not depend on the cap, which acts when masks are hardened: with a cache one
    training serves every cap.

    Parameters
    ----------
    path : TuningPath
    variables : callable
        Makes the mask variables.
    size : int
        Bytes of all of them.
    masked : callable
        Turns masks into an edit, differentiably.
    rng : numpy.random.Generator

    Yields
    ------
    step, variables
        The mask variables, which go on changing, every tenth of the steps.
    """

    def train() -> Iterator[tuple[int, dict[str, Tensor]]]:
        made = variables()

        def state() -> Mapping[str, Tensor]:
            return masked({name: straight_through(v) for name, v in made.items()}).state()

        steps = tune(
            path.loss(state, path.data.margin),
            list(made.values()),
            path.batches(rng),
            n_steps=path.n_steps,
            learning_rate=MASK_RATE,
            every=path.every,
            after_step=partial(clamp_masks, made),
        )
        for step in steps:
            yield step, made

    cache = path.data.cache if N_CANDIDATES * size <= MAX_KEPT else Cache()
    yield from cache.stream("masks", path.key(), train)


def tuned(
    path: TuningPath[E],
    start: E,
    tensors: Sequence[Tensor],
    edited: Callable[[], E],
    rng: np.random.Generator,
    rate: float = TUNING_RATE,
) -> Iterator[tuple[int, E]]:
    """Tune what is left after the removal, at the threshold that fits it.

    Parameters
    ----------
    path : TuningPath
    start : edit
    tensors : sequence of Tensor
        Leaves; changed in place.
    edited : callable
        Makes the edit that the leaves now stand for.
    rng : numpy.random.Generator
    rate : float, default=1e-2
        Learning rate.

    Yields
    ------
    step, edit
        Every tenth of the steps.
    """
    margin = path.data.judge.for_utility(path.logits(start)).margin
    steps = tune(
        path.loss(lambda: edited().state(), margin),
        tensors,
        path.batches(rng),
        n_steps=path.n_steps,
        learning_rate=rate,
        every=path.every,
    )
    for step in steps:
        yield step, edited().detached()


def head_leaves(path: TuningPath[Any], edited: Container[str]) -> dict[str, Tensor]:
    """Copy the parameters of the output layer as leaves, all but edited weights."""
    own = layer_parameters(path.module, path.data.output_layer)
    return {n: p.detach().clone().requires_grad_() for n, p in own.items() if n not in edited}


def layer_biases(module: nn.Module) -> dict[str, Tensor]:
    """Copy the biases of the layers that have weights as leaves (not those of normalisations)."""
    kinds = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
    return {
        name: parameter.detach().clone().requires_grad_()
        for name, parameter in module.named_parameters()
        if name.endswith("bias")
        and isinstance(module.get_submodule(name.rpartition(".")[0]), kinds)
    }
