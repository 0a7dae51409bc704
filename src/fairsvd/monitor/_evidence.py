"""Evidence that one rate exceeds another by more than a tolerance, valid at every time.

The evidence of a window is a likelihood ratio: an alternative that was chosen before the window,
over the nearest pair of rates that the tolerance allows. Its mean is at most 1 as long as the true
rates are allowed, so that the product over windows ever exceeds 1 / alpha with a chance of at most
alpha (Ville). After Turner and Gruenwald (arXiv:2203.09785).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import xlog1py, xlogy

__all__ = ["log_evidence", "nearest_allowed"]

EDGE = 1e-9


def nearest_allowed(
    rates: tuple[float, float], rows: tuple[float, float], tolerance: float
) -> tuple[float, float]:
    """Find the rates (a, b) with a - b <= tolerance that are nearest to some others.

    Parameters
    ----------
    rates : (float, float) in (0, 1)
    rows : (float, float)
        Weights of both divergences: the sum of ``rows * KL(rate, nearest)`` is least.
    tolerance : float in [0, 1)

    Returns
    -------
    nearest : (float, float)
        The rates themselves if these are allowed.

    Notes
    -----
    Let s be the slope (q - p) / (p (1 - p)) of each rate q at its nearest p. The mean likelihood
    ratio under allowed rates r is the product of (1 + (r - p) s)**rows, at most the exponential of
    the sum of rows * (r - p) * s, which is not positive for any allowed r since p is nearest.
    """
    a, b = rates
    if a - b <= tolerance:
        return rates

    def slope(p: float) -> float:
        upper = p + tolerance
        return rows[0] * (upper - a) / (upper * (1 - upper)) + rows[1] * (p - b) / (p * (1 - p))

    # The slope rises from one end of what is allowed to the other.
    low, high = max(EDGE, EDGE - tolerance), 1 - tolerance - EDGE
    p = float(brentq(slope, low, high, xtol=1e-12))
    return p + tolerance, p


def log_evidence(
    hits: NDArray[np.float64],
    rows: NDArray[np.float64],
    guess: tuple[float, float],
    tolerance: float,
) -> float:
    """Measure what a window says for a difference of rates above the tolerance.

    Parameters
    ----------
    hits, rows : ndarray of shape (2,), float64
        Of the group whose rate may be the larger one, and of the other.
    guess : (float, float) in (0, 1)
        The rates by what was seen before the window.
    tolerance : float

    Returns
    -------
    evidence : float
        Logarithm of the likelihood ratio; 0 where the guess is allowed or a group has no rows.
    """
    if not rows.min() > 0:
        return 0.0
    nearest = np.array(nearest_allowed(guess, (rows[0], rows[1]), tolerance))
    rates = np.array(guess)
    of_guess = xlogy(hits, rates) + xlog1py(rows - hits, -rates)
    of_nearest = xlogy(hits, nearest) + xlog1py(rows - hits, -nearest)
    return float((of_guess - of_nearest).sum())
