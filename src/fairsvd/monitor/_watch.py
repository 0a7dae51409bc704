"""The evidence about the groups of one attribute, over windows of time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from ._evidence import log_evidence

__all__ = ["Watch"]

# A guess is a mean over the past as if one row of each outcome had been seen before.
PRIOR = 1.0
# Weight that is kept for pairs of groups that come later than the first window.
RESERVE = 0.1


class Watch:
    """Weighs what windows say of the differences between all pairs of groups.

    Parameters
    ----------
    tolerance : float in [0, 1)
        The accepted difference.
    memory : float in (0, 1]
        Weight of a window's rows in the guess for the window after the next, and so on.
    """

    def __init__(self, tolerance: float, memory: float) -> None:
        self.tolerance, self.memory = tolerance, memory
        # Remembered hits and rows by (statistic, group).
        self._past: dict[tuple[str, Any], NDArray[np.float64]] = {}
        # Of every ordered pair of groups: its weight, and the logarithm of its evidence.
        self.pairs: dict[tuple[str, Any, Any], tuple[float, float]] = {}
        self._n_windows = self._n_late = 0

    @property
    def evidence(self) -> float:
        """Weighted mean of the evidence of all pairs; 1 says nothing."""
        if not self.pairs:
            return 1.0
        weights, logs = np.array(list(self.pairs.values())).T
        # What no pair has yet stays at 1.
        unspent = max(0.0, 1 - float(weights.sum()))
        return float(np.exp(min(logsumexp([*logs, 0.0], b=[*weights, unspent]), 700.0)))

    def weigh(
        self, shares: dict[str, tuple[NDArray[Any], NDArray[Any]]], labels: Sequence[Any]
    ) -> None:
        """Multiply the evidence of every pair by that of a window, then remember the window.

        Parameters
        ----------
        shares : dict of str to (ndarray, ndarray)
            Of every statistic: rows that it counts and rows that it is measured on, by group.
        labels : sequence
            Labels of the groups.
        """
        places = list(permutations(range(len(labels)), 2))
        for name, (hits, rows) in shares.items():
            for a, b in places:
                pair, both = (name, labels[a], labels[b]), [a, b]
                guess = self._guess(name, labels[a]), self._guess(name, labels[b])
                found = log_evidence(hits[both], rows[both], guess, self.tolerance)
                weight, log = self.pairs.get(pair) or (self._share(len(places) * len(shares)), 0.0)
                self.pairs[pair] = weight, log + found
            seen = dict(zip(labels, np.column_stack([hits, rows]), strict=True))
            for group in {key[1] for key in self._past if key[0] == name} | set(seen):
                past = self._past.get((name, group), np.zeros(2))
                self._past[name, group] = self.memory * past + seen.get(group, np.zeros(2))
        self._n_windows += 1

    def _share(self, n_pairs: int) -> float:
        """Give a new pair its weight; those of all that may still come add up to 1 at most."""
        if not self._n_windows:
            return (1 - RESERVE) / n_pairs
        self._n_late += 1
        return RESERVE / (self._n_late * (self._n_late + 1))

    def _guess(self, name: str, group: Any) -> float:
        """Guess a group's rate from earlier windows; one half before the first."""
        hits, rows = self._past.get((name, group), np.zeros(2))
        return float((hits + PRIOR) / (rows + 2 * PRIOR))
