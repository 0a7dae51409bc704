"""How far a gap can be trusted: bootstrap intervals and the noise floor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._gaps import gap

__all__ = ["gap_interval", "noise_floor", "resampled_counts"]

N_DRAWS = 1000


def resampled_counts(
    counts: NDArray[np.int64], rng: np.random.Generator, n_draws: int = N_DRAWS
) -> NDArray[np.int64]:
    """Resample the rows of a table of counts with replacement, without a pass over them.

    Returns
    -------
    drawn : ndarray of shape (n_draws, *counts.shape), int64
    """
    total = int(counts.sum())
    drawn = rng.multinomial(total, counts.ravel() / total, size=n_draws)
    return drawn.reshape(n_draws, *counts.shape)


def gap_interval(
    counts: NDArray[np.int64],
    name: str,
    pos: int | None,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    n_draws: int = N_DRAWS,
) -> tuple[float, float]:
    """Compute a bootstrap interval of a gap.

    Rows are resampled as multinomial counts of the (group, true, predicted) table, which is the
    same as drawing rows with replacement and costs no pass over them.

    Parameters
    ----------
    counts : ndarray of shape (n_groups, n_classes, n_classes), int64
    name : str
        One of ``GAPS``.
    pos : int or None
    rng : numpy.random.Generator
    level : float in (0, 1), default=0.95
    n_draws : int, default=1000

    Returns
    -------
    low, high : float in [0, 1]
        NaN where too few groups have the rows that the gap compares.
    """
    gaps = gap(resampled_counts(counts, rng, n_draws), name, pos)
    tail = (1 - level) / 2
    low, high = np.nanquantile(gaps, [tail, 1 - tail]) if np.isfinite(gaps).any() else (np.nan,) * 2
    return float(low), float(high)


def noise_floor(
    counts: NDArray[np.int64],
    name: str,
    pos: int | None,
    rng: np.random.Generator,
    *,
    n_draws: int = N_DRAWS,
) -> float:
    """Estimate the mean gap of a classifier that treats all groups alike, on as many rows.

    Parameters
    ----------
    counts : ndarray of shape (n_groups, n_classes, n_classes), int64
        Gives the rows of every (group, true) cell and the rates that all groups share.
    name, pos, rng, n_draws
        As for :func:`gap_interval`.

    Returns
    -------
    floor : float in [0, 1]
        NaN where too few groups have the rows that the gap compares.
    """
    n_groups, n_classes, _ = counts.shape
    if name == "accuracy_parity":
        right = np.trace(counts, axis1=1, axis2=2)
        rows = counts.sum(axis=(1, 2))
        hits = rng.binomial(rows, right.sum() / rows.sum(), size=(n_draws, n_groups))
        drawn = np.zeros((n_draws, n_groups, 2, 2), dtype=np.int64)
        drawn[..., 0, 0], drawn[..., 0, 1] = hits, rows - hits
        return _mean(gap(drawn, name, 1))
    shared = counts.sum(axis=0).astype(np.float64)
    if name == "demographic_parity":
        shared = np.broadcast_to(shared.sum(axis=0), shared.shape)
    total = shared.sum(axis=1, keepdims=True)
    p = np.where(total > 0, shared / np.maximum(total, 1), 1 / n_classes)
    cells = counts.sum(axis=2)
    drawn = rng.multinomial(cells, p, size=(n_draws, *cells.shape))
    return _mean(gap(drawn, name, pos))


def _mean(gaps: NDArray[np.float64]) -> float:
    """Average the draws that can be measured; NaN, without a warning, if none can."""
    measured = gaps[np.isfinite(gaps)]
    return float(measured.mean()) if len(measured) else float("nan")
