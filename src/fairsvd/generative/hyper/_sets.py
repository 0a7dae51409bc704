"""Data sets to train a hypernetwork on, since on a single one it would become a constant."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._rows import TableScores

__all__ = ["ResampledSets", "SimulatedSets"]

# Number of candidate rows of a tilted set, in units of the set's size.
POOL = 4

# Largest strength of a tilt, in standard deviations; the mean of a set moves by about as much.
MOST_TILT = 1.5

# Spread of random shifts and scales of sets that are not normalised by their own moments.
SHIFT, LOG_SCALE = 1.0, 0.5


class ResampledSets:
    """Endless batches of data sets, resampled from a table, its cells and parts of them.

    Every set is drawn with replacement from the whole table or from a cell that has at least as
    many rows as the set. Half of the sets are tilted: rows far along a random direction are more
    probable. Sets that are not normalised are also shifted and scaled at random.

    Parameters
    ----------
    rows : Tensor of shape (n, d), or images indexed by integer tensors
    cells : ndarray of shape (n,), int64
        Cell of each row, from 0.
    sizes : tuple of int
        Smallest and largest number of rows of a set. All sets of a batch have the same number,
        which is drawn evenly on a logarithmic scale.
    n_sets : int
        Sets per batch.
    move : bool
        Whether to shift and scale sets at random.
    rng : torch.Generator
    """

    def __init__(
        self,
        rows: Any,
        cells: NDArray[np.int64],
        sizes: tuple[int, int],
        n_sets: int,
        *,
        move: bool,
        rng: torch.Generator,
    ) -> None:
        self.rows, self.sizes, self.n_sets = rows, sizes, n_sets
        self.move, self.rng = move, rng
        codes = torch.as_tensor(cells)
        counts = torch.bincount(codes)
        # The whole table is the first source; its rows are sorted by cell as well.
        self.order = torch.argsort(codes, stable=True)
        self.counts = torch.cat([torch.tensor([len(codes)]), counts])
        self.starts = torch.cat([torch.tensor([0]), counts.cumsum(0) - counts])

    def __iter__(self) -> Iterator[Tensor]:
        """Draw batches (n_sets, n, ...), for ever."""
        while True:
            n = self._draw_size()
            sets = self._draw_tilted(n) if isinstance(self.rows, Tensor) else self._draw(n, 1)
            yield self._move(sets) if self.move else sets

    def _draw_size(self) -> int:
        low, high = map(math.log, self.sizes)
        return round(math.exp(low + (high - low) * self._uniform(1).item()))

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.rng, dtype=torch.float64)

    def _draw_positions(self, n: int, surplus: int) -> Tensor:
        """Draw rows (n_sets, surplus * n), for each set from one source of at least n rows."""
        sources = torch.nonzero(self.counts >= n).flatten()
        sources = sources if len(sources) else torch.zeros(1, dtype=torch.int64)
        pick = (self._uniform(self.n_sets) * len(sources)).long()
        counts, starts = self.counts[sources[pick]], self.starts[sources[pick]]
        within = (self._uniform(self.n_sets, surplus * n) * counts[:, None]).long()
        return self.order[starts[:, None] + within]

    def _draw(self, n: int, surplus: int) -> Tensor:
        positions = self._draw_positions(n, surplus)
        return self.rows[positions.flatten()].unflatten(0, positions.shape)

    def _draw_tilted(self, n: int) -> Tensor:
        pool = self._draw(n, POOL)
        direction = torch.randn(self.n_sets, pool.shape[2], 1, generator=self.rng)
        score = (pool @ (direction / direction.norm(dim=1, keepdim=True))).squeeze(-1)
        score = (score - score.mean(1, keepdim=True)) / (score.std(1, keepdim=True) + 1e-6)
        # Half of the strengths are 0, so that half of the sets are plain bootstraps.
        strength = MOST_TILT * (2 * self._uniform(self.n_sets, 1) - 1).clamp(min=0)
        chances = (strength.float() * score).softmax(dim=1)
        chosen = torch.multinomial(chances, n, replacement=True, generator=self.rng)
        return pool.gather(1, chosen[..., None].expand(-1, -1, pool.shape[2]))

    def _move(self, sets: Tensor) -> Tensor:
        shape = self.n_sets, 1, sets.shape[2]
        shift = SHIFT * torch.randn(shape, generator=self.rng)
        scale = torch.exp(LOG_SCALE * torch.randn(shape, generator=self.rng))
        return sets * scale + shift


class SimulatedSets:
    """Endless batches of data sets from a user's simulator.

    Parameters
    ----------
    simulator : callable
        Maps (numpy generator, n_sets, n) to an array (n_sets, n, d) in the table's units.
    scores : TableScores
        Encoding of the table.
    sizes : tuple of int
    n_sets : int
    rng : numpy.random.Generator

    Raises
    ------
    ValueError
        If the table holds anything but numbers, or the simulator returns another shape or values
        that are not finite.
    """

    def __init__(
        self,
        simulator: Callable[[np.random.Generator, int, int], Any],
        scores: Any,
        sizes: tuple[int, int],
        n_sets: int,
        rng: np.random.Generator,
    ) -> None:
        if not isinstance(scores, TableScores) or not scores.only_numbers:
            raise ValueError("simulator needs an X of numbers only, none of them missing.")
        self.simulator, self.scores, self.sizes = simulator, scores, sizes
        self.n_sets, self.rng = n_sets, rng

    def __iter__(self) -> Iterator[Tensor]:
        """Draw batches (n_sets, n, d), for ever."""
        low, high = map(math.log, self.sizes)
        while True:
            n = round(math.exp(self.rng.uniform(low, high)))
            sets = np.asarray(self.simulator(self.rng, self.n_sets, n), dtype=np.float64)
            shape = (self.n_sets, n, self.scores.n_columns)
            if sets.shape != shape or not np.isfinite(sets).all():
                raise ValueError(
                    f"simulator returned an array of shape {sets.shape}, finite: "
                    f"{bool(np.isfinite(sets).all())}; wanted finite values of shape {shape}: "
                    "(n_sets, n_rows, n_features)."
                )
            rows = self.scores.encode_numbers(sets.reshape(-1, shape[2]))
            yield rows.unflatten(0, shape[:2])
