"""Weights of rows turned into rows, for fits that take no weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Subset

from .._rng import resolve_seed, stage_rng
from ..arrays import is_dataset
from ..groups import cell_codes, encode_groups

__all__ = ["resample_by_weight"]


def resample_by_weight(
    X: Any,
    y: Any,
    sensitive_features: Any,
    sample_weight: ArrayLike,
    random_state: Any = None,
) -> tuple[Any, Any, Any]:
    """Draw as many rows as there are, each in proportion to its weight.

    Parameters
    ----------
    X : array-like, DataFrame, Tensor, ImageFrame or Dataset of n rows
        Whatever an editor takes. A Dataset comes back as ``torch.utils.data.Subset``.
    y : array-like of shape (n,)
        Labels of any type.
    sensitive_features : array-like of shape (n,) or (n, n_columns), or None
        Groups of any type; missing ones count as a group here.
    sample_weight : array-like of shape (n,)
        Finite, not negative, not all 0; the scale plays no part.
    random_state : int, RandomState instance or None, default=None
        Seeds the draw and the order of the rows.

    Returns
    -------
    X, y, sensitive_features
        n rows each, in one random order. pandas objects keep their type, and repeated rows their
        index labels; lists come back as lists; None stays None.

    Raises
    ------
    ValueError
        If ``sample_weight`` is not as above, or lengths differ.

    Notes
    -----
    The scheme is systematic resampling of residuals: a row of weight w appears floor(n w / sum of
    all w) or one time more, so that weights that are all equal give every row once. Rows of one
    (label, group) cell stand together, in random order, while the residuals are drawn: the size
    of every cell is the wanted one, too, rounded down or up. With the weights of AIF360's
    Reweighing label and group are therefore independent up to that rounding. Copies of a row may
    fall on both sides of a split. To validate on rows that were not edited on, split first,
    resample each side, and hand the split to the editor (``validation=PredefinedSplit(...)``).

    Examples
    --------
    >>> import numpy as np
    >>> from fairsvd.interop import resample_by_weight
    >>> X, y = np.arange(4.0)[:, None], np.array([0, 0, 1, 1])
    >>> rows, labels, _ = resample_by_weight(X, y, None, [3, 1, 0, 0], random_state=0)
    >>> sorted(rows[:, 0].tolist()), labels.tolist()
    ([0.0, 0.0, 0.0, 1.0], [0, 0, 0, 0])
    """
    weights = _checked_weights(sample_weight, X)
    rng = stage_rng(resolve_seed(random_state), "sample")
    cells = _cells(y, sensitive_features, len(weights))
    rows = rng.permutation(np.repeat(np.arange(len(weights)), _counts(weights, cells, rng)))
    return _take(X, rows), _take(y, rows), _take(sensitive_features, rows)


def _checked_weights(sample_weight: ArrayLike, X: Any) -> NDArray[np.float64]:
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (len(X),):
        raise ValueError(
            f"sample_weight has the shape {weights.shape} and X has {len(X)} rows: pass one "
            "weight for each row."
        )
    usable = np.isfinite(weights) & (weights >= 0)
    if not usable.all() or not weights.any():
        found = f"{weights[~usable][0]}" if not usable.all() else "0 in every row"
        raise ValueError(
            f"sample_weight is {found}: weights must be finite and not negative, and some above 0."
        )
    return weights


def _cells(y: Any, sensitive_features: Any, n_rows: int) -> NDArray[np.int64]:
    if len(y) != n_rows:
        raise ValueError(f"y has {len(y)} rows and X has {n_rows}: pass as many.")
    labels = encode_groups(y, n_rows, missing="own_group")
    if sensitive_features is None:
        return labels.codes
    groups = encode_groups(sensitive_features, n_rows, missing="own_group")
    return cell_codes(labels.codes, groups.codes, groups.n_groups)


def _counts(
    weights: NDArray[np.float64], cells: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Say how often each row is drawn: whole parts for sure, residuals systematically."""
    # Relative to the largest, so that equal weights sum without rounding.
    shares = weights / weights.max()
    expected = len(shares) * shares / shares.sum()
    counts = np.floor(expected).astype(np.int64)
    order = rng.permutation(len(cells))
    order = order[np.argsort(cells[order], kind="stable")]
    ends = np.cumsum((expected - counts)[order])
    # The residuals add up to a whole number, which a sum of floats misses by rounding. Rows of
    # weight 0 may come last: they have to share the end with the row before them.
    n_left = len(counts) - counts.sum()
    ends[ends >= ends[-1]] = n_left
    passed = np.minimum(np.floor(ends + rng.random()), n_left).astype(np.int64)
    counts[order] += np.diff(passed, prepend=0)
    return counts


def _take(data: Any, rows: NDArray[np.int64]) -> Any:
    """Return rows by position, as the type that came."""
    if data is None:
        return None
    if hasattr(data, "iloc"):
        return data.iloc[rows]
    if is_dataset(data):
        return Subset(data, rows.tolist())
    return [data[row] for row in rows] if isinstance(data, (list, tuple)) else data[rows]
