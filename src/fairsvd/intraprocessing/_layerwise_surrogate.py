"""What a surrogate of the objective says is worth trying next."""

from __future__ import annotations

from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.ensemble import GradientBoostingRegressor

__all__ = ["expected_improvement", "propose"]

# Median, and about one standard deviation of a normal distribution to either side.
QUANTILES = (0.16, 0.5, 0.84)
N_TREES = 30

# Coordinates that a split looks at: all of a few hundred. Of thousands, looking at all of them
# made a fit three times as slow, for twenty points that most coordinates split alike.
MOST_COORDINATES = 256

# Random points among which the most promising is taken; fewer in many dimensions, for memory.
MOST_POINTS, LEAST_POINTS, MOST_NUMBERS = 4096, 64, 2**20

# Least improvement that counts, one point of a utility in [0, 1].
LEAST_GAIN = 0.01


def expected_improvement(
    middle: NDArray[Any], spread: NDArray[Any], best: float
) -> NDArray[np.float64]:
    """Compute how far a normal distribution is expected to lie above ``best + LEAST_GAIN``.

    Parameters
    ----------
    middle, spread : ndarray of shape (n_points,)
        Mean and standard deviation; where the latter is 0 the improvement is certain.
    best : float
    """
    gain = np.asarray(middle, dtype=np.float64) - best - LEAST_GAIN
    spread = np.maximum(spread, 1e-12)
    z = gain / spread
    return gain * norm.cdf(z) + spread * norm.pdf(z)


def propose(
    points: NDArray[Any], scores: NDArray[Any], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw random points of the unit box and give the one of largest expected improvement.

    Three gradient-boosted tree models estimate quantiles of the score.

    Parameters
    ----------
    points : ndarray of shape (n_seen, n_dimensions)
        In [0, 1].
    scores : ndarray of shape (n_seen,)
        Greater is better; finite.
    rng : numpy.random.Generator

    Returns
    -------
    point : ndarray of shape (n_dimensions,), float32
    """
    width = points.shape[1]
    n_points = int(np.clip(MOST_NUMBERS // width, LEAST_POINTS, MOST_POINTS))
    pool = rng.random((n_points, width), dtype=np.float32)
    seeds = rng.integers(2**31 - 1, size=len(QUANTILES))
    # What comes in is ours; the checks of ninety small trees would take as long as the trees.
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        low, middle, high = (
            GradientBoostingRegressor(
                loss="quantile",
                alpha=quantile,
                n_estimators=N_TREES,
                max_features=min(width, MOST_COORDINATES),
                random_state=int(seed),
            )
            .fit(points, scores)
            .predict(pool)
            for quantile, seed in zip(QUANTILES, seeds, strict=True)
        )
    # Quantiles that are fitted apart may cross.
    gains = expected_improvement(middle, np.abs(high - low) / 2, float(scores.max()))
    return pool[int(gains.argmax())]
