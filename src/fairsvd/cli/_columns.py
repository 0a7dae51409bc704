"""The rows of a command: the columns that the user names, binned and checked."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .._messages import did_you_mean, listed
from ._reading import read_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Rows",
    "check_classes",
    "cut_bins",
    "describe_empty",
    "find_columns",
    "read_rows",
    "split_list",
    "split_names",
]

# More distinct numbers than this are a quantity, which has to be cut into groups or classes.
MOST_VALUES = 20


@dataclass(frozen=True)
class Rows:
    """The rows of a file, and the roles of its columns.

    Attributes
    ----------
    frame : DataFrame
        All columns; binned where that was asked for.
    target : str
    sensitive : list of str
    pred : str
        The predicted labels; "" where the command has none.
    bins : dict of str to list of float
        The edges by which columns were cut.
    weights, score : str
        How often each row counts, and the probability of the positive label; "" without.
    """

    frame: pd.DataFrame
    target: str
    sensitive: list[str]
    pred: str
    bins: dict[str, list[float]]
    weights: str = ""
    score: str = ""

    def read_weights(self) -> NDArray[np.float64] | None:
        """Return the weights of all rows; None without ``--weights``."""
        if not self.weights:
            return None
        weights = self.numbers(self.weights, "--weights")
        if (weights < 0).any() or not np.isfinite(weights).all() or not weights.any():
            raise ValueError(
                f"--weights {self.weights}: holds values from {weights.min():g} to "
                f"{weights.max():g}; wanted finite ones of at least 0, some above 0"
            )
        return weights

    def numbers(self, name: str, option: str) -> NDArray[np.float64]:
        """Return a column of numbers, without empty cells.

        Raises
        ------
        ValueError
            If it holds anything else; the message names the option.
        """
        import pandas as pd

        numbers = pd.to_numeric(self.frame[name], errors="coerce").to_numpy(dtype=np.float64)
        wrong = np.flatnonzero(np.isnan(numbers))
        if len(wrong):
            raise ValueError(
                f"{option} {name}: data row {wrong[0] + 1} holds "
                f"{self.frame[name].iloc[wrong[0]]!r}, which is no number; {len(wrong)} rows are so"
            )
        return numbers


def read_rows(options: argparse.Namespace) -> Rows:
    """Read the file of a command, and find the columns that the user names.

    Parameters
    ----------
    options : argparse.Namespace
        file, target, sensitive, bins, perhaps pred, weights and score, and what
        :func:`read_file` needs.

    Raises
    ------
    ValueError
        If the file is no table, or lacks a column, or one cannot be used; the message names both.
    OSError
        If it cannot be read.
    """
    frame = read_file(options.file, options)
    try:
        return _find_roles(frame, options)
    except ValueError as error:
        raise ValueError(f"{options.file}: {error}") from error


def _find_roles(frame: pd.DataFrame, options: argparse.Namespace) -> Rows:
    columns = frame.columns.tolist()
    names = split_names(options.sensitive, columns)
    if not names:
        raise ValueError("--sensitive names no column: give one, or several with commas.")
    roles = {role: getattr(options, role, None) for role in ("pred", "weights", "score")}
    given = {role: name for role, name in roles.items() if name is not None}
    wanted = [options.target, *given.values(), *names]
    target, *found = find_columns(wanted, columns, headings=options.header)
    others, sensitive = dict(zip(given, found, strict=False)), found[len(given) :]
    if target in sensitive:
        raise ValueError(f"column {target} is both the target and sensitive: name another")
    bins = _read_bins(options.bins, columns)
    pred, weights, score = (others.get(role, "") for role in roles)
    rows = Rows(cut_bins(frame, bins), target, sensitive, pred, bins, weights, score)
    for name in sensitive:
        _refuse_quantity(rows.frame, name, "groups")
    for name in (target, *sensitive):
        _refuse_spellings(rows.frame[name])
    return rows


def split_list(text: str) -> list[str]:
    """Split the names of an option at commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def split_names(text: str, columns: Sequence[str]) -> list[str]:
    """Split names at commas, unless a column has the whole text as its name.

    Names in double quotes may hold commas.
    """
    if text in columns:
        return [text]
    names = next(csv.reader([text], skipinitialspace=True), [])
    return [name if name in columns else name.strip() for name in names if name.strip()]


def find_columns(
    names: Sequence[str], columns: Sequence[str], *, headings: bool = True
) -> list[str]:
    """Find the columns of names; spaces at their ends do not matter.

    Raises
    ------
    ValueError
        If one is not there; the message lists those that are, and the nearest.
    """
    stripped = {str(column).strip(): column for column in columns}
    found = [name if name in columns else stripped.get(name.strip()) for name in names]
    missing = [name for name, column in zip(names, found, strict=True) if column is None]
    if missing:
        raise ValueError(
            f"there is no column {listed(missing)}; it has {listed(columns, 20)}."
            f"{did_you_mean(missing[0], columns)}{_hint_of_form(columns, headings)}"
        )
    return [column for column in found if column is not None]


def _hint_of_form(columns: Sequence[str], headings: bool) -> str:
    """Say what to pass if the separator was not found, or the first line is a row."""
    if len(columns) == 1:
        return ' The lines were read as one column: pass --sep, such as --sep " ".'
    if headings and any(_is_number(name) for name in columns):
        return (
            " If its first line holds no headings, pass --no-header: columns are then named 1, 2 "
            "and so on, or by --columns."
        )
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_bins(texts: Sequence[str], columns: Sequence[str]) -> dict[str, list[float]]:
    """Read ``NAME:EDGE,EDGE`` of every option."""
    bins = {}
    for text in texts:
        name, _, edges = text.rpartition(":")
        try:
            numbers = sorted({float(edge) for edge in edges.split(",")})
        except ValueError as error:
            raise ValueError(
                f"--bins {text}: wanted a column and increasing edges, as in age:25,40,60"
            ) from error
        bins[find_columns([name], columns)[0]] = numbers
    return bins


def cut_bins(frame: pd.DataFrame, bins: dict[str, list[float]]) -> pd.DataFrame:
    """Cut columns of numbers into named intervals; missing values stay missing.

    Parameters
    ----------
    frame : DataFrame
    bins : dict of str to list of float
        Increasing edges; a value at an edge is in the interval above it.

    Returns
    -------
    frame : DataFrame
        A copy with texts such as "below 25", "25 to below 40" and "60 or more" in these columns.
    """
    import pandas as pd

    for name, edges in bins.items():
        if not pd.api.types.is_numeric_dtype(frame[name]):
            raise ValueError(f"--bins: column {name} does not hold numbers only")
        inner = [f"{a:g} to below {b:g}" for a, b in pairwise(edges)]
        labels = [f"below {edges[0]:g}", *inner, f"{edges[-1]:g} or more"]
        limits = [float("-inf"), *edges, float("inf")]
        cut = pd.cut(frame[name], limits, right=False, labels=labels)
        frame = frame.assign(**{name: cut.astype(object)})
    return frame


def _refuse_quantity(frame: pd.DataFrame, name: str, what: str) -> None:
    """Refuse numbers that are a quantity, and say which bins would be of equal size."""
    column = frame[name]
    if column.dtype.kind not in "iuf" or column.nunique() <= MOST_VALUES:
        return
    edges = ",".join(f"{edge:g}" for edge in sorted(set(column.quantile([0.25, 0.5, 0.75]))))
    raise ValueError(
        f"column {name} holds {column.nunique()} different numbers, which are no {what}: pass "
        f'--bins "{name}:{edges}" for quarters of the rows, or edges of your own'
    )


def _refuse_spellings(column: pd.Series) -> None:
    """Refuse labels and groups that are one, spelled with and without capital letters."""
    spelled: dict[str, str] = {}
    for value in column.dropna().unique():
        other = spelled.setdefault(str(value).casefold(), str(value))
        if other != str(value):
            raise ValueError(
                f"column {column.name} holds {other!r} and {str(value)!r}, which differ in capital "
                "letters only: spell them alike in the file"
            )


def check_classes(rows: Rows) -> None:
    """Refuse a target that holds a quantity or empty cells, and say what to pass."""
    if empty := describe_empty(rows.frame[[rows.target]]):
        raise ValueError(f"{empty}: fill it or leave these rows out")
    _refuse_quantity(rows.frame, rows.target, "classes")


def describe_empty(frame: pd.DataFrame) -> str:
    """Say which columns have empty cells, and in how many rows; "" if none has."""
    empty = {name: int(n) for name, n in frame.isna().sum().items() if n}
    return listed(f"column {name} is empty in {n} rows" for name, n in empty.items())
