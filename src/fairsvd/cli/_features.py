"""The features of a file: which columns may be used, which not and why, and as what."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._messages import listed
from ._columns import Rows, check_classes, find_columns, read_rows, split_names

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Features", "cast", "pick_features", "read_features"]

# A column that gives the label away: right in this share of all rows, and of each class on average.
LEAK, LEAK_BALANCED = 0.97, 0.9
# Text of which more values than this share are different names rows.
DISTINCT = 0.9
FEWEST_ROWS = 20  # to judge a column by
WORDS = 4  # of a free text, on average
MOSTLY = 0.9  # of the values, to say what a column holds
ID_NAME = re.compile(r"(^|[_\W])(id|nr|no|number|key|index|uuid|guid|row)$|^unnamed", re.IGNORECASE)
# Amounts and shares as people write them; plain numbers are none of these columns.
AMOUNT = r"[$€£¥]?\s*[+-]?\d{1,3}([,']?\d{3})*(\.\d+)?\s*[%$€£¥]?"
DATE = r"\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([T ].*)?"


@dataclass(frozen=True)
class Features:
    """The columns that a model gets.

    Attributes
    ----------
    frame : DataFrame
        Numbers as float64, all else as text.
    numbers, categories : list of str
        Names of its columns.
    left_out : dict of str to str
        Names of other columns, and why they are not used.
    """

    frame: pd.DataFrame
    numbers: list[str]
    categories: list[str]
    left_out: dict[str, str]

    def describe(self) -> list[str]:
        """Say in lines what is used and what not."""
        about = f"{len(self.numbers)} columns of numbers and {len(self.categories)} of categories"
        lines = [f"Features: {about}"]
        return lines + [f"Left out: {name} ({why})" for name, why in self.left_out.items()]


def read_features(options: argparse.Namespace) -> tuple[Rows, Features]:
    """Read the file of a command that fits models: its rows, and the features among them.

    Raises
    ------
    ValueError
        As :func:`read_rows` and :func:`pick_features`; or the target is no class.
    OSError
        If the file cannot be read.
    """
    rows = read_rows(options)
    try:
        check_classes(rows)
        chosen = {"drop": options.drop, "keep": options.keep}
        return rows, pick_features(rows, keep_sensitive=options.keep_sensitive, **chosen)
    except ValueError as error:
        raise ValueError(f"{options.file}: {error}") from error


def pick_features(
    rows: Rows, *, drop: str | None = None, keep: str | None = None, keep_sensitive: bool = False
) -> Features:
    """Choose the columns that a model may use.

    Parameters
    ----------
    rows : Rows
    drop, keep : str or None, default=None
        Names with commas: columns to leave out, and columns to use whatever they look like.
    keep_sensitive : bool, default=False
        Whether the sensitive columns are features too.

    Returns
    -------
    features : Features

    Raises
    ------
    ValueError
        If a column gives the label away, or holds what can be no feature, or none is left.
    """
    columns = rows.frame.columns.tolist()
    dropped, kept = (_named(text, columns) for text in (drop, keep))
    left_out = {rows.target: "the target"}
    if not keep_sensitive:
        left_out |= dict.fromkeys(rows.sensitive, "sensitive; --keep-sensitive would use it")
    if rows.weights:
        left_out.setdefault(rows.weights, "the weights of the rows")
    left_out |= {name: "--drop" for name in dropped if name not in left_out}
    for name in columns:
        reason = "" if name in left_out or name in kept else _why_not(rows.frame[name])
        if reason:
            left_out[name] = reason
    frame = rows.frame.drop(columns=list(left_out))
    if frame.empty:
        raise ValueError(
            "no column is left for features: the file needs some beside the target and the groups "
            f"(left out: {listed(f'{name}: {why}' for name, why in left_out.items())})."
        )
    names = [str(name) for name in frame]
    numbers = [name for name in names if frame[name].dtype.kind in "iuf"]
    categories = [name for name in names if name not in numbers]
    for name in names:
        _check_column(frame[name], rows.frame[rows.target], forced=name in kept)
    return Features(cast(frame, numbers, categories), numbers, categories, left_out)


def _named(text: str | None, columns: Sequence[str]) -> list[str]:
    return [] if text is None else find_columns(split_names(text, columns), columns)


def cast(frame: pd.DataFrame, numbers: Sequence[str], categories: Sequence[str]) -> pd.DataFrame:
    """Give every column its type: float64, or text with None where it is missing.

    Raises
    ------
    ValueError
        If a column of numbers holds text; the message names the column and the text.
    """
    import pandas as pd

    columns: dict[str, pd.Series] = {}
    for name in numbers:
        found = pd.to_numeric(frame[name], errors="coerce").astype(np.float64)
        wrong = frame[name][found.isna() & frame[name].notna()]
        if len(wrong):
            raise ValueError(f"column {name} holds {wrong.iloc[0]!r}, where a number is wanted")
        columns[name] = found
    for name in categories:
        columns[name] = frame[name].astype(object).map(_as_text).astype(object)
    return pd.DataFrame(columns, index=frame.index)[[*numbers, *categories]]


def _as_text(value: object) -> str | float:
    # NaN is scikit-learn's word for a missing category.
    missing = value is None or value != value
    return float("nan") if missing else str(value)


def _why_not(column: pd.Series) -> str:
    """Say why a column is no feature; "" if it may be one."""
    values = column.dropna()
    if values.empty:
        return "it is empty"
    distinct = values.nunique()
    if distinct == 1 and len(values) == len(column):
        return "it has one value only"
    if column.dtype.kind in "iu":
        row_number = distinct == len(values) >= FEWEST_ROWS and _names_rows(values)
        return "an identifier: every row has its own" if row_number else ""
    if column.dtype.kind == "M":
        return "a date: pass what matters of it as a number, such as an age"
    return _why_no_text(values) if column.dtype.kind == "O" else ""


def _names_rows(values: pd.Series) -> bool:
    steps = values.diff().dropna()
    return bool(ID_NAME.search(str(values.name))) or bool((steps == 1).all())


def _why_no_text(values: pd.Series) -> str:
    texts = values.astype(str)
    if texts.str.fullmatch(DATE).mean() >= MOSTLY:
        return "a date: pass what matters of it as a number, such as an age"
    if _share_of_numbers(texts) < 0.5 and texts.str.fullmatch(AMOUNT).mean() >= MOSTLY:
        return f"numbers with signs, such as {texts.iloc[0]}: write them as plain numbers"
    if len(texts) < FEWEST_ROWS or texts.nunique() <= DISTINCT * len(texts):
        return ""
    if _share_of_numbers(texts) >= MOSTLY:
        return ""  # numbers, and perhaps a word among them, which is refused
    words = texts.str.count(r"\S+").mean()
    if words >= WORDS:
        return "free text: pass numbers made of it, such as a sentence embedding"
    return f"an identifier: {texts.nunique():,} different texts in {len(texts):,} rows"


def _check_column(column: pd.Series, target: pd.Series, *, forced: bool) -> None:
    """Refuse infinite numbers, numbers with words among them, and what gives the label away."""
    name = column.name
    if column.dtype.kind == "f" and np.isinf(column).any():
        raise ValueError(f"column {name} holds infinite numbers: leave them empty.")
    if forced:
        return
    if column.dtype.kind == "O" and (word := _word_among_numbers(column)):
        raise ValueError(
            f"column {name} holds numbers, and {word!r} among them: empty such cells, or pass "
            f'--drop "{name}", or --keep "{name}" to take every value for a category'
        )
    right = _share_given_away(column, target)
    if right >= LEAK:
        raise ValueError(
            f"column {name} gives the label away in {right:.1%} of the rows: pass --drop "
            f'"{name}", or --keep "{name}" if it is known before the label is'
        )


def _share_of_numbers(texts: pd.Series) -> float:
    import pandas as pd

    return float(pd.to_numeric(texts, errors="coerce").notna().mean())


def _word_among_numbers(column: pd.Series) -> str:
    import pandas as pd

    texts = column.dropna()
    wrong = texts[pd.to_numeric(texts, errors="coerce").isna()]
    mostly = len(texts) >= FEWEST_ROWS and _share_of_numbers(texts) >= MOSTLY
    return str(wrong.iloc[0]) if mostly and len(wrong) and texts.nunique() > FEWEST_ROWS else ""


def _share_given_away(column: pd.Series, target: pd.Series) -> float:
    """Compute the share of rows whose label a rule on one column finds; 0 if it finds few classes.

    The rule is the most frequent label of each value, or, for more values than that can be learned
    from, of each of ten intervals of numbers.
    """
    import pandas as pd

    values = column.astype(object)
    if column.nunique() * FEWEST_ROWS > len(column):
        if column.dtype.kind not in "iuf":
            return 0.0
        values = pd.qcut(column, 10, duplicates="drop").astype(object)
    values = values.map(str)  # missing values are a value too
    counts = pd.crosstab(values, target)
    of_class = counts.sum()
    found = counts.where(counts.eq(counts.max(axis=1), axis=0), 0)
    balanced = (found.sum() / of_class).mean()
    share = float(counts.max(axis=1).sum() / len(column))
    return share if balanced >= LEAK_BALANCED else 0.0
