"""Resampled tables of counts, and the noise that they show."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["N_DRAWS", "draw_noise", "resampled_counts"]

N_DRAWS = 1000
# Numbers in one array of resampled tables: 32 MiB.
CHUNK = 2**20


def resampled_counts(
    counts: NDArray[np.int64], rng: np.random.Generator, n_draws: int = N_DRAWS
) -> NDArray[np.int64]:
    """Resample the rows of a table of counts with replacement, without a pass over them.

    Returns
    -------
    drawn : ndarray of shape (n_draws, *counts.shape), int64
    """
    flat = counts.ravel()
    filled = np.flatnonzero(flat)
    total = int(flat.sum())
    drawn = np.zeros((n_draws, flat.size), dtype=np.int64)
    drawn[:, filled] = rng.multinomial(total, flat[filled] / total, size=n_draws)
    return drawn.reshape(n_draws, *counts.shape)


def draw_noise(
    measure: Callable[[NDArray[np.int64]], Sequence[NDArray[np.float64]]],
    counts: NDArray[np.int64],
    rng: np.random.Generator,
    n_draws: int,
) -> list[NDArray[np.float64]]:
    """Draw noise of mean 0 and deviation 1 for every rate, (n_draws, n_groups, C) each.

    It is that of resampled rows, so that rates that share rows go together. Where resampling cannot
    show any (a rate of 0 or 1, a cell of few rows) it is drawn from a normal distribution.
    """
    if not counts.any():
        return [np.full((n_draws, *rate.shape), np.nan) for rate in measure(counts)]
    chunk = max(1, CHUNK // counts.size)
    sizes = [min(chunk, n_draws - start) for start in range(0, n_draws, chunk)]
    drawn = [measure(resampled_counts(counts, rng, size)) for size in sizes]
    return [_standardise(np.concatenate(parts), rng) for parts in zip(*drawn, strict=True)]


def _standardise(drawn: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    seen = np.isfinite(drawn)
    n_seen = np.maximum(seen.sum(axis=0), 1)
    values = np.where(seen, drawn, 0.0)
    centred = np.where(seen, values - values.sum(axis=0) / n_seen, 0.0)
    spread = np.sqrt((centred**2).sum(axis=0) / n_seen)
    usable = seen & (spread > 1e-12)
    noise = np.divide(centred, spread, out=np.zeros_like(centred), where=usable)
    if not usable.all():
        noise[~usable] = rng.standard_normal(int((~usable).sum()))
    return noise
