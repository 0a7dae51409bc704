"""``fairsvd audit``: rates by group and gaps for the predictions of any model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._rng import stage_rng
from ..groups import Groups, require_two_groups
from ..metrics import gaps_frame, hard_counts, rates_frame
from ..report import format_table, gap_estimates, small_cells

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["as_label", "run_audit", "some_of"]

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
    sensitive = [name.strip() for name in options.sensitive.split(",") if name.strip()]
    try:
        frame = _read(options.file, options.target, options.pred, sensitive)
        _check_values(frame, options.target, options.pred)
        if options.missing_group == "raise":
            _check_groups(frame[sensitive])
        classes = _read_classes(frame, options.target, options.pred)
    except ValueError as error:
        raise ValueError(f"{options.file}: {error}") from error
    counts, pos, groups = hard_counts(
        frame[options.target],
        frame[options.pred],
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


def _read(path: Path, target: str, pred: str, sensitive: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    if not sensitive:
        raise ValueError("--sensitive names no column: give one, or several with commas.")
    used = list(dict.fromkeys([target, pred, *sensitive]))
    columns = pd.read_csv(path, nrows=0).columns.tolist()
    missing = [name for name in used if name not in columns]
    if missing:
        raise ValueError(f"there is no column {', '.join(missing)}; it has {some_of(columns)}")
    return pd.read_csv(path, usecols=used, low_memory=False)


def some_of(names: Sequence[str], most: int = 20) -> str:
    """List the first names, and count the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def _check_values(frame: pd.DataFrame, target: str, pred: str) -> None:
    if frame.empty:
        raise ValueError("it has headings but no rows")
    for name in (target, pred):
        empty = np.flatnonzero(frame[name].isna())
        if len(empty):
            raise ValueError(
                f"column {name} is empty in {len(empty)} rows, first in data row {empty[0] + 1}: "
                "fill it or leave these rows out"
            )


def _check_groups(groups: pd.DataFrame) -> None:
    empty = {name: int(n) for name, n in groups.isna().sum().items() if n}
    if empty:
        listed = ", ".join(f"column {name} is empty in {n} rows" for name, n in empty.items())
        raise ValueError(f"{listed}: fill it, or choose --missing-group ignore or own_group")


def _read_classes(frame: pd.DataFrame, target: str, pred: str) -> list[Any]:
    """Collect the sorted labels, and refuse scores instead of predicted labels."""
    true, predicted = frame[target].unique().tolist(), frame[pred].unique().tolist()
    unknown = [label for label in predicted if label not in true]
    if unknown and all(isinstance(label, float) and label % 1 for label in unknown):
        raise ValueError(
            f"column {pred} holds {unknown[0]!r}, which is not a label of {target}: predicted "
            "labels are wanted; if these are scores, apply the threshold first"
        )
    try:
        return sorted({*true, *predicted})
    except TypeError as error:
        raise ValueError(
            f"columns {target} and {pred} hold labels of different types ({some_of(true, 3)}; "
            f"{some_of(predicted, 3)}): use one type"
        ) from error


def as_label(classes: list[Any], text: str | None) -> Any:
    """Find the label that the user's text stands for, as text or as a number."""
    if text is None:
        return None
    matches = [label for label in classes if str(label) == text or _same_number(label, text)]
    if not matches:
        raise ValueError(f"--pos-label {text} is not among the labels {some_of(classes)}")
    return matches[0]


def _same_number(label: Any, text: str) -> bool:
    try:
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
    more = f" and {len(small) - MOST_NAMED} more" if len(small) > MOST_NAMED else ""
    return [
        f"few rows in {', '.join(small[:MOST_NAMED])}{more}. Below about {FEWEST_ROWS} rows a "
        "rate is uncertain by more than 0.05; where there are none it is left out of the gaps."
    ]
