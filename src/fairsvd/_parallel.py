"""Tasks side by side: joblib's, whatever backend the user has chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from joblib import Parallel, delayed
from joblib.parallel import get_active_backend

__all__ = ["in_parallel"]


def in_parallel(
    call: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], n_jobs: int | None
) -> Iterator[Any]:
    """Yield ``call(*task)`` for every task, in order.

    Results come as they are ready, except on a backend that has all of them or none (Ray's).

    Parameters
    ----------
    call : callable
        A named function: tasks travel to other processes.
    tasks : iterable of tuple
    n_jobs : int or None
        As in joblib: None is 1, or what ``joblib.parallel_config`` says.
    """
    backend = get_active_backend()[0]
    form = "generator" if getattr(backend, "supports_return_generator", False) else "list"
    yield from Parallel(n_jobs=n_jobs, return_as=form)(delayed(call)(*task) for task in tasks)
