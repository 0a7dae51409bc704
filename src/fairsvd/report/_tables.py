"""Tables as text, and the table of gaps with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..objective import GAPS, estimate_gaps, gap

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["before_after", "format_table", "gap_estimates", "small_cells"]

SPACE = "  "  # between two columns


def format_table(frame: pd.DataFrame, *, decimals: int = 3) -> str:
    """Write a table as aligned plain text, in ASCII if its labels are.

    Parameters
    ----------
    frame : DataFrame
        The table; every level of its index becomes a column on the left.
    decimals : int, default=3
        Decimals of floats.

    Returns
    -------
    text : str
        A line of headings, a rule and one line per row, without a newline at the end. Numbers are
        right-aligned, integers have thousands separators, NaN is "-".

    Examples
    --------
    >>> import pandas as pd
    >>> from fairsvd.report import format_table
    >>> print(format_table(pd.DataFrame({"n": [1200, 7], "tpr": [0.5, None]}, index=["f", "m"])))
           n    tpr
    -  -----  -----
    f  1,200  0.500
    m      7      -
    """
    levels = [frame.index.get_level_values(k).tolist() for k in range(frame.index.nlevels)]
    names = ["" if name is None else str(name) for name in frame.index.names]
    columns = [_align_left(name, level) for name, level in zip(names, levels, strict=True)]
    for name in frame.columns:
        columns.append(_format_column(str(name).replace("_", " "), frame[name].tolist(), decimals))
    return "\n".join(SPACE.join(line).rstrip() for line in zip(*columns, strict=True))


def _align_left(name: str, values: list[Any]) -> list[str]:
    cells = [str(value) for value in values]
    width = max(map(len, [name, *cells]))
    return [cell.ljust(width) for cell in (name, "-" * width, *cells)]


def _format_column(name: str, values: list[Any], decimals: int) -> list[str]:
    if any(isinstance(value, str) for value in values):
        return _align_left(name, values)
    cells = [_format_number(value, decimals) for value in values]
    width = max(map(len, [name, *cells]))
    return [cell.rjust(width) for cell in (name, "-" * width, *cells)]


def _format_number(value: Any, decimals: int) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value != value:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{decimals}f}"


def before_after(before: pd.DataFrame, after: pd.DataFrame, *, decimals: int = 3) -> pd.DataFrame:
    """Join two tables of equal form into one of texts ``before -> after``.

    Parameters
    ----------
    before, after : DataFrame
        Tables with equal index and columns; columns of integers are copied from ``after``.
    decimals : int, default=3

    Returns
    -------
    table : DataFrame
    """
    both = after.copy()
    for name in after.columns:
        if after[name].dtype.kind == "f":
            pairs = zip(before[name].tolist(), after[name].tolist(), strict=True)
            both[name] = [
                " -> ".join(_format_number(value, decimals) for value in pair) for pair in pairs
            ]
    return both


def gap_estimates(
    counts: NDArray[Any],
    pos: int | None,
    rng: np.random.Generator,
    effective: NDArray[np.int64] | None = None,
) -> pd.DataFrame:
    """Tabulate every gap with its uncertainty.

    Parameters
    ----------
    counts : ndarray of shape (n_groups, n_classes, n_classes)
        Rows, or sums of weights, by [group, true, predicted].
    pos : int or None
        Code of the positive class; with None or more than two classes: mean of one versus the
        rest.
    rng : numpy.random.Generator
    effective : ndarray of the same shape, int64, optional
        Rows of equal weight that tell as much as the weighted ones; None: ``counts`` are rows.

    Returns
    -------
    table : DataFrame
        Index: the names of the gaps. Columns, differences of rates in [0, 1]: difference, low and
        high (95 % interval), upper (one-sided 95 % bound), noise_floor (the mean gap of equal
        treatment on that many rows). NaN if a gap cannot be measured.
    """
    import pandas as pd

    rows = {
        name: {"difference": float(gap(counts, name, pos)), **each._asdict()}
        for name, each in estimate_gaps(
            counts if effective is None else effective, GAPS, pos, rng
        ).items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("gap")


def small_cells(
    counts: NDArray[np.int64], classes: Sequence[Any], labels: Sequence[Any], fewest: int
) -> list[str]:
    """List the (label, group) cells with too few rows.

    Parameters
    ----------
    counts : ndarray of shape (n_groups, n_classes, n_classes), int64
        Rows by [group, true, predicted].
    classes, labels : sequence
        Labels of the classes and of the groups.
    fewest : int
        Cells with fewer rows are listed.

    Returns
    -------
    cells : list of str
        Sorted by rows, smallest first.
    """
    rows = counts.sum(axis=2)
    small = sorted((int(rows[g, k]), k, g) for g, k in np.argwhere(rows < fewest).tolist())
    return [f"(label {classes[k]}, group {_name_group(labels[g])}): {n:,}" for n, k, g in small]


def _name_group(label: Any) -> str:
    return "/".join(map(str, label)) if isinstance(label, tuple) else str(label)
