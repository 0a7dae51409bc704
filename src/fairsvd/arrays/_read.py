"""The user's X and y: opened, checked and read as batches."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import validate_data
from torch.utils.data import DataLoader, IterableDataset

from .._messages import listed
from ..containers import as_known, as_numbers, read_labels
from ..datasets import ImageFrame, TextFrame
from ._batches import Batches
from ._fields import Fields
from ._kinds import as_batches, is_dataset, read_first
from ._lazy import LazyRows, is_lazy

__all__ = ["Rows", "open_rows", "read", "read_again"]

# Of a longer message from scikit-learn or numpy the beginning and the end are shown.
LONGEST = 600


class Rows(NamedTuple):
    """X and y as read.

    Attributes
    ----------
    X : Batches
    y : ndarray of shape (n_rows,)
    is_bytes : bool
        X holds uint8, which becomes float without scaling.
    is_integral : bool
        X holds integers, possibly numbers of entries that a network looks up.
    """

    X: Batches
    y: NDArray[Any]
    is_bytes: bool
    is_integral: bool


def open_rows(X: Any) -> Any:
    """Turn any container into one that is known here; wrap an array that is not in memory.

    Returns
    -------
    X : DataFrame, ndarray, list, LazyRows, ImageFrame, TextFrame or Dataset

    Raises
    ------
    ValueError
        If the rows of X cannot be read by their numbers; the message says what to pass.
    """
    if isinstance(X, type):
        raise ValueError(f"X is the class {X.__name__}: pass an object that holds rows.")
    _refuse_streams(X)
    if is_dataset(X) or isinstance(X, (ImageFrame, LazyRows, TextFrame)):
        return X
    X = as_known(X, "X")
    if not is_lazy(X):
        return X
    shape = tuple(X.shape)
    _check_dimensions(len(shape))
    if not all(isinstance(size, Integral) for size in shape) or len(X) != shape[0]:
        raise ValueError(
            f"X has the shape {shape} and {len(X)} rows: both must be known and agree."
        )
    if 0 in shape:
        raise ValueError(f"X has the shape {shape}: pass at least one row and one feature.")
    if not _is_numeric(X.dtype):
        raise ValueError(f"X has the dtype {X.dtype}: pass real numbers of up to 64 bits.")
    return LazyRows(X)


def _refuse_streams(X: Any) -> None:
    if isinstance(X, (str, bytes, Set)):
        raise ValueError(
            f"X is a {type(X).__name__}, which holds no rows in an order: pass a table, an array "
            "or a Dataset, of a file what was read from it."
        )
    if isinstance(X, DataLoader):
        raise ValueError(
            "X is a DataLoader, which gives batches in an order of its own: pass its dataset "
            "(X=loader.dataset), and the labels in the same order as y."
        )
    if isinstance(X, IterableDataset):
        raise ValueError(
            f"X is a {type(X).__name__}, an IterableDataset, whose rows have no numbers: pass a "
            "map-style Dataset (with __len__ and __getitem__), or an array of its rows."
        )
    if is_dataset(X) and not hasattr(X, "__len__"):
        raise ValueError(
            f"X is a {type(X).__name__}, a Dataset without __len__: define it, since rows are "
            "split and drawn by their numbers."
        )
    # A sparse array of keys is a mapping too; scikit-learn refuses sparse data.
    if isinstance(X, Mapping) and not hasattr(X, "tocsr"):
        raise ValueError(
            f"X is a {type(X).__name__} of names: pass a table (pandas.DataFrame(X)), or, for a "
            "network that is called by names (input_ids, attention_mask), fairsvd.TextFrame(X)."
        )


def _is_numeric(dtype: Any) -> bool:
    try:
        dtype = np.dtype(dtype)
    except TypeError:
        return False
    return dtype.kind in "biuf" and dtype.itemsize <= 8


def _check_dimensions(n_dims: int) -> None:
    if n_dims not in (2, 4):
        raise ValueError(
            f"X has {n_dims} dimensions; it must be a table (n, n_features) or images "
            "(n, channels, height, width)."
        )


def read(estimator: Any, X: Any, y: Any, batch_size: int) -> Rows:
    """Read X and y for a fit; the estimator receives the number and names of the features.

    Parameters
    ----------
    estimator : BaseEstimator
    X : as of :func:`open_rows`
    y : array-like of shape (n_rows,)
    batch_size : int
        Batch size of the training, which bounds how many files are read at a time.
    """
    if y is None:
        # In scikit-learn's words, which its checks of estimators match.
        hint = " A Dataset gives X only: pass its labels as y." if is_dataset(X) else ""
        raise ValueError(
            f"This {type(estimator).__name__} estimator requires y to be passed, but the target y "
            f"is None.{hint}"
        )
    if isinstance(X, (LazyRows, ImageFrame)):
        # scikit-learn sets the number of features; values are checked when rows are read.
        validate_data(estimator, X, y, skip_check_array=True)
        # Half a batch: while a block of rows is read, the one before it may still be in use.
        batches = as_batches(X, most=max(1, batch_size // 2))
        return Rows(batches, _plain_labels(X, y), X.dtype == np.uint8, X.dtype.kind in "iu")
    if is_dataset(X) or isinstance(X, TextFrame):
        y = _plain_labels(X, y)
        for name in ("n_features_in_", "feature_names_in_"):
            vars(estimator).pop(name, None)  # left by an earlier fit on a table
        first = read_first(X)
        if isinstance(first, Fields):
            return Rows(as_batches(X, fields=first), y, is_bytes=False, is_integral=False)
        dtype = first.dtype
        is_number = not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
        return Rows(as_batches(X), y, dtype == torch.uint8, is_number)
    labels = _plain_labels(X, y)
    with _naming_rows():
        X, labels = validate_data(estimator, as_numbers(X), labels, dtype="numeric", allow_nd=True)
    _check_dimensions(X.ndim)
    return Rows(as_batches(X), labels, X.dtype == np.uint8, X.dtype.kind in "iu")


def read_again(estimator: Any, X: Any, fields: Fields | None = None) -> Batches:
    """Read X for a prediction; it must have the features of the fit.

    Parameters
    ----------
    estimator : BaseEstimator
        Fitted.
    X : as of :func:`open_rows`
    fields : Fields, optional
        Inputs of a row of the fit, if those had names.
    """
    if fields is not None or isinstance(X, TextFrame):
        return _read_fields(X, fields)
    if isinstance(X, (LazyRows, ImageFrame)):
        validate_data(estimator, X, reset=False, skip_check_array=True)
    elif not is_dataset(X):
        with _naming_rows():
            X = validate_data(estimator, as_numbers(X), reset=False, dtype="numeric", allow_nd=True)
        if X.ndim not in (2, 4):
            raise ValueError(f"X has {X.ndim} dimensions; it must have those of the X of fit.")
    batches = as_batches(X)
    if len(batches) == 0:
        raise ValueError("X has 0 rows: pass at least one.")
    return batches


def _read_fields(X: Any, fitted: Fields | None) -> Batches:
    if not is_dataset(X) and not isinstance(X, TextFrame):
        wanted = "" if fitted is None else f" [{listed(fitted.names)}]"
        raise ValueError(
            f"X is a {type(X).__name__}, but the rows of fit had the inputs{wanted}: pass a "
            "fairsvd.TextFrame of these, or a Dataset whose items name them."
        )
    if len(X) == 0:
        raise ValueError("X has 0 rows: pass at least one.")
    found = read_first(X)
    if fitted is None or not isinstance(found, Fields):
        raise ValueError(
            "X must have rows of the kind of those of fit: one array each, or named inputs, not "
            "the one then and the other now."
        )
    fitted.check_fits(found)
    return as_batches(X, fields=replace(found, dtypes=fitted.dtypes))


@contextmanager
def _naming_rows() -> Iterator[None]:
    """Begin what scikit-learn or numpy says against rows with "X", where it names no argument."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if re.search(r"\b(X|y)\b", str(error)):
            raise
        said = str(error)
        if len(said) > LONGEST:  # the values of all rows; the advice stands at the end
            said = f"{said[: LONGEST // 2]} (and so on) {said[-LONGEST // 2 :]}"
        raise type(error)(f"X: {said}") from error


def _plain_labels(X: Any, y: Any) -> NDArray[Any]:
    _check_lengths(X, y)
    labels = read_labels(y)
    _check_lengths(X, labels)
    return labels


def _length(data: Any) -> int | None:
    """Count the rows; None if scikit-learn should report what is wrong with the data."""
    # A user's Dataset may have the shape of one image as ``shape``.
    shape = None if is_dataset(data) else getattr(data, "shape", None)
    if shape is None:
        return len(data) if hasattr(data, "__len__") else None
    return int(shape[0]) if shape else None


def _check_lengths(X: Any, y: Any) -> None:
    n_rows, n_labels = _length(X), _length(y)
    if None not in (n_rows, n_labels) and n_rows != n_labels:
        raise ValueError(f"X has {n_rows} rows but y has {n_labels}: pass one label a row.")
