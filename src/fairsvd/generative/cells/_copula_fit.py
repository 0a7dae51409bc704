"""Gaussian copula of mixed columns: margins, correlations and borrowing by small cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

__all__ = [
    "Margin",
    "SortedColumn",
    "add_ridge",
    "borrowing_weights",
    "factorise",
    "level_scores",
    "pairwise_correlation",
    "shrink",
    "undo_steps",
]

# Steps of the power iteration that orders categories; the order settles much earlier.
POWER_STEPS = 20

# Least value of Margin.kept to correct by; the correlations of coarser steps are mostly noise.
LEAST_KEPT = 0.3

# Strongest correlation after the correction for steps.
STRONGEST = 0.99

# Smallest eigenvalue of a correlation matrix used for draws.
LEAST_EIGENVALUE = 1e-6


def borrowing_weights(
    cells: NDArray[np.int64], labels: NDArray[np.int64], cell: int, prior_rows: float
) -> NDArray[np.float64]:
    """Compute the weights of the rows in the distribution of one cell.

    The cell's n rows get n / (n + m), where m is ``prior_rows``. Rows of the same label get the
    rest and borrow from the whole table in the same way.

    Parameters
    ----------
    cells : ndarray of shape (n_rows,), int64
        Cell of every row; -1 for no cell.
    labels : ndarray of shape (n_cells,), int64
        Label of every cell.
    cell : int
    prior_rows : float >= 0

    Returns
    -------
    weights : ndarray of shape (n_rows,), float64
        They sum to 1, unless no row has a cell.
    """
    in_cell = cells >= 0
    weights = in_cell / max(1, in_cell.sum())
    same_label = in_cell & (labels[cells] == labels[cell])
    for closer in (same_label, cells == cell):
        n = closer.sum()
        if n:
            weights = (closer + prior_rows * weights) / (n + prior_rows)
    return weights


@dataclass(frozen=True)
class Margin:
    """Weighted distribution of one column, a step function.

    Attributes
    ----------
    values : ndarray of shape (n_values,), float64
        Distinct values of positive weight, ascending.
    upper : ndarray of shape (n_values,), float64
        Cumulative weight, up to and including each value; the last is 1.
    row : float
        Weight of one row of the cell, over which :meth:`line` moves to the next value.
    """

    values: NDArray[np.float64]
    upper: NDArray[np.float64]
    row: float

    @property
    def middles(self) -> NDArray[np.float64]:
        """Middle of every step, in (0, 1)."""
        return self.upper - np.diff(self.upper, prepend=0) / 2

    @property
    def kept(self) -> float:
        """Correlation of a normal variable with the scores of the steps that it falls into.

        A correlation falls by this factor if one variable is observed in steps only. It is 1
        without ties, and phi / sqrt(p q) for two values with the rates p and q.
        """
        weight = np.diff(self.upper, prepend=0)
        score = ndtri(self.middles)
        density = np.exp(-(ndtri(self.upper) ** 2) / 2) / np.sqrt(2 * np.pi)
        shared = (score * (np.concatenate([[0.0], density[:-1]]) - density)).sum()
        spread = np.sqrt((weight * score**2).sum() - (weight * score).sum() ** 2)
        return float(shared / spread) if spread > 1e-9 else 1.0

    def middle_of(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the positions in (0, 1) of observed values."""
        return self.middles[np.searchsorted(self.values, values)]

    def step(self, u: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the observed value whose step contains each position u."""
        place = np.searchsorted(self.upper, u, side="right")
        return self.values[np.minimum(place, len(self.values) - 1)]

    def line(self, u: NDArray[np.float64]) -> NDArray[np.float64]:
        """Interpolate between observed values at positions u; tied values keep their share."""
        weight = np.diff(self.upper, prepend=0)
        # A step is flat except for half a row at each end, where it moves to the next value.
        half = np.minimum(weight, self.row) / 2
        starts, ends = self.upper - weight + half, self.upper - half
        corners = np.stack([starts, np.maximum(starts, ends)], axis=1).reshape(-1)
        return np.interp(u, corners, np.repeat(self.values, 2))


@dataclass(frozen=True)
class SortedColumn:
    """The distinct values of a column, and the place of every row's value among them.

    Attributes
    ----------
    values : ndarray of shape (n_values,), float64
        Distinct values, ascending.
    place : ndarray of shape (n_rows,), int64
        Position in ``values``; -1 where missing.
    """

    values: NDArray[np.float64]
    place: NDArray[np.int64]

    @classmethod
    def of(cls, column: NDArray[Any]) -> SortedColumn:
        """Sort a column of numbers; NaN is missing."""
        known = ~np.isnan(column)
        values, inverse = np.unique(column[known], return_inverse=True)
        place = np.full(len(column), -1, dtype=np.int64)
        place[known] = inverse
        return cls(values.astype(np.float64), place)

    def margin(self, weights: NDArray[np.float64]) -> Margin | None:
        """Make the margin under weights of the rows; None if no known value has weight."""
        known = self.place >= 0
        mass = np.bincount(self.place[known], weights[known], minlength=len(self.values))
        used = mass > 0
        if not used.any():
            return None
        upper = np.cumsum(mass[used]) / mass.sum()
        upper[-1] = 1.0
        return Margin(self.values[used], upper, float(weights[known].max() / mass.sum()))


def level_scores(
    scores: NDArray[np.float64], codes: NDArray[np.int64], rng: np.random.Generator
) -> list[NDArray[np.float64]]:
    """Place the categories of every column on a line, near those that they occur with.

    The places are the first axis of a joint analysis of numbers and categories: a row's place is
    the weighted sum over its columns, a category's place the mean over its rows.

    Parameters
    ----------
    scores : ndarray of shape (n, n_numbers), float64
        Normal scores of the numbers, 0 where missing.
    codes : ndarray of shape (n, n_categories), int64
        -1 where missing.
    rng : numpy Generator
        Source of the first guess.

    Returns
    -------
    places : list of ndarray of shape (n_levels,)
        One array per column of codes.
    """
    row = rng.standard_normal(len(codes))
    known = codes >= 0
    sizes = [int(column.max(initial=-1)) + 1 for column in codes.T]
    counts = [
        np.maximum(np.bincount(column[k], minlength=size), 1)
        for column, k, size in zip(codes.T, known.T, sizes, strict=True)
    ]
    places = [np.zeros(size) for size in sizes]
    for _ in range(POWER_STEPS):
        row = row - row.mean()
        row /= max(np.sqrt((row**2).mean()), 1e-12)
        total = scores @ (scores.T @ row) / len(row)
        for k, (column, size) in enumerate(zip(codes.T, sizes, strict=True)):
            present = known[:, k]
            sums = np.bincount(column[present], weights=row[present], minlength=size)
            places[k] = sums / counts[k]
            total[present] += places[k][column[present]]
        row = total
    return places


def pairwise_correlation(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlate columns over the rows that have both values; constants get 0.

    Parameters
    ----------
    scores : ndarray of shape (n, d), float64
        NaN where missing.

    Returns
    -------
    correlation : ndarray of shape (d, d)
        1 on the diagonal; not always positive definite.
    """
    known = ~np.isnan(scores)
    mean = np.where(known, scores, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    z = np.where(known, scores - mean, 0)
    squares = (z**2).T @ known.astype(np.float64)
    scale = np.sqrt(squares * squares.T)
    correlation = np.divide(z.T @ z, scale, out=np.zeros_like(scale), where=scale > 1e-12)
    np.fill_diagonal(correlation, 1.0)
    return np.clip(correlation, -1, 1)


def add_ridge(correlation: NDArray[np.float64], n_rows: int) -> NDArray[np.float64]:
    """Move a correlation matrix (d, d) of n rows towards the identity by d / (n + d)."""
    width = len(correlation)
    part = width / (n_rows + width)
    return part * np.eye(width) + (1 - part) * correlation


def shrink(
    correlation: NDArray[np.float64], target: NDArray[np.float64], n_rows: int
) -> NDArray[np.float64]:
    """Move a correlation matrix towards a target, further if it comes from fewer rows.

    The share of the target is sum Var(r) / sum (r - t)^2 over the pairs, within [0, 1], with
    Var(r) = (1 - r^2)^2 / (n - 1) (Schaefer and Strimmer 2005, for a target of any form).

    Parameters
    ----------
    correlation, target : ndarray of shape (d, d)
    n_rows : int
        Rows that ``correlation`` was computed from.
    """
    if n_rows < 3:
        return target
    pairs = np.triu_indices(len(correlation), 1)
    r, t = correlation[pairs], target[pairs]
    distance = ((r - t) ** 2).sum()
    noise = ((1 - r**2) ** 2).sum() / (n_rows - 1)
    part = 1.0 if distance <= noise else float(noise / distance)
    return part * target + (1 - part) * correlation


def undo_steps(correlation: NDArray[np.float64], kept: NDArray[np.float64]) -> NDArray[np.float64]:
    """Undo the loss of correlation from observing variables in steps.

    Parameters
    ----------
    correlation : ndarray of shape (d, d)
        Correlation of the scores of the steps.
    kept : ndarray of shape (d,)
        :attr:`Margin.kept` of every column.
    """
    kept = np.maximum(kept, LEAST_KEPT)
    raised = np.clip(correlation / np.outer(kept, kept), -STRONGEST, STRONGEST)
    # Correlations above the cap, such as of two copies of a column, are not lowered.
    raised = np.where(np.abs(raised) > np.abs(correlation), raised, correlation)
    np.fill_diagonal(raised, 1.0)
    return raised


def factorise(correlation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a factor L so that L L^T is the correlation, made positive definite."""
    values, vectors = np.linalg.eigh(correlation)
    factor = vectors * np.sqrt(np.maximum(values, LEAST_EIGENVALUE))
    return np.asarray(factor / np.sqrt((factor**2).sum(axis=1, keepdims=True)))
