"""What a command prints and writes: text without control characters, tables by their ending."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ENDINGS", "as_json", "check_ending", "clean", "say", "write_table"]

# Formats of tables, by the ending of the file.
ENDINGS = (".csv", ".json", ".md")

# A spreadsheet takes a cell that begins with one of these for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def clean(text: str) -> str:
    """Write out control characters, which could move the cursor or turn the text around.

    A file decides about names of columns, labels and groups, and so about what is printed.

    Examples
    --------
    >>> from fairsvd.cli import clean
    >>> clean("a" + chr(27) + "[31mb") == "a" + chr(92) + "x1b[31mb"
    True
    """
    return "".join(_shown(each) for each in text)


def _shown(character: str) -> str:
    # "Cc" are control characters, "Cf" invisible ones such as marks of the writing direction.
    if character != "\n" and unicodedata.category(character) in ("Cc", "Cf"):
        code = ord(character)
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    return character


def say(text: str = "", *, error: bool = False) -> None:
    """Print text at once, also into a pipe, since a fit takes a while."""
    print(clean(text), file=sys.stderr if error else sys.stdout, flush=True)


def check_ending(path: Path | None, option: str = "--out") -> None:
    """Refuse an unknown ending, and make the folder, before any long computation."""
    if path is None:
        return
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"{option} {path} must end in one of {', '.join(ENDINGS)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{option} {path}: there is no folder {path.parent}; make it first")


def write_table(path: Path, table: pd.DataFrame, content: Any = None) -> None:
    """Write a table in the format of the ending of its file.

    Parameters
    ----------
    path : Path
        Ends in ``.csv``, ``.json`` or ``.md``.
    table : DataFrame
        What ``.csv`` and ``.md`` hold; in both, texts that a spreadsheet would take for formulas
        get an apostrophe in front.
    content : object, optional
        What ``.json`` holds. None: the rows of the table.
    """
    ending = path.suffix.lower()
    if ending == ".json":
        text = as_json(table.to_dict("records") if content is None else content)
    elif ending == ".csv":
        text = _without_formulas(table).to_csv(index=False)
    else:
        text = _markdown(_without_formulas(table))
    path.write_text(text, encoding="utf-8")


def _without_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """Put an apostrophe before texts, and names of columns, that a spreadsheet would execute."""

    def safe(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value

    columns = {safe(str(name)): column.map(safe) for name, column in table.items()}
    return type(table)(columns, index=table.index)


def _markdown(table: pd.DataFrame) -> str:
    def row(cells: Any) -> str:
        return "| " + " | ".join(_markdown_cell(cell) for cell in cells) + " |\n"

    rows = table.itertuples(index=False, name=None)
    return row(table.columns) + row(["---"] * table.shape[1]) + "".join(map(row, rows))


def _markdown_cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return clean(text).replace("|", "\\|").replace("\n", " ")


def as_json(content: Any) -> str:
    """Write JSON in which what cannot be measured is null.

    Parameters
    ----------
    content : object
        Mappings, sequences, texts and numbers, those of numpy too.
    """
    return json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
