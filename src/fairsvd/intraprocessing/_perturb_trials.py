"""Trials of random perturbation: drawn from one seed each, run one by one or stacked."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from joblib import effective_n_jobs
from torch import Tensor, nn
from torch.func import functional_call, vmap

from .._rng import one_torch_thread, torch_generator
from ..arrays import Batches, to_device
from ..base import Candidate, EditData
from ..phases import Best, lighten

__all__ = ["Trials", "can_stack", "float_parameters", "perturbed", "run_trials", "task_copy"]

State = dict[str, Tensor]

# Rows of one block of a stacked pass, as of a plain one.
BLOCK = 1024

# Judged rows times parameters up to which stacked trials take less time than single ones on a
# table: one fifth at 2^14, four fifths at 2^22 to 2^24, more beyond. Stacked convolutions run as
# grouped ones, which took as long on few images and twice as long on many.
MOST_WORK = 2**24

# Trials that run one by one before the first of them is judged, and the bytes that their parameters
# and logits may take: a pass and a sweep of thresholds slow each other down through the cache.
AT_ONCE, HELD_BYTES = 8, 2**24

# Rows on which both ways are held against each other before the faster one is taken.
PROBED = 32


@dataclass(frozen=True)
class Trials:
    """Some trials, self-contained so that they can run anywhere.

    Attributes
    ----------
    module : nn.Module
        Not changed, and not run by another task at the same time.
    data : EditData
    scale : float
    numbers : tuple of int
        From 1.
    seeds : tuple of numpy.random.SeedSequence
        One for each trial.
    stacked : bool
        Run all of them in one pass.
    """

    module: nn.Module
    data: EditData
    scale: float
    numbers: tuple[int, ...]
    seeds: tuple[np.random.SeedSequence, ...]
    stacked: bool

    def states(self) -> Iterator[State]:
        """Make the perturbed parameters of every trial, always from the module's own."""
        parameters = float_parameters(self.module)
        for seed in self.seeds:
            yield perturbed(parameters, self.scale, seed)


def float_parameters(module: nn.Module) -> State:
    """Find the floating-point parameters by name, shared ones once."""
    named = module.named_parameters()
    return {name: value.detach() for name, value in named if value.is_floating_point()}


def perturbed(
    parameters: Mapping[str, Tensor], scale: float, seed: np.random.SeedSequence
) -> State:
    """Multiply every entry by 1 + ``scale`` times a normal draw.

    Parameters
    ----------
    parameters : mapping of name to Tensor
        Not changed.
    scale : float
    seed : numpy.random.SeedSequence
        Gives the draws, on the CPU, in the order of the parameters.
    """
    generator = torch_generator(np.random.default_rng(seed))

    def one(value: Tensor) -> Tensor:
        # Half precision is drawn in single, so that draws do not depend on what a CPU can.
        dtype = torch.float64 if value.dtype == torch.float64 else torch.float32
        factor = torch.randn(value.shape, generator=generator, dtype=dtype).mul_(scale).add_(1)
        return value * factor.to(value.device, value.dtype)

    return {name: one(value) for name, value in parameters.items()}


def can_stack(module: nn.Module, data: EditData) -> bool:
    """Tell whether trials run in one pass: where that takes less time, and works.

    It depends on the network and the rows alone, never on the number of jobs.
    """
    size = sum(value.numel() for value in float_parameters(module).values())
    if len(data.judged.item_shape) != 1 or len(data.judged) * size > MOST_WORK:
        return False
    rows = data.judged.subset(slice(PROBED))
    states = list(Trials(module, data, 0.1, (1, 2), _two_seeds(), True).states())
    try:
        with warnings.catch_warnings():
            # Among them that an operation is run once for each trial after all.
            warnings.simplefilter("error")
            found = stacked_logits(module, data, states, rows)
    except Exception:  # whatever a user's network does that cannot be batched
        return False
    wanted = torch.stack([data.logits(module, state, rows) for state in states])
    return torch.allclose(found, wanted, rtol=1e-3, atol=1e-4, equal_nan=True)


def _two_seeds() -> tuple[np.random.SeedSequence, ...]:
    return tuple(np.random.SeedSequence(0).spawn(2))


def stacked_logits(
    module: nn.Module, data: EditData, states: Sequence[State], rows: Batches
) -> Tensor:
    """Logits (n_states, n_rows, n_classes) of many states in one pass over the rows."""
    stack = {name: torch.stack([state[name] for state in states]) for name in states[0]}

    def run(state: State, X: Tensor) -> Tensor:
        return data.to_logits(functional_call(module, state, (X,)))

    batched = vmap(run, in_dims=(0, None))
    with torch.no_grad():
        blocks = (
            to_device(X, data.device, data.dtype) for X in rows.blocks(rows.block_size(BLOCK))
        )
        return torch.cat([batched(stack, X).cpu() for X in blocks], dim=1)


def _with_logits(trials: Trials) -> Iterator[tuple[State, Tensor]]:
    # Read once for all trials, where memory allows it.
    rows = trials.data.judged.held()
    if trials.stacked:
        states = list(trials.states())
        logits = stacked_logits(trials.module, trials.data, states, rows)
        # A view would keep the logits of all trials.
        yield from ((state, one.clone()) for state, one in zip(states, logits, strict=True))
        return
    left, size = trials.states(), _at_once(trials)
    while few := list(islice(left, size)):
        found = [trials.data.logits(trials.module, state, rows) for state in few]
        yield from zip(few, found, strict=True)


def _at_once(trials: Trials) -> int:
    held = [*float_parameters(trials.module).values(), trials.data.untouched]
    return max(1, min(AT_ONCE, HELD_BYTES // sum(value.nbytes for value in held)))


def run_trials(trials: Trials) -> Iterator[Candidate]:
    """Judge every trial.

    Yields
    ------
    candidate : Candidate
        Its state is left out where an earlier one of these trials ranks at least as high.
    """
    best = Best[State]()
    with one_torch_thread():
        for number, (state, logits) in zip(trials.numbers, _with_logits(trials), strict=True):
            record = {"stage": "trial", "trial": number}
            verdict = trials.data.judge(logits)
            made = Candidate(state, record, {"trial_": number}, verdict=verdict, logits=logits)
            yield lighten(made, best)


def task_copy(module: nn.Module, n_jobs: int | None) -> nn.Module:
    """Give a task a module of its own where tasks run at the same time, else the one there is."""
    return module if effective_n_jobs(n_jobs) == 1 else copy.deepcopy(module)
