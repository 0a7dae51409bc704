"""The command line: ``fairsvd demo``, ``fairsvd audit`` and ``fairsvd compare``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import __version__

__all__ = ["main"]

# Written out, so that --help and --version need not wait for torch; a test compares it.
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
        Arguments without the program's name; None: those of the process.

    Returns
    -------
    status : int
        0, or 2 where an input cannot be used; the reason is then one line on stderr.

    Raises
    ------
    SystemExit
        From argparse, after ``--help`` and ``--version`` (status 0) and for arguments that it does
        not understand (status 2).
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
    demo = commands.add_parser("demo", help="the whole way on real data", description=about)
    demo.add_argument(
        "--data",
        choices=("auto", "adult", "digits"),
        default="auto",
        help="Adult census income, or tinted digits that ship with scikit-learn; auto: Adult "
        "where the folder FAIRSVD_DATA has it, else digits (default: auto)",
    )
    demo.add_argument(
        "--plot",
        type=Path,
        default=Path("fairsvd-demo.png"),
        metavar="FILE",
        help="where the trade-off plot goes; the ending says the format (default: %(default)s)",
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
        help="the gap that is accepted, a difference of rates (default: %(default)s)",
    )
    demo.add_argument(
        "--max-steps",
        type=int,
        default=300,
        metavar="N",
        help="steps of each phase of the edit; fewer are faster and worse (default: %(default)s)",
    )
    demo.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: 0)")


def _add_rows(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.csv", help="a row a person, with headings")
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
    audit = commands.add_parser("audit", help="the tables for any predictions", description=about)
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
        "--out", type=Path, metavar="TABLE.csv", help="write the rates of every group there too"
    )
    audit.add_argument(
        "--seed", type=int, default=0, help="of intervals and noise floors (default: 0)"
    )


def _add_compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = (
        "Compare methods on the rows of a file by cross-validation, over one network a fold. "
        "Columns of numbers are scaled, all others are categories."
    )
    compare = commands.add_parser("compare", help="methods side by side", description=about)
    _add_rows(compare)
    _add_groups(compare)
    compare.add_argument(
        "--methods",
        default="threshold,FairLRFTransformer,GapFineTuner,ThresholdOptimizer,ExponentiatedGradient",
        metavar="NAME[,NAME]",
        help="as fairsvd.compare knows them, beside the untouched network (default: %(default)s)",
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
        help="the gap that is accepted, a difference of rates (default: %(default)s)",
    )
    compare.add_argument("--folds", type=int, default=5, metavar="N", help="(default: %(default)s)")
    compare.add_argument(
        "--keep-sensitive",
        action="store_true",
        help="leave the groups among the features; by default no method sees them there",
    )
    compare.add_argument(
        "--pos-label", metavar="LABEL", help="the positive label (default: the second of two)"
    )
    compare.add_argument(
        "--out", type=Path, metavar="TABLE.csv", help="write a row a fold and method there"
    )
    compare.add_argument(
        "--plot", type=Path, metavar="FILE", help="plot there; the ending says the format"
    )
    compare.add_argument(
        "--jobs", type=int, metavar="N", help="methods side by side (default: one after the other)"
    )
    compare.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: 0)")
