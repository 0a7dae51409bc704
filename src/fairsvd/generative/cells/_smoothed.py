"""Smoothed bootstrap: real rows of a cell, jittered along the cell's own directions."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...base import Interval, StrOptions
from ._base import CellGenerator, Cells
from ._codec import Encoded

__all__ = ["SmoothedGenerator", "bandwidth_of", "jitter"]

# Rows whose deviations are mixed into one jitter: its covariance is right for any number, its
# distribution is close to normal from about ten.
MIXED_ROWS = 16

# A value that so many of a cell's rows share (a zero of a zero-inflated column) is a point of
# mass, not one of a density: it is kept as it is.
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
    """Jitter rows with the covariance of the deviations and keep mean and covariance.

    Parameters
    ----------
    rows : ndarray of shape (n, p)
    mean : ndarray of shape (p,)
    deviations : ndarray of shape (n_cell, p)
        Of the cell's rows from their mean; 0 where missing.
    bandwidth : float
        Spread of the jitter in units of the cell's.
    rng : numpy Generator

    Returns
    -------
    jittered : ndarray of shape (n, p)
    """
    noise = np.zeros_like(rows)
    for _ in range(MIXED_ROWS):
        picked = deviations[rng.integers(len(deviations), size=len(rows))]
        noise += rng.standard_normal((len(rows), 1)) * picked
    noise *= bandwidth / np.sqrt(MIXED_ROWS)
    return mean + (rows - mean + noise) / np.sqrt(1 + bandwidth**2)


class SmoothedGenerator(CellGenerator):
    """Smoothed bootstrap within (label, group) cells.

    A real row of the cell is drawn, its numbers are jittered and its categories are flipped now
    and then. Dependences of any shape survive, since each row starts from a real one. Works on
    tables and images.

    Parameters
    ----------
    bandwidth : "silverman" or float >= 0, default="silverman"
        Spread of the jitter in units of the cell's; "silverman": (4 / 3n)^(1/5) for n rows of
        the cell, .42 at 100. 0 draws copies.
    flip : "auto" or float in [0, 1], default="auto"
        Probability that a category is replaced by that of another random row of the cell, that
        is, by the cell's rates; "auto": b^2 / (1 + b^2) for the bandwidth b, which is the
        jitter's part in the variance of a number.
    random_state : int, RandomState instance or None, default=None

    Attributes
    ----------
    cells_ : list
        ``(label, group)`` of every cell that can be drawn.

    Notes
    -----
    Silverman (1986), section 6.4: the jitter has the covariance of the cell and rows are pulled
    towards the cell's mean, so that mean and covariance stay. Departures: the bandwidth is the
    rule for one dimension (that for d dimensions tends to 1 and would leave nothing of the row
    drawn); the jitter is a random mix of 16 rows' deviations, which has the cell's covariance
    exactly, in memory of n x p; values that 5 % of the cell's rows or more share are kept, so
    that a zero-inflated column stays one; whole numbers and ranks are rounded, and numbers end at
    the table's smallest and largest. Values are missing where they are in the row drawn. A cell
    of one row gives copies.

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
        own = self._codec.encoded.take(members)
        size = (
            bandwidth_of(len(members)) if self.bandwidth == "silverman" else float(self.bandwidth)
        )
        drawn = rng.integers(len(members), size=n)
        rows = own.take(drawn)
        if size == 0:
            numbers = rows.numbers
        else:
            mean, deviations = _centred(own.numbers)
            numbers = jitter(rows.numbers, mean, deviations, size, rng)
            kept = self._mass_points(own.numbers)[drawn]
            numbers[kept] = rows.numbers[kept]
        flip = size**2 / (1 + size**2) if self.flip == "auto" else float(self.flip)
        return Encoded(numbers, _flipped(rows.codes, own.codes, flip, rng))

    def _mass_points(self, numbers: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Tell which entries hold a value that many rows of the cell share."""
        mass = np.zeros(numbers.shape, dtype=bool)
        # In a cell of few rows every value is shared by 5 % of them.
        least = max(LEAST_MASS, MASS * len(numbers))
        for k in [] if self._is_image else self._can_be_mass:
            _, inverse, counts = np.unique(numbers[:, k], return_inverse=True, return_counts=True)
            mass[:, k] = counts[inverse] >= least
        return mass


def _centred(numbers: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean of every column over what is known, and deviations, 0 where missing."""
    known = ~np.isnan(numbers)
    mean = np.where(known, numbers, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return mean, np.where(known, numbers - mean, 0)


def _flipped(
    codes: NDArray[np.int64], own: NDArray[np.int64], flip: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    others = rng.integers(len(own), size=codes.shape)
    other = np.take_along_axis(own, others, axis=0)
    flips = (rng.random(codes.shape) < flip) & (codes >= 0) & (other >= 0)
    return np.where(flips, other, codes)
