"""The fair Bayes rule: the best decisions under a gap, from the probabilities of the cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from ._gap_names import compared

__all__ = ["ALPHAS", "FairRule", "solve_rules"]

# Gaps that the rule allows on the rows it is solved on, from the loosest to the strictest: each
# solution is a good start for the next one.
ALPHAS = (0.2, 0.1, 0.06, 0.04, 0.02, 0.01, 0.005, 0.001)

# The maximum over the classes is smoothed over this share of the scores' standard deviation, and
# the absolute value of a multiplier over this share of its own scale.
SMOOTHING = 0.02

# A cell's share is estimated as if so many rows more were spread as independence of label and
# group has them: a rate of a cell with few rows is known badly, and must not rule the others.
PRIOR_ROWS = 5.0


@dataclass(frozen=True)
class FairRule:
    """Decisions that are linear in the probabilities of the (label, group) cells.

    Attributes
    ----------
    weights : ndarray of shape (n_cells, n_classes), float64
        Cells are numbered ``y * n_groups + group``; the class of the largest score is predicted.
    alpha : float
        The gap that was allowed.
    """

    weights: NDArray[np.float64]
    alpha: float

    def scores(self, cells: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score the classes (n, n_classes) from the probabilities of the cells (n, n_cells)."""
        return cells @ self.weights

    def shifted(self, cut: float) -> FairRule:
        """Lower the score of the second of two classes, so that the best cut becomes 0."""
        # The probabilities of the cells add up to 1.
        return replace(self, weights=self.weights - np.array([0.0, cut]) if cut else self.weights)


def solve_rules(
    cells: NDArray[np.float64],
    counts: NDArray[np.integer],
    gap: str,
    pos: int | None,
    utility: str,
    alphas: Sequence[float] = ALPHAS,
    weights: NDArray[np.float64] | None = None,
    divisions: Sequence[tuple[int, ...] | None] = (None,),
) -> list[FairRule]:
    """Find the decisions of highest expected utility under each of some limits on the gap.

    Parameters
    ----------
    cells : ndarray of shape (n, n_cells), float64
        Predicted probabilities of the (label, group) cells, ``y * n_groups + group``.
    counts : ndarray of shape (n_classes, n_groups)
        Rows (or weights) of each cell, of which the shares are estimated.
    gap : str
        One of ``GAPS``.
    pos : int or None
        Code of the positive class of two; None, and more than two classes: every class.
    utility : str
        "accuracy"; "balanced_accuracy"; any other name weighs the cells alike.
    alphas : sequence of float
        Limits, from the loosest on.
    weights : ndarray of shape (n,), optional
        How often each row counts; None: once.
    divisions : sequence of (tuple of n_groups int or None), default=(None,)
        Between what the gap is limited: None stands for the groups, a tuple for the value of each
        group, of which those of one value are taken together. All of them are limited.

    Returns
    -------
    rules : list of FairRule
        One for each limit.

    Notes
    -----
    After LinearPost (arXiv:2405.04025): the dual of the linear programme over randomised
    decisions is a convex function of one multiplier for each group and each rate that the gap
    compares. Deviations: the maximum over classes is smoothed, so that scipy's L-BFGS solves the
    dual; decisions are not randomised on ties; groups without rows in a cell have no multiplier
    for its rate; shares are shrunk towards independence of label and group. For several classes
    each class's gap is limited, and for average odds each rate's, where the package's gap is their
    mean.
    """
    shares = shrunk_shares(counts)
    gains = -_losses(shares, utility)
    present = np.asarray(counts) > 0
    features = np.concatenate([_features(shares, present, gap, pos, each) for each in divisions])
    rules, multipliers = [], np.zeros(features.shape[:2])
    for alpha in alphas:
        multipliers = _solve(cells, gains, features, alpha, multipliers, weights)
        slopes = gains + np.einsum("ia,iakc->kc", multipliers, features)
        rules.append(FairRule(slopes, float(alpha)))
    return rules


def shrunk_shares(counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Estimate the shares of the cells (n_classes, n_groups), pulled towards independence."""
    counts = np.asarray(counts, dtype=np.float64)
    total = counts.sum()
    independent = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / total**2
    return (counts + PRIOR_ROWS * independent) / (total + PRIOR_ROWS)


def _losses(shares: NDArray[np.float64], utility: str) -> NDArray[np.float64]:
    """Give the loss (n_cells, n_classes) of predicting a class for a row of a cell."""
    n_classes, n_groups = shares.shape
    if utility == "accuracy":
        weights = np.ones_like(shares)
    elif utility == "balanced_accuracy":
        weights = np.ones_like(shares) / (n_classes * shares.sum(axis=1, keepdims=True))
    else:
        # A group that has no rows at all has no cells to weigh.
        weights = np.divide(1 / shares.size, shares, out=np.zeros_like(shares), where=shares > 0)
    wrong = 1 - np.repeat(np.eye(n_classes), n_groups, axis=0)
    return weights.reshape(-1, 1) * wrong


def _features(
    shares: NDArray[np.float64],
    present: NDArray[np.bool_],
    gap: str,
    pos: int | None,
    members: tuple[int, ...] | None,
) -> NDArray[np.float64]:
    """Write rates of groups, or of groups of one value, as linear functions of the decisions.

    Returns
    -------
    features : ndarray of shape (n_rates, n_groups, n_cells, n_classes)
        The mean over rows of ``cells @ features[i, a]``, at the decided class, is the rate i of
        group or value a. Zero where it has no rows for the rate, or where there is no such value.
    """
    n_classes, n_groups = shares.shape
    targets = [pos] if n_classes == 2 and pos is not None else list(range(n_classes))
    rates = []
    for which in compared(gap):
        for target in targets[: 1 if which == "accuracy" else None]:
            rates.append(_rate(shares, present, which, int(target), members))
    if gap == "signed_average_odds":
        half = len(rates) // 2
        rates = [_halved(a, b) for a, b in zip(rates[:half], rates[half:], strict=True)]
    return np.stack(rates).reshape(len(rates), n_groups, n_classes * n_groups, n_classes)


def _halved(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average two rates of the groups that have both; zero for the others, as for no rows."""
    axes = tuple(range(1, one.ndim))
    both = (np.abs(one).sum(axis=axes) > 0) & (np.abs(other).sum(axis=axes) > 0)
    return np.where(both.reshape(-1, *[1] * (one.ndim - 1)), (one + other) / 2, 0.0)


def _rate(
    shares: NDArray[np.float64],
    present: NDArray[np.bool_],
    which: str,
    target: int,
    members: tuple[int, ...] | None,
) -> NDArray[np.float64]:
    """Give one rate of every group or value, shape (n_groups, n_classes, n_groups, n_classes)."""
    n_classes, n_groups = shares.shape
    counted = np.ones(n_classes, dtype=bool)
    if which in ("tpr", "fpr"):
        counted = (np.arange(n_classes) == target) == (which == "tpr")
    feature = np.zeros((n_groups, n_classes, n_groups, n_classes))
    values = np.arange(n_groups) if members is None else np.array(members)
    for value in range(n_groups):
        own = np.flatnonzero(values == value)
        if not present[np.ix_(counted, own)].any():
            continue
        mass = shares[np.ix_(counted, own)].sum()
        for y in np.flatnonzero(counted):
            decided = y if which == "accuracy" else target
            feature[value, y, own, decided] = 1 / mass
    return feature


def _solve(
    cells: NDArray[np.float64],
    gains: NDArray[np.float64],
    features: NDArray[np.float64],
    alpha: float,
    start: NDArray[np.float64],
    weights: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """Minimise the smoothed dual over multipliers (n_rates, n_groups) that add up to 0 a rate."""
    comparable = np.abs(features).sum(axis=(2, 3)) > 0
    comparable &= comparable.sum(axis=1, keepdims=True) > 1
    plain, n_rows = cells @ gains, len(cells)
    # Of mean 1; without weights no number is multiplied.
    times = None if weights is None else weights[:, None] / weights.mean()
    width = SMOOTHING * max(_spread(plain, times), 1e-12)
    # A column for each rate and group, a row for each decision of each row.
    parts = np.tensordot(cells, features, axes=(1, 2)).transpose(0, 3, 1, 2)
    parts = np.ascontiguousarray(parts).reshape(-1, comparable.size)
    number = np.maximum(comparable.sum(axis=1, keepdims=True), 1)

    def centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
        mean = np.where(comparable, values, 0.0).sum(axis=1, keepdims=True) / number
        return np.where(comparable, values - mean, 0.0)

    def dual(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        multipliers = centred(flat.reshape(comparable.shape))
        scores = plain + np.einsum("rm,m->r", parts, multipliers.ravel()).reshape(plain.shape)
        largest, decided = _smoothed_maximum(scores / width)
        if times is not None:
            largest, decided = largest * times[:, 0], decided * times
        size = np.sqrt(multipliers**2 + width**2)
        value = width * largest.mean() + alpha / 2 * size.sum()
        slope = np.einsum("r,rm->m", decided.ravel(), parts).reshape(size.shape) / n_rows
        return float(value), centred(slope + alpha / 2 * multipliers / size).ravel()

    found = minimize(dual, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return centred(found.x.reshape(comparable.shape))


def _spread(values: NDArray[np.float64], times: NDArray[np.float64] | None) -> float:
    """Compute the standard deviation of all values of rows, which may count several times."""
    if times is None:
        return float(values.std())
    centred = values - (times * values).mean()
    return float(np.sqrt((times * centred**2).mean()))


def _smoothed_maximum(
    scores: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the log-sum-exp (n,) of rows and its gradient, their softmax."""
    top = scores.max(axis=1, keepdims=True)
    powers = np.exp(scores - top)
    total = powers.sum(axis=1, keepdims=True)
    return (np.log(total) + top)[:, 0], powers / total
