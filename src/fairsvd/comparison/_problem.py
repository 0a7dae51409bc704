"""The rows and the settings of a comparison, read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone

from .._messages import did_you_mean
from ..arrays import is_dataset, open_rows
from ..base import Reading, positive_code, read_fit_inputs
from ..containers import as_known, as_numbers
from ..groups import Groups, encode_groups
from ..metrics import MEASURES, read_weights
from ._encode import encoder_for

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Problem", "as_array", "read_problem", "take"]


@dataclass(frozen=True)
class Problem:
    """The rows and the settings of a comparison.

    Attributes
    ----------
    X : ndarray, DataFrame or ImageFrame of n rows
        As it came.
    preprocessing : transformer or None
        Not fitted; makes numbers of X.
    codes : ndarray of shape (n,), int64
        Classes as positions in ``classes``.
    classes : ndarray of shape (n_classes,)
    groups : Groups
        At least two, none missing.
    dtype : torch.dtype
        Type of the rows that networks get.
    pos : int or None
        Code of the positive class; None for more than two classes.
    base : object
        As of :func:`compare`.
    tolerance : float in [0, 1]
    seed : int
    weights : ndarray of shape (n,), float64, or None
        How often each row counts; None: once.
    measures : tuple of str
        Names of measures by group that are wanted.
    """

    X: Any
    preprocessing: Any
    codes: NDArray[np.int64]
    classes: NDArray[Any]
    groups: Groups
    dtype: torch.dtype
    pos: int | None
    base: Any
    tolerance: float
    seed: int
    weights: NDArray[np.float64] | None = None
    measures: tuple[str, ...] = ()

    @property
    def wants_shares(self) -> bool:
        """Tell whether a measure needs probabilities."""
        return any(MEASURES[name].of_scores is not None for name in self.measures)

    @property
    def sensitive(self) -> pd.DataFrame:
        """The sensitive features as a table, one column each, under their names."""
        import pandas as pd

        labels = self.groups.labels
        rows = labels if len(self.groups.names) > 1 else [(label,) for label in labels]
        table = pd.DataFrame(list(rows), columns=list(self.groups.names), dtype=object)
        return table.iloc[self.groups.codes].reset_index(drop=True)


def take(X: Any, rows: NDArray[np.int64]) -> Any:
    """Select rows by position."""
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def read_problem(
    X: Any,
    y: Any,
    sensitive_features: Any,
    *,
    preprocessing: Any,
    base: Any,
    pos_label: Any,
    tolerance: float,
    seed: int,
    sample_weight: Any = None,
    measures: str | Sequence[str] | None = None,
) -> Problem:
    """Read and check the rows as every editor does.

    Raises
    ------
    ValueError
        An input is invalid; the message names the argument and what to do.
    """
    if not 0 <= tolerance <= 1:
        raise ValueError(f"tolerance={tolerance!r}: wanted a difference of rates in [0, 1].")
    if sensitive_features is None:
        raise ValueError(
            "sensitive_features is None: wanted one group a row, or a table with a column for "
            "each attribute, since the gap between groups is what is compared."
        )
    X = _selectable(X)
    if preprocessing is None:
        preprocessing = encoder_for(X)
    X = as_numbers(X) if preprocessing is None else X
    encoded = _encode(preprocessing, X, y)
    inputs = read_fit_inputs(BaseEstimator(), encoded, y, sensitive_features, Reading(base))
    names = inputs.names or None
    groups = encode_groups(sensitive_features, len(inputs.rows), names=names)
    pos = _positive_code(pos_label, inputs.classes)
    codes = inputs.rows.y.numpy()
    dtype = inputs.rows.X.dtype
    weights = None if sample_weight is None else read_weights(sample_weight, len(codes))
    given = X, preprocessing, codes, inputs.classes, groups, dtype, pos, base, float(tolerance)
    return Problem(*given, seed, weights, _read_measures(measures))


def _read_measures(measures: str | Sequence[str] | None) -> tuple[str, ...]:
    if measures is None:
        return ()
    names = tuple(MEASURES) if measures == "all" else measures
    names = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
    for name in names:
        if name not in MEASURES:
            hint = did_you_mean(name, MEASURES)
            raise ValueError(
                f"measures={name!r}: wanted 'all' or some of {', '.join(MEASURES)}.{hint}"
            )
    return names


def _selectable(X: Any) -> Any:
    """Refuse data whose rows cannot be selected, and say what to do."""
    if is_dataset(X):
        raise ValueError(
            f"X is a {type(X).__name__}, whose rows cannot be selected: pass an array, a "
            "DataFrame, or an ImageFrame."
        )
    open_rows(X)  # refuses what has no rows to select, such as a loader
    X = as_known(X, "X")
    return X if hasattr(X, "shape") else np.asarray(X)


def _encode(preprocessing: Any, X: Any, y: Any) -> Any:
    """Encode all rows once, to check them; each fold fits the preprocessing anew."""
    if preprocessing is None:
        return X
    return as_array(clone(preprocessing).fit(X, y).transform(X))


def as_array(encoded: Any) -> Any:
    """Return what a preprocessing gave as an array, sparse matrices too."""
    return encoded.toarray() if hasattr(encoded, "toarray") else np.asarray(encoded)


def _positive_code(pos_label: Any, classes: NDArray[Any]) -> int | None:
    if len(classes) > 2:
        if pos_label is not None:
            raise ValueError(
                f"pos_label={pos_label!r} was given with {len(classes)} classes: each is compared "
                "with the rest, leave pos_label=None (or make y binary)."
            )
        return None
    return positive_code(pos_label, classes)
