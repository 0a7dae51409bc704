"""Encode sensitive attributes of any type as one group code per row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .._messages import counted, listed
from ..exceptions import GroupError
from ._columns import describe, split_columns

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

__all__ = ["BIN_IT", "MANY_GROUPS", "Groups", "cell_codes", "encode_groups", "require_two_groups"]

MISSING_LABEL = "missing"  # label of the group that ``missing="own_group"`` adds
# More distinct numbers with fractions than this are a quantity; so may be other groups.
MANY_GROUPS = 20
BIN_IT = (
    "Bin a quantity such as an age or an income first, for example pandas.qcut(values, 4, "
    "labels=False), and merge small groups."
)
_POLICIES = ("raise", "ignore", "own_group")

Codes = TypeVar("Codes", "NDArray[np.int64]", "Tensor")


@dataclass(frozen=True)
class Groups:
    """The group code of every row.

    Attributes
    ----------
    codes : ndarray of shape (n_rows,), int64
        Position of the row's group in ``labels``; -1 where the group is missing and ignored.
    labels : tuple
        Sorted labels of the groups that occur; with several columns each is a tuple of labels.
    names : tuple of str
        Names of the sensitive columns.
    """

    codes: NDArray[np.int64]
    labels: tuple[Any, ...]
    names: tuple[str, ...]

    @property
    def n_groups(self) -> int:
        """Number of groups that occur."""
        return len(self.labels)

    def subset(self, positions: NDArray[np.int64]) -> Groups:
        """Restrict to some rows, and to the groups that occur in them."""
        codes = self.codes[positions]
        present = np.unique(codes[codes >= 0])
        rank = np.full(self.n_groups + 1, -1, dtype=np.int64)  # code -1 reads the last entry
        rank[present] = np.arange(len(present))
        return Groups(rank[codes], tuple(self.labels[k] for k in present), self.names)

    def alone(self, place: int) -> Groups:
        """Divide the rows by one of several attributes, whatever the others are."""
        parts = [label[place] for label in self.labels]
        values = list(dict.fromkeys(parts))
        labels = [values[k] for k in _sort_order(values)]
        rank = np.array([*map(labels.index, parts), -1])  # code -1 reads the last entry
        return Groups(rank[self.codes], tuple(labels), (self.names[place],))

    def counts(self) -> NDArray[np.int64]:
        """Count the rows of every group, shape (n_groups,)."""
        return np.bincount(self.codes[self.codes >= 0], minlength=self.n_groups)


def _sort_order(labels: list[Any]) -> list[int]:
    """Return the positions that sort labels: by value if they compare, else by type, then text."""
    positions = range(len(labels))
    try:
        return sorted(positions, key=lambda k: labels[k])
    except TypeError:
        return sorted(positions, key=lambda k: (type(labels[k]).__name__, str(labels[k])))


def _encode_column(column: pd.Series[Any]) -> tuple[NDArray[np.int64], list[Any]]:
    """Encode one column; missing values get -1."""
    import pandas as pd

    try:
        codes, uniques = pd.factorize(column, use_na_sentinel=True)
    except TypeError as error:
        raise GroupError(
            f"sensitive_features hold values that cannot be compared ({error}): wanted one label "
            "a row for each attribute, such as a string or an integer."
        ) from error
    labels = [u.item() if isinstance(u, np.generic) else u for u in uniques]
    order = _sort_order(labels)
    rank = np.full(len(labels) + 1, -1, dtype=np.int64)  # code -1 reads the last entry
    rank[order] = np.arange(len(labels))
    return rank[codes], [labels[k] for k in order]


def _refuse_quantity(labels: list[Any], name: str) -> None:
    """Refuse a column of many numbers with fractions, such as an income."""
    if len(labels) <= MANY_GROUPS:
        return
    if any(isinstance(label, float) and label % 1 for label in labels):
        raise GroupError(
            f"sensitive_features {name!r} holds {len(labels)} distinct numbers with fractions "
            f"({listed(labels, 3)}): a quantity, not groups. {BIN_IT}"
        )


def _group_missing(
    codes: NDArray[np.int64], labels: list[Any]
) -> tuple[NDArray[np.int64], list[Any]]:
    if (codes >= 0).all():
        return codes, labels
    if MISSING_LABEL not in labels:
        labels = [*labels, MISSING_LABEL]
    return np.where(codes < 0, labels.index(MISSING_LABEL), codes), labels


def _intersect(
    columns: list[tuple[NDArray[np.int64], list[Any]]],
) -> tuple[NDArray[np.int64], tuple[Any, ...]]:
    """Make one group of every combination of labels that occurs."""
    table = np.stack([codes for codes, _ in columns], axis=1)
    complete = (table >= 0).all(axis=1)
    combinations, inverse = np.unique(table[complete], axis=0, return_inverse=True)
    codes = np.full(len(table), -1, dtype=np.int64)
    codes[complete] = inverse.reshape(-1)
    labels = [tuple(columns[k][1][c] for k, c in enumerate(row)) for row in combinations]
    return codes, tuple(labels)


def _check_rows(columns: list[Any], values: Any, n_rows: int) -> None:
    if not columns or n_rows == 0 or len(columns[0]) != n_rows:
        raise GroupError(
            f"sensitive_features is a {describe(values)} with "
            f"{len(columns[0]) if columns else 0} rows and {len(columns)} columns, X has {n_rows} "
            "rows: wanted one entry for each row of X, at least one row and one column."
        )


def _name_columns(own_names: list[Any], names: Sequence[str] | None) -> tuple[str, ...]:
    if names:
        return tuple(str(name) for name in names)
    single = len(own_names) == 1
    return tuple(
        f"sensitive_feature{'' if single else f'_{k}'}" if name is None else str(name)
        for k, name in enumerate(own_names)
    )


def _check_missing(missing: str, encoded: list[Any], names: Sequence[str]) -> None:
    if missing not in _POLICIES:
        raise ValueError(f"missing_group={missing!r}: wanted one of {', '.join(_POLICIES)}.")
    empty = {n: int((codes < 0).sum()) for n, (codes, _) in zip(names, encoded, strict=True)}
    if missing == "raise" and any(empty.values()):
        raise GroupError(
            f"sensitive_features has missing values (rows per column: {counted(empty)}). Fill "
            "them, or set missing_group='ignore' to leave these rows out of the fairness terms, "
            "missing_group='own_group' to treat them as a group, or, in an editor, "
            "missing_group='keep' to learn from them what needs no group."
        )


def encode_groups(
    sensitive_features: Any,
    n_rows: int,
    *,
    missing: str = "raise",
    names: Sequence[str] | None = None,
    quantities: bool = False,
) -> Groups:
    """Encode sensitive features as one group code per row.

    Parameters
    ----------
    sensitive_features : array-like of shape (n_rows,) or (n_rows, n_columns)
        Array, list, Series, DataFrame, dictionary of columns, tensor, or the like of another
        package; any labels. Several columns are intersected. None, NaN, pandas' NA and NaT, masked
        values, and what numpy makes of them in an array of strings ("nan") count as missing.
    n_rows : int
        Number of rows that X has.
    missing : {"raise", "ignore", "own_group"}, default="raise"
        What a missing value leads to: an error, code -1 for its row, or a group of its column
        with the label "missing".
    names : sequence of str or None, default=None
        Names of the columns; None (or empty) means their own names, else "sensitive_feature".
    quantities : bool, default=False
        Whether a column may hold a quantity: more than 20 distinct numbers with fractions.

    Returns
    -------
    groups : Groups
        Codes, labels and names. Rows are matched by position, not by index.

    Raises
    ------
    GroupError
        If the number of rows is wrong or 0, the shape is not understood, every row is missing,
        values are missing and ``missing="raise"``, or a column holds a quantity.
    ValueError
        If ``missing`` is none of the three.
    """
    columns, own_names = split_columns(sensitive_features)
    _check_rows(columns, sensitive_features, n_rows)
    column_names = _name_columns(own_names, names)
    encoded = [_encode_column(column) for column in columns]
    if not quantities:
        for (_, labels_of_column), name in zip(encoded, column_names, strict=True):
            _refuse_quantity(labels_of_column, name)
    _check_missing(missing, encoded, column_names)
    if missing == "own_group":
        encoded = [_group_missing(codes, labels) for codes, labels in encoded]
    single = len(encoded) == 1
    codes, labels = (encoded[0][0], tuple(encoded[0][1])) if single else _intersect(encoded)
    if not labels:
        raise GroupError(
            f"sensitive_features is missing in all {n_rows} rows: at least some must have a group."
        )
    return Groups(codes, labels, column_names)


def require_two_groups(groups: Groups) -> Groups:
    """Refuse groups that leave nothing to compare.

    Parameters
    ----------
    groups : Groups
        From :func:`encode_groups`.

    Returns
    -------
    groups : Groups
        The same object.

    Raises
    ------
    GroupError
        If there is a single group.
    """
    if groups.n_groups < 2:
        raise GroupError(
            f"sensitive_features {list(groups.names)} has the single group {groups.labels[0]!r}: "
            "at least two are needed to compare. Pass an attribute that differs between rows, or "
            "none at all to optimise utility alone."
        )
    return groups


def cell_codes(y_codes: Codes, group_codes: Codes, n_groups: int) -> Codes:
    """Compute the number of every row's (label, group) cell: ``y * n_groups + group``.

    Parameters
    ----------
    y_codes, group_codes : ndarray or Tensor of shape (n,), int64
        Class and group of each row.
    n_groups : int
        Number of groups.

    Returns
    -------
    cells : ndarray or Tensor of shape (n,), int64
        -1 where the group is -1, so that such rows are never counted in another cell.
    """
    cells, missing = y_codes * n_groups + group_codes, group_codes < 0
    # Neither form waits for a GPU.
    if isinstance(cells, np.ndarray):
        return np.where(missing, -1, cells)
    return cells.masked_fill(missing, -1)
