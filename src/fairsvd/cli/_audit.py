"""``fairsvd audit``: rates by group and gaps for the predictions of any model."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._messages import listed
from .._rng import stage_rng
from ..containers import read_labels
from ..groups import Groups, require_two_groups
from ..metrics import (
    disparity_table,
    effective_counts,
    gaps_frame,
    group_table,
    hard_counts,
    rates_frame,
)
from ..report import format_table, gap_estimates, small_cells
from ._columns import Rows, describe_empty, split_list
from ._labels import as_label
from ._output import as_json, check_ending, say, write_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["run_audit"]

# With fewer rows a rate's standard error can exceed 0.05, the usual tolerance.
FEWEST_ROWS = 100
MOST_NAMED = 6
# Confidence of the intervals, and the columns of measures that are printed.
LEVEL = 0.95
SHOWN = [
    *("overall", "difference", "difference_low", "difference_high", "ratio"),
    *("worst_group", "worst", "worst_low", "worst_high"),
]
NAMED = {"difference_low": "low", "difference_high": "high"}


@dataclass(frozen=True)
class Tables:
    """What an audit found.

    Attributes
    ----------
    groups : DataFrame
        Rates, or the measures that were asked for, of every group.
    gaps : DataFrame
        Every gap, with its uncertainty.
    measures : DataFrame or None
        How far groups differ in each measure; None: none was asked for.
    """

    groups: pd.DataFrame
    gaps: pd.DataFrame
    measures: pd.DataFrame | None = None


def run_audit(options: argparse.Namespace, rows: Rows) -> int:
    """Print or write the tables of an audit.

    Parameters
    ----------
    options : argparse.Namespace
        file, pos_label, missing_group, measures, out, json, fail_above, gap, seed.
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
        weights = rows.read_weights()
        scores = rows.numbers(rows.score, "--score") if rows.score else None
    except ValueError as error:
        raise ValueError(f"{options.file}: {error}") from error
    data = frame[target], frame[pred], frame[rows.sensitive]
    how = {
        "pos_label": as_label(classes, options.pos_label),
        "labels": classes if len(classes) > 1 else None,
        "missing_group": options.missing_group,
    }
    counts, pos, groups = hard_counts(*data, **how)
    require_two_groups(groups)
    plain, (counts, effective) = counts, _weigh(counts, weights, data, how)
    table = rates_frame(counts, pos, groups.labels, groups.names).assign(n=plain.sum(axis=(1, 2)))
    gaps = gap_estimates(counts, pos, stage_rng(options.seed, "bootstrap"), effective)
    gaps["ratio"] = gaps_frame(counts, pos)["ratio"]
    found = Tables(table, gaps)
    if options.measures is not None:
        more = {**how, "y_score": scores, "sample_weight": weights, "margins": len(data[2].T) > 1}
        found = _measure(data, split_list(options.measures), more, found, options.seed)
    heading = _heading(options, len(frame), plain, pos, classes)
    if weights is not None:
        heading += f" Rows count by the column {rows.weights}."
    warnings = _warnings(plain, classes, groups)
    content = {
        "about": heading,
        "groups": found.groups.reset_index().to_dict("records"),
        "gaps": gaps.reset_index().to_dict("records"),
        "warnings": warnings,
    }
    if found.measures is not None:
        content["measures"] = found.measures.reset_index().to_dict("records")
    if options.out is not None:
        write_table(options.out, found.groups.reset_index(), content)
    if options.json:
        print(as_json(content), end="")
    else:
        _print(heading, found, warnings)
        if options.out is not None:
            say(f"\nRates written to {options.out}")
    return _judge(float(gaps.loc[options.gap, "difference"]), options)


def _weigh(
    plain: NDArray[np.int64],
    weights: NDArray[np.float64] | None,
    data: tuple[Any, Any, Any],
    how: dict[str, Any],
) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
    """Add up the weights, and count rows of equal weight that tell as much."""
    if weights is None:
        return plain, None
    powers = weights, weights**2
    counts, squares = (hard_counts(*data, **how, sample_weight=each)[0] for each in powers)
    return counts, effective_counts(counts, squares)


def _measure(
    data: tuple[Any, Any, Any], names: list[str], how: dict[str, Any], found: Tables, seed: int
) -> Tables:
    """Measure what was asked for, of each attribute alone, too."""
    measures = "all" if names == ["all"] else names
    groups = group_table(*data, measures=measures, level=LEVEL, **how)
    far = disparity_table(*data, measures=measures, level=LEVEL, random_state=seed, **how)
    far["worst_group"] = far["worst_group"].map(_name)
    return Tables(groups, found.gaps, far)


def _name(label: Any) -> str:
    return "/".join(map(str, label)) if isinstance(label, tuple) else str(label)


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


def _print(heading: str, found: Tables, warnings: list[str]) -> None:
    gaps = found.gaps
    say(heading)
    say(f"\n{'Rates' if found.measures is None else 'Measures'} of every group\n")
    ends = [name for name in found.groups if str(name).endswith(("_low", "_high"))]
    say(format_table(found.groups.drop(columns=ends)))
    say(
        "\nGaps: the largest minus the smallest rate, with a 95 % interval (low to high) and upper,"
    )
    say("a bound that the true gap exceeds with a chance of at most 5 %. Noise floor: the gap that")
    say("equal treatment would show on that many rows.\n")
    say(format_table(gaps.set_axis(gaps.index.str.replace("_", " "))))
    if found.measures is not None:
        say("\nMeasures: how far groups differ, and the group farthest from the best value, with")
        say("95 % intervals.\n")
        say(format_table(found.measures[SHOWN].rename(columns=NAMED)))
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
