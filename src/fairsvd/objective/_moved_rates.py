"""Rates of groups, moved as little as gives them a certain gap."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ._counts import divide
from ._gaps import combine_spreads

__all__ = ["MovedRates", "common_rate"]


def common_rate(rates: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the rate (..., 1, C) of all groups' rows together from (..., n_groups, C)."""
    seen = ~np.isnan(rates)
    hits = np.where(seen, rates * rows, 0.0).sum(axis=-2, keepdims=True)
    return divide(hits, np.where(seen, rows, 0.0).sum(axis=-2, keepdims=True))


@dataclass(frozen=True)
class MovedRates:
    """A family of rates, one member for each gap.

    For a smaller gap the outer groups are pulled in, for a larger one the two outermost are pushed
    apart; of two groups the one of fewer rows moves more. Over several classes all spreads change
    by one factor; of the two rates of equalized odds the smaller spread changes only if it has to.

    Attributes
    ----------
    name : str
        The gap.
    start : ndarray of shape (n_rates, n_groups, C), float64
        The measured rates without the part of their spread that noise explains.
    lowest, highest : ndarray of shape (n_rates, 1, C), int64
        Position of the group with the lowest and the highest measured rate.
    share : ndarray of shape (n_rates, 1, C), float64
        How much of a change of the spread the lowest group makes.
    spreads, leads : ndarray of shape (n_rates, C), float64
        Spread of every rate, and of the one that makes the gap.
    """

    name: str
    start: NDArray[np.float64]
    lowest: NDArray[np.int64]
    highest: NDArray[np.int64]
    share: NDArray[np.float64]
    spreads: NDArray[np.float64]
    leads: NDArray[np.float64]

    @classmethod
    def of(cls, name: str, rates: NDArray[np.float64], rows: NDArray[np.float64]) -> MovedRates:
        """Find the family of measured rates (n_rates, n_groups, C) on these rows."""
        common = common_rate(rates, rows)
        noise = _noise(rates, rows, common)
        start = common + _kept(rates, noise, common) * (rates - common)
        order = np.argsort(rates, axis=1, kind="stable")  # NaN last
        n_seen = (~np.isnan(rates)).sum(axis=1, keepdims=True)
        lowest = order[:, :1]
        highest = np.take_along_axis(order, np.maximum(n_seen - 1, 0), axis=1)
        few, many = (np.take_along_axis(rows, at, axis=1) for at in (lowest, highest))
        low, high = (np.take_along_axis(start, at, axis=1) for at in (lowest, highest))
        spreads = np.where(n_seen < 2, np.nan, high - low)[:, 0]
        spreads, leads = _leading(spreads, np.sqrt(noise)[:, 0], name)
        share = divide(many, few + many)
        return cls(name, start, lowest, highest, share, spreads, leads)

    # Some thirty gaps are tried for each interval.
    @cached_property
    def _whole(self) -> float:
        return float(combine_spreads(list(self.spreads), self.name))

    @cached_property
    def _ends(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        low, high = (np.take_along_axis(self.start, k, axis=1) for k in (self.lowest, self.highest))
        return low, high

    def at(self, gap: float) -> NDArray[np.float64]:
        """Return the rates (n_rates, n_groups, C) of a gap in [0, 1]."""
        wanted = np.minimum(self.leads * (gap / self._whole), 1.0)
        wanted = np.where(self.spreads >= self.leads, wanted, np.minimum(self.spreads, wanted))
        wanted = wanted[:, None]
        low, high = self._ends
        low = np.clip(low + self.share * (high - low - wanted), 0, 1 - wanted)
        moved = np.clip(self.start, low, low + wanted)
        np.put_along_axis(moved, self.lowest, low, axis=1)
        np.put_along_axis(moved, self.highest, low + wanted, axis=1)
        # A rate that only one group has stays as it is.
        return np.where(np.isnan(wanted), self.start, moved)


def _leading(
    spreads: NDArray[np.float64], noise: NDArray[np.float64], name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the spreads (n_rates, C) that make the gap, also if noise explains all of them.

    Then the rows do not tell which rate differs: one of much noise could hide the most.
    """
    idle = not combine_spreads(list(spreads), name) > 0
    if idle:
        noisy = np.where(np.isnan(spreads), 0.0, noise).any()
        spreads = np.where(np.isnan(spreads), np.nan, noise if noisy else 1.0)
    if name != "equalized_odds":
        return spreads, spreads
    leads = np.broadcast_to(np.fmax.reduce(spreads), spreads.shape)
    if idle:
        first = np.arange(len(spreads))[:, None] == np.nan_to_num(spreads, nan=-1.0).argmax(axis=0)
        spreads = np.where(first | np.isnan(spreads), spreads, 0.0)
    return spreads, leads


def _noise(
    rates: NDArray[np.float64], rows: NDArray[np.float64], common: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute the mean variance (n_rates, 1, C) of the rates if all groups are alike."""
    seen = ~np.isnan(rates)
    noise = divide(np.where(seen, common * (1 - common), 0.0), np.where(seen, rows, 1.0))
    return noise.sum(axis=1, keepdims=True) / np.maximum(seen.sum(axis=1, keepdims=True), 1)


def _kept(
    rates: NDArray[np.float64], noise: NDArray[np.float64], common: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute the share (n_rates, 1, C) of the rates' spread that noise does not explain.

    The factor of James and Stein's estimator, not below 0.
    """
    seen = ~np.isnan(rates)
    found = np.where(seen, (rates - common) ** 2, 0.0).sum(axis=1, keepdims=True)
    found = found / np.maximum(seen.sum(axis=1, keepdims=True) - 1, 1)
    return np.clip(1 - noise / np.maximum(found, 1e-12), 0.0, 1.0)
