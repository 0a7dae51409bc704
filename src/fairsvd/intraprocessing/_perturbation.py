"""Random perturbation: the best of many noisy copies of a trained network."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, vmap

from .._rng import torch_generator
from ..arrays import Batches, send_together, to_device
from ..base import (
    Candidate,
    Task,
    at_least_0,
    parameter,
    positive_int,
    register_editor,
)
from ..phases import BudgetedEditor, float_parameters, run_paths

__all__ = ["RandomPerturbation"]

State = dict[str, Tensor]

# Trials of the paper's code.
TRIALS = 101

# Trials of one task. A constant, so that stacks do not depend on the number of jobs.
TRIALS_A_TASK = 16

# Rows of one block of a stacked pass, as in a plain one.
BLOCK = 1024

# Judged rows times parameters up to which stacked trials take less time than single ones on a
# table: one fifth at 2^14, four fifths at 2^22 to 2^24, more beyond. Stacked convolutions run as
# grouped ones, which took as long on few images and twice as long on many.
MOST_WORK = 2**24

# Trials that run one by one before the first of them is judged, and the bytes that their parameters
# and logits may take: a pass and a sweep of thresholds slow each other down through the cache.
AT_ONCE, HELD_BYTES = 8, 2**24

# Rows on which stacked and single trials are compared before trials are stacked.
PROBED = 32


@register_editor(n_trials=5)
class RandomPerturbation(BudgetedEditor):
    """Multiply all parameters of a trained network by random numbers near 1, many times.

    Of ``n_trials`` noisy networks and the untouched one, the one with the highest utility under the
    limit on the gap is chosen, each at its own threshold. The method needs no gradient, and works
    with any network and any utility; much of its effect is due to the threshold. The network keeps
    its architecture, needs no sensitive attribute to predict, and what the user passed in is not
    changed.

    Parameters
    ----------
    n_trials : int or None, default=None
        Noisy networks that are judged. A larger number does not change the first ones. None: 101,
        and for images at most as many as ``max_epochs`` buys.
    scale : float, default=0.1
        Standard deviation of the factors around 1.

    Attributes
    ----------
    trial_ : int or None
        Number of the chosen trial, from 1; None if the untouched network was chosen.
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        See :class:`NetworkEditor`; ``history_`` has a row for each trial, at the position of its
        number.

    See Also
    --------
    LayerwiseOptimizer : Searches one tensor at a time, guided by earlier results.
    BiasMaskFineTuner : Follows gradients.

    Notes
    -----
    The first method of arXiv:2006.08564, with its number of trials and scale: ``theta * (1 + scale
    * N(0, 1))``, entry by entry, always from the original parameters, those of normalisation layers
    included; buffers stay, and zeros stay zero. Deviations: the untouched network is among the
    candidates; every threshold is tried instead of 501 of them; the choice is that of every editor,
    on the rows as they are, instead of the mean of five bootstrap samples of an objective that is
    zero outside the limit.

    Every trial has its own random generator. Small networks on tables run 16 trials in one pass
    (judged rows times parameters up to 2**24), others one by one; both give equal logits up to
    rounding.

    Examples
    --------
    >>> from fairsvd import RandomPerturbation
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(800, random_state=0)
    >>> editor = RandomPerturbation(n_trials=20, tolerance=0.1, random_state=0)
    >>> editor = editor.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> len(editor.history_)
    21
    >>> editor.predict(data.data).shape
    (800,)
    """

    n_trials: int | None = parameter(positive_int(), None, default=None)
    scale: float = parameter(at_least_0(), default=0.1)

    def _count_candidates(self, task: Task) -> int:
        return 1 + self._count_trials(task)

    def _asked_steps(self) -> int | None:
        return self.n_trials

    def _count_trials(self, task: Task) -> int:
        n_trials, budget = self.n_trials or TRIALS, self._budget(task)
        return n_trials if budget is None else budget.count_trials(n_trials)

    def _edit(self, task: Task, rng: np.random.Generator) -> Iterator[Candidate]:
        yield Candidate({}, {"stage": "untouched", "trial": 0}, {"trial_": None})
        n_trials = self._count_trials(task)
        seeds = np.random.SeedSequence(int(rng.integers(2**63 - 1))).spawn(n_trials)
        stacked = can_stack(task)
        firsts = range(0, n_trials, TRIALS_A_TASK)
        tasks = [
            Trials.of(
                subtask,
                scale=float(self.scale),
                numbers=tuple(range(first + 1, min(first + TRIALS_A_TASK, n_trials) + 1)),
                seeds=tuple(seeds[first : first + TRIALS_A_TASK]),
                stacked=stacked,
            )
            for first, subtask in task.deal(firsts, self.n_jobs)
        ]
        yield from run_paths(tasks, run_trials, self.n_jobs)


@dataclass(frozen=True)
class Trials(Task):
    """Some trials that run one after the other, or in one pass.

    Attributes
    ----------
    scale : float
    numbers : tuple of int
        Numbers of the trials, from 1.
    seeds : tuple of numpy.random.SeedSequence
        One for each trial.
    stacked : bool
        Run all of them in one pass.
    """

    scale: float
    numbers: tuple[int, ...]
    seeds: tuple[np.random.SeedSequence, ...]
    stacked: bool

    def states(self) -> Iterator[State]:
        """Make the perturbed parameters of every trial, always from the module's own."""
        parameters = float_parameters(self.module)
        for seed in self.seeds:
            yield perturb(parameters, self.scale, seed)


def perturb(parameters: Mapping[str, Tensor], scale: float, seed: np.random.SeedSequence) -> State:
    """Multiply every entry by 1 + ``scale`` times a normal draw.

    Parameters
    ----------
    parameters : mapping of name to Tensor
        Not changed.
    scale : float
    seed : numpy.random.SeedSequence
        Source of the draws, made on the CPU in the order of the parameters.
    """
    generator = torch_generator(np.random.default_rng(seed))

    def draw(value: Tensor) -> Tensor:
        # Half precision is drawn in single, so that draws do not depend on the CPU's abilities.
        dtype = torch.float64 if value.dtype == torch.float64 else torch.float32
        return torch.randn(value.shape, generator=generator, dtype=dtype).mul_(scale).add_(1)

    device = next(iter(parameters.values())).device
    factors = send_together(map(draw, parameters.values()), device)
    return {name: value * next(factors).to(value.dtype) for name, value in parameters.items()}


def can_stack(task: Task) -> bool:
    """Tell whether to run trials in one pass: if that takes less time, and works.

    The answer depends only on the network and the rows, never on the number of jobs.
    """
    data, size = task.data, sum(value.numel() for value in float_parameters(task.module).values())
    if len(data.judged.item_shape) != 1 or len(data.judged) * size > MOST_WORK:
        return False
    rows = data.judged.subset(slice(PROBED))
    seeds = np.random.SeedSequence(0).spawn(2)
    states = [perturb(float_parameters(task.module), 0.1, seed) for seed in seeds]
    try:
        with warnings.catch_warnings():
            # One of them says that an operation runs once for each trial after all.
            warnings.simplefilter("error")
            stacked = stacked_logits(task, states, rows)
    except Exception:  # whatever a user's network does that cannot be batched
        return False
    single = torch.stack([data.logits(task.module, state, rows) for state in states])
    return torch.allclose(stacked, single, rtol=1e-3, atol=1e-4, equal_nan=True)


def stacked_logits(task: Task, states: Sequence[State], rows: Batches) -> Tensor:
    """Compute the logits (n_states, n_rows, n_classes) of many states in one pass over the rows."""
    data = task.data
    stack = {name: torch.stack([state[name] for state in states]) for name in states[0]}

    def run(state: State, X: Tensor) -> Tensor:
        return data.to_logits(functional_call(task.module, state, (X,)))

    batched = vmap(run, in_dims=(0, None))
    with torch.no_grad():
        blocks = (
            to_device(X, data.device, data.dtype) for X in rows.blocks(rows.block_size(BLOCK))
        )
        return torch.cat([batched(stack, X) for X in blocks], dim=1).cpu()


def _iterate_logits(trials: Trials) -> Iterator[tuple[State, Tensor]]:
    # Read once for all trials, if memory allows it.
    rows = trials.data.judged.held()
    if trials.stacked:
        states = list(trials.states())
        logits = stacked_logits(trials, states, rows)
        # A view would keep the logits of all trials.
        yield from ((state, one.clone()) for state, one in zip(states, logits, strict=True))
        return
    left, size = trials.states(), _count_at_once(trials)
    while few := list(islice(left, size)):
        few_logits = [trials.data.logits(trials.module, state, rows) for state in few]
        yield from zip(few, few_logits, strict=True)


def _count_at_once(trials: Trials) -> int:
    tensors = [*float_parameters(trials.module).values(), trials.data.untouched]
    return max(1, min(AT_ONCE, HELD_BYTES // sum(value.nbytes for value in tensors)))


def run_trials(trials: Trials) -> Iterator[Candidate]:
    """Judge every trial."""
    for number, (state, logits) in zip(trials.numbers, _iterate_logits(trials), strict=True):
        record, verdict = {"stage": "trial", "trial": number}, trials.data.judge(logits)
        yield Candidate(state, record, {"trial_": number}, verdict=verdict, logits=logits)
        del state
