"""The command line: ``fairsvd demo | audit | edit | predict | compare | report | export``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from ._options import CONSTRAINTS
from ._output import clean, say
from ._parser import make_parser

__all__ = ["CONSTRAINTS", "clean", "main", "make_parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str or None, default=None
        Arguments without the program's name; None: the arguments of the process.

    Returns
    -------
    status : int
        0; 1 if an audit found a larger gap than ``--fail-above`` allows; 2 if an input cannot be
        used, for a reason that is then one line on stderr.

    Raises
    ------
    SystemExit
        From argparse, after ``--help`` and ``--version`` (status 0) and for unknown arguments
        (status 2).
    """
    options = make_parser().parse_args(argv)
    try:
        return COMMANDS[options.command](options)
    except (ValueError, OSError) as error:
        text = " ".join(str(error).split())
        say(f"fairsvd {options.command}: error: {text}", error=True)
        return 2


# Each command reads its file before it imports what needs torch, which takes seconds: a name that
# is misspelt is said at once.


def _start_demo(options: argparse.Namespace) -> int:
    from ._demo import run_demo

    return run_demo(options)


def _start_audit(options: argparse.Namespace) -> int:
    from ._columns import read_rows

    rows = read_rows(options)
    from ._audit import run_audit

    return run_audit(options, rows)


def _start_edit(options: argparse.Namespace) -> int:
    from ._features import read_features
    from ._folder import check_place

    check_place(options.out, options.overwrite)
    rows, features = read_features(options)
    from ._edit import run_edit

    return run_edit(options, rows, features)


def _start_predict(options: argparse.Namespace) -> int:
    from ._folder import read_card
    from ._reading import read_file

    card = read_card(options.model)
    frame = read_file(options.file, options)
    from ._predict import run_predict

    return run_predict(options, card, frame)


def _start_compare(options: argparse.Namespace) -> int:
    from ._features import read_features

    rows, features = read_features(options)
    from ._compare import run_compare

    return run_compare(options, rows, features)


def _start_report(options: argparse.Namespace) -> int:
    from ._folder import read_card
    from ._reading import read_file

    card = read_card(options.model)
    if options.file is None:
        from ._report import copy_report

        return copy_report(options)
    frame = read_file(options.file, options)
    from ._report import run_report

    return run_report(options, card, frame)


def _start_export(options: argparse.Namespace) -> int:
    from ._folder import read_card

    card = read_card(options.model)
    from ._export import run_export

    return run_export(options, card)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "demo": _start_demo,
    "audit": _start_audit,
    "edit": _start_edit,
    "predict": _start_predict,
    "compare": _start_compare,
    "report": _start_report,
    "export": _start_export,
}
