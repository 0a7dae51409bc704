"""The CSV file of a command: its separator, its columns, and the names that the user gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .._messages import did_you_mean, listed

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["describe_empty", "read_table"]

SEPARATORS = (",", ";", "\t")


def read_table(
    path: Path, target: str, sensitive: str, pred: str | None = None
) -> tuple[pd.DataFrame, str, list[str], str]:
    """Read a file, and find the columns that the user names.

    Parameters
    ----------
    path : Path
        Columns are separated by commas, semicolons or tabs.
    target, sensitive : str
        ``sensitive`` is a column, or several with commas.
    pred : str, optional
        If it is given, only these columns are read.

    Returns
    -------
    frame : DataFrame
    target, sensitive, pred
        The names as the file has them.

    Raises
    ------
    ValueError
        If the file is no such table, lacks a column, or has no rows; the message names the file.
    OSError
        If it cannot be read.
    """
    import pandas as pd

    try:
        separator, columns = _headings(path)
        names = _split_names(sensitive, columns)
        if not names:
            raise ValueError("--sensitive names no column: give one, or several with commas.")
        target, *found = _find([target, *([] if pred is None else [pred]), *names], columns)
        used = None if pred is None else list(dict.fromkeys([target, *found]))
        frame = pd.read_csv(
            path, usecols=used, low_memory=False, sep=separator, skipinitialspace=True
        )
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: it is not in UTF-8 ({error}): save it in this encoding"
        ) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        text = " ".join(str(error).split())
        raise ValueError(
            f"{path}: it is no table with headings and one separator ({text})"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if frame.empty:
        raise ValueError(f"{path}: it has headings but no rows")
    pred, names = ("", found) if pred is None else (found[0], found[1:])
    if target in names:
        raise ValueError(f"{path}: column {target} is both the target and sensitive: name another")
    return frame, target, names, pred


def describe_empty(frame: pd.DataFrame) -> str:
    """Say which columns have empty cells, and in how many rows; "" if none has."""
    empty = {name: int(n) for name, n in frame.isna().sum().items() if n}
    return listed(f"column {name} is empty in {n} rows" for name, n in empty.items())


def _headings(path: Path) -> tuple[str, list[str]]:
    """Read the separator and the names of the columns."""
    import pandas as pd

    columns = pd.read_csv(path, nrows=0, skipinitialspace=True).columns.tolist()
    # A single column may be all of them, with another separator.
    separator = "," if len(columns) > 1 else max(SEPARATORS, key=str(columns[0]).count)
    if separator != ",":
        table = pd.read_csv(path, nrows=0, sep=separator, skipinitialspace=True)
        columns = table.columns.tolist()
    return separator, columns


def _split_names(text: str, columns: Sequence[str]) -> list[str]:
    """Split names at commas, unless a column has the whole text as its name."""
    if text in columns:
        return [text]
    return [name if name in columns else name.strip() for name in text.split(",") if name.strip()]


def _find(names: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Find the columns of names; spaces at their ends do not matter."""
    stripped = {str(column).strip(): column for column in columns}
    found = [name if name in columns else stripped.get(name.strip()) for name in names]
    missing = [name for name, column in zip(names, found, strict=True) if column is None]
    if missing:
        raise ValueError(
            f"there is no column {listed(missing)}; it has {listed(columns, 20)}"
            f"{did_you_mean(missing[0], columns)}"
        )
    return [column for column in found if column is not None]
