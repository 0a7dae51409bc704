"""How real and synthetic rows become one data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import column_or_1d

from ...groups import is_frame
from ..cells import stacked, take
from ._data import SamplerData

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["assembled"]


def assembled(
    data: SamplerData,
    real: NDArray[np.int64],
    carriers: NDArray[np.int64],
    generated: Any,
    positions: Sequence[int],
) -> tuple[Any, Any, Any]:
    """Put real and synthetic rows together.

    Parameters
    ----------
    data : SamplerData
    real : ndarray of int64
        Rows of X that stay, in order.
    carriers : ndarray of int64
        For each synthetic row a real row of its cell: label, groups and the columns that the
        group determines are its.
    generated : DataFrame, ndarray or None
        The generated columns, a row for each carrier.
    positions : sequence of int
        Their positions in X.

    Returns
    -------
    X, y, sensitive_features
        y carries the groups in its index.
    """
    source = np.concatenate([real, carriers])
    sensitive = None if data.sensitive is None else take(data.sensitive, source)
    index = None if sensitive is None else _group_index(sensitive)
    X = (
        take(data.X, source)
        if generated is None
        else _joined(data.X, real, carriers, generated, positions)
    )
    if is_frame(X) and data.source == "index of X":
        X = X.set_axis(index, axis=0)
    if sensitive is not None and sensitive.shape[1] == 1:
        sensitive = sensitive.iloc[:, 0]
    labels = _labels(data.y, source, index)
    if data.lists[1] and index is None:
        labels = labels.tolist()
    return (X.tolist() if data.lists[0] else X), labels, sensitive


def _group_index(sensitive: pd.DataFrame) -> pd.Index:
    import pandas as pd

    if sensitive.shape[1] == 1:
        return pd.Index(sensitive.iloc[:, 0], name=sensitive.columns[0])
    return pd.MultiIndex.from_frame(sensitive)


def _labels(y: Any, source: NDArray[np.int64], index: pd.Index | None) -> Any:
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


def _joined(
    X: Any, real: NDArray[np.int64], carriers: NDArray[np.int64], generated: Any, positions: Any
) -> Any:
    if X.ndim == 4:
        return stacked([X[real], generated])
    if not is_frame(X):
        rows = X[carriers]
        rows[:, positions] = generated
        return stacked([X[real], rows])
    import pandas as pd

    place = {position: k for k, position in enumerate(positions)}
    carried = take(X, carriers)
    columns = [
        generated.iloc[:, place[k]] if k in place else carried.iloc[:, k] for k in range(X.shape[1])
    ]
    rows = pd.concat(columns, axis=1).set_axis(X.columns, axis=1)
    return stacked([take(X, real), rows])
