"""Select the rows of a comparison, and refuse tables that lack columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._averages import HEADLINES

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["INDEX", "NEEDED", "check_columns", "one_constraint", "select_rows"]

INDEX = ["constraint", "method"]
NEEDED = ["fold", *INDEX, *HEADLINES, "needs_group", "seconds"]


def check_columns(table: Any) -> pd.DataFrame:
    """Return the table, and refuse one that lacks columns that its methods need."""
    missing = [name for name in NEEDED if name not in table.columns]
    if missing:
        raise ValueError(
            f"this Comparison lacks the columns {', '.join(missing)}, which its methods need: "
            "select rows of it, and columns of what they return."
        )
    found: pd.DataFrame = table
    return found


def select_rows(table: Any, constraint: str | None) -> pd.DataFrame:
    """Select the rows of a constraint; None: all of them."""
    names = _constraints_of(table)
    found: pd.DataFrame = table
    if constraint is None:
        return found
    if constraint not in names:
        raise ValueError(f"{constraint!r} was not compared: choose among {', '.join(names)}.")
    return found[found["constraint"] == constraint]


def one_constraint(table: Any, constraint: str | None) -> str:
    """Return the constraint, or the only one of the table if none is named."""
    names = _constraints_of(table)
    if constraint is None and len(names) > 1:
        raise ValueError(f"several constraints were compared: name one of {', '.join(names)}.")
    return names[0] if constraint is None else constraint


def _constraints_of(table: Any) -> list[str]:
    if check_columns(table).empty:
        raise ValueError("this Comparison has no rows: select at least one.")
    return list(table["constraint"].unique())
