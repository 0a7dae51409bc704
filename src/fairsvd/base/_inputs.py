"""Reading of X, y and the sensitive features, with every complaint about them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d, validate_data

from ..arrays import Batches, LabelledRows, LazyRows, as_batches, is_dataset, is_lazy
from ..datasets import ImageFrame
from ..exceptions import GroupError, MissingSensitiveFeaturesWarning, SmallCellWarning
from ..groups import drop_sensitive, encode_groups, find_sensitive
from ..networks import known_classes
from ..objective import gap

__all__ = ["FitInputs", "check_cells", "read_fit_inputs", "read_predict_inputs"]

# Up to so many whole numbers are classes for scikit-learn, whose check sorts all of them again.
FEW_LABELS = 10


@dataclass(frozen=True)
class FitInputs:
    """What ``fit`` got, encoded.

    Attributes
    ----------
    rows : LabelledRows
        All rows; the group code is -1 where it is missing and ignored, 0 without groups.
    classes : ndarray of shape (n_classes,)
    group_labels : tuple
        Empty without sensitive features.
    names : tuple of str
        Of the sensitive columns.
    source : str or None
        Where the sensitive features were found.
    notes : tuple of str
    """

    rows: LabelledRows
    classes: NDArray[Any]
    group_labels: tuple[Any, ...]
    names: tuple[Any, ...]
    source: str | None
    notes: tuple[str, ...]

    @property
    def has_groups(self) -> bool:
        """Tell whether there are groups to compare."""
        return len(self.group_labels) > 0

    @property
    def n_groups(self) -> int:
        """Count the groups; without sensitive features all rows are one."""
        return max(1, len(self.group_labels))


def read_fit_inputs(estimator: Any, X: Any, y: Any, sensitive_features: Any) -> FitInputs:
    """Validate and encode the arguments of ``fit``; sets ``n_features_in_`` and names.

    Raises
    ------
    ValueError
        Each row of the table of bad inputs: NaN, lengths, one class, one group, missing groups.
    """
    names: tuple[Any, ...] = ()
    source = None
    X = _opened(X)
    if sensitive_features is not None:
        source = "sensitive_features"
        names = _names_of(sensitive_features)
        if estimator.sensitive_columns is not None:
            X = drop_sensitive(X, estimator.sensitive_columns)
    elif estimator.sensitive_columns is not None:
        located = find_sensitive(X, y, estimator.sensitive_columns)
        sensitive_features, X = located.values, located.X
        names, source = tuple(located.names), located.source
    batches, y, notes = _validated(estimator, X, y)
    labels, codes = _encoded_labels(y)
    classes = known_classes(estimator.network, labels)
    # The network's classes may be more than those of y, and in another order.
    place = {label: k for k, label in enumerate(classes.tolist())}
    codes = np.array([place[label] for label in labels.tolist()])[codes]
    group_codes, group_labels = np.zeros(len(codes), dtype=np.int64), ()
    if sensitive_features is None:
        if not estimator._gets_groups_elsewhere():
            _warn_missing()
    else:
        groups = encode_groups(
            sensitive_features, len(codes), missing=estimator.missing_group, names=names
        )
        group_codes, group_labels = groups.codes, tuple(groups.labels)
        _check_group_count(group_codes, group_labels)
    rows = LabelledRows(batches, torch.as_tensor(codes), torch.as_tensor(group_codes))
    return FitInputs(rows, classes, group_labels, names, source, notes)


def _warn_missing() -> None:
    warnings.warn(
        "fit got no sensitive_features (and sensitive_columns is None): the method runs for "
        "utility alone. Pass sensitive_features=, or name columns of X or index levels of y in "
        "sensitive_columns=.",
        MissingSensitiveFeaturesWarning,
        stacklevel=5,
    )


def _names_of(sensitive_features: Any) -> tuple[Any, ...]:
    columns = getattr(sensitive_features, "columns", None)
    if columns is not None:
        return tuple(columns)
    name = getattr(sensitive_features, "name", None)
    return (name,) if name is not None else ()


def _opened(X: Any) -> Any:
    """Wrap an array that is not in memory, so that nothing reads it as a whole."""
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


def _validated(estimator: Any, X: Any, y: Any) -> tuple[Batches, Any, tuple[str, ...]]:
    if isinstance(X, (LazyRows, ImageFrame)):
        # scikit-learn notes the number of features; values are checked where rows are read.
        validate_data(estimator, X, y, skip_check_array=True)
        # Half a batch: while a block of rows is read, the one before it may still be in use.
        most = max(1, estimator.batch_size // 2)
        batches, y = as_batches(X, most=most), _plain_labels(X, y)
        return batches, y, _notes(estimator, X.dtype == np.uint8)
    if is_dataset(X):
        if y is None:
            raise ValueError("y is None: a Dataset gives X only, pass the labels as y.")
        y = _plain_labels(X, y)
        for name in ("n_features_in_", "feature_names_in_"):
            vars(estimator).pop(name, None)  # an earlier fit on a table knew them
        batches = as_batches(X)
        is_bytes = batches.fetch(batches.index[:1]).dtype == torch.uint8
        return batches, y, _notes(estimator, is_bytes)
    _check_lengths(X, y)
    X, y = validate_data(estimator, X, y, dtype="numeric", allow_nd=True)
    _check_dimensions(X.ndim)
    return as_batches(X), y, _notes(estimator, X.dtype == np.uint8)


def _plain_labels(X: Any, y: Any) -> NDArray[Any]:
    y = column_or_1d(np.asarray(y), warn=True)
    _check_lengths(X, y)
    return y


def _notes(estimator: Any, is_bytes: bool) -> tuple[str, ...]:
    if not is_bytes or estimator.network is None:
        return ()
    return ("X is uint8 and was cast to float without scaling, as the given network gets it.",)


def _length(data: Any) -> int | None:
    """Count the rows, or return None where scikit-learn is to say what is wrong with the data."""
    # A Dataset of the user's may call an image's shape its own.
    shape = None if is_dataset(data) else getattr(data, "shape", None)
    if shape is None:
        return len(data) if hasattr(data, "__len__") else None
    return int(shape[0]) if shape else None


def _check_lengths(X: Any, y: Any) -> None:
    n_rows, n_labels = _length(X), _length(y)
    if None not in (n_rows, n_labels) and n_rows != n_labels:
        raise ValueError(f"X has {n_rows} rows but y has {n_labels}: pass one label a row.")


def _encoded_labels(y: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
    whole = y.dtype.kind in "biu"
    if not whole:
        check_classification_targets(y)
    labels = np.unique(y)
    if whole and len(labels) > FEW_LABELS:
        # All that is left to say is that so many whole numbers may be no classes.
        check_classification_targets(y)
    if len(labels) < 2:
        raise ValueError(
            f"y holds one class only ({labels.tolist()}): a classifier needs rows of two classes "
            "or more."
        )
    return labels, np.searchsorted(labels, y).astype(np.int64)


def _check_group_count(codes: NDArray[np.int64], labels: tuple[Any, ...]) -> None:
    present = np.flatnonzero(np.bincount(codes[codes >= 0]))
    if len(present) < 2:
        raise GroupError(
            f"sensitive_features hold one group only ({[labels[i] for i in present]}): there is "
            "nothing to compare. Pass an attribute with two values or more, or none at all."
        )


def check_cells(table: NDArray[np.int64], inputs: FitInputs, name: str, pos: int) -> None:
    """Refuse data on which the gap cannot be measured; warn about cells without rows.

    Parameters
    ----------
    table : ndarray of shape (n_classes, n_groups)
        Rows in each (label, group) cell.
    inputs : FitInputs
    name : str
        The gap.
    pos : int
        Code of the positive class.
    """
    counts = np.zeros((table.shape[1], len(table), len(table)), dtype=np.int64)
    counts[:, :, 0] = table.T
    labels = inputs.classes.tolist()
    empty = [
        f"(label {labels[k]!r}, group {inputs.group_labels[g]!r})"
        for k, g in np.argwhere(table == 0)
    ]
    if np.isnan(gap(counts, name, pos)):
        raise GroupError(
            f"{name} cannot be measured: fewer than two groups have the rows it compares. Cells "
            f"without rows: {', '.join(empty)}. Merge groups, or choose another constraint."
        )
    if empty:
        warnings.warn(
            f"No rows in {', '.join(empty)}: their rates are left out of the gap.",
            SmallCellWarning,
            stacklevel=5,
        )


def read_predict_inputs(estimator: Any, X: Any) -> Batches:
    """Validate X for prediction; sensitive columns that ``fit`` took out may be there or not."""
    X = _opened(X)
    if estimator.sensitive_columns is not None and not is_dataset(X):
        width = getattr(estimator, "n_features_in_", None)
        X = drop_sensitive(X, estimator.sensitive_columns, width)
    if isinstance(X, (LazyRows, ImageFrame)):
        validate_data(estimator, X, reset=False, skip_check_array=True)
    elif not is_dataset(X):
        X = validate_data(estimator, X, reset=False, dtype="numeric", allow_nd=True)
        if X.ndim not in (2, 4):
            raise ValueError(f"X has {X.ndim} dimensions; it must have those of the X of fit.")
    batches = as_batches(X)
    if len(batches) == 0:
        raise ValueError("X has 0 rows: pass at least one.")
    return batches
