"""Class labels in any container as one array: the only check of what counts as a label."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import DataConversionWarning

from .._messages import listed
from .._warn import warn
from ._known import as_known, is_frame
from ._missing import restore_missing

__all__ = ["label_codes", "read_labels"]

COLUMN_VECTOR = (
    "A column-vector {name} was passed when a 1d array was expected. Please change the shape of "
    "{name} to (n_samples,), for example using ravel()."
)
# What pandas calls the contents of a column of objects, and the type that holds them.
NUMBERS = {
    "integer": np.int64,
    "boolean": np.bool_,
    "floating": np.float64,
    "mixed-integer-float": np.float64,
    "decimal": np.float64,
}


def read_labels(labels: Any, name: str = "y") -> NDArray[Any]:
    """Read class labels, and refuse what is none: scores, probabilities, missing values.

    Parameters
    ----------
    labels : array-like of shape (n,) or (n, 1)
        Integers, booleans, strings, or whole numbers of another type, in any container. A column
        (n, 1) leads to scikit-learn's ``DataConversionWarning``.
    name : str, default="y"
        What messages call them.

    Returns
    -------
    labels : ndarray of shape (n,)
        Of integers, booleans, floats or strings (strings possibly as objects).

    Raises
    ------
    ValueError
        If there is not one label a row, a label is missing, or the values are no labels.
    """
    import pandas as pd

    column = _one_column(_as_column(as_known(labels, name)), name)
    missing = np.asarray(pd.isna(column), dtype=bool)
    if missing.any():
        raise ValueError(
            f"{name} has missing labels in {missing.sum()} of {len(missing)} rows, the first in "
            f"row {missing.argmax()}, counted from 0 (NaN, None and NA count as missing): fill "
            "them, or leave these rows out."
        )
    values = np.asarray(column)
    if values.dtype.kind == "O":
        values = _from_objects(values, name)
    if values.dtype.kind == "f":
        _check_whole(values, name)
        # Half precision has no unique values in numpy.
        values = values.astype(np.float64)
    if values.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} holds complex numbers.")
    if values.dtype.kind not in "biufUO":
        raise ValueError(
            _NOT_LABELS.format(name=name, what=_KINDS.get(values.dtype.kind, "records"))
        )
    return values


def label_codes(labels: Any, name: str = "y") -> tuple[list[Any], NDArray[np.int64]]:
    """Read class labels, and encode them; the distinct ones are sorted Python scalars."""
    distinct, codes = np.unique(read_labels(labels, name), return_inverse=True)
    return distinct.tolist(), codes


_NOT_LABELS = (
    "{name} holds {what}, which cannot be class labels: pass integers, booleans or strings, for "
    "example {name}.astype(str)."
)
_KINDS = {"S": "bytes", "M": "dates", "m": "durations"}


def _as_column(values: Any) -> Any:
    """Make an array or a pandas object of a list, without turning all its values into strings."""
    if hasattr(values, "iloc"):
        return values
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        return np.empty((len(values), 0))
    # numpy makes strings of ["a", nan] and ["a", 1].
    listed_strings = array.dtype.kind in "USO" and isinstance(values, (list, tuple))
    return np.asarray(values, dtype=object) if listed_strings else restore_missing(array)


def _one_column(values: Any, name: str) -> Any:
    if values.ndim == 0:
        raise ValueError(
            f"{name} is {listed([values.item()], show=repr)}: pass an array, a list or a column "
            "with one class label per row."
        )
    if values.ndim == 2 and values.shape[1] == 1:
        warn(COLUMN_VECTOR.format(name=name), DataConversionWarning)
        return values.iloc[:, 0] if is_frame(values) else values[:, 0]
    if values.ndim != 1:
        raise ValueError(
            f"{name} should be a 1d array, got an array of shape {tuple(values.shape)} instead: "
            "pass one class label per row; of one-hot labels, scores or probabilities with a "
            f"column for each class {name}.argmax(axis=1) (columns stand for classes in order)."
        )
    if not len(values):
        raise ValueError(f"{name} has no rows: pass at least one label.")
    return values


def _from_objects(values: NDArray[Any], name: str) -> NDArray[Any]:
    from pandas.api.types import infer_dtype

    kind = infer_dtype(values, skipna=False)
    if kind == "string":
        return values
    if kind in NUMBERS:
        try:
            return values.astype(NUMBERS[kind])
        except OverflowError:  # integers of more than 64 bits
            return values.astype(str)
    types = sorted({type(value).__name__ for value in values})
    if len(types) > 1:
        raise ValueError(
            f"{name} mixes labels of types that cannot be compared ({listed(types)}): pass labels "
            f"of one type, for example {name}.astype(str)."
        )
    raise ValueError(_NOT_LABELS.format(name=name, what=f"values of the type {types[0]}"))


def _check_whole(values: NDArray[Any], name: str) -> None:
    infinite = np.isinf(values)
    if infinite.any():
        raise ValueError(f"{name} holds an infinite number in row {infinite.argmax()}, from 0.")
    odd = np.flatnonzero(np.rint(values) != values)
    if not len(odd):
        return
    value = float(values[odd[0]])
    raise ValueError(
        f"Unknown label type: continuous. {name} holds {value:.6g} in row {odd[0]}, counted from "
        "0, but class labels are wanted. If these are scores or probabilities, apply a threshold "
        "first, for example (scores >= 0.5).astype(int)."
    )
