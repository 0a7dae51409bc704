"""``fairsvd compare``: several methods on the rows of a CSV file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from .._messages import listed
from ..comparison import compare
from ..containers import read_labels
from ..report import format_table
from ._audit import as_label
from ._csv import describe_empty, read_table
from ._demo import check_plot

if TYPE_CHECKING:
    import pandas as pd

    from ..comparison import Comparison

__all__ = ["run_compare"]

MOST_CATEGORIES = 100

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


def run_compare(options: argparse.Namespace) -> None:
    """Print one table per constraint; write all rows and the plot on request.

    Parameters
    ----------
    options : argparse.Namespace
        file, target, sensitive, methods, constraints, tolerance, folds, keep_sensitive, pos_label,
        seed, jobs, out, plot.

    Raises
    ------
    ValueError
        If a column is missing or cannot be used, or a method is unknown.
    OSError
        If a file cannot be read or written.
    """
    methods, constraints = map(_split_names, (options.methods, options.constraints))
    if options.plot is not None:
        check_plot(options.plot)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    frame, target, sensitive, _ = read_table(options.file, options.target, options.sensitive)
    _check_filled(frame[[target, *sensitive]], options.file)
    classes = np.unique(read_labels(frame[target], f"column {target}")).tolist()
    X, about = _encode_features(frame, [target, *([] if options.keep_sensitive else sensitive)])
    comparison = compare(
        methods,
        X,
        frame[target].to_numpy(),
        frame[sensitive],
        cv=options.folds,
        constraints=constraints,
        tolerance=options.tolerance,
        pos_label=as_label(classes, options.pos_label),
        n_jobs=options.jobs,
        random_state=options.seed,
        verbose=1,
    )
    if options.out is not None:
        comparison.to_csv(options.out, index=False)
    if options.plot is not None:
        _save_plot(comparison, options.plot)
    print(f"{options.file}: {len(frame):,} rows; {about}")
    _print_tables(comparison, options)


def _split_names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _check_filled(frame: pd.DataFrame, path: Path) -> None:
    if columns := describe_empty(frame):
        raise ValueError(f"{path}: {columns}: fill it or leave these rows out")


def _encode_features(frame: pd.DataFrame, left_out: list[str]) -> tuple[NDArray[np.float64], str]:
    """Encode the feature columns, and describe the encoding."""
    columns = frame.drop(columns=left_out).dropna(axis="columns", how="all")
    if columns.empty:
        raise ValueError(
            "no column is left for features: the file needs some beside the target and the groups."
        )
    numeric = columns.select_dtypes("number")
    infinite = numeric.columns[np.isinf(numeric.to_numpy(dtype=np.float64)).any(axis=0)]
    if len(infinite):
        raise ValueError(f"column {listed(infinite)} holds infinite numbers: leave them empty.")
    # A column of names or numbers of rows would become as many columns as rows.
    encode = OneHotEncoder(
        handle_unknown="infrequent_if_exist", max_categories=MOST_CATEGORIES, sparse_output=False
    )
    scale = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    # Fitted on all rows, but only on their features, so no fold learns test labels.
    encoder = make_column_transformer(
        (scale, make_column_selector(dtype_include="number")),
        (encode, make_column_selector(dtype_exclude="number")),
    )
    X = np.asarray(encoder.fit_transform(columns), dtype=np.float64)
    numbers = numeric.shape[1]
    categories = columns.shape[1] - numbers
    return X, (
        f"features: {numbers} columns of numbers, scaled, empty cells at the median, and "
        f"{categories} of categories, one-hot (of each the {MOST_CATEGORIES} most "
        f"frequent); not among them: {', '.join(left_out)}."
    )


def _print_tables(comparison: Comparison, options: argparse.Namespace) -> None:
    for constraint in comparison["constraint"].unique():
        summary = comparison.summary(constraint).droplevel("constraint")
        table = summary[list(SHOWN)].rename(columns=SHOWN)
        best = comparison.pareto(constraint).index.get_level_values("method")
        print(f"\n{constraint.replace('_', ' ')}, means over {options.folds} folds\n")
        print(format_table(table))
        print(f"\nNo other method has more balanced accuracy and a smaller gap: {', '.join(best)}")
    print(f"\npsi: balanced accuracy - max(0, gap - {options.tolerance:g}), with a 95 % interval.")
    print("harm: the largest fall, beyond noise, of a group's true positive or true negative rate")
    print("or, under demographic parity, of its selection rate.")
    failures = comparison[comparison.failed].drop_duplicates(["method", "error"])
    for method, error in zip(failures["method"], failures["error"], strict=True):
        print(f"\nFailed: {method}: {error}")
    for what, path in (("All rows", options.out), ("The plot", options.plot)):
        if path is not None:
            print(f"\n{what}: {path}")


def _save_plot(comparison: Comparison, path: Path) -> None:
    from matplotlib.figure import Figure

    constraints = comparison["constraint"].unique().tolist()
    figure = Figure(figsize=(8.6, 5.0 * len(constraints)), dpi=150, layout="constrained")
    axes: Any = figure.subplots(len(constraints), squeeze=False)
    for constraint, ax in zip(constraints, axes[:, 0], strict=True):
        comparison.plot(constraint, ax=ax)
    figure.savefig(path)
