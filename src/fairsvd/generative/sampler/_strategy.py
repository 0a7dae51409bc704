"""Compute how many rows every (label, group) cell gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._messages import counted, listed
from ...exceptions import GroupError

__all__ = ["MODES", "STRATEGIES", "check_sources", "rows_to_draw"]

STRATEGIES = ("joint", "parity", "group", "match")
MODES = ("augment", "replace", "mix")


def _apportion(weights: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Divide ``total`` rows by weight with largest remainders; ties go to the earlier cell."""
    exact = weights / weights.sum() * total
    rows = np.floor(exact + 1e-9).astype(np.int64)
    # Remainders that are equal may differ by the rounding of the shares.
    order = np.argsort(-np.round(exact - rows, 9).reshape(-1), kind="stable")
    rows.reshape(-1)[order[: total - int(rows.sum())]] += 1
    return rows


def _parity(counts: NDArray[np.int64], keep: bool) -> NDArray[np.int64]:
    shares = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum() ** 2
    if not keep:
        return _apportion(shares, int(counts.sum()))
    # The smallest table with these proportions in which no cell loses a row.
    total = (counts / np.where(shares > 0, shares, 1)).max()
    return np.maximum(counts, np.rint(total * shares).astype(np.int64))


def _group(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Scale every group to the size of the largest one and keep its proportions of labels."""
    sizes = counts.sum(axis=0)
    columns = [_apportion(column.astype(float), int(sizes.max())) for column in counts.T]
    # Rounding must not remove a real row.
    return np.maximum(np.stack(columns, axis=1), counts)


def _table_of(
    strategy: Mapping[Any, int], counts: NDArray[np.int64], keys: list[Any]
) -> NDArray[np.int64]:
    unknown = [key for key in strategy if key not in keys]
    if unknown:
        raise ValueError(
            f"sampling_strategy names the cells [{listed(unknown, show=repr)}], the data has "
            f"[{listed(keys, show=repr)}]: name (label, "
            "group) pairs of these, or labels if there are no groups."
        )
    wrong = {
        key: n
        for key, n in strategy.items()
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0
    }
    if wrong:
        raise ValueError(
            f"sampling_strategy has {counted(wrong)}: pass whole numbers of at least 0."
        )
    table = counts.copy()
    for key, n in strategy.items():
        table.reshape(-1)[keys.index(key)] = n
    return table


def _rows_per_cell(
    strategy: Any, counts: NDArray[np.int64], keys: list[Any], *, keep: bool
) -> NDArray[np.int64]:
    """Compute the rows that a strategy gives every cell.

    Parameters
    ----------
    strategy : str, Mapping or callable
        As ``sampling_strategy`` of :class:`CellSampler`.
    counts : ndarray of shape (n_labels, n_groups), int64
        Real rows of every cell.
    keys : list
        Keys of the cells, in the order of ``counts.reshape(-1)``.
    keep : bool
        Whether all real rows are kept, so that no cell may get fewer.

    Returns
    -------
    rows : ndarray of shape (n_labels, n_groups), int64

    Raises
    ------
    ValueError
        If the strategy is unknown, names cells that do not exist, or gives fewer rows than are
        kept.
    """
    if isinstance(strategy, str):
        tables = {
            "joint": lambda: np.full_like(counts, counts.max()),
            "parity": lambda: _parity(counts, keep),
            "group": lambda: _group(counts),
            "match": counts.copy,
        }
        return np.asarray(tables[strategy]())
    if callable(strategy):
        strategy = strategy(dict(zip(keys, counts.reshape(-1).tolist(), strict=True)))
    if not isinstance(strategy, Mapping):
        raise ValueError(
            f"sampling_strategy returned {strategy!r}: a callable must return a dict "
            "cell -> rows, as it gets."
        )
    rows = _table_of(strategy, counts, keys)
    short = (rows < counts).reshape(-1)
    if keep and short.any():
        cells = {k: int(n) for k, n, s in zip(keys, counts.reshape(-1), short, strict=True) if s}
        raise ValueError(
            f"sampling_strategy wants fewer rows than there are in {counted(cells)}, but "
            "mode='augment' keeps all of them: ask for as many or more, or use mode='replace'."
        )
    return rows


def rows_to_draw(
    strategy: Any, mode: str, mix_ratio: float, counts: NDArray[np.int64], keys: list[Any]
) -> NDArray[np.int64]:
    """Compute how many synthetic rows every cell gets, shape (n_labels, n_groups)."""
    rows = _rows_per_cell(strategy, counts, keys, keep=mode == "augment")
    if mode == "augment":
        return rows - counts
    if mode == "replace" or not isinstance(strategy, str):
        return rows
    return _apportion(rows.astype(float), round(mix_ratio * int(counts.sum())))


def check_sources(
    drawn: NDArray[np.int64], counts: NDArray[np.int64], keys: list[Any], least: int
) -> None:
    """Refuse to draw rows for a cell that has too few real ones.

    Raises
    ------
    GroupError
        If there is such a cell; the message lists them and says what to do.
    """
    small = {
        key: int(n)
        for key, n, n_drawn in zip(keys, counts.reshape(-1), drawn.reshape(-1), strict=True)
        if n_drawn > 0 and n < max(1, least)
    }
    if not small:
        return
    empty = [key for key, n in small.items() if n == 0]
    advice = (
        f"Cells [{listed(empty, show=repr)}] have no rows to learn from: merge groups, or pass "
        "sampling_strategy as a dict of the cells to fill"
        if empty
        else "Lower min_cell_size, merge groups, or pass sampling_strategy as a dict of the cells "
        "to fill"
    )
    raise GroupError(
        f"Synthetic rows are wanted in cells with fewer than min_cell_size={least} real rows "
        f"(cell: rows): {counted(small)}. {advice}."
    )
