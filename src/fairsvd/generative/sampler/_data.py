"""The input of a sampler: rows, labels, groups, and their cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..._warn import warn
from ...containers import as_known, label_codes
from ...exceptions import GroupError, MissingSensitiveFeaturesWarning
from ...groups import cell_codes, encode_groups, find_sensitive, split_columns
from ..cells import make_codec, read_rows

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SamplerData", "carried_columns", "carrier_rows", "read_sampler_inputs"]


@dataclass(frozen=True)
class SamplerData:
    """The checked arguments of ``fit_resample``.

    Attributes
    ----------
    X : DataFrame or ndarray
    y : array-like
        Unchanged, or an array.
    sensitive : DataFrame or None
        One column per sensitive attribute.
    source : str or None
        Where the sensitive attributes were found.
    labels, groups : list
        Those that occur; [None] without groups.
    y_codes, group_codes : ndarray of shape (n,), int64
        Class and group of each row; -1 for a missing group that is ignored.
    lists : tuple of bool
        Whether X and y came as lists.
    """

    X: Any
    y: Any
    sensitive: pd.DataFrame | None
    source: str | None
    labels: list[Any]
    groups: list[Any]
    y_codes: NDArray[np.int64]
    group_codes: NDArray[np.int64]
    lists: tuple[bool, bool]

    @property
    def keys(self) -> list[Any]:
        """Every (label, group) pair, even without rows; the labels if there are no groups."""
        if self.sensitive is None:
            return list(self.labels)
        return [(label, group) for label in self.labels for group in self.groups]

    @property
    def cells(self) -> NDArray[np.int64]:
        """Position of every row's cell in ``keys``; -1 without a group."""
        return cell_codes(self.y_codes, self.group_codes, len(self.groups))

    def counts(self) -> NDArray[np.int64]:
        """Count the rows of every cell, shape (n_labels, n_groups)."""
        table = np.bincount(self.cells[self.cells >= 0], minlength=len(self.keys))
        return table.reshape(len(self.labels), len(self.groups))

    def by_cell(self, table: NDArray[np.int64]) -> dict[Any, int]:
        """Turn a table of cells into a dict."""
        return dict(zip(self.keys, table.reshape(-1).tolist(), strict=True))


def read_sampler_inputs(
    X: Any, y: Any, sensitive_features: Any, columns: Any, missing: str
) -> SamplerData:
    """Read and check the arguments of ``fit_resample``.

    Raises
    ------
    ValueError
        If X or y cannot be used, their lengths differ, or there is a single class.
    GroupError
        If the groups cannot be used, or there is a single one.
    """
    lists, X = (isinstance(X, list), isinstance(y, list)), read_rows(X)
    if y is None:
        raise ValueError(
            "CellSampler requires y to be passed, but the target y is None: cells consist of "
            "labels and groups."
        )
    y = as_known(y, "y")
    labels, y_codes = label_codes(y)
    y = np.asarray(y) if isinstance(y, (list, tuple)) else y
    if len(y_codes) != len(X):
        raise ValueError(f"X has {len(X)} rows but y has {len(y_codes)}: pass one label per row.")
    if len(labels) < 2:
        raise ValueError(f"y has one class only ({labels[0]!r}): there is nothing to balance.")
    source = None
    if sensitive_features is not None:
        source, sensitive = "sensitive_features", _as_table(sensitive_features)
    elif columns is not None:
        import pandas as pd

        located = find_sensitive(X, y, columns)
        source, sensitive = (
            located.source,
            pd.DataFrame(located.values, columns=list(located.names)).infer_objects(),
        )
    else:
        _warn_missing()
        codes = np.zeros(len(X), dtype=np.int64)
        return SamplerData(X, y, None, None, labels, [None], y_codes, codes, lists)
    groups = encode_groups(sensitive, len(X), missing=missing)
    if len(groups.labels) < 2:
        raise GroupError(
            f"sensitive_features has one group only ({groups.labels[0]!r}): pass an attribute "
            "with at least two values, or none at all to balance the classes."
        )
    return SamplerData(
        X, y, sensitive, source, labels, list(groups.labels), y_codes, groups.codes, lists
    )


def _warn_missing() -> None:
    warn(
        "fit_resample got no sensitive_features (and sensitive_columns is None): cells are the "
        "classes alone. Pass sensitive_features=, or name columns of X or index levels of y in "
        "sensitive_columns=.",
        MissingSensitiveFeaturesWarning,
    )


def _as_table(sensitive_features: Any) -> pd.DataFrame:
    import pandas as pd

    columns, names = split_columns(sensitive_features)
    single = len(columns) == 1
    names = [
        f"sensitive_feature{'' if single else f'_{k}'}" if name is None else name
        for k, name in enumerate(names)
    ]
    if len({len(column) for column in columns}) != 1:
        raise GroupError(
            f"sensitive_features has {len(columns)} columns: pass at least one, all of one length."
        )
    table = pd.concat([column.reset_index(drop=True) for column in columns], axis=1)
    return table.set_axis(names, axis=1).infer_objects()


def carried_columns(data: SamplerData) -> set[int]:
    """Find the columns of X that the group determines, including the sensitive ones.

    They must not be generated, or a row of group F could get "M" in its column of sexes.
    """
    if data.X.ndim == 4 or data.sensitive is None:
        return set()
    codec = make_codec(data.X)
    grouped = data.group_codes >= 0
    order = np.argsort(data.group_codes[grouped], kind="stable")
    starts = np.flatnonzero(np.diff(data.group_codes[grouped][order], prepend=-1))
    # Infinity, which no column holds, stands for missing numbers, so that they count as a value.
    numbers = codec.encoded.numbers[grouped][order]
    fixed = []
    for block in (np.nan_to_num(numbers, nan=np.inf), codec.encoded.codes[grouped][order]):
        if block.shape[1]:
            low, high = np.minimum.reduceat(block, starts), np.maximum.reduceat(block, starts)
            fixed.append((low == high).all(axis=0))
        else:
            fixed.append(np.zeros(0, dtype=bool))
    places = iter(fixed[0]), iter(fixed[1])
    return {k for k, c in enumerate(codec.columns) if next(places[int(c.kind == "category")])}


def carrier_rows(
    data: SamplerData, drawn: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw a real row of the same cell for each synthetic one, cell by cell."""
    rows = [
        rng.choice(np.flatnonzero(data.cells == cell), size=n)
        for cell, n in enumerate(drawn.reshape(-1))
        if n
    ]
    return np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
