"""The no-harm protocol on the command line: each method against the reference, and counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..report import format_table
from ._output import say

if TYPE_CHECKING:
    import pandas as pd

    from ..comparison import Comparison

__all__ = ["no_harm_content", "say_no_harm"]

REFERENCE = "reference"


def say_no_harm(comparison: Comparison, constraint: str, reference: str) -> None:
    """Print a constraint's quadrants, the changes behind them, and the counts."""
    table = comparison.no_harm(constraint).droplevel("constraint")
    changes = {name: _with_interval(table, f"{name}_change") for name in ("utility", "fairness")}
    shown = table[["quadrant", "clear", "groups_lost"]].assign(**changes)
    shown["distance"] = table["distance"]
    say(f"\n{constraint.replace('_', ' ')}, against {reference}\n")
    say(format_table(shown.rename(columns={"groups_lost": "groups that lose"})))
    counted = [
        f"{name}: {each['methods']} ({each['clear']} clear, {each['no_loss']} without a loss)"
        for name, each in _count(table).items()
    ]
    say(f"\nMethods by quadrant: {'; '.join(counted) or 'none'}.")


def _with_interval(table: pd.DataFrame, name: str) -> list[str]:
    columns = [table[f"{name}{end}"] for end in ("", "_low", "_high")]
    return [
        "-" if mean != mean else f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
        for mean, low, high in zip(*columns, strict=True)
    ]


def no_harm_content(comparison: Comparison, reference: str) -> dict[str, Any]:
    """Make what JSON says of the protocol: every method's row, and counts for each constraint."""
    table = comparison.no_harm()
    counts = {
        str(name): _count(part.droplevel("constraint"))
        for name, part in table.groupby(level="constraint", sort=False)
    }
    methods = table.reset_index().to_dict("records")
    return {"reference": reference, "methods": methods, "counts": counts}


def _count(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Count the methods of each quadrant, those that are clear, and those with no group's loss."""
    judged = table[~table["quadrant"].isin([REFERENCE, ""])]
    return {
        str(name): {
            "methods": len(part),
            "clear": int(part["clear"].sum()),
            "no_loss": int((part["groups_lost"] == 0).sum()),
        }
        for name, part in judged.groupby("quadrant", sort=True)
    }
