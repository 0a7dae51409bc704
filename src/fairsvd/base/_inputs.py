"""Reading and validation of X, y and the sensitive features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets

from .._messages import listed
from .._warn import warn
from ..arrays import Batches, Fields, LabelledRows, is_dataset, open_rows, read, read_again
from ..exceptions import GroupError, MissingSensitiveFeaturesWarning, SmallCellWarning
from ..groups import (
    BIN_IT,
    MANY_GROUPS,
    Groups,
    drop_sensitive,
    encode_groups,
    find_sensitive,
    split_columns,
)
from ..networks import known_classes, wants_integers
from ..objective import gap, merge_groups
from ._weights import Passed, read_fit_weights

__all__ = ["FitInputs", "Reading", "check_cells", "read_fit_inputs", "read_predict_inputs"]

# Integer labels of at most this many values always pass scikit-learn's check of targets, which
# would sort all of them again; it is skipped for them.
FEW_LABELS = 10

KEPT_INTEGERS = "X holds integers, and the network got them as they are for its Embedding."
NOT_SCALED = "X is uint8 and was cast to float without scaling, as the given network gets it."


@dataclass(frozen=True)
class FitInputs:
    """The arguments of ``fit``, encoded.

    Attributes
    ----------
    rows : LabelledRows
        All rows; the group code is -1 where the group is missing and ignored, 0 without groups.
    classes : ndarray of shape (n_classes,)
    group_labels : tuple
        Empty without sensitive features.
    names : tuple of str
        Names of the sensitive columns.
    source : str or None
        Where the sensitive features came from.
    notes : tuple of str
    passed : Passed or None
        All rows as they were passed, if some of them have a weight of 0; None: they are these.
    keeps : bool
        Whether some rows have no group, and serve what needs none.
    """

    rows: LabelledRows
    classes: NDArray[Any]
    group_labels: tuple[Any, ...]
    names: tuple[Any, ...]
    source: str | None
    notes: tuple[str, ...]
    passed: Passed | None = None
    keeps: bool = False

    def subset(self, positions: NDArray[np.int64]) -> FitInputs:
        """Restrict to some rows, which are then all that there are."""
        return replace(self, rows=self.rows.subset(positions), passed=None)

    @property
    def has_groups(self) -> bool:
        """Tell whether there are groups to compare."""
        return len(self.group_labels) > 0

    @property
    def division(self) -> Groups:
        """Give the code of every row's group, the labels and the names of the columns."""
        return Groups(self.rows.groups.numpy(), self.group_labels, self.names)

    @property
    def groups(self) -> NDArray[np.object_]:
        """Give the label of every row's group; None where it is missing."""
        labels = np.full(self.n_groups + 1, None, dtype=object)
        for k, label in enumerate(self.group_labels):
            labels[k] = label  # one by one, since a label may be a tuple
        return labels[self.rows.groups.numpy()]  # code -1 reads the last entry

    @property
    def n_groups(self) -> int:
        """Count the groups; 1 without sensitive features."""
        return max(1, len(self.group_labels))


@dataclass(frozen=True)
class Reading:
    """How to read the inputs.

    Attributes
    ----------
    network : object
        As the editors' parameter.
    sensitive_columns, missing_group, batch_size
        As the editors' parameters.
    other_groups : bool
        Whether groups come from elsewhere than these rows, so that none here is no mistake.
    """

    network: Any
    sensitive_columns: Any = None
    missing_group: str = "raise"
    batch_size: int = 256
    other_groups: bool = False


def read_fit_inputs(
    estimator: Any,
    X: Any,
    y: Any,
    sensitive_features: Any,
    how: Reading,
    sample_weight: Any = None,
) -> FitInputs:
    """Validate and encode the arguments of ``fit``.

    Parameters
    ----------
    estimator : BaseEstimator
        Receives ``n_features_in_`` and the names of the features.
    X, y, sensitive_features
        As of ``fit``.
    how : Reading
    sample_weight : as of ``fit``
        Rows of weight 0 are left out.

    Raises
    ------
    ValueError
        There are NaN, unequal lengths, a single class, a single group, missing groups, or weights
        that are none.
    """
    names: tuple[Any, ...] = ()
    source = None
    X = open_rows(X)
    if sensitive_features is not None:
        source = "sensitive_features"
        names = tuple(name for name in split_columns(sensitive_features)[1] if name is not None)
        if how.sensitive_columns is not None:
            X = drop_sensitive(X, how.sensitive_columns)
    elif how.sensitive_columns is not None:
        located = find_sensitive(X, y, how.sensitive_columns)
        sensitive_features, X = located.values, located.X
        names, source = tuple(located.names), located.source
    batches, y, is_bytes, is_integral = read(estimator, X, y, how.batch_size)
    n_rows = len(y)
    weights, passed = read_fit_weights(sample_weight, y)
    if passed is not None:
        batches, y = batches.subset(passed.kept), y[passed.kept]
    notes = (NOT_SCALED,) if is_bytes and how.network is not None else ()
    if is_integral and wants_integers(how.network, batches):
        batches, notes = batches.astype(torch.int64), (KEPT_INTEGERS,)
    labels, codes = _encode_labels(y)
    classes = known_classes(how.network, labels)
    # The network may know more classes than y has, in another order.
    place = {label: k for k, label in enumerate(classes.tolist())}
    codes = np.array([place[label] for label in labels.tolist()])[codes]
    group_codes, group_labels = np.zeros(len(codes), dtype=np.int64), ()
    if sensitive_features is not None:
        missing = "ignore" if how.missing_group == "keep" else how.missing_group
        groups = encode_groups(sensitive_features, n_rows, missing=missing, names=names)
        if passed is not None:
            groups = groups.subset(passed.kept)
        group_codes, group_labels, names = groups.codes, tuple(groups.labels), groups.names
        _check_groups(groups)
    elif not how.other_groups:
        _warn_missing()
    rows = LabelledRows(batches, torch.as_tensor(codes), torch.as_tensor(group_codes), weights)
    keeps = how.missing_group == "keep" and bool((group_codes < 0).any())
    return FitInputs(rows, classes, group_labels, names, source, notes, passed, keeps)


def _warn_missing() -> None:
    warn(
        "fit got no sensitive_features (and sensitive_columns is None): the method runs for "
        "utility alone. Pass sensitive_features=, or name columns of X or index levels of y in "
        "sensitive_columns=.",
        MissingSensitiveFeaturesWarning,
    )


def _encode_labels(y: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
    labels = np.unique(y)
    if y.dtype.kind in "biu" and len(labels) > FEW_LABELS:
        # The check can only warn that so many distinct integers may be no classes.
        check_classification_targets(y)
    if len(labels) < 2:
        raise ValueError(
            f"y holds one class only ({labels.tolist()}): a classifier needs rows of two classes "
            "or more."
        )
    return labels, np.searchsorted(labels, y).astype(np.int64)


def _check_groups(groups: Groups) -> None:
    n_rows = int((groups.codes >= 0).sum())
    if groups.n_groups < 2:
        raise GroupError(
            f"sensitive_features hold one group only ({list(groups.labels)}): there is nothing to "
            "compare. Pass an attribute with two values or more, or none at all."
        )
    if groups.n_groups > max(MANY_GROUPS, n_rows // 2):
        raise GroupError(
            f"sensitive_features hold {groups.n_groups} groups in {n_rows} rows "
            f"({listed(groups.labels, 3, repr)}), which are names of single rows or a quantity. "
            f"{BIN_IT}"
        )


def check_cells(
    table: NDArray[Any],
    inputs: FitInputs,
    name: str,
    pos: int,
    divisions: Sequence[tuple[int, ...] | None] = (None,),
) -> None:
    """Refuse data on which the gap cannot be measured; warn about cells without rows.

    Parameters
    ----------
    table : ndarray of shape (n_classes, n_groups)
        Rows, or weights, in each (label, group) cell.
    inputs : FitInputs
    name : str
        The gap.
    pos : int
        Code of the positive class.
    divisions : sequence of (tuple of int or None)
        As of ``Constraint.divisions``; between all of them it is to be measured.
    """
    counts = np.zeros((table.shape[1], len(table), len(table)), dtype=table.dtype)
    counts[:, :, 0] = table.T
    labels = inputs.classes.tolist()
    empty = [
        f"(label {labels[k]!r}, group {inputs.group_labels[g]!r})"
        for k, g in np.argwhere(table == 0)
    ]
    tables = [counts if each is None else merge_groups(counts, each, 0) for each in divisions]
    if any(np.isnan(gap(each, name, pos)) for each in tables):
        raise GroupError(
            f"{name} cannot be measured: fewer than two groups have the rows it compares. Cells "
            f"without rows: {listed(empty)}. Merge groups, or choose another constraint."
        )
    if empty:
        advice = f" {BIN_IT}" if inputs.n_groups > MANY_GROUPS else ""
        warn(
            f"No rows in {listed(empty)}: their rates are left out of the gap.{advice}",
            SmallCellWarning,
        )


def read_predict_inputs(estimator: Any, X: Any, fields: Fields | None) -> Batches:
    """Validate X for prediction, with or without the sensitive columns that ``fit`` took out.

    Parameters
    ----------
    estimator : NetworkEditor
    X : as in ``fit``
    fields : Fields or None
        The inputs of which the rows of ``fit`` consisted, if they had names.
    """
    X = open_rows(X)
    if estimator.sensitive_columns is not None and not is_dataset(X):
        width = getattr(estimator, "n_features_in_", None)
        X = drop_sensitive(X, estimator.sensitive_columns, width)
    batches = read_again(estimator, X, fields)
    # Unset while a fit is still reading.
    probe = getattr(estimator, "_probe", None)
    return batches if probe is None else batches.like(probe.dtype)
