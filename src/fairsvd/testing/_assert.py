"""Assertions about the gaps of a fitted classifier."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._rng import stage_rng
from ..groups import require_two_groups
from ..metrics import hard_counts
from ..objective import GapLimit, Requirement, Seen, count_moves, on_groups, rows_needed

__all__ = ["assert_gap_below", "assert_met"]


def assert_gap_below(
    estimator: Any,
    X: Any,
    y: Any,
    sensitive_features: Any,
    limit: float,
    confidence: float | None = 0.95,
    *,
    gap: str = "equalized_odds",
    pos_label: Any = None,
    missing_group: str = "raise",
) -> None:
    """Fail unless the gap of a classifier is at most a limit, with a confidence.

    Parameters
    ----------
    estimator : object with ``predict``
        A fitted classifier of any library.
    X : array-like
        Rows that it was neither trained nor chosen on.
    y : array-like of shape (n,)
        Their labels.
    sensitive_features : array-like of shape (n,) or (n, n_columns)
        Their groups; several columns are intersected.
    limit : float in [0, 1]
        Largest accepted gap.
    confidence : float in (0, 1) or None, default=0.95
        The test passes for a model whose true gap exceeds the limit with a chance of at most
        1 - confidence. None: the measured gap decides.
    gap : str, default="equalized_odds"
        A gap or statistic of :class:`fairsvd.GapLimit`.
    pos_label : label or None, default=None
        The positive class of two; None means the second.
    missing_group : {"raise", "ignore", "own_group"}, default="raise"
        Rows whose group is missing: an error, left out, or a group "missing".

    Raises
    ------
    AssertionError
        If the bound (or the measured gap) exceeds the limit; the message says what was measured,
        and how many rows the limit would take.
    ValueError
        If an argument does not fit.

    See Also
    --------
    assert_met : The same for other requirements.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.dummy import DummyClassifier
    >>> from fairsvd.testing import assert_gap_below
    >>> X, y = np.zeros((400, 1)), np.arange(400) % 2
    >>> model = DummyClassifier().fit(X, y)
    >>> assert_gap_below(model, X, y, np.arange(400) // 200, limit=0.1)
    """
    asked = GapLimit(gap, limit)
    options = {"pos_label": pos_label, "missing_group": missing_group}
    assert_met(estimator, X, y, sensitive_features, asked, confidence, **options)


def assert_met(
    estimator: Any,
    X: Any,
    y: Any,
    sensitive_features: Any,
    requirement: Requirement,
    confidence: float | None = 0.95,
    *,
    pos_label: Any = None,
    missing_group: str = "raise",
) -> None:
    """Fail unless a classifier meets a requirement, with a confidence.

    Parameters
    ----------
    estimator, X, y, sensitive_features : object and array-likes
        As in :func:`assert_gap_below`.
    requirement : GapLimit, RatioLimit, MinimumRate, CountLimit or EachAttribute
        What is asked. The bound of a CountLimit is a bootstrap's, which is approximate.
    confidence : float in (0, 1) or None, default=0.95
        As in :func:`assert_gap_below`.
    pos_label : label or None, default=None
        As in :func:`assert_gap_below`.
    missing_group : {"raise", "ignore", "own_group"}, default="raise"
        As in :func:`assert_gap_below`.

    Raises
    ------
    AssertionError
        If it is not met.
    ValueError
        If an argument does not fit.
    """
    if isinstance(requirement, Requirement):
        requirement.check()
    if not isinstance(requirement, Requirement) or requirement.compares:
        raise ValueError(
            f"requirement={requirement!r}: wanted a GapLimit, RatioLimit, MinimumRate, CountLimit "
            "or EachAttribute of one of these (NoHarm compares with a network that is not there)."
        )
    if confidence is not None and not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r}: wanted a number in (0, 1), such as 0.95.")
    predicted = estimator.predict(X)
    options = {"pos_label": pos_label, "missing_group": missing_group}
    counts, pos, groups = hard_counts(y, predicted, sensitive_features, **options)
    require_two_groups(groups)
    nothing = np.zeros(0, dtype=np.int64)
    sizes = counts.shape[-1], len(counts)
    moves = count_moves(nothing, (nothing, nothing), nothing, sizes, pos)
    for each in on_groups([requirement], groups):
        _assert_one(each, Seen(counts, counts, moves, pos), confidence)


def _assert_one(requirement: Requirement, seen: Seen, confidence: float | None) -> None:
    n_rows = int(seen.counts.sum())
    measured, limit = float(requirement.measure(seen.counts, seen.pos)), requirement.limit
    text = f"{requirement.name} is {measured:.4g} on {n_rows:,} rows"
    if confidence is None:
        # NaN meets nothing.
        if not measured <= limit:
            raise AssertionError(f"{text}, more than the limit of {limit:.4g}.")
        return
    level = confidence

    def bound(factor: float = 1.0) -> float:
        return requirement.bound(seen.times(factor), level, stage_rng(0, "certificate"))

    upper = bound()
    if upper <= limit:
        return
    needed = rows_needed(lambda factor: bound(factor) <= limit, n_rows)
    more = (
        f"About {needed:,.0f} rows of the same rates would show that it is met."
        if np.isfinite(needed)
        else "No number of rows of the same rates would show that it is met."
    )
    raise AssertionError(
        f"{text}; with {confidence:.0%} confidence it is at most {upper:.4g}, more than the limit "
        f"of {limit:.4g}. {more}"
    )
