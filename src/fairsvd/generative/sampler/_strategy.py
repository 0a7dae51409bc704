"""How many rows every (label, group) cell is to have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...exceptions import GroupError

__all__ = ["MODES", "STRATEGIES", "apportioned", "check_sources", "rows_to_draw", "wanted_rows"]

STRATEGIES = ("joint", "parity", "group", "match")
MODES = ("augment", "replace", "mix")


def apportioned(weights: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Share a number of rows out by weight: whole numbers that add up to ``total`` exactly.

    Largest remainders, the earlier cell first where they tie.
    """
    exact = weights / weights.sum() * total
    rows = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - rows).reshape(-1), kind="stable")
    rows.reshape(-1)[order[: total - int(rows.sum())]] += 1
    return rows


def _parity(counts: NDArray[np.int64], keep: bool) -> NDArray[np.int64]:
    shares = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum() ** 2
    if not keep:
        return apportioned(shares, int(counts.sum()))
    # The smallest table of these proportions in which no cell has fewer rows than now.
    total = (counts / np.where(shares > 0, shares, 1)).max()
    return np.maximum(counts, np.rint(total * shares).astype(np.int64))


def _group(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give every group as many rows as the largest has, its labels in its own proportions."""
    sizes = counts.sum(axis=0)
    columns = [apportioned(column.astype(float), int(sizes.max())) for column in counts.T]
    # Rounding must not take a real row away.
    return np.maximum(np.stack(columns, axis=1), counts)


def _given(
    strategy: Mapping[Any, int], counts: NDArray[np.int64], keys: list[Any]
) -> NDArray[np.int64]:
    unknown = [key for key in strategy if key not in keys]
    if unknown:
        raise ValueError(
            f"sampling_strategy names the cells {unknown}, the data has {keys}: name (label, "
            "group) pairs of these, or labels where there are no groups."
        )
    wrong = {
        key: n
        for key, n in strategy.items()
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0
    }
    if wrong:
        raise ValueError(f"sampling_strategy has {wrong}: pass whole numbers from 0.")
    table = counts.copy()
    for key, n in strategy.items():
        table.reshape(-1)[keys.index(key)] = n
    return table


def wanted_rows(
    strategy: Any, counts: NDArray[np.int64], keys: list[Any], *, keep: bool
) -> NDArray[np.int64]:
    """Return how many rows a strategy wants in every cell.

    Parameters
    ----------
    strategy : str, Mapping or callable
        As ``sampling_strategy`` of :class:`CellSampler`.
    counts : ndarray of shape (n_labels, n_groups), int64
        Real rows of every cell.
    keys : list
        Keys of the cells, in the order of ``counts.reshape(-1)``.
    keep : bool
        Whether all real rows stay, so that no cell may have fewer.

    Returns
    -------
    wanted : ndarray of shape (n_labels, n_groups), int64

    Raises
    ------
    ValueError
        The strategy is unknown, names cells that do not exist, or wants fewer rows than stay.
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
            f"sampling_strategy returned {strategy!r}: a callable gets a dict cell -> rows and "
            "returns one."
        )
    wanted = _given(strategy, counts, keys)
    short = (wanted < counts).reshape(-1)
    if keep and short.any():
        cells = {k: int(n) for k, n, s in zip(keys, counts.reshape(-1), short, strict=True) if s}
        raise ValueError(
            f"sampling_strategy wants fewer rows than there are in {cells}, and mode='augment' "
            "keeps all of them: ask for as many or more, or use mode='replace'."
        )
    return wanted


def rows_to_draw(
    strategy: Any, mode: str, mix_ratio: float, counts: NDArray[np.int64], keys: list[Any]
) -> NDArray[np.int64]:
    """Return how many synthetic rows every cell gets, shape (n_labels, n_groups)."""
    wanted = wanted_rows(strategy, counts, keys, keep=mode == "augment")
    if mode == "augment":
        return wanted - counts
    if mode == "replace" or not isinstance(strategy, str):
        return wanted
    return apportioned(wanted.astype(float), round(mix_ratio * int(counts.sum())))


def check_sources(
    drawn: NDArray[np.int64], counts: NDArray[np.int64], keys: list[Any], least: int
) -> None:
    """Refuse to draw rows of a cell that has too few to learn from.

    Raises
    ------
    GroupError
        Names the cells, what they have and what to do.
    """
    needed, have = drawn.reshape(-1) > 0, counts.reshape(-1)
    small = {
        key: int(n)
        for key, n, need in zip(keys, have, needed, strict=True)
        if need and n < max(1, least)
    }
    if not small:
        return
    empty = [key for key, n in small.items() if n == 0]
    advice = (
        f"Cells {empty} have no rows at all, so that nothing is known of them: merge groups, or "
        "pass sampling_strategy as a dict of the cells to fill"
        if empty
        else "Lower min_cell_size, merge groups, or pass sampling_strategy as a dict of the cells "
        "to fill"
    )
    raise GroupError(
        f"Synthetic rows are wanted in cells with fewer than min_cell_size={least} real rows "
        f"(cell: rows): {small}. {advice}."
    )
