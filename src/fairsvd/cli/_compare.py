"""``fairsvd compare``: several methods on the rows of a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..comparison import compare, table_encoder
from ..containers import read_labels
from ..objective import EachAttribute
from ..report import format_table
from ._columns import Rows, split_list
from ._demo import check_plot
from ._features import Features
from ._labels import as_label, known_groups, say_positive
from ._no_harm import no_harm_content, say_no_harm
from ._options import CONSTRAINTS
from ._output import as_json, check_ending, say, write_table

if TYPE_CHECKING:
    from ..comparison import Comparison

__all__ = ["run_compare"]

SHOWN = {
    "psi": "psi",
    "psi_low": "low",
    "psi_high": "high",
    "balanced_accuracy": "balanced accuracy",
    "gap": "gap",
    "worst_cell": "worst cell",
    "harm": "harm",
    "needs_group": "needs group",
    "seconds": "seconds",
    "failed": "failed",
}


def run_compare(options: argparse.Namespace, rows: Rows, features: Features) -> int:
    """Print one table per constraint; write all rows and the plot on request.

    Parameters
    ----------
    options : argparse.Namespace
        file, methods, constraints, each_attribute, tolerance, folds, pos_label, missing_group,
        measures, reference, seed, jobs, out, json, plot.
    rows : Rows
    features : Features

    Returns
    -------
    status : int
        0.

    Raises
    ------
    ValueError
        If a column cannot be used, or a method is unknown.
    OSError
        If a file cannot be written.
    """
    methods, names = map(split_list, (options.methods, options.constraints))
    if unknown := [name for name in names if name not in CONSTRAINTS]:
        raise ValueError(f"--constraints {unknown[0]}: wanted names among {', '.join(CONSTRAINTS)}")
    constraints = [EachAttribute(name) for name in names] if options.each_attribute else names
    measures = None if options.measures is None else split_list(options.measures)
    if options.plot is not None:
        check_plot(options.plot)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    check_ending(options.out)
    groups, known = known_groups(rows, options)
    y = rows.frame[rows.target]
    classes = np.unique(read_labels(y, f"column {rows.target}")).tolist()
    weights = rows.read_weights()
    comparison = compare(
        methods,
        features.frame[known],
        y[known].to_numpy(),
        groups,
        preprocessing=table_encoder(features.numbers, features.categories),
        cv=options.folds,
        constraints=constraints,
        tolerance=options.tolerance,
        pos_label=as_label(classes, options.pos_label),
        reference=options.reference,
        sample_weight=None if weights is None else weights[known.to_numpy()],
        measures="all" if measures == ["all"] else measures,
        n_jobs=options.jobs,
        random_state=options.seed,
        verbose=1,
    )
    if options.out is not None:
        write_table(options.out, comparison)
    if options.plot is not None:
        _save_plot(comparison, options.plot)
    if options.json:
        summary = comparison.summary().reset_index()
        content: dict[str, Any] = {"about": comparison.about}
        content["summary"] = summary.to_dict("records")
        if measures is not None:
            far = comparison.disparities().reset_index()
            content["disparities"] = far.to_dict("records")
        if options.reference is not None:
            content["no_harm"] = no_harm_content(comparison, options.reference)
        print(as_json(content), end="")
        return 0
    say(f"{options.file}: {comparison.about}")
    say(say_positive(classes, options.pos_label))
    for line in features.describe():
        say(line)
    _print_tables(comparison, options)
    return 0


def _print_tables(comparison: Comparison, options: argparse.Namespace) -> None:
    for constraint in comparison["constraint"].unique():
        summary = comparison.summary(constraint).droplevel("constraint")
        table = summary[list(SHOWN)].rename(columns=SHOWN)
        best = comparison.pareto(constraint).index.get_level_values("method")
        say(f"\n{constraint.replace('_', ' ')}, means over {options.folds} folds\n")
        say(format_table(table))
        say(f"\nNo other method has more balanced accuracy and a smaller gap: {', '.join(best)}")
        if options.measures is not None:
            say("\nHow far groups differ, and the group farthest from the best value\n")
            far = comparison.disparities(constraint).droplevel("constraint")
            say(format_table(far[["difference", "ratio", "worst_group", "worst"]]))
        if options.reference is not None:
            say_no_harm(comparison, constraint, options.reference)
    say(f"\npsi: balanced accuracy - max(0, gap - {options.tolerance:g}), with a 95 % interval.")
    say("harm: the largest fall, beyond noise, of a group's true positive or true negative rate")
    say("or, under demographic parity, of its selection rate.")
    if options.reference is not None:
        say("utility: the rise of balanced accuracy, fairness: the fall of the gap, both against")
        say(f"{options.reference} in the same folds, with 95 % intervals; clear: neither holds 0.")
        say(
            "groups that lose: for which a rate fell beyond noise; distance: to balanced accuracy 1"
        )
        say("and gap 0. A method helps without harm where both go up and no group loses.")
    failures = comparison[comparison.failed].drop_duplicates(["method", "error"])
    for method, error in zip(failures["method"], failures["error"], strict=True):
        say(f"\nFailed: {method}: {error}")
    for what, path in (("All rows", options.out), ("The plot", options.plot)):
        if path is not None:
            say(f"\n{what}: {path}")


def _save_plot(comparison: Comparison, path: Path) -> None:
    from matplotlib.figure import Figure

    constraints = comparison["constraint"].unique().tolist()
    figure = Figure(figsize=(8.6, 5.0 * len(constraints)), dpi=150, layout="constrained")
    axes: Any = figure.subplots(len(constraints), squeeze=False)
    for constraint, ax in zip(constraints, axes[:, 0], strict=True):
        comparison.plot(constraint, ax=ax)
    figure.savefig(path)
