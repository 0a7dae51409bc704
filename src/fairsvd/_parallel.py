"""Tasks side by side: joblib's, whatever backend the user has chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
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
    results = Parallel(n_jobs=n_jobs, return_as=form)(delayed(call)(*task) for task in tasks)
    try:
        for result in results:  # noqa: UP028 (what closes this generator is not to reach joblib's)
            yield result
    finally:
        _let_go(results)


class _NoLongerWantedError(BaseException):
    """Ends joblib's generator."""


def _let_go(results: Any) -> None:
    """Cancel what has not come; joblib warns where its generator is closed, not at an error."""
    if hasattr(results, "throw"):
        # A generator that has ended throws it back, too.
        with suppress(_NoLongerWantedError):
            results.throw(_NoLongerWantedError)
