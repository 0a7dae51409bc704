"""Random streams and torch's process-wide state, kept apart from the user's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state

__all__ = ["one_torch_thread", "resolve_seed", "seeded_globally", "stage_rng", "torch_generator"]

# One number a stage, so that changing what happens in one stage leaves the others' draws alone.
STAGES = {"split": 0, "base": 1, "edit": 2, "bootstrap": 3, "sample": 4}

_GLOBAL_STATE = threading.RLock()
_THREADS = threading.Lock()
_threads_in_use = 0
_threads_before = 1


def resolve_seed(random_state: Any) -> int:
    """Turn scikit-learn's ``random_state`` into one integer, drawn once.

    Parameters
    ----------
    random_state : int, RandomState instance or None
        As everywhere in scikit-learn.

    Returns
    -------
    seed : int in [0, 2**31 - 1)
    """
    if isinstance(random_state, (int, np.integer)):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def stage_rng(seed: int, stage: str) -> np.random.Generator:
    """Give the stage of a fit its own stream, independent of the other stages."""
    return np.random.default_rng(np.random.SeedSequence([seed, STAGES[stage]]))


def torch_generator(rng: np.random.Generator) -> torch.Generator:
    """Make a CPU generator whose seed is the next draw of ``rng``."""
    return torch.Generator().manual_seed(int(rng.integers(2**63 - 1)))


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Run a block under one torch thread and restore the number afterwards.

    Sums over several threads round differently, so results would depend on the machine and on
    ``n_jobs``. Blocks may overlap in several Python threads: the number found by the first to
    enter is what each of them restores.
    """
    global _threads_in_use, _threads_before
    with _THREADS:
        if _threads_in_use == 0:
            _threads_before = torch.get_num_threads()
        _threads_in_use += 1
    torch.set_num_threads(1)
    try:
        yield
    finally:
        with _THREADS:
            _threads_in_use -= 1
            torch.set_num_threads(_threads_before)


@contextmanager
def seeded_globally(seed: int) -> Iterator[None]:
    """Seed torch's and numpy's global generators for a block, then put their state back.

    For code that is not ours and draws from them. ``torch.random.fork_rng`` alone is not safe
    between threads, hence one lock for the whole process.
    """
    with _GLOBAL_STATE:
        numpy_state = np.random.get_state()
        try:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                np.random.seed(seed % 2**32)
                yield
        finally:
            np.random.set_state(numpy_state)
