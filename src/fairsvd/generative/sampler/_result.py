"""Join real and synthetic rows into one data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import column_or_1d

from ...containers import is_frame
from ..cells import stack, take
from ._data import SamplerData

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["assemble"]


def assemble(
    data: SamplerData,
    real: NDArray[np.int64],
    carriers: NDArray[np.int64],
    generated: Any,
    positions: Sequence[int],
) -> tuple[Any, Any, Any]:
    """Join real and synthetic rows.

    Parameters
    ----------
    data : SamplerData
    real : ndarray of int64
        Positions of the real rows to keep, in order.
    carriers : ndarray of int64
        For each synthetic row a real row of its cell, which provides its label, its groups and
        the columns that the group determines.
    generated : DataFrame, ndarray or None
        The generated columns, one row per carrier.
    positions : sequence of int
        Their positions in X.

    Returns
    -------
    X, y, sensitive_features
        y has the groups in its index.
    """
    source = np.concatenate([real, carriers])
    sensitive = None if data.sensitive is None else take(data.sensitive, source)
    index = None if sensitive is None else _group_index(sensitive)
    X = (
        take(data.X, source)
        if generated is None
        else _join(data.X, real, carriers, generated, positions)
    )
    if is_frame(X) and data.source == "index of X":
        X = X.set_axis(index, axis=0)
    if sensitive is not None and sensitive.shape[1] == 1:
        sensitive = sensitive.iloc[:, 0]
    labels = _take_labels(data.y, source, index)
    if data.lists[1] and index is None:
        labels = labels.tolist()
    return (X.tolist() if data.lists[0] else X), labels, sensitive


def _group_index(sensitive: pd.DataFrame) -> pd.Index:
    import pandas as pd

    if sensitive.shape[1] == 1:
        return pd.Index(sensitive.iloc[:, 0], name=sensitive.columns[0])
    return pd.MultiIndex.from_frame(sensitive)


def _take_labels(y: Any, source: NDArray[np.int64], index: pd.Index | None) -> Any:
    if not hasattr(y, "iloc"):
        y = column_or_1d(y)
    labels = take(y, source)
    if index is None:
        return labels
    import pandas as pd

    return (
        labels.set_axis(index, axis=0)
        if hasattr(labels, "iloc")
        else pd.Series(labels, index=index)
    )


def _join(
    X: Any, real: NDArray[np.int64], carriers: NDArray[np.int64], generated: Any, positions: Any
) -> Any:
    if X.ndim == 4:
        return stack([X[real], generated])
    if not is_frame(X):
        rows = X[carriers]
        rows[:, positions] = generated
        return stack([X[real], rows])
    import pandas as pd

    place = {position: k for k, position in enumerate(positions)}
    carried = take(X, carriers)
    columns = [
        generated.iloc[:, place[k]] if k in place else carried.iloc[:, k] for k in range(X.shape[1])
    ]
    rows = pd.concat(columns, axis=1).set_axis(X.columns, axis=1)
    return stack([take(X, real), rows])
