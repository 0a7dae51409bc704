"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = [
    "CONSTRAINTS",
    "add_classes",
    "add_columns",
    "add_each_attribute",
    "add_features",
    "add_format",
    "add_goal",
    "add_measures",
    "add_output",
    "add_seed",
    "add_tolerance",
    "add_weights",
]

# A copy, so that --help and --version do not import torch; a test compares it.
CONSTRAINTS = (
    "demographic_parity",
    "equal_opportunity",
    "equalized_odds",
    "average_odds",
    "signed_average_odds",
    "accuracy_parity",
)

FILE_HELP = "text (CSV and the like), Parquet or a spreadsheet, by its ending; a row per person"


def add_format(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how a file is read."""
    reading = parser.add_argument_group("reading the file")
    reading.add_argument("--sep", metavar="TEXT", help="the separator (default: found by itself)")
    reading.add_argument(
        "--decimal", default=".", metavar="TEXT", help="the decimal sign (default: .)"
    )
    reading.add_argument("--encoding", default="utf-8-sig", help="(default: UTF-8)")
    reading.add_argument(
        "--no-header",
        dest="header",
        action="store_false",
        help="the first line is a row; columns are named 1, 2 and so on, or by --columns",
    )
    reading.add_argument(
        "--columns", metavar="NAME[,NAME]", help="names of all columns, with --no-header"
    )
    reading.add_argument("--sheet", metavar="NAME", help="of a spreadsheet (default: the first)")


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Add the file, the target and the groups."""
    parser.add_argument("file", type=Path, metavar="FILE", help=FILE_HELP)
    parser.add_argument("--target", required=True, metavar="COLUMN", help="the true labels")
    parser.add_argument(
        "--sensitive",
        required=True,
        metavar="COLUMN[,COLUMN]",
        help="the groups; several columns are intersected; in double quotes if a name has a comma",
    )
    parser.add_argument(
        "--bins",
        action="append",
        default=[],
        metavar="COLUMN:EDGE[,EDGE]",
        help="cut a column of numbers into intervals, as in age:25,40,60; may be repeated",
    )
    add_format(parser)


def add_classes(parser: argparse.ArgumentParser) -> None:
    """Add the positive label and what happens to rows without a group."""
    parser.add_argument(
        "--positive",
        "--pos-label",
        dest="pos_label",
        metavar="LABEL",
        help="the positive label (default: the second of two in sorted order)",
    )
    parser.add_argument(
        "--missing-group",
        choices=("raise", "ignore", "own_group"),
        default="raise",
        help="rows without a group: an error, left out, or a group (default: %(default)s)",
    )


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Add the column of the rows' weights."""
    parser.add_argument(
        "--weights", metavar="COLUMN", help="how often each row counts (default: once)"
    )


def add_measures(parser: argparse.ArgumentParser, where: str) -> None:
    """Add the measures by group."""
    parser.add_argument(
        "--measures",
        metavar="NAME[,NAME]",
        help=f"measures by group {where}: all, or names such as ppv, auc, calibration_error",
    )


def add_features(parser: argparse.ArgumentParser) -> None:
    """Add what decides which columns are features."""
    parser.add_argument(
        "--drop", metavar="COLUMN[,COLUMN]", help="columns that are not to be features"
    )
    parser.add_argument(
        "--keep",
        metavar="COLUMN[,COLUMN]",
        help="columns to use although they look like identifiers or give the label away",
    )
    parser.add_argument(
        "--keep-sensitive",
        action="store_true",
        help="keep the groups among the features; by default they are removed",
    )


def add_goal(parser: argparse.ArgumentParser) -> None:
    """Add the gap to close and how far."""
    parser.add_argument(
        "--constraint",
        choices=CONSTRAINTS,
        default="equalized_odds",
        metavar="GAP",
        help=f"the gap to close: {', '.join(CONSTRAINTS)} (default: %(default)s)",
    )
    add_tolerance(parser)


def add_each_attribute(parser: argparse.ArgumentParser) -> None:
    """Add whether several columns of groups are taken alone."""
    parser.add_argument(
        "--each-attribute",
        action="store_true",
        help="close the gap of each sensitive column alone, not of their intersections",
    )


def add_tolerance(parser: argparse.ArgumentParser) -> None:
    """Add the accepted gap."""
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.05,
        metavar="GAP",
        help="the accepted gap, a difference of rates (default: %(default)s)",
    )


def add_seed(parser: argparse.ArgumentParser, of: str = "all draws") -> None:
    """Add the seed."""
    parser.add_argument("--seed", type=int, default=0, help=f"seed of {of} (default: 0)")


def add_output(parser: argparse.ArgumentParser, what: str) -> None:
    """Add where a table goes: to a file in the format of its ending, or to stdout as JSON."""
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"write {what} to this file: .csv, .json or .md decide the format",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON instead of tables, and nothing else"
    )
