"""Random streams and torch's process-wide state, kept apart from the user's."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state

__all__ = ["one_torch_thread", "resolve_seed", "seeded_globally", "stage_rng", "torch_generator"]

# One number per stage, so that a change in one stage leaves the draws of the others alone.
STAGES = {"split": 0, "base": 1, "edit": 2, "bootstrap": 3, "sample": 4, "certificate": 5}

_GLOBAL_STATE = threading.RLock()
_THREADS = threading.Lock()
_INSIDE = threading.local()


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


def _in_new_thread(call: Callable[..., int | None], *args: int) -> int | None:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call, *args).result()


def _set_num_threads(here: int, elsewhere: int) -> None:
    """Set torch's number of threads for this Python thread and for later ones."""
    torch.set_num_threads(here)
    _in_new_thread(torch.set_num_threads, elsewhere)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Run a block under one torch thread and restore the number afterwards.

    Sums over several threads round differently, so results would depend on the machine and on
    ``n_jobs``. Blocks may overlap in several Python threads: torch keeps one number for each
    Python thread and a default for threads that have not used torch yet, and the block changes
    the first only. A block inside another, or with one thread set already, does nothing.
    """
    if getattr(_INSIDE, "block", False) or torch.get_num_threads() == 1:
        yield
        return
    with _THREADS:
        here, elsewhere = torch.get_num_threads(), _in_new_thread(torch.get_num_threads)
    try:
        _INSIDE.block = True
        with _THREADS:
            _set_num_threads(1, elsewhere or here)
        yield
    finally:
        with _THREADS:
            _set_num_threads(here, elsewhere or here)
        _INSIDE.block = False


@contextmanager
def seeded_globally(seed: int, device: Any = None) -> Iterator[None]:
    """Seed torch's, numpy's and Python's global generators for a block, then restore them.

    Use it around foreign code that draws from them. ``torch.random.fork_rng`` alone is not
    thread-safe, hence one lock for the whole process.

    CUDA is left alone in a process that has not used it: to start it takes memory of every GPU
    and time, and a forked child of a process that uses it cannot. Where the block itself is to use
    it, say so.

    Parameters
    ----------
    seed : int
    device : str, torch.device or None, default=None
        The device that the block draws on, if it may be the first to use it.
    """
    with _GLOBAL_STATE:
        numpy_state, python_state = np.random.get_state(), random.getstate()
        try:
            with _torch_seeded(seed, "cpu" if device is None else torch.device(device).type):
                np.random.seed(seed % 2**32)
                random.seed(seed)
                yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


@contextmanager
def _torch_seeded(seed: int, kind: str) -> Iterator[None]:
    if kind == "cuda":
        torch.cuda.init()
    # False in a forked child of a process that uses it.
    on_cuda = torch.cuda.is_initialized()
    with torch.random.fork_rng(range(torch.cuda.device_count()) if on_cuda else []):
        if on_cuda or kind not in ("cpu", "cuda"):
            torch.manual_seed(seed)
        else:
            # Not torch.manual_seed, which leaves the seed for CUDA to start with.
            torch.default_generator.manual_seed(seed)
        yield
