"""Parallel tasks on the joblib backend that the user has chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pickle import PicklingError
from typing import Any

from joblib import Parallel, delayed
from joblib.parallel import get_active_backend

__all__ = ["in_parallel"]


def in_parallel(
    call: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], n_jobs: int | None
) -> Iterator[Any]:
    """Yield ``call(*task)`` for every task, in order.

    Results come as they are ready, except on a backend that returns all at once (Ray's).

    Parameters
    ----------
    call : callable
        A named function, since tasks are sent to other processes.
    tasks : iterable of tuple
    n_jobs : int or None
        As in joblib: None means 1, or the value set by ``joblib.parallel_config``.

    Raises
    ------
    ValueError
        A task cannot be sent to another process.
    """
    backend = get_active_backend()[0]
    form = "generator" if getattr(backend, "supports_return_generator", False) else "list"
    results = Parallel(n_jobs=n_jobs, return_as=form)(delayed(call)(*task) for task in tasks)
    try:
        for result in results:  # noqa: UP028 (closing this generator must not close joblib's)
            yield result
    except PicklingError as error:
        # The last line of the worker's traceback says why.
        why = str(error.__cause__ or error).strip(' "\n').splitlines()[-1]
        raise ValueError(
            f"n_jobs={n_jobs}: the network or the rows cannot be sent to another process ({why}). "
            "Use n_jobs=1, or threads: with joblib.parallel_config(backend='threading')."
        ) from error
    finally:
        _cancel(results)


class _NoLongerWantedError(BaseException):
    """Ends joblib's generator."""


def _cancel(results: Any) -> None:
    """Cancel the unfinished tasks with an error: joblib warns if its generator is closed."""
    if hasattr(results, "throw"):
        # A generator that has already ended raises the error as well.
        with suppress(_NoLongerWantedError):
            results.throw(_NoLongerWantedError)
