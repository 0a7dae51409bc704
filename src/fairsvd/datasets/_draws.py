"""Random draws and argument checks that the loaders and generators share."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._messages import listed

__all__ = [
    "as_generator",
    "check_count",
    "check_share",
    "per_group",
    "plant",
    "rows_of_classes",
    "split_exactly",
]


def as_generator(random_state: Any) -> np.random.Generator:
    """Turn ``random_state`` into a numpy Generator.

    Parameters
    ----------
    random_state : int, RandomState, Generator or None
        None takes fresh entropy from the operating system and leaves numpy's global generator
        alone. A Generator is used itself, so its state advances.

    Returns
    -------
    rng : numpy.random.Generator

    Raises
    ------
    ValueError
        If ``random_state`` is anything else, or a negative number.
    """
    if random_state is None or isinstance(random_state, np.random.Generator):
        return np.random.default_rng(random_state)
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(int(random_state.randint(np.iinfo(np.int32).max)))
    seed = check_count("random_state", random_state, 0)
    return np.random.default_rng(seed)


def check_count(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return ``value`` as an int in [low, high], or raise ValueError naming the argument."""
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_integer or value < low or (high is not None and value > high):
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be an integer {limits}, got {value!r}")
    return int(value)


def check_share(name: str, value: Any) -> float:
    """Return ``value`` as a float in [0, 1], or raise ValueError naming the argument."""
    if not isinstance(value, Real) or not 0.0 <= float(value) <= 1.0:
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")
    return float(value)


def per_group(name: str, value: ArrayLike, n_groups: int, *, zero: bool) -> NDArray[np.float64]:
    """Repeat one number for all groups, or check that there is one finite number per group."""
    values = np.asarray(value, dtype=np.float64)
    fits = values.shape in ((), (n_groups,)) and bool(np.isfinite(values).all())
    if not fits or (values < 0).any() or (not zero and (values == 0).any()):
        sign = "at least 0" if zero else "above 0"
        raise ValueError(f"{name} must be one number {sign} or {n_groups} of them, got {value!r}")
    return np.broadcast_to(values, (n_groups,)).copy()


def rows_of_classes(labels: NDArray[Any], classes: Sequence[Any]) -> NDArray[np.bool_]:
    """Mark the rows whose label is among ``classes``; each class must occur."""
    present = np.unique(labels)
    chosen = np.atleast_1d(np.asarray(classes))
    if chosen.ndim != 1 or chosen.size == 0 or not np.isin(chosen, present).all():
        raise ValueError(f"classes must name some of [{listed(present.tolist())}], got {classes!r}")
    return np.isin(labels, chosen)


def split_exactly(n: int, shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Split ``n`` rows by shares that sum to 1; rows left over go to the largest remainders.

    Parameters
    ----------
    n : int
    shares : ndarray of shape (k,), float64

    Returns
    -------
    counts : ndarray of shape (k,), int64
        Sums to ``n``; each count is less than one row away from ``n * share``.
    """
    exact = n * shares
    counts = np.floor(exact).astype(np.int64)
    left = n - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:left]] += 1
    return counts


def plant(
    codes: NDArray[np.int64], n_values: int, strength: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw an attribute that agrees with the class for an exact share of each class.

    Parameters
    ----------
    codes : ndarray of shape (n,), int64
        Class codes; class k agrees with the value ``k % n_values``.
    n_values : int
        Number of values of the attribute, at least 2.
    strength : float in [0, 1]
        Share of the rows of each class that get the agreeing value, rounded half up to whole
        rows. The other rows get the other values evenly, up to one row.
    rng : numpy.random.Generator

    Returns
    -------
    values : ndarray of shape (n,), int64, in [0, n_values)
    """
    counts = np.bincount(codes)
    order = np.lexsort((rng.random(len(codes)), codes))  # by class, in random order within a class
    rank = np.empty(len(codes), dtype=np.int64)
    rank[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    beyond = rank - np.floor(strength * counts + 0.5).astype(np.int64)[codes]
    step = np.where(beyond < 0, 0, 1 + beyond % (n_values - 1))
    return (codes + step) % n_values
