"""Read a table of rows from a file: its format, its separator, its headings."""

from __future__ import annotations

import argparse
import csv
import gzip
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._messages import listed

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_file"]

SEPARATORS = (",", ";", "\t", "|")
# Records by which the separator is found.
SAMPLE = 50
# Share of the records that have as many cells as the first one, where the separator is clear.
CLEAR = 0.5
DECIMAL_COMMA = r"\s*[+-]?\d+,\d+\s*"

# Kinds of columns that stay as they are: numbers, booleans and dates.
KEPT_KINDS = "biufM"

# What has to be installed for each format, by the ending of the file: one of the packages.
NEEDED = {
    ".parquet": ("polars", "pyarrow"),
    ".pq": ("polars", "pyarrow"),
    ".xlsx": ("openpyxl",),
    ".xls": ("xlrd",),
    ".ods": ("odf",),
}
INSTALLED_AS = {"odf": "odfpy"}


def read_file(path: Path, options: argparse.Namespace) -> pd.DataFrame:
    """Read a file in the format of its ending: Parquet, a spreadsheet, or else text.

    Parameters
    ----------
    path : Path
    options : argparse.Namespace
        sep, decimal, encoding, header, columns, sheet.

    Returns
    -------
    frame : DataFrame
        Texts are objects, whatever pandas makes of them, so that scikit-learn can select rows,
        without blanks at their ends, by which equal labels would differ.

    Raises
    ------
    ValueError
        If the file is no such table, or what it needs is not installed; the message says what to
        pass.
    OSError
        If it cannot be read.
    """
    try:
        frame = _read(path, options)
        if frame.empty:
            raise ValueError("it has headings but no rows")
        frame.columns = frame.columns.map(str)
        texts = [str(name) for name in frame if frame[name].dtype.kind not in KEPT_KINDS]
        frame = frame.assign(**{name: frame[name].map(_stripped) for name in texts})
        frame = frame.astype(dict.fromkeys(texts, object))
        _check_decimals(frame)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: it is not in UTF-8 ({error}): pass the encoding, such as --encoding latin-1 "
            "or --encoding utf-16"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return frame


def _stripped(value: object) -> object:
    return value.strip() or None if isinstance(value, str) else value


def _read(path: Path, options: argparse.Namespace) -> pd.DataFrame:
    ending = path.suffix.lower()
    with path.open("rb"):  # says at once what the matter is with the file
        pass
    _check_installed(ending)
    if ending in (".parquet", ".pq"):
        return _read_parquet(path)
    if ending in NEEDED:
        return _read_sheet(path, options)
    return _read_text(path, options)


def _check_installed(ending: str) -> None:
    packages = NEEDED.get(ending, ())
    if packages and not any(map(find_spec, packages)):
        package = INSTALLED_AS.get(packages[0], packages[0])
        raise ValueError(f"files that end in {ending} need {package}: pip install {package}")


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    if find_spec("pyarrow"):
        return pd.read_parquet(path)
    import polars

    from ..containers import as_known

    table = polars.read_parquet(path)
    frame: pd.DataFrame = as_known(table, "the file")
    # Numbers with missing values among them arrive as objects.
    numbers = [name for name in table.columns if table[name].dtype.is_numeric()]
    return frame.assign(**{name: pd.to_numeric(frame[name]) for name in numbers})


def _read_sheet(path: Path, options: argparse.Namespace) -> pd.DataFrame:
    import pandas as pd

    sheet = 0 if options.sheet is None else options.sheet
    frame = pd.read_excel(path, sheet_name=sheet, header=0 if options.header else None)
    return frame if options.header else _named(frame, options)


def _read_text(path: Path, options: argparse.Namespace) -> pd.DataFrame:
    import pandas as pd

    separator = options.sep or _find_separator(path, options.encoding)
    try:
        frame = pd.read_csv(
            path,
            sep=separator,
            decimal=options.decimal,
            encoding=options.encoding,
            header=0 if options.header else None,
            low_memory=False,
            skipinitialspace=True,
        )
    except UnicodeDecodeError:
        raise
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        text = " ".join(str(error).split())
        raise ValueError(
            f"it is no table with one separator ({text}): pass --sep, or repair that line"
        ) from error
    return frame if options.header else _named(frame, options)


def _named(frame: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    """Name the columns of a file without headings: as given, or by their numbers from 1."""
    width = frame.shape[1]
    names = [str(k) for k in range(1, width + 1)]
    if options.columns is not None:
        names = [name.strip() for name in next(csv.reader([options.columns]))]
    if len(names) != width or len(set(names)) != width:
        raise ValueError(
            f"--columns gives {len(set(names))} different names ({listed(names)}), but the file "
            f"has {width} columns: give one for each, in quotes where a name has a comma"
        )
    return frame.set_axis(names, axis="columns")


def _find_separator(path: Path, encoding: str) -> str:
    """Find the separator by which most records have as many cells as the first one.

    A comma may stand in headings and numbers of a file with semicolons, so the records are parsed
    with each separator, quotes included.
    """

    def widths_by(separator: str) -> list[int]:
        with _open_text(path, encoding) as lines:
            records = islice(csv.reader(lines, delimiter=separator, skipinitialspace=True), SAMPLE)
            return [len(record) for record in records if record]

    def worth(widths: list[int]) -> tuple[float, int]:
        if not widths or widths[0] < 2:
            return 0.0, 0
        return Counter(widths)[widths[0]] / len(widths), widths[0]

    try:
        found = {separator: widths_by(separator) for separator in SEPARATORS}
    except csv.Error as error:
        raise ValueError(f"it is no table of text ({error})") from error
    best = max(found, key=lambda separator: worth(found[separator]))
    share, width = worth(found[best])
    if share < CLEAR:
        _refuse_title(found.values())
    return best if width else ","


def _refuse_title(found: Iterable[list[int]]) -> None:
    """Refuse a file whose first line alone has another number of cells, such as a title."""
    for widths in found:
        others = set(widths[1:])
        if len(widths) > 2 and others not in ({1}, set(widths[:1])) and len(others) == 1:
            raise ValueError(
                f"its first line is no row of the table, since all others have {others.pop()} "
                "cells: remove that line"
            )


@contextmanager
def _open_text(path: Path, encoding: str) -> Iterator[Any]:
    opened: Any = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rt", encoding=encoding, newline="") as lines:
        yield lines


def _check_decimals(frame: pd.DataFrame) -> None:
    """Refuse numbers with a decimal comma, which would become categories."""
    for name, column in frame.select_dtypes("object").items():
        texts = column.dropna()
        found = texts.map(lambda value: isinstance(value, str)).all() and len(texts) > 0
        if found and texts.str.fullmatch(DECIMAL_COMMA).all():
            raise ValueError(
                f"column {name} holds numbers with a decimal comma, such as {texts.iloc[0]}: pass "
                "--decimal ,"
            )
