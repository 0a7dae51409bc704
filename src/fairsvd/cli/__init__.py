"""The command line: ``fairsvd demo``, ``fairsvd audit`` and ``fairsvd compare``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import __version__

__all__ = ["main"]

# A copy, so that --help and --version do not import torch; a test compares it.
CONSTRAINTS = (
    "demographic_parity",
    "equal_opportunity",
    "equalized_odds",
    "average_odds",
    "signed_average_odds",
    "accuracy_parity",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str or None, default=None
        Arguments without the program's name; None: the arguments of the process.

    Returns
    -------
    status : int
        0, or 2 if an input cannot be used; the reason is then one line on stderr.

    Raises
    ------
    SystemExit
        From argparse, after ``--help`` and ``--version`` (status 0) and for unknown arguments
        (status 2).
    """
    options = _parser().parse_args(argv)
    try:
        if options.command == "demo":
            from ._demo import run_demo

            run_demo(options)
        elif options.command == "compare":
            from ._compare import run_compare

            run_compare(options)
        else:
            from ._audit import run_audit

            run_audit(options)
    except (ValueError, OSError) as error:
        text = " ".join(str(error).split())
        print(f"fairsvd {options.command}: error: {text}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fairsvd",
        description="Edit trained neural networks so that their errors fall more evenly on groups.",
    )
    parser.add_argument("--version", action="version", version=f"fairsvd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_audit(commands)
    _add_compare(commands)
    return parser


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "Train a network on real data, edit it, and show what changed on held-out rows."
    demo = commands.add_parser("demo", help="training and editing on real data", description=about)
    demo.add_argument(
        "--data",
        choices=("auto", "adult", "digits"),
        default="auto",
        help="Adult census income, or tinted digits that ship with scikit-learn; auto: Adult "
        "if the folder FAIRSVD_DATA has it, else digits (default: auto)",
    )
    demo.add_argument(
        "--plot",
        type=Path,
        default=Path("fairsvd-demo.png"),
        metavar="FILE",
        help="file of the trade-off plot, in the format of its ending (default: %(default)s)",
    )
    demo.add_argument(
        "--constraint",
        choices=CONSTRAINTS,
        default="equalized_odds",
        metavar="GAP",
        help=f"the gap to close: {', '.join(CONSTRAINTS)} (default: %(default)s)",
    )
    demo.add_argument(
        "--tolerance",
        type=float,
        default=0.05,
        metavar="GAP",
        help="the accepted gap, a difference of rates (default: %(default)s)",
    )
    demo.add_argument(
        "--max-steps",
        type=int,
        default=300,
        metavar="N",
        help="steps of each phase of the edit; fewer are faster and worse (default: %(default)s)",
    )
    demo.add_argument("--seed", type=int, default=0, help="seed of all draws (default: 0)")


def _add_rows(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", type=Path, metavar="FILE.csv", help="one row per person, with headings"
    )
    parser.add_argument("--target", required=True, metavar="COLUMN", help="the true labels")


def _add_groups(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sensitive",
        required=True,
        metavar="COLUMN[,COLUMN]",
        help="the groups; several columns are intersected",
    )


def _add_audit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "Measure rates by group and gaps between groups for predictions of any model."
    audit = commands.add_parser(
        "audit", help="tables of rates and gaps for any predictions", description=about
    )
    _add_rows(audit)
    audit.add_argument("--pred", required=True, metavar="COLUMN", help="the predicted labels")
    _add_groups(audit)
    audit.add_argument(
        "--pos-label", metavar="LABEL", help="the positive label (default: the second of two)"
    )
    audit.add_argument(
        "--missing-group",
        choices=("raise", "ignore", "own_group"),
        default="raise",
        help="rows without a group: an error, left out, or a group (default: %(default)s)",
    )
    audit.add_argument(
        "--out",
        type=Path,
        metavar="TABLE.csv",
        help="also write the rates of every group to this file",
    )
    audit.add_argument(
        "--seed", type=int, default=0, help="seed of intervals and noise floors (default: 0)"
    )


def _add_compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = (
        "Compare methods on the rows of a file by cross-validation, with one network per fold. "
        "Columns of numbers are scaled, all others are categories."
    )
    compare = commands.add_parser("compare", help="several methods on one file", description=about)
    _add_rows(compare)
    _add_groups(compare)
    compare.add_argument(
        "--methods",
        default="threshold,FairLRFTransformer,GapFineTuner,ThresholdOptimizer,ExponentiatedGradient",
        metavar="NAME[,NAME]",
        help="names of fairsvd.compare, added to the untouched network (default: %(default)s)",
    )
    compare.add_argument(
        "--constraints",
        default="equalized_odds",
        metavar="GAP[,GAP]",
        help=f"the gaps to close, one table each: {', '.join(CONSTRAINTS)} (default: %(default)s)",
    )
    _add_compare_settings(compare)


def _add_compare_settings(compare: argparse.ArgumentParser) -> None:
    compare.add_argument(
        "--tolerance",
        type=float,
        default=0.05,
        metavar="GAP",
        help="the accepted gap, a difference of rates (default: %(default)s)",
    )
    compare.add_argument("--folds", type=int, default=5, metavar="N", help="(default: %(default)s)")
    compare.add_argument(
        "--keep-sensitive",
        action="store_true",
        help="keep the groups among the features; by default they are removed",
    )
    compare.add_argument(
        "--pos-label", metavar="LABEL", help="the positive label (default: the second of two)"
    )
    compare.add_argument(
        "--out",
        type=Path,
        metavar="TABLE.csv",
        help="write one row per fold and method to this file",
    )
    compare.add_argument(
        "--plot", type=Path, metavar="FILE", help="plot to this file, in the format of its ending"
    )
    compare.add_argument(
        "--jobs", type=int, metavar="N", help="number of parallel processes (default: 1)"
    )
    compare.add_argument("--seed", type=int, default=0, help="seed of all draws (default: 0)")
