"""``fairsvd audit``: rates by group and gaps for the predictions of any model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._messages import listed
from .._rng import stage_rng
from ..containers import read_labels
from ..groups import Groups, require_two_groups
from ..metrics import gaps_frame, hard_counts, rates_frame
from ..report import format_table, gap_estimates, small_cells
from ._columns import Rows, describe_empty
from ._labels import as_label
from ._output import as_json, check_ending, say, write_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["run_audit"]

# With fewer rows a rate's standard error can exceed 0.05, the usual tolerance.
FEWEST_ROWS = 100
MOST_NAMED = 6


def run_audit(options: argparse.Namespace, rows: Rows) -> int:
    """Print or write the tables of an audit.

    Parameters
    ----------
    options : argparse.Namespace
        file, pos_label, missing_group, out, json, fail_above, gap, seed.
    rows : Rows

    Returns
    -------
    status : int
        1 if the gap is above the limit, else 0.

    Raises
    ------
    ValueError
        If a column cannot be used; the message names it.
    OSError
        If a file cannot be written.
    """
    check_ending(options.out)
    frame, target, pred = rows.frame, rows.target, rows.pred
    try:
        _check_values(frame, target, pred)
        if options.missing_group == "raise":
            _check_groups(frame[rows.sensitive])
        classes = _read_classes(frame, target, pred)
    except ValueError as error:
        raise ValueError(f"{options.file}: {error}") from error
    counts, pos, groups = hard_counts(
        frame[target],
        frame[pred],
        frame[rows.sensitive],
        pos_label=as_label(classes, options.pos_label),
        labels=classes if len(classes) > 1 else None,
        missing_group=options.missing_group,
    )
    require_two_groups(groups)
    table = rates_frame(counts, pos, groups.labels, groups.names)
    gaps = gap_estimates(counts, pos, stage_rng(options.seed, "bootstrap"))
    gaps["ratio"] = gaps_frame(counts, pos)["ratio"]
    heading = _heading(options, len(frame), counts, pos, classes)
    warnings = _warnings(counts, classes, groups)
    content = {
        "about": heading,
        "groups": table.reset_index().to_dict("records"),
        "gaps": gaps.reset_index().to_dict("records"),
        "warnings": warnings,
    }
    if options.out is not None:
        write_table(options.out, table.reset_index(), content)
    if options.json:
        print(as_json(content), end="")
    else:
        _print(heading, table, gaps, warnings)
        if options.out is not None:
            say(f"\nRates written to {options.out}")
    return _judge(float(gaps.loc[options.gap, "difference"]), options)


def _judge(value: float, options: argparse.Namespace) -> int:
    """Compare the gap with the limit of ``--fail-above``; what cannot be measured fails, too."""
    if options.fail_above is None or value <= options.fail_above:
        return 0
    name, shown = options.gap.replace("_", " "), f"{value:.3f}"
    found = f"is {shown}" if value == value else "cannot be measured on these rows"
    say(f"FAILED: the gap in {name} {found}; the limit is {options.fail_above:g}", error=True)
    return 1


def _check_values(frame: pd.DataFrame, target: str, pred: str) -> None:
    for name in (target, pred):
        empty = np.flatnonzero(frame[name].isna())
        if len(empty):
            raise ValueError(
                f"column {name} is empty in {len(empty)} rows, first in data row {empty[0] + 1}: "
                "fill it or leave these rows out"
            )


def _check_groups(groups: pd.DataFrame) -> None:
    if columns := describe_empty(groups):
        raise ValueError(f"{columns}: fill it, or choose --missing-group ignore or own_group")


def _read_classes(frame: pd.DataFrame, target: str, pred: str) -> list[Any]:
    """Collect the sorted labels, and refuse scores instead of labels."""
    columns = [read_labels(frame[name], f"column {name}") for name in (target, pred)]
    true, predicted = (np.unique(column).tolist() for column in columns)
    try:
        return sorted({*true, *predicted})
    except TypeError as error:
        raise ValueError(
            f"columns {target} and {pred} hold labels of different types ({listed(true, 3)}; "
            f"{listed(predicted, 3)}): use one type"
        ) from error


def _heading(
    options: argparse.Namespace,
    n_rows: int,
    counts: NDArray[np.int64],
    pos: int | None,
    classes: list[Any],
) -> str:
    used = int(counts.sum())
    left_out = f" ({n_rows - used:,} without a group left out)" if used < n_rows else ""
    # A single label is one of the pair 0 and 1.
    positive = classes[pos] if pos is not None and len(classes) > 1 else pos
    rates = (
        f"Rates for the positive label {positive}."
        if pos is not None
        else f"Rates are means over {len(classes)} labels, each against the rest."
    )
    return f"{options.file}: {used:,} rows{left_out}. {rates}"


def _print(heading: str, table: pd.DataFrame, gaps: pd.DataFrame, warnings: list[str]) -> None:
    say(heading)
    say("\nRates of every group\n")
    say(format_table(table))
    say(
        "\nGaps: the largest minus the smallest rate, with a 95 % interval (low to high) and upper,"
    )
    say("a bound that the true gap exceeds with a chance of at most 5 %. Noise floor: the gap that")
    say("equal treatment would show on that many rows.\n")
    say(format_table(gaps.set_axis(gaps.index.str.replace("_", " "))))
    for line in warnings:
        say(f"\nWarning: {line}")


def _warnings(counts: NDArray[np.int64], classes: list[Any], groups: Groups) -> list[str]:
    if len(classes) < 2:
        classes = list(range(counts.shape[-1]))
    small = small_cells(counts, classes, groups.labels, FEWEST_ROWS)
    if not small:
        return []
    return [
        f"few rows in {listed(small, MOST_NAMED)}. Below about {FEWEST_ROWS} rows a "
        "rate is uncertain by more than 0.05; where there are none it is left out of the gaps."
    ]
