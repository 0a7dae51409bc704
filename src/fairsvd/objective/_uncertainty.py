"""How far gaps can be trusted: intervals, upper bounds and noise floors.

A gap is the largest minus the smallest of several rates, so it is never negative and is too large
on average: equal groups show a gap too. A percentile bootstrap repeats that bias and never covers
a gap of 0. The bounds here come from inverting a test instead: a value belongs to the interval if
the measured gap is usual among the gaps that a classifier with that value would show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from ._counts import divide
from ._gap_names import compared
from ._gaps import Rates, averaged, gap_of_rates, rate_rows, rates
from ._moved_rates import MovedRates, common_rate
from ._resampling import N_DRAWS, draw_noise
from ._statistics import STATISTICS, statistic, statistic_rows

__all__ = ["GapEstimate", "estimate_gaps", "estimate_spread"]

# Rows at the common rate that are added to a group's own before its spread is computed; without
# them a rate of 0 or 1 would have none. Two, as Agresti and Coull add for one rate.
PRIOR = 2.0
# Standard errors around the measured gap within which bounds are searched, and how closely, in
# shares of that range.
REACH = 8.0
PRECISION = 0.002
# Gaps that differ by less are equal.
ROUNDING = 1e-9
# How much wider than all values and their noise the range is that is mapped to shares in [0, 1].
UNIT = 40.0
# The name of a gap that compares one rate; which one does not matter to the bounds.
ONE_RATE = "equal_opportunity"


class GapEstimate(NamedTuple):
    """What a measured gap tells about the gap on all rows of that kind.

    Attributes
    ----------
    low, high : float in [0, 1]
        Interval with confidence ``level``; ``low`` is 0 where the groups may well be equal. With
        few rows or many groups the measured gap itself can lie above it, since it is biased.
    upper : float in [0, 1]
        One-sided bound: with confidence ``level`` the gap is not larger.
    noise_floor : float in [0, 1]
        Mean gap of a classifier that treats all groups alike, on as many rows.
    """

    low: float
    high: float
    upper: float
    noise_floor: float


def estimate_gaps(
    counts: NDArray[np.int64],
    names: Sequence[str],
    pos: int | None,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    n_draws: int = N_DRAWS,
) -> dict[str, GapEstimate]:
    """Compute intervals, upper bounds and noise floors of gaps from one table of counts.

    Parameters
    ----------
    counts : ndarray of shape (n_groups, n_classes, n_classes), int64
        Indexed [group, true, predicted].
    names : sequence of str
        Some of ``GAPS`` and ``STATISTICS``.
    pos : int or None
        As for :func:`gap`.
    rng : numpy.random.Generator
    level : float in (0, 1), default=0.95
        Confidence of the interval and of the upper bound.
    n_draws : int, default=1000
        Draws of the noise, shared by all gaps and by all values that are tried.

    Returns
    -------
    estimates : dict of str to GapEstimate
        NaN where too few groups have the rows that the gap compares.

    Notes
    -----
    For each value the rates are moved as little as gives it: outer groups are pulled in, or the
    two outermost are pushed apart, after the rates have been shrunk towards the common one by the
    share of their spread that noise explains (James and Stein). Their noise is that of resampled
    rows, scaled to the moved rates. The two tails that an interval leaves out share 1 - level: near
    0, where no value lies below, the lower bound gets all of it (as in Feldman and Cousins,
    arXiv:physics/9711021), far above the noise each gets half. ``benchmarks/coverage.py`` checks
    how often the intervals cover.
    """
    found: dict[str, GapEstimate] = {}
    gaps = [name for name in names if name not in STATISTICS]
    if gaps:
        noise = draw_noise(partial(rates, pos=pos), counts, rng, n_draws)
        tables = rates(counts, pos), rate_rows(counts, pos), Rates(*noise)
        found |= {name: _Model.of(name, tables).estimate(1 - level) for name in gaps}
    shares = [name for name in names if name in STATISTICS]
    if shares:
        noise = draw_noise(lambda c: [statistic(c, n, pos) for n in shares], counts, rng, n_draws)
        for name, own in zip(shares, noise, strict=True):
            values, rows = statistic(counts, name, pos), statistic_rows(counts, name, pos)
            found[name] = _Model.of_one(values, rows, own).estimate(1 - level)
    return {name: found[name] for name in names}


def estimate_spread(
    values: NDArray[np.float64],
    errors: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    n_draws: int = N_DRAWS,
) -> GapEstimate:
    """Compute the bounds of the difference between the largest and the smallest of some values.

    Parameters
    ----------
    values, errors : ndarray of shape (n_groups,), float64
        One value of each group, of any size, and its standard error; NaN where there is none.
    rng, level, n_draws
        As for :func:`estimate_gaps`.

    Returns
    -------
    estimate : GapEstimate
        In units of the values; NaN where fewer than two groups have one.
    """
    known = np.isfinite(values) & np.isfinite(errors)
    if known.sum() < 2:
        return GapEstimate(*(float("nan"),) * 4)
    values, errors = values[known], errors[known]
    # Shares close to one half, of so many rows that their standard error hardly depends on them.
    unit = UNIT * (np.ptp(values) + REACH * errors.max())
    if unit == 0:
        return GapEstimate(0.0, 0.0, 0.0, 0.0)
    shares = 0.5 + (values - values.mean()) / unit
    rows = shares * (1 - shares) / np.maximum(errors / unit, 1e-9) ** 2
    noise = rng.standard_normal((n_draws, len(values), 1))
    found = _Model.of_one(shares[:, None], rows[:, None], noise).estimate(1 - level)
    return GapEstimate(*(float(unit * bound) for bound in found))


@dataclass(frozen=True)
class _Model:
    """What a classifier with a given gap would show on rows like these.

    Attributes
    ----------
    name : str
        The gap.
    measured : float
    rows : ndarray of shape (n_rates, n_groups, C), float64
        Rows that each compared rate is measured on.
    common : ndarray of shape (n_rates, 1, C), float64
        Rates of all groups together.
    noise : ndarray of shape (n_rates, n_draws, n_groups, C), float64
    moved : MovedRates
    """

    name: str
    measured: float
    rows: NDArray[np.float64]
    common: NDArray[np.float64]
    noise: NDArray[np.float64]
    moved: MovedRates

    @classmethod
    def of(cls, name: str, tables: tuple[Rates, Rates, Rates]) -> _Model:
        """Pick what a gap compares from rates, their rows and their noise."""
        values, rows, noise = (
            np.stack([getattr(table, which) for which in compared(name)]) for table in tables
        )
        if name == "signed_average_odds":
            values, rows, noise = _average(values, rows, noise)
        return cls._of(name, values, rows, noise)

    @classmethod
    def of_one(cls, *tables: NDArray[np.float64]) -> _Model:
        """Compare one rate, given its values, rows and noise."""
        return cls._of(ONE_RATE, *(table[None] for table in tables))

    @classmethod
    def _of(cls, name: str, *tables: NDArray[np.float64]) -> _Model:
        values, rows, noise = tables
        measured = float(gap_of_rates(list(values), name))
        common = common_rate(values, rows)
        return cls(name, measured, rows, common, noise, MovedRates.of(name, values, rows))

    def estimate(self, alpha: float) -> GapEstimate:
        """Invert the test of every value in [0, 1]."""
        if np.isnan(self.measured):
            return GapEstimate(*(float("nan"),) * 4)
        equal = self._show(0.0, prior=0.0)
        floor, spread = float(equal.mean()), float(self._show(self.measured).std())
        # Beyond these a value is surely too small, or too large.
        reach = REACH * spread + 4 / np.nanmin(np.where(self.rows > 0, self.rows, np.nan))
        ends = max(0.0, self.measured - floor - reach), self.measured + reach
        # Rates of few rows are multiples of 1 / rows; the noise is not. Without half a row two
        # groups that show no gap at all would leave no room for one. The lower bound needs none:
        # with it intervals of few rows covered too often.
        slack = 0.5 / np.nanmax(self.rows)

        @cache
        def show(value: float) -> NDArray[np.float64]:
            return self._show(value)

        def within(value: float) -> float:
            """Share of draws of equal treatment with a gap of at least this."""
            return float((equal >= value).mean())

        def not_below(value: float) -> float:
            return float((show(value) <= self.measured + slack + ROUNDING).mean())

        def too_small(value: float) -> float:
            tail = alpha / 2 * (1 + within(value))
            return tail - float((show(value) >= self.measured - ROUNDING).mean())

        def not_too_large(tail: float) -> Callable[[float], float]:
            return lambda value: not_below(value) - tail * (1 - within(value))

        low = _last(too_small, *ends)
        high = _last(not_too_large(alpha / 2), *ends)
        upper = _last(not_too_large(alpha), *ends)
        return GapEstimate(low, high, min(upper, high), floor)

    def _show(self, value: float, prior: float = PRIOR) -> NDArray[np.float64]:
        """Draw the gaps (n_draws,) that a classifier with this gap shows."""
        rates = self.moved.at(value)
        spread = _deviation(rates, self.rows, self.common, prior)
        return gap_of_rates(list(rates[:, None] + self.noise * spread[:, None]), self.name)


def _deviation(
    rates: NDArray[np.float64],
    rows: NDArray[np.float64],
    common: NDArray[np.float64],
    prior: float = PRIOR,
) -> NDArray[np.float64]:
    """Compute the standard error of rates, with some rows at the common rate added to each."""
    mixed = (rates * rows + prior * common) / (rows + prior)
    return np.sqrt(divide(mixed * (1 - mixed), rows))


def _average(*of_odds: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Turn rates, rows and noise of TPR and FPR into those of the mean of both, as one rate.

    Its rows are those that would give one rate of that size the same standard error.
    """
    values, rows, noise = of_odds
    error = _deviation(values, rows, common_rate(values, rows))
    mean = averaged(*values)
    both = ~np.isnan(error).any(axis=0)
    alone = np.where(np.isnan(error), 0.0, error)
    total = np.sqrt((alone**2).sum(axis=0))
    joint = divide((alone[:, None] * noise).sum(axis=0), total + 1e-300)
    error = np.where(both, total / 2, total)
    alike = np.where(error > 0, divide(mean * (1 - mean), error**2), rows.sum(axis=0))
    return mean[None], alike[None], joint[None]


def _last(holds: Callable[[float], float], low: float, high: float) -> float:
    """Find the value in [low, high], and at most 1, up to which a function is not negative."""
    high = min(high, 1.0)
    if holds(low) < 0 or low >= high:
        return low
    if holds(high) >= 0:
        return high
    return float(brentq(holds, low, high, xtol=max(1e-9, PRECISION * (high - low))))
