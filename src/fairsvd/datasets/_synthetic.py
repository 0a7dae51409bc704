"""A generator of tables with exactly known bias and best predictions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from sklearn.utils import Bunch

from ._draws import as_generator, check_count, check_share, per_group, split_exactly
from ._images import named_groups

__all__ = ["make_biased_classification"]

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


class _Population(NamedTuple):
    """Distribution that the rows are drawn from: G groups, K classes, d features."""

    shares: Floats  # (G,) share of the rows
    rates: Floats  # (G, K) rates of the true classes in each group
    flips: Floats  # (G,) probability that a favourable label is recorded as class 0
    centres: Floats  # (G, K, d)
    noise: Floats  # (G,) standard deviation of every feature


def make_biased_classification(
    n_samples: int = 1000,
    *,
    n_features: int = 10,
    n_classes: int = 2,
    n_groups: int = 2,
    group_shares: ArrayLike | None = None,
    base_rate: float | None = None,
    base_rate_gap: float = 0.3,
    label_bias: float = 0.0,
    class_separation: float = 2.0,
    group_shift: float = 1.0,
    noise: ArrayLike = 1.0,
    random_state: Any = None,
) -> Bunch:
    """Draw a table of several groups with exactly known bias and best predictions.

    Given its class and group, a row is Gaussian with the same standard deviation in every
    direction. The last class is the favourable one, the first group the privileged one.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of rows.
    n_features : int, default=10
        At least ``n_classes + 1``.
    n_classes, n_groups : int, default=2
        At least 2 each.
    group_shares : array-like of shape (n_groups,), default=None
        Share of the rows that each group has; scaled to sum to 1. None: equal shares.
    base_rate : float in (0, 1), default=None
        Rate of the favourable class, mean over groups. None: ``1 / n_classes``.
    base_rate_gap : float, default=0.3
        Rate of the favourable class in the first group minus that in the last, in [-1, 1]; the
        other groups are spaced evenly between. All rates must stay in (0, 1). The other classes
        share the rest equally.
    label_bias : float in [0, 1], default=0.0
        Share of the last group's favourable labels that are recorded as class 0; it is 0 in the
        first group and spaced evenly between. ``target`` has the recorded labels,
        ``true_target`` the true ones.
    class_separation : float, default=2.0
        Distance between the means of any two classes, in units of the features; at least 0.
    group_shift : float, default=1.0
        Distance between the means of neighbouring groups, at least 0. It is orthogonal to the
        class means, so it reveals the group, and through the base rates the class.
    noise : float or array-like of shape (n_groups,), default=1.0
        Standard deviation of the features; a group with more noise is harder to predict.
    random_state : int, RandomState, Generator or None, default=None
        Source of randomness.

    Returns
    -------
    bunch : Bunch
        Drawn: ``data`` (float64 ndarray of shape (n_samples, n_features)), ``target`` and
        ``true_target`` (int64 of shape (n_samples,)), ``groups`` (int64 codes),
        ``sensitive_features`` (DataFrame with the column group: "g0", "g1", ...).
        Known exactly, of the recorded labels: ``probabilities``, P(y | x, group), and
        ``blind_probabilities``, P(y | x), (n_samples, n_classes); ``bayes_target`` and
        ``blind_bayes_target``, their most probable labels; ``base_rates`` and, of the true
        labels, ``true_base_rates`` (n_groups, n_classes); ``group_shares`` and ``flip_rates``
        (n_groups,).

    Raises
    ------
    ValueError
        If an argument is not as above; the message names it.

    Notes
    -----
    Groups, classes within groups and wrong labels occur in exact proportion: each count is less
    than one row away from its expectation, so the base rates hold in the sample too.

    Examples
    --------
    >>> from fairsvd.datasets import make_biased_classification
    >>> bunch = make_biased_classification(1000, base_rate_gap=0.4, random_state=0)
    >>> bunch.base_rates.round(3).tolist()
    [[0.3, 0.7], [0.7, 0.3]]
    """
    n_samples = check_count("n_samples", n_samples, 1)
    n_classes = check_count("n_classes", n_classes, 2)
    n_groups = check_count("n_groups", n_groups, 2)
    n_features = check_count("n_features", n_features, n_classes + 1)
    scale = per_group("noise", noise, n_groups, zero=False)
    rng = as_generator(random_state)
    population = _Population(
        _normalise_shares(group_shares, n_groups),
        _class_rates(n_classes, n_groups, base_rate, base_rate_gap),
        check_share("label_bias", label_bias) * np.linspace(0.0, 1.0, n_groups),
        _draw_centres(n_features, n_classes, n_groups, (class_separation, group_shift), rng),
        scale,
    )
    truth, recorded, groups = _draw_cells(n_samples, population, rng)
    normal = rng.standard_normal((n_samples, n_features))
    data = population.centres[groups, truth] + scale[groups, None] * normal
    return Bunch(
        data=data,
        target=recorded,
        true_target=truth,
        groups=groups,
        sensitive_features=named_groups("group", groups, [f"g{k}" for k in range(n_groups)]),
        target_names=[str(k) for k in range(n_classes)],
        **_exact_values(data, groups, population),
    )


def _normalise_shares(shares: ArrayLike | None, n_groups: int) -> Floats:
    if shares is None:
        return np.full(n_groups, 1.0 / n_groups)
    values = np.asarray(shares, dtype=np.float64)
    if values.shape != (n_groups,) or not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(f"group_shares must be {n_groups} numbers above 0, got {shares!r}")
    return values / values.sum()


def _class_rates(n_classes: int, n_groups: int, base_rate: float | None, gap: float) -> Floats:
    """Compute the rates of the classes in every group; the last class is the favourable one."""
    middle = 1.0 / n_classes if base_rate is None else float(base_rate)
    favourable = middle + gap * np.linspace(0.5, -0.5, n_groups)
    if not ((favourable > 0) & (favourable < 1)).all():
        raise ValueError(
            f"base_rate={middle:g} and base_rate_gap={gap:g} give rates of the favourable class "
            f"from {favourable.min():g} to {favourable.max():g}: all must be inside (0, 1)"
        )
    others = np.repeat((1 - favourable)[:, None] / (n_classes - 1), n_classes - 1, axis=1)
    return np.hstack([others, favourable[:, None]])


def _draw_centres(
    d: int, n_classes: int, n_groups: int, distances: tuple[float, float], rng: np.random.Generator
) -> Floats:
    """Place classes at equal distances and groups along one direction orthogonal to them."""
    for name, value in zip(("class_separation", "group_shift"), distances, strict=True):
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")
    frame = np.linalg.qr(rng.standard_normal((d, n_classes + 1)))[0].T
    classes = distances[0] / np.sqrt(2) * frame[:n_classes]
    steps = np.arange(n_groups) - (n_groups - 1) / 2
    shifts = distances[1] * steps[:, None] * frame[n_classes]
    centres: Floats = shifts[:, None, :] + classes[None, :, :]
    return centres


def _draw_cells(
    n: int, population: _Population, rng: np.random.Generator
) -> tuple[Codes, Codes, Codes]:
    """Fill the (group, class) cells in exact proportion; return true, recorded, group, shuffled."""
    n_groups, n_classes = population.rates.shape
    sizes = split_exactly(n, population.shares)
    cells = np.stack([split_exactly(sizes[g], population.rates[g]) for g in range(n_groups)])
    groups = np.repeat(np.arange(n_groups, dtype=np.int64), sizes)
    truth = np.repeat(np.tile(np.arange(n_classes, dtype=np.int64), n_groups), cells.ravel())
    # Rows are sorted by group and then class; the last rows of each group are flipped.
    flipped = np.floor(population.flips * cells[:, -1] + 0.5).astype(np.int64)
    from_end = np.cumsum(sizes)[groups] - np.arange(n)
    recorded = np.where(from_end <= flipped[groups], 0, truth)
    order = rng.permutation(n)
    return truth[order], recorded[order], groups[order]


def _exact_values(data: Floats, groups: Codes, population: _Population) -> dict[str, Any]:
    """Compute the exact probabilities and labels of the rows by Bayes' rule."""
    log_joint = _log_joint(data, population)
    joint = np.exp(log_joint - logsumexp(log_joint, axis=(1, 2), keepdims=True))
    of_group = log_joint[np.arange(len(data)), groups]
    conditional = np.exp(of_group - logsumexp(of_group, axis=1, keepdims=True))
    aware = _flip(conditional, population.flips[groups])
    blind = _flip(joint, population.flips).sum(axis=1)
    return {
        "probabilities": aware,
        "blind_probabilities": blind,
        "bayes_target": aware.argmax(axis=1),
        "blind_bayes_target": blind.argmax(axis=1),
        "base_rates": _flip(population.rates, population.flips),
        "true_base_rates": population.rates,
        "group_shares": population.shares,
        "flip_rates": population.flips,
    }


def _log_joint(data: Floats, population: _Population) -> Floats:
    """Return log p(x, group, true class) up to a constant, shape (n, G, K)."""
    n_groups, n_classes, d = population.centres.shape
    centres = population.centres.reshape(-1, d)
    # The squared difference is multiplied out to avoid an array of shape (n, G, K, d).
    squares = (data**2).sum(axis=1)[:, None] - 2 * data @ centres.T + (centres**2).sum(axis=1)
    squares = squares.reshape(-1, n_groups, n_classes)
    prior = np.log(population.shares)[:, None] + np.log(population.rates)
    variance = population.noise[:, None] ** 2
    return prior - d / 2 * np.log(variance) - squares / (2 * variance)


def _flip(probabilities: Floats, flips: Floats) -> Floats:
    """Move the flipped share of the last class to class 0; (..., K) with flips (...,)."""
    moved = probabilities[..., -1] * flips
    recorded = probabilities.copy()
    recorded[..., 0] += moved
    recorded[..., -1] -= moved
    return recorded
