"""The charts of a report page, as SVG inside the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..metrics import Rows, scaled_counts
from ._evaluate import STATES, Evaluation
from ._plot import plot_tradeoff
from ._plot_groups import GROUPS_SHOWN, draw_errors, draw_scores
from ._plot_mask import plot_mask
from ._slices import name_group
from ._style import GROUP_COLORS, GROUP_MARKERS, PALE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Chart", "charts", "errors_of"]

# Text stays text, so that it can be read aloud, searched and scaled, and files stay small.
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fairsvd",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 9.0,
}
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
NARROW = (5.0, 3.6)
ROC_POINTS = 200
# Points of a calibration curve, each of as many rows.
BINS = 10


class Chart(NamedTuple):
    """A chart: its title, what it shows in words, and its SVG."""

    title: str
    text: str
    svg: str


def charts(evaluation: Evaluation) -> list[Chart]:
    """Draw the charts of an evaluation.

    Parameters
    ----------
    evaluation : Evaluation

    Returns
    -------
    charts : list of Chart
        Errors; for two classes scores, ROC curves and calibration; the trade-off of the fit; masks
        where the editor has some.
    """
    import matplotlib as mpl

    drawn: list[tuple[str, str, Callable[[Evaluation], Figure]]] = [
        ("Errors of each group", "Bars before and after the edit, with 95 % intervals.", _errors)
    ]
    if evaluation.positive is not None:
        drawn += [
            ("Scores by group", "How the predicted probability is spread in each group.", _scores),
            ("ROC by group", "True against false positive rate, after the edit.", _roc),
            (
                "Calibration by group",
                "Observed frequency against probability, after.",
                _calibration,
            ),
        ]
    drawn.append(("The trade-off", "Every candidate of the fit, and the chosen one.", _tradeoff))
    if getattr(evaluation.editor, "masks_", None):
        drawn.append(("Masks by layer", "Where the edit may change the network.", _masks))
    with mpl.rc_context(STYLE):
        return [
            Chart(title, text, _as_svg(draw(evaluation), f"{title}. {text}"))
            for title, text, draw in drawn
        ]


def _figure(width: float = NARROW[0], height: float = NARROW[1]) -> Figure:
    # Outside pyplot, where a notebook would show it a second time.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _as_svg(figure: Figure, text: str) -> str:
    """Write a figure as an SVG element without addresses, fixed size and metadata."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Ids are unique in a page, not only in a chart.
    mark = re.sub(r"\W", "", text)[:24]
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{mark}-", svg)
    head = re.findall(r'viewBox="[^"]*"', svg)
    spaces = f'xmlns="{SVG}" xmlns:xlink="{XLINK}"'
    opening = f'<svg {spaces} role="img" aria-label="{escape(text, quote=True)}" {head[0]}>'
    return opening + svg[svg.index(">") + 1 :]


def errors_of(evaluation: Evaluation, *, ax: Any = None) -> Any:
    """Draw the errors of the first groups before and after the edit."""
    groups, weights = evaluation.shown, evaluation.weights
    sizes = len(evaluation.classes), groups.n_groups
    rows = Rows(evaluation.y, groups.codes, *sizes, evaluation.positive, weights=weights)
    states = (
        replace(rows, predicted=evaluation.predicted(state)) for state in (STATES[0], STATES[-1])
    )
    before, after = (
        (each.counts if each.squares is None else scaled_counts(each.counts, each.squares))
        for each in states
    )
    names = [name_group(label) for label in evaluation.shown.labels[:GROUPS_SHOWN]]
    weighted = "" if weights is None else "weighted "
    title = f"{evaluation.counted.sum():,} {weighted}rows"
    shown = before[:GROUPS_SHOWN], after[:GROUPS_SHOWN]
    return draw_errors(shown, names, evaluation.positive, title, ax=ax)


def _errors(evaluation: Evaluation) -> Figure:
    kinds = 2 if evaluation.positive is not None else 1
    bars = kinds * min(GROUPS_SHOWN, evaluation.shown.n_groups)
    figure = _figure(NARROW[0], 1.2 + 0.42 * bars)
    errors_of(evaluation, ax=figure.add_subplot()).set_title("", loc="left")
    return figure


def _scores(evaluation: Evaluation) -> Figure:
    figure = _figure(NARROW[0], 4.6)
    draw_scores(evaluation, axes=figure.subplots(2, 1, sharex=True))
    figure.axes[0].set_xlabel("")
    return figure


def _lines_by_group(evaluation: Evaluation, line: Callable[..., Any], labels: Any) -> Figure:
    """Draw one line for each group."""
    figure = _figure()
    ax = figure.add_subplot()
    ax.plot([0, 1], [0, 1], color=PALE, lw=1, ls=(0, (4, 3)))
    for k, label in enumerate(evaluation.shown.labels[:GROUPS_SHOWN]):
        own = evaluation.shown.codes == k
        share = evaluation.shares["after"][own, evaluation.positive]
        weights = None if evaluation.weights is None else evaluation.weights[own]
        found = line(evaluation.y[own] == evaluation.positive, share, weights)
        if found is not None:
            marker = GROUP_MARKERS[k % len(GROUP_MARKERS)]
            style: dict[str, Any] = {
                "color": GROUP_COLORS[k % len(GROUP_COLORS)],
                "marker": marker,
                "ms": 4,
            }
            every = max(1, len(found[0]) // BINS)
            ax.plot(*found, lw=1.5, markevery=every, label=name_group(label), **style)
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def _roc(evaluation: Evaluation) -> Figure:
    from sklearn.metrics import roc_curve

    def line(true: Any, share: Any, weights: Any) -> Any:
        if true.all() or not true.any():
            return None
        fpr, tpr, _ = roc_curve(true, share, sample_weight=weights)
        grid = np.linspace(0, 1, ROC_POINTS)
        return grid, np.interp(grid, fpr, tpr)

    return _lines_by_group(evaluation, line, ("false positive rate", "true positive rate"))


def _calibration(evaluation: Evaluation) -> Figure:
    def line(true: Any, share: Any, weights: Any) -> Any:
        if len(true) < BINS:
            return None
        order = np.argsort(share, kind="stable")
        if weights is None:
            parts = np.array_split(order, BINS)
            return [share[p].mean() for p in parts], [true[p].mean() for p in parts]
        mass = np.cumsum(weights[order])
        ends = np.searchsorted(mass, mass[-1] * np.arange(1, BINS) / BINS)
        parts = [part for part in np.split(order, ends) if len(part)]
        return tuple(
            [np.average(each[p], weights=weights[p]) for p in parts] for each in (share, true)
        )

    return _lines_by_group(evaluation, line, ("predicted probability", "observed frequency"))


def _tradeoff(evaluation: Evaluation) -> Figure:
    figure = _figure(NARROW[0], 4.8)
    ax = plot_tradeoff(evaluation.editor, ax=figure.add_subplot())
    ax.set_title("", loc="left")
    for text in list(ax.texts):
        text.remove()
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.16), frameon=False, fontsize=8)
    return figure


def _masks(evaluation: Evaluation) -> Figure:
    figure = _figure(NARROW[0], 3.0)
    plot_mask(evaluation.editor, ax=figure.add_subplot()).set_title("", loc="left")
    return figure
