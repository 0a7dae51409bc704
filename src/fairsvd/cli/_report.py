"""``fairsvd report``: the report of a model, on its held-out rows or on the rows of a file."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from .. import persistence
from ..containers import read_labels
from ..report import FairnessReport
from ._columns import Rows, cut_bins, describe_empty, find_columns
from ._edit import write_reports
from ._folder import MODEL, REPORTS, Card
from ._labels import known_groups
from ._output import say
from ._predict import features_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["copy_report", "run_report"]


def _wanted(options: argparse.Namespace) -> dict[str, Path]:
    """Collect the formats that were asked for, and refuse places that cannot be written."""
    wanted = {name: getattr(options, name) for name in REPORTS if getattr(options, name)}
    for name, path in wanted.items():
        if not path.parent.is_dir():
            raise FileNotFoundError(f"--{name} {path}: there is no folder {path.parent}")
    return wanted


def copy_report(options: argparse.Namespace) -> int:
    """Copy the report that ``fairsvd edit`` wrote; without a format, print it."""
    wanted = _wanted(options)
    for name, path in wanted.items():
        shutil.copyfile(options.model / REPORTS[name], path)
        say(f"{name}: {path}")
    if not wanted:
        say((options.model / REPORTS["markdown"]).read_text(encoding="utf-8"))
    return 0


def run_report(options: argparse.Namespace, card: Card, frame: pd.DataFrame) -> int:
    """Measure a model on the rows of a file, and write or print the report.

    Parameters
    ----------
    options : argparse.Namespace
        model, file, html, json, markdown, ll144, weights, intended_use, owner.
    card : Card
    frame : DataFrame

    Returns
    -------
    status : int
        0.

    Raises
    ------
    ValueError
        If a column is missing or cannot be used.
    OSError
        If a file cannot be written.
    """
    wanted = _wanted(options)
    X = features_of(frame, card, options)
    rows = _roles(frame, card, options)
    options.missing_group = card.missing_group
    groups, known = known_groups(rows, options)
    labels = read_labels(rows.frame[rows.target][known].to_numpy(), f"column {rows.target}")
    weights = rows.read_weights()
    report = FairnessReport(
        persistence.load(options.model / MODEL),
        X[known].reset_index(drop=True),
        labels,
        groups.reset_index(drop=True),
        sample_weight=None if weights is None else weights[known.to_numpy()],
        intended_use=options.intended_use or card.intended_use,
        owner=options.owner or card.owner,
    )
    write_reports(report, wanted)
    for name, path in wanted.items():
        say(f"{name}: {path}")
    if not wanted:
        say(report.to_text())
    return 0


def _roles(frame: pd.DataFrame, card: Card, options: argparse.Namespace) -> Rows:
    """Find the target and the groups, cut as they were for the model."""
    try:
        weights = options.weights or ""
        names = [card.target, *card.sensitive, *([weights] if weights else [])]
        columns = frame.columns.tolist()
        find_columns(names, columns, headings=options.header)
        rows = Rows(cut_bins(frame, card.bins), card.target, card.sensitive, "", card.bins, weights)
        if empty := describe_empty(rows.frame[[card.target]]):
            raise ValueError(f"{empty}: fill it or leave these rows out")
    except ValueError as error:
        raise ValueError(f"{options.file}: {error}") from error
    return rows
