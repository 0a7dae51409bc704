"""Many data sets to train a hypernetwork on: on one alone it would become a constant."""

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

# Candidates from which a tilted set takes its rows, in units of the set's size.
POOL = 4

# Strength of a tilt, in standard deviations of the direction: sets move by about as much.
MOST_TILT = 1.5

# Random shifts and scales, where sets are not normalised by their own moments.
SHIFT, LOG_SCALE = 1.0, 0.5


class ResampledSets:
    """Endless batches of data sets, resampled from a table, its cells and parts of them.

    Every set is drawn with replacement from the whole table or from one of its cells, whichever
    has as many rows as the set; half of them are tilted: rows far along a random direction are
    more probable. Without normalisation sets are shifted and scaled at random, too.

    Parameters
    ----------
    rows : Tensor of shape (n, d), or images that give tensors for integer tensors
    cells : ndarray of shape (n,), int64
        Cell of each row, from 0.
    sizes : tuple of int
        Smallest and largest number of rows in a set; drawn evenly on a logarithmic scale, one
        for all sets of a batch.
    n_sets : int
        Sets in a batch.
    move : bool
        Shift and scale at random.
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
        # The whole table is the first source; its rows stand in the cells' order as well.
        self.order = torch.argsort(codes, stable=True)
        self.counts = torch.cat([torch.tensor([len(codes)]), counts])
        self.starts = torch.cat([torch.tensor([0]), counts.cumsum(0) - counts])

    def __iter__(self) -> Iterator[Tensor]:
        """Draw batches (n_sets, n, ...), for ever."""
        while True:
            n = self._size()
            sets = self._tilted(n) if isinstance(self.rows, Tensor) else self._plain(n, 1)
            yield self._moved(sets) if self.move else sets

    def _size(self) -> int:
        low, high = map(math.log, self.sizes)
        return round(math.exp(low + (high - low) * self._uniform(1).item()))

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.rng, dtype=torch.float64)

    def _positions(self, n: int, surplus: int) -> Tensor:
        """Draw rows of one source each, (n_sets, surplus * n); it has n rows or more."""
        sources = torch.nonzero(self.counts >= n).flatten()
        sources = sources if len(sources) else torch.zeros(1, dtype=torch.int64)
        pick = (self._uniform(self.n_sets) * len(sources)).long()
        counts, starts = self.counts[sources[pick]], self.starts[sources[pick]]
        within = (self._uniform(self.n_sets, surplus * n) * counts[:, None]).long()
        return self.order[starts[:, None] + within]

    def _plain(self, n: int, surplus: int) -> Tensor:
        positions = self._positions(n, surplus)
        return self.rows[positions.flatten()].unflatten(0, positions.shape)

    def _tilted(self, n: int) -> Tensor:
        pool = self._plain(n, POOL)
        direction = torch.randn(self.n_sets, pool.shape[2], 1, generator=self.rng)
        score = (pool @ (direction / direction.norm(dim=1, keepdim=True))).squeeze(-1)
        score = (score - score.mean(1, keepdim=True)) / (score.std(1, keepdim=True) + 1e-6)
        # Half of the strengths are 0, so that plain bootstraps are among the sets.
        strength = MOST_TILT * (2 * self._uniform(self.n_sets, 1) - 1).clamp(min=0)
        chances = (strength.float() * score).softmax(dim=1)
        chosen = torch.multinomial(chances, n, replacement=True, generator=self.rng)
        return pool.gather(1, chosen[..., None].expand(-1, -1, pool.shape[2]))

    def _moved(self, sets: Tensor) -> Tensor:
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
        The table holds other than numbers; the simulator gives another shape, or values that are
        not finite.
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
            wanted = (self.n_sets, n, self.scores.n_columns)
            if sets.shape != wanted or not np.isfinite(sets).all():
                raise ValueError(
                    f"simulator gave an array of shape {sets.shape}, finite: "
                    f"{bool(np.isfinite(sets).all())}; wanted finite values of shape {wanted}: "
                    "(n_sets, n_rows, n_features)."
                )
            rows = self.scores.encode_numbers(sets.reshape(-1, wanted[2]))
            yield rows.unflatten(0, wanted[:2])
