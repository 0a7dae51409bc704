"""``fairsvd demo``: train, edit, and show the changes on held-out rows."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from textwrap import fill
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from .. import __version__
from .._rng import one_torch_thread, stage_rng
from ..exceptions import FairsvdWarning
from ..low_rank import FairLRFTransformer
from ..metrics import hard_counts, rates_frame
from ..objective import gap, utility_from_counts
from ..report import (
    FairnessReport,
    before_after,
    chosen_candidate,
    format_table,
    gap_estimates,
    plot_tradeoff,
    removed_frame,
    utility_name,
)
from ._output import say
from ._tasks import Rows, Task, load_task

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check_plot", "run_demo"]

UNTOUCHED: dict[str, Any] = {"sparsity": 0, "refine": None}
POSITIVE = 1  # both tasks have the labels 0 and 1
WIDTH = 88  # of lines of text
OWNER = "nobody: this is a demo"
OVERALL = ("accuracy", "balanced_accuracy", "worst_cell_accuracy")


class Fits(NamedTuple):
    """The three compared Pipelines, and the seconds of training and editing."""

    plain: Pipeline
    tuned: Pipeline
    edited: Pipeline
    training: float
    edit: float


def run_demo(options: argparse.Namespace) -> int:
    """Print the tables, and save the plot and the report page.

    Parameters
    ----------
    options : argparse.Namespace
        data, plot, report, constraint, tolerance, max_steps, seed.

    Returns
    -------
    status : int
        0.

    Raises
    ------
    ValueError
        If an option is out of its range.
    OSError
        If the data is missing, or the plot cannot be written.
    """
    started = perf_counter()
    check_plot(options.plot)
    _check_report(options.report)
    say(f"fairsvd {__version__}: FairLRF-style editing of a trained network\n")
    task = load_task(options.data, options.seed)
    for line in task.about:
        say(line)
    n_fit, n_held = len(task.fit.y), len(task.held_out.y)
    say(f"Split    {n_fit:,} rows to fit, a quarter of them for the choice; {n_held:,} held out")
    # One thread, which is faster for small networks and makes results reproducible.
    with one_torch_thread(), warnings.catch_warnings():
        # The warnings of the edit are printed from report_.notes.
        warnings.simplefilter("ignore", FairsvdWarning)
        fits = _fit(task, options)
        counts = {name: _count(getattr(fits, name), task.held_out) for name in Fits._fields[:3]}
    _print_groups(counts, task.held_out)
    _print_gaps(counts, options)
    _print_overall(counts, options.constraint)
    _print_edit(fits.edited[-1])
    _save_plot(fits.edited[-1], counts, options.plot)
    held = task.held_out
    FairnessReport(fits.edited, held.X, held.y, held.y.index, owner=OWNER).save(options.report)
    seconds = perf_counter() - started
    say(f"\nTime: training {fits.training:.1f} s, edit {fits.edit:.1f} s, in all {seconds:.1f} s")
    say(f"\nTrade-off plot:  {options.plot}")
    say(f"Report page:     {options.report}")
    say("With your rows:  fairsvd edit YOURS.csv --target COLUMN --sensitive COLUMN --out model")
    return 0


def _check_report(path: Path) -> None:
    """Refuse another ending than that of a page, and make its folder, before the computation."""
    if path.suffix.lower() not in (".html",):
        raise ValueError(f"--report {path} must end in .html")
    path.parent.mkdir(parents=True, exist_ok=True)


def check_plot(path: Path) -> None:
    """Make the plot's folder, and refuse an unknown format before the long computation."""
    from matplotlib.figure import Figure

    formats = sorted(Figure().canvas.get_supported_filetypes())
    if path.suffix.lower().lstrip(".") not in formats:
        raise ValueError(f"--plot {path} must end in one of .{', .'.join(formats)}")
    path.parent.mkdir(parents=True, exist_ok=True)


def _fit(task: Task, options: argparse.Namespace) -> Fits:
    shared: dict[str, Any] = {
        "constraint": options.constraint,
        "tolerance": options.tolerance,
        "max_steps": options.max_steps,
        "sensitive_columns": task.fit.y.index.name,
        "random_state": options.seed,
    }
    say("Network  training the default one ...")
    start = perf_counter()
    # An edit without changes, which trains the default network.
    editor = FairLRFTransformer(threshold=0.5, **UNTOUCHED, **shared)
    plain = Pipeline([*task.steps, ("fairlrf", editor)]).fit(task.fit.X, task.fit.y)
    trained = perf_counter()
    network = plain[-1].module_
    n_parameters = sum(p.numel() for p in network.parameters())
    say(f"         {type(network).__name__}, {n_parameters:,} parameters; editing it ...")
    # The same seed gives the same validation rows, which the network has not seen.
    frozen = [(name, FrozenEstimator(step)) for name, step in plain.steps[:-1]]
    editor = FairLRFTransformer(network, **shared)
    edited = Pipeline([*frozen, ("fairlrf", editor)]).fit(task.fit.X, task.fit.y)
    done = perf_counter()
    editor = FairLRFTransformer(network, **UNTOUCHED, **shared)
    tuned = Pipeline([*frozen, ("fairlrf", editor)]).fit(task.fit.X, task.fit.y)
    return Fits(plain, tuned, edited, trained - start, done - trained)


def _count(pipe: Pipeline, rows: Rows) -> NDArray[np.int64]:
    """Count rows by [group, true, predicted]; predicting does not use the group."""
    return hard_counts(rows.y, pipe.predict(rows.X), rows.y.index, labels=[0, 1])[0]


def _print_groups(counts: dict[str, NDArray[np.int64]], rows: Rows) -> None:
    labels, name = sorted(set(rows.y.index)), str(rows.y.index.name)
    tables = [rates_frame(counts[k], POSITIVE, labels, [name]) for k in ("plain", "edited")]
    say("\nRates of every group on the held-out rows: untouched network -> edited network\n")
    say(format_table(before_after(*tables)))


def _print_gaps(counts: dict[str, NDArray[np.int64]], options: argparse.Namespace) -> None:
    rng = stage_rng(options.seed, "bootstrap")
    tables = [gap_estimates(counts[k], POSITIVE, rng) for k in ("plain", "edited")]
    say("\nGaps on the held-out rows, with 95 % intervals. Noise floor: the gap that")
    say("equal treatment would show on that many rows.\n")
    say(format_table(_gap_frame(*tables)))
    value = tables[1].loc[options.constraint, "difference"]
    constant = np.count_nonzero(counts["edited"].sum(axis=(0, 1))) < 2
    verdict = "met" if value <= options.tolerance and not constant else "not met"
    goal = f"{options.constraint.replace('_', ' ')} of at most {options.tolerance:g}"
    say(f"\nAsked for: {goal}; on the held-out rows {value:.3f}, {verdict}")


def _gap_frame(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    frame = before[["difference"]].rename(columns={"difference": "before"})
    frame["before_95_%"] = _format_intervals(before)
    frame["after"] = after["difference"]
    frame["after_95_%"] = _format_intervals(after)
    frame["noise_floor"] = after["noise_floor"]
    frame.index = frame.index.str.replace("_", " ")
    return frame


def _format_intervals(table: pd.DataFrame) -> list[str]:
    pairs = zip(table["low"], table["high"], strict=True)
    return [f"{low:.3f} to {high:.3f}" for low, high in pairs]


def _print_overall(counts: dict[str, NDArray[np.int64]], constraint: str) -> None:
    import pandas as pd

    names = ("untouched network", "only its threshold tuned", "edited network")
    tables = list(counts.values())
    columns: dict[str, Any] = {
        u: [float(utility_from_counts(t, u)) for t in tables] for u in OVERALL
    }
    columns[f"{constraint}_gap"] = [float(gap(t, constraint, POSITIVE)) for t in tables]
    say("\nOverall on the held-out rows\n")
    say(format_table(pd.DataFrame(columns, index=names)))


def _print_edit(editor: FairLRFTransformer) -> None:
    history = editor.history_
    place = chosen_candidate(history)
    chosen = history.iloc[place]
    say(f"\nRemoved: {editor.removed_fraction_:.1%} of the entries of U and V, by layer\n")
    say(format_table(removed_frame(editor)))
    utility = (utility_name(editor) or "utility").replace("_", " ")
    met = "within" if chosen["feasible"] else "beyond"
    text = (
        f"Chosen: candidate {place} of {len(history) - 1}, {_describe_params(chosen)}, with "
        f"threshold {editor.threshold_:.3f}; on the rows of the choice {utility} "
        f"{chosen['utility']:.3f} and gap {chosen['gap']:.3f}, {met} the tolerance of "
        f"{editor.tolerance:.3g}."
    )
    say("\n" + fill(text, WIDTH))
    for note in editor.report_.notes:
        say(fill(f"Note: {note}", WIDTH))


def _describe_params(chosen: pd.Series) -> str:
    stage = f"stage {chosen['stage']}"
    names = [n for n in ("gap_weight", "alpha", "step") if n in chosen and np.isfinite(chosen[n])]
    return ", ".join([stage, *(f"{name} {chosen[name]:g}" for name in names)])


def _save_plot(
    editor: FairLRFTransformer, counts: dict[str, NDArray[np.int64]], path: Path
) -> None:
    from matplotlib.figure import Figure

    utility = utility_name(editor) or "balanced_accuracy"
    labels = {"plain": "held-out rows, untouched", "edited": "held-out rows, edited"}
    points = {
        label: (
            float(gap(counts[name], editor.constraint, POSITIVE)),
            float(utility_from_counts(counts[name], utility)),
        )
        for name, label in labels.items()
    }
    # Outside pyplot, which would look for a window.
    figure = Figure(figsize=(8.6, 5.0), dpi=150, layout="constrained")
    plot_tradeoff(editor, points=points, ax=figure.add_subplot())
    figure.savefig(path)
