"""Data that is made on request, so that any number of rows takes no memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

__all__ = ["MadeRows", "codes", "exponent"]

# The number of places in one stretch of noise where rows begin; further rows repeat the first.
PLACES = 2**16


class MadeRows(Dataset):
    """Standard normal rows that are read out of one short stretch of noise.

    Parameters
    ----------
    n_rows : int
    shape : sequence of int
        Of a row.
    seed : int, default=0
    """

    def __init__(self, n_rows: int, shape: Sequence[int], seed: int = 0) -> None:
        self.n_rows, self.shape = n_rows, tuple(shape)
        self.n_values = int(np.prod(self.shape))
        size = PLACES + self.n_values
        self.noise = np.random.default_rng(seed).standard_normal(size, dtype=np.float32)

    def __len__(self) -> int:
        return self.n_rows

    def __getitem__(self, row: int) -> np.ndarray:
        start = row * 40_503 % PLACES  # odd: neighbours are far apart, and every place is used
        return self.noise[start : start + self.n_values].reshape(self.shape)


def codes(n_rows: int, n_groups: int, seed: int, n_classes: int = 2) -> tuple[np.ndarray, ...]:
    """Draw class and group codes in random order."""
    rng = np.random.default_rng(seed)
    return rng.integers(n_classes, size=n_rows), rng.integers(n_groups, size=n_rows)


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Fit the slope of log cost over log size, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])
