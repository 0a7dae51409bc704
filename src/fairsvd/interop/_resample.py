"""Resample rows by weight, for fits that take no weights."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Subset

from .._rng import resolve_seed, stage_rng
from ..arrays import is_dataset, open_rows
from ..containers import as_known, count_rows, label_codes
from ..groups import cell_codes, encode_groups

__all__ = ["resample_by_weight"]


def resample_by_weight(
    X: Any,
    y: Any,
    sensitive_features: Any,
    sample_weight: ArrayLike,
    random_state: Any = None,
) -> tuple[Any, Any, Any]:
    """Draw n of n rows in proportion to their weights.

    Parameters
    ----------
    X : array-like, DataFrame, Tensor, ImageFrame or Dataset of n rows
        Any X of an editor. A Dataset is returned as ``torch.utils.data.Subset``.
    y : array-like of shape (n,)
        Class labels.
    sensitive_features : array-like of shape (n,) or (n, n_columns), or None
        Groups of any type; missing values count as a group here.
    sample_weight : array-like of shape (n,)
        Finite, not negative, not all 0; the scale does not matter.
    random_state : int, RandomState instance or None, default=None
        Seeds the draw and the order of the rows.

    Returns
    -------
    X, y, sensitive_features
        n rows each, in one random order. pandas objects keep their type and repeat index labels;
        lists stay lists; None stays None; tables of other packages become those of pandas.

    Raises
    ------
    ValueError
        If ``sample_weight`` is not as above, or lengths differ.

    Notes
    -----
    The scheme is systematic resampling of residuals: a row of weight w appears floor(n w / sum of
    all w) times or once more, so equal weights give every row once. The residuals are drawn with
    the rows sorted by (label, group) cell, so every cell also has its expected size, rounded down
    or up. With the weights of AIF360's Reweighing label and group are therefore independent up to
    that rounding. Copies of a row can fall on both sides of a split. To validate on rows that were
    not used for editing, split first, resample each side, and pass the split to the editor
    (``validation=PredefinedSplit(...)``).

    Examples
    --------
    >>> import numpy as np
    >>> from fairsvd.interop import resample_by_weight
    >>> X, y = np.arange(4.0)[:, None], np.array([0, 0, 1, 1])
    >>> rows, labels, _ = resample_by_weight(X, y, None, [3, 1, 0, 0], random_state=0)
    >>> sorted(rows[:, 0].tolist()), labels.tolist()
    ([0.0, 0.0, 0.0, 1.0], [0, 0, 0, 0])
    """
    open_rows(X)  # refuses what has no rows to draw, such as a loader
    X = X if hasattr(X, "detach") else as_known(X, "X")
    y, sensitive_features = as_known(y, "y"), as_known(sensitive_features, "sensitive_features")
    weights = _check_weights(sample_weight, X)
    rng = stage_rng(resolve_seed(random_state), "sample")
    cells = _encode_cells(y, sensitive_features, len(weights))
    rows = rng.permutation(np.repeat(np.arange(len(weights)), _draw_counts(weights, cells, rng)))
    return _take(X, rows), _take(y, rows), _take(sensitive_features, rows)


def _check_weights(sample_weight: ArrayLike, X: Any) -> NDArray[np.float64]:
    try:
        weights = np.asarray(as_known(sample_weight, "sample_weight"), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"sample_weight holds no numbers ({error}): pass one per row.") from error
    n_rows = count_rows(X)
    if weights.shape != (n_rows,):
        raise ValueError(
            f"sample_weight has the shape {weights.shape} but X has {n_rows} rows: pass one weight "
            "per row."
        )
    usable = np.isfinite(weights) & (weights >= 0)
    if not usable.all() or not weights.any():
        problem = f"{weights[~usable][0]}" if not usable.all() else "0 in every row"
        raise ValueError(
            f"sample_weight is {problem}: weights must be finite and not negative, some above 0."
        )
    return weights


def _encode_cells(y: Any, sensitive_features: Any, n_rows: int) -> NDArray[np.int64]:
    _, codes = label_codes(y)
    if len(codes) != n_rows:
        raise ValueError(f"y has {len(codes)} rows but X has {n_rows}: pass one label per row.")
    if sensitive_features is None:
        return codes
    groups = encode_groups(sensitive_features, n_rows, missing="own_group")
    return cell_codes(codes, groups.codes, groups.n_groups)


def _draw_counts(
    weights: NDArray[np.float64], cells: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw how often each row appears: its whole part, and its residual systematically."""
    # Relative to the largest weight, so that equal weights sum without rounding.
    shares = weights / weights.max()
    expected = len(shares) * shares / shares.sum()
    counts = np.floor(expected).astype(np.int64)
    order = rng.permutation(len(cells))
    order = order[np.argsort(cells[order], kind="stable")]
    ends = np.cumsum((expected - counts)[order])
    # The residuals sum to a whole number, up to rounding, which is corrected here. Rows of weight 0
    # at the end must share the end of the row before them.
    n_left = len(counts) - counts.sum()
    ends[ends >= ends[-1]] = n_left
    passed = np.minimum(np.floor(ends + rng.random()), n_left).astype(np.int64)
    counts[order] += np.diff(passed, prepend=0)
    return counts


def _take(data: Any, rows: NDArray[np.int64]) -> Any:
    """Return rows by position, in the type of the data."""
    if data is None:
        return None
    if hasattr(data, "iloc"):
        return data.iloc[rows]
    if is_dataset(data):
        return Subset(data, rows.tolist())
    if isinstance(data, Mapping):
        return {name: _take(column, rows) for name, column in data.items()}
    if isinstance(data, (list, tuple)):
        return [data[row] for row in rows]
    # These take no array of positions.
    return (np.asarray(data) if isinstance(data, (array, memoryview, range)) else data)[rows]
