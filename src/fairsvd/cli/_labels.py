"""Labels and groups of a file: which is positive, and what happens to rows without a group."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .._messages import listed
from ._columns import Rows, describe_empty

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["as_label", "known_groups", "say_positive"]


def known_groups(rows: Rows, options: argparse.Namespace) -> tuple[pd.DataFrame, pd.Series]:
    """Return the groups, and which rows of the file they are of, after ``--missing-group``.

    Returns
    -------
    groups : DataFrame
        Without missing values.
    known : Series of bool
        Marks its rows among those of the file.

    Raises
    ------
    ValueError
        If groups are missing and nothing says what to do with such rows.
    """
    groups = rows.frame[rows.sensitive]
    known = groups.notna().all(axis=1)
    if options.missing_group == "raise" and not known.all():
        raise ValueError(
            f"{options.file}: {describe_empty(groups)}: fill it, or choose --missing-group ignore "
            "or own_group"
        )
    if options.missing_group == "own_group":
        return groups.astype(object).fillna("missing"), known | True
    return groups[known], known


def say_positive(classes: list[Any], text: str | None) -> str:
    """Say which label is the positive one, and how to choose the other."""
    if len(classes) != 2:
        return f"Classes: {listed(classes)}; each is compared with the rest"
    positive = classes[1] if text is None else as_label(classes, text)
    other = next(label for label in classes if label != positive)
    return f"Positive label: {positive} (the other is {other}; --positive chooses)"


def as_label(classes: list[Any], text: str | None) -> Any:
    """Find the label that the user's text stands for, as text or as a number."""
    if text is None:
        return None
    matches = [label for label in classes if str(label) == text or _same_value(label, text)]
    if not matches:
        raise ValueError(f"--positive {text} is not among the labels {listed(classes)}")
    return matches[0]


def _same_value(label: Any, text: str) -> bool:
    try:
        if isinstance(label, bool) and text.lower() in ("true", "false"):
            return label == (text.lower() == "true")
        return not isinstance(label, str) and float(text) == label
    except ValueError:
        return False
