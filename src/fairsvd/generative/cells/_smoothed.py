"""Smoothed bootstrap: real rows of a cell, jittered with the cell's covariance."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...base import Interval, StrOptions
from ._base import CellGenerator, Cells
from ._codec import Encoded

__all__ = ["SmoothedGenerator", "bandwidth_of", "jitter"]

# Number of rows whose deviations are mixed into one jitter. Any number gives the right covariance,
# about ten or more a distribution that is close to normal.
MIXED_ROWS = 16

# A value that at least this share and number of a cell's rows have, such as the zero of a
# zero-inflated column, is a point mass and is not jittered.
MASS = 0.05
LEAST_MASS = 5


def bandwidth_of(n_rows: int) -> float:
    """Return the normal-reference bandwidth (4 / 3n)^(1/5), in units of the cell's spread."""
    return float((4 / (3 * max(1, n_rows))) ** 0.2)


def jitter(
    rows: NDArray[np.float64],
    mean: NDArray[np.float64],
    deviations: NDArray[np.float64],
    bandwidth: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Jitter rows with the covariance of the deviations, preserving mean and covariance.

    Parameters
    ----------
    rows : ndarray of shape (n, p)
    mean : ndarray of shape (p,)
    deviations : ndarray of shape (n_cell, p)
        Deviations of the cell's rows from their mean; 0 where missing.
    bandwidth : float
        Spread of the jitter in units of the cell's.
    rng : numpy Generator

    Returns
    -------
    jittered : ndarray of shape (n, p)
    """
    noise = np.zeros_like(rows)
    for _ in range(MIXED_ROWS):
        drawn = deviations[rng.integers(len(deviations), size=len(rows))]
        noise += rng.standard_normal((len(rows), 1)) * drawn
    noise *= bandwidth / np.sqrt(MIXED_ROWS)
    return mean + (rows - mean + noise) / np.sqrt(1 + bandwidth**2)


class SmoothedGenerator(CellGenerator):
    """Smoothed bootstrap within (label, group) cells.

    It draws a real row of the cell, jitters its numbers and sometimes replaces its categories.
    Dependences of any shape survive, since each row starts from a real one. It works on tables
    and images.

    Parameters
    ----------
    bandwidth : "silverman" or float >= 0, default="silverman"
        Spread of the jitter in units of the cell's; "silverman": (4 / 3n)^(1/5) for the n rows of
        the cell, 0.42 for 100. 0 draws copies.
    flip : "auto" or float in [0, 1], default="auto"
        Probability that a category is replaced by that of a random row of the cell, which keeps
        the cell's rates; "auto": b^2 / (1 + b^2) for the bandwidth b, the jitter's share of the
        variance of a number.
    random_state : int, RandomState instance or None, default=None

    Attributes
    ----------
    cells_ : list
        ``(label, group)`` of every cell that can be drawn.

    Notes
    -----
    Silverman (1986), section 6.4: the jitter has the covariance of the cell, and rows are pulled
    towards the cell's mean, so that mean and covariance are preserved. Deviations: the bandwidth
    is the rule for one dimension (the rule for d dimensions tends to 1 and would erase the drawn
    row); the jitter is a random mix of 16 rows' deviations, which has the cell's covariance
    exactly and needs memory n x p; values that at least 5 % of the cell's rows share are kept, so
    that a zero-inflated column stays one; whole numbers and ranks are rounded, and numbers are
    clipped to the table's range. Values are missing where the drawn row lacks them. A cell of one
    row gives copies.

    Examples
    --------
    >>> import numpy as np
    >>> from fairsvd.generative import SmoothedGenerator
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> SmoothedGenerator(random_state=0).fit(X).sample(4).shape
    (4, 3)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **CellGenerator._parameter_constraints,
        "bandwidth": [StrOptions({"silverman"}), Interval(Real, 0, None, closed="left")],
        "flip": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="both")],
    }

    def __init__(
        self,
        *,
        bandwidth: str | float = "silverman",
        flip: str | float = "auto",
        random_state: Any = None,
    ) -> None:
        self.bandwidth = bandwidth
        self.flip = flip
        self.random_state = random_state

    def _learn(self, rows: Encoded, cells: Cells) -> None:
        columns = self._codec.of_kind("number", "integer", "rank")
        self._can_be_mass = [k for k, column in enumerate(columns) if column.kind != "rank"]

    def _draw(self, cell: int, n: int, rng: np.random.Generator) -> Encoded:
        members = self._cells.members(cell)
        real = self._codec.encoded.take(members)
        size = (
            bandwidth_of(len(members)) if self.bandwidth == "silverman" else float(self.bandwidth)
        )
        drawn = rng.integers(len(members), size=n)
        rows = real.take(drawn)
        if size == 0:
            numbers = rows.numbers
        else:
            mean, deviations = _centre(real.numbers)
            numbers = jitter(rows.numbers, mean, deviations, size, rng)
            kept = self._mass_points(real.numbers)[drawn]
            numbers[kept] = rows.numbers[kept]
        flip = size**2 / (1 + size**2) if self.flip == "auto" else float(self.flip)
        return Encoded(numbers, _flip(rows.codes, real.codes, flip, rng))

    def _mass_points(self, numbers: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Mark entries whose value many rows of the cell share."""
        mass = np.zeros(numbers.shape, dtype=bool)
        # In a small cell every value makes up 5 % of the rows.
        least = max(LEAST_MASS, MASS * len(numbers))
        for k in [] if self._is_image else self._can_be_mass:
            _, inverse, counts = np.unique(numbers[:, k], return_inverse=True, return_counts=True)
            mass[:, k] = counts[inverse] >= least
        return mass


def _centre(numbers: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean of every column over known values, and the deviations, 0 where missing."""
    known = ~np.isnan(numbers)
    mean = np.where(known, numbers, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return mean, np.where(known, numbers - mean, 0)


def _flip(
    codes: NDArray[np.int64], real: NDArray[np.int64], flip: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    other = np.take_along_axis(real, rng.integers(len(real), size=codes.shape), axis=0)
    flips = (rng.random(codes.shape) < flip) & (codes >= 0) & (other >= 0)
    return np.where(flips, other, codes)
