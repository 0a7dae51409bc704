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
from ._csv import describe_empty, read_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["as_label", "run_audit"]

# With fewer rows a rate's standard error can exceed 0.05, the usual tolerance.
FEWEST_ROWS = 100
MOST_NAMED = 6


def run_audit(options: argparse.Namespace) -> None:
    """Print the tables of an audit.

    Parameters
    ----------
    options : argparse.Namespace
        file, target, pred, sensitive, pos_label, missing_group, out, seed.

    Raises
    ------
    ValueError
        If a column is missing or cannot be used; the message names it.
    OSError
        If a file cannot be read or written.
    """
    frame, target, sensitive, pred = read_table(
        options.file, options.target, options.sensitive, options.pred
    )
    try:
        _check_values(frame, target, pred)
        if options.missing_group == "raise":
            _check_groups(frame[sensitive])
        classes = _read_classes(frame, target, pred)
    except ValueError as error:
        raise ValueError(f"{options.file}: {error}") from error
    counts, pos, groups = hard_counts(
        frame[target],
        frame[pred],
        frame[sensitive],
        pos_label=as_label(classes, options.pos_label),
        labels=classes if len(classes) > 1 else None,
        missing_group=options.missing_group,
    )
    require_two_groups(groups)
    table = rates_frame(counts, pos, groups.labels, groups.names)
    if options.out is not None:
        table.to_csv(options.out)
    print(_heading(options, len(frame), counts, pos, classes))
    _print_tables(table, counts, pos, options.seed)
    for line in _warnings(counts, classes, groups):
        print(f"\nWarning: {line}")
    if options.out is not None:
        print(f"\nRates written to {options.out}")


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


def as_label(classes: list[Any], text: str | None) -> Any:
    """Find the label that the user's text stands for, as text or as a number."""
    if text is None:
        return None
    matches = [label for label in classes if str(label) == text or _same_value(label, text)]
    if not matches:
        raise ValueError(f"--pos-label {text} is not among the labels {listed(classes)}")
    return matches[0]


def _same_value(label: Any, text: str) -> bool:
    try:
        if isinstance(label, bool) and text.lower() in ("true", "false"):
            return label == (text.lower() == "true")
        return not isinstance(label, str) and float(text) == label
    except ValueError:
        return False


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


def _print_tables(
    table: pd.DataFrame, counts: NDArray[np.int64], pos: int | None, seed: int
) -> None:
    gaps = gap_estimates(counts, pos, stage_rng(seed, "bootstrap"))
    gaps["ratio"] = gaps_frame(counts, pos)["ratio"]
    gaps.index = gaps.index.str.replace("_", " ")
    print("\nRates of every group\n")
    print(format_table(table))
    print(
        "\nGaps: the largest minus the smallest rate, with a 95 % interval (low to high) and upper,"
    )
    print(
        "a bound that the true gap exceeds with a chance of at most 5 %. Noise floor: the gap that"
    )
    print("equal treatment would show on that many rows.\n")
    print(format_table(gaps))


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
