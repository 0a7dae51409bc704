"""The arguments of every command."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import __version__
from ._options import (
    CONSTRAINTS,
    FILE_HELP,
    add_classes,
    add_columns,
    add_each_attribute,
    add_features,
    add_format,
    add_goal,
    add_measures,
    add_output,
    add_seed,
    add_tolerance,
    add_weights,
)

__all__ = ["make_parser"]

Commands = argparse._SubParsersAction  # argparse has no public name for it

METHODS = "threshold,FairLRFTransformer,GapFineTuner,ThresholdOptimizer,ExponentiatedGradient"


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="fairsvd",
        description="Edit trained neural networks so that their errors fall more evenly on groups.",
        epilog="fairsvd COMMAND --help says more about each.",
    )
    parser.add_argument("--version", action="version", version=f"fairsvd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_demo, _audit, _edit, _predict, _compare, _report, _export):
        add(commands)
    return parser


def _demo(commands: Commands[argparse.ArgumentParser]) -> None:
    about = "Train a network on real data, edit it, and show what changed on held-out rows."
    demo = commands.add_parser("demo", help="the whole way on real data", description=about)
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
        "--report",
        type=Path,
        default=Path("fairsvd-demo.html"),
        metavar="FILE.html",
        help="file of the report page (default: %(default)s)",
    )
    add_goal(demo)
    demo.add_argument(
        "--max-steps",
        type=int,
        default=300,
        metavar="N",
        help="steps of each phase of the edit; fewer are faster and worse (default: %(default)s)",
    )
    add_seed(demo)


def _audit(commands: Commands[argparse.ArgumentParser]) -> None:
    about = "Measure rates by group and gaps between groups for predictions of any model."
    audit = commands.add_parser(
        "audit", help="tables of rates and gaps for any predictions", description=about
    )
    add_columns(audit)
    audit.add_argument("--pred", required=True, metavar="COLUMN", help="the predicted labels")
    audit.add_argument(
        "--score", metavar="COLUMN", help="the probability of the positive label, for --measures"
    )
    add_classes(audit)
    add_weights(audit)
    add_measures(audit, "with intervals, also of each attribute alone")
    add_output(audit, "the rates of every group (.json: also the gaps)")
    audit.add_argument(
        "--fail-above",
        type=float,
        metavar="GAP",
        help="exit with status 1 if the gap named by --gap is larger",
    )
    audit.add_argument(
        "--gap",
        choices=CONSTRAINTS,
        default="equalized_odds",
        metavar="GAP",
        help="the gap that --fail-above limits (default: %(default)s)",
    )
    add_seed(audit, "intervals and noise floors")


def _edit(commands: Commands[argparse.ArgumentParser]) -> None:
    about = (
        "Train a network on a file (or take one that was saved), edit it, and keep it in a folder "
        "without pickle, with its encoder, a report on held-out rows, and all that predict needs."
    )
    edit = commands.add_parser("edit", help="an edited model out of one file", description=about)
    add_columns(edit)
    add_classes(edit)
    add_weights(edit)
    add_features(edit)
    add_goal(edit)
    add_each_attribute(edit)
    edit.add_argument(
        "--method",
        default="FairLRFTransformer",
        metavar="NAME",
        help="an editor of fairsvd by its class name (default: %(default)s)",
    )
    edit.add_argument(
        "--network",
        type=Path,
        metavar="MODEL",
        help="edit the network of this folder, which an earlier edit wrote, instead of a new one",
    )
    edit.add_argument(
        "--held-out",
        type=float,
        default=0.3,
        metavar="SHARE",
        help="rows that only the report sees, a share of every cell (default: %(default)s)",
    )
    edit.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="folder of the model"
    )
    edit.add_argument("--overwrite", action="store_true", help="replace a model in that folder")
    edit.add_argument("--intended-use", default="", metavar="TEXT", help="for the report")
    edit.add_argument("--owner", default="", metavar="TEXT", help="for the report")
    add_seed(edit)


def _predict(commands: Commands[argparse.ArgumentParser]) -> None:
    about = "Predict the rows of a file with a model of fairsvd edit. No groups are needed."
    predict = commands.add_parser("predict", help="predictions for new rows", description=about)
    _add_model(predict)
    predict.add_argument("file", type=Path, metavar="NEW", help=FILE_HELP)
    add_format(predict)
    add_output(predict, "the predictions")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder that fairsvd edit wrote")


def _compare(commands: Commands[argparse.ArgumentParser]) -> None:
    about = (
        "Compare methods on the rows of a file by cross-validation, with one network per fold. "
        "Columns of numbers are scaled, all others are categories."
    )
    compare = commands.add_parser("compare", help="several methods on one file", description=about)
    add_columns(compare)
    compare.add_argument(
        "--methods",
        default=METHODS,
        metavar="NAME[,NAME]",
        help="names of fairsvd.compare, added to the untouched network (default: %(default)s)",
    )
    compare.add_argument(
        "--constraints",
        default="equalized_odds",
        metavar="GAP[,GAP]",
        help=f"the gaps to close, one table each: {', '.join(CONSTRAINTS)} (default: %(default)s)",
    )
    add_each_attribute(compare)
    add_tolerance(compare)
    compare.add_argument(
        "--reference",
        metavar="NAME",
        help="the method that the others are judged against by the no-harm protocol, added if it "
        "is missing: fine-tuning is the network tuned as well but for nothing else",
    )
    compare.add_argument("--folds", type=int, default=5, metavar="N", help="(default: %(default)s)")
    add_classes(compare)
    add_weights(compare)
    add_measures(compare, "of every method")
    add_features(compare)
    add_output(compare, "one row per fold and method")
    compare.add_argument(
        "--plot", type=Path, metavar="FILE", help="plot to this file, in the format of its ending"
    )
    compare.add_argument(
        "--jobs", type=int, metavar="N", help="number of parallel processes (default: 1)"
    )
    add_seed(compare)


def _report(commands: Commands[argparse.ArgumentParser]) -> None:
    about = (
        "Write the report of a model of fairsvd edit: the one of its held-out rows, or a new one "
        "on rows of a file with the columns of the target and the groups."
    )
    report = commands.add_parser("report", help="the report of a model", description=about)
    _add_model(report)
    report.add_argument("file", type=Path, nargs="?", metavar="NEW", help=FILE_HELP)
    add_format(report)
    for name, what in (("html", "page"), ("json", "measures"), ("markdown", "model card")):
        report.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write the {what}")
    add_weights(report)
    report.add_argument("--ll144", type=Path, metavar="FILE.csv", help="table of Local Law 144")
    report.add_argument("--intended-use", default="", metavar="TEXT", help="for a new report")
    report.add_argument("--owner", default="", metavar="TEXT", help="for a new report")


def _export(commands: Commands[argparse.ArgumentParser]) -> None:
    about = (
        "Write the edited network, its threshold included, as an ONNX graph, and beside it a JSON "
        "file with the encoder's numbers, so that it can be served without fairsvd."
    )
    export = commands.add_parser("export", help="the network without fairsvd", description=about)
    _add_model(export)
    export.add_argument("--onnx", type=Path, required=True, metavar="FILE.onnx", help="the graph")
