"""Turn encoded rows into tensors of roughly normal columns for a hypernetwork, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from ..cells import Encoded

__all__ = ["ImageRows", "TableScores"]

# Largest normal score; each tail beyond it has a probability of 1e-7.
MOST_SCORE = 5.2

# Number of images read at a time.
IMAGES = 1024


class TableScores:
    """Tables with one real column per number, category and flag of missing numbers.

    Numbers are standardised; a random known value of the column replaces a missing one, and a flag
    marks it. A category becomes a normal score: the levels divide the unit interval by their
    shares, and a row gets the normal quantile of a uniform point in its level's part. A generator
    that reproduces the distribution of the score thus reproduces the shares of all levels.

    Parameters
    ----------
    encoded : Encoded
    like : TableScores, optional
        Encoding whose units the numbers keep; levels and shares are computed anew.

    Attributes
    ----------
    mean, scale : ndarray of shape (n_numbers,)
    n_columns : int
        Width of the tensors.
    """

    lacking: NDArray[np.int64]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    def __init__(self, encoded: Encoded, like: TableScores | None = None) -> None:
        numbers = encoded.numbers
        known = ~np.isnan(numbers)
        if like is None:
            self.lacking = np.flatnonzero(~known.all(axis=0))
            self.mean, self.scale = _moments(numbers, known)
        else:
            self.lacking, self.mean, self.scale = like.lacking, like.mean, like.scale
        levels = self._levels(encoded)
        self.edges = [_edges(column) for column in levels.T]
        self.n_columns = numbers.shape[1] + levels.shape[1]

    @property
    def only_numbers(self) -> bool:
        """Tell whether rows have a density: no categories and no missing values."""
        return not self.edges

    def _levels(self, encoded: Encoded) -> NDArray[np.int64]:
        """Put categories (0: missing) and flags of missing numbers side by side."""
        flags = np.isnan(encoded.numbers[:, self.lacking]).astype(np.int64)
        return np.concatenate([encoded.codes + 1, flags], axis=1)

    def encode(self, encoded: Encoded, rng: np.random.Generator) -> Tensor:
        """Turn encoded rows into a tensor (n, n_columns), float32."""
        numbers = (_fill_missing(encoded.numbers, rng) - self.mean) / self.scale
        columns = zip(self._levels(encoded).T, self.edges, strict=True)
        scores = [_draw_scores(levels, edges, rng) for levels, edges in columns]
        return torch.from_numpy(np.column_stack([numbers, *scores]).astype(np.float32))

    def encode_numbers(self, numbers: NDArray[np.float64]) -> Tensor:
        """Standardise the rows of a table of numbers only, as float32."""
        with np.errstate(over="ignore"):  # who reads the result looks for infinity
            scores = ((numbers - self.mean) / self.scale).astype(np.float32)
        return torch.from_numpy(scores)

    def decode(self, rows: Tensor) -> Encoded:
        """Turn a tensor (n, n_columns) into encoded rows."""
        values = rows.double().numpy()
        n_numbers = len(self.mean)
        numbers = values[:, :n_numbers] * self.scale + self.mean
        columns = zip(values[:, n_numbers:].T, self.edges, strict=True)
        levels = [_find_levels(scores, edges) for scores, edges in columns]
        n_codes = len(levels) - len(self.lacking)
        for column, flags in zip(self.lacking, levels[n_codes:], strict=True):
            numbers[flags == 1, column] = np.nan
        codes = np.array(levels[:n_codes], dtype=np.int64).reshape(n_codes, len(values)).T - 1
        return Encoded(numbers, codes)


class ImageRows:
    """Images that become standardised float32 tensors when they are read.

    Parameters
    ----------
    flat : ndarray of shape (n, C * H * W)
    shape : tuple of int
        (C, H, W).
    like : ImageRows, optional
        Images whose mean and scale are used.
    """

    def __init__(
        self, flat: NDArray[Any], shape: tuple[int, ...], like: ImageRows | None = None
    ) -> None:
        self.flat, self.shape = flat, shape
        if like is None:
            mean, scale = _channel_moments(flat, shape[0])
            self.mean = torch.from_numpy(mean.astype(np.float32)).reshape(-1, 1, 1)
            self.scale = torch.from_numpy(scale.astype(np.float32)).reshape(-1, 1, 1)
        else:
            self.mean, self.scale = like.mean, like.scale

    def __len__(self) -> int:
        """Count the images."""
        return len(self.flat)

    def __getitem__(self, rows: Any) -> Tensor:
        """Read images at a slice or an integer tensor."""
        index = rows.numpy() if isinstance(rows, Tensor) else rows
        values = torch.from_numpy(self.flat[index].astype(np.float32))
        return (values.reshape(-1, *self.shape) - self.mean) / self.scale

    def subset(self, rows: NDArray[np.int64]) -> ImageRows:
        """Restrict to some images."""
        return ImageRows(self.flat[rows], self.shape, like=self)

    def decode(self, images: Tensor) -> Encoded:
        """Turn a tensor (n, C, H, W) into encoded rows."""
        values = (images * self.scale + self.mean).double().flatten(1).numpy()
        return Encoded(values, np.empty((len(values), 0), dtype=np.int64))


def _moments(
    numbers: NDArray[Any], known: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    counts = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, numbers, 0).sum(axis=0) / counts
    deviations = np.where(known, numbers - mean, 0)
    scale = np.sqrt(np.square(deviations).sum(axis=0) / counts)
    return mean, np.where(scale > 0, scale, 1)


def _channel_moments(
    flat: NDArray[Any], n_channels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute mean and standard deviation of every channel, block by block."""
    total, squares, count = np.zeros(n_channels), np.zeros(n_channels), 0
    for start in range(0, len(flat), IMAGES):
        block = flat[start : start + IMAGES].astype(np.float64)
        values = block.reshape(len(block), n_channels, -1)
        total += values.sum(axis=(0, 2))
        squares += np.square(values).sum(axis=(0, 2))
        count += values.shape[0] * values.shape[2]
    mean = total / count
    scale = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return mean, np.where(scale > 0, scale, 1)


def _fill_missing(numbers: NDArray[Any], rng: np.random.Generator) -> NDArray[np.float64]:
    """Replace each missing value by a random known value of its column."""
    filled = numbers.astype(np.float64)
    for column in filled.T:
        missing = np.isnan(column)
        if missing.any() and not missing.all():
            column[missing] = rng.choice(column[~missing], size=missing.sum())
    return np.nan_to_num(filled)


def _edges(levels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the ends of the levels' intervals, from 0 to 1."""
    shares = np.bincount(levels) / len(levels)
    ends = np.concatenate([[0.0], np.cumsum(shares)])
    return ends / ends[-1]


def _draw_scores(
    levels: NDArray[np.int64], edges: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    low, high = edges[levels], edges[levels + 1]
    points = low + rng.random(len(levels)) * (high - low)
    return np.clip(ndtri(points), -MOST_SCORE, MOST_SCORE)


def _find_levels(scores: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    # A level without a share has an empty interval, which no point falls into.
    points = np.clip(ndtr(scores), np.finfo(float).tiny, 1 - 1e-16)
    return np.searchsorted(edges[1:-1], points, side="right").astype(np.int64)
