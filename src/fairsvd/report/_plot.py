"""The trade-off plot: the gap of every candidate of a fit against its utility."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ._fit import chosen_candidate, gap_request, utility_name
from ._style import INK, PALE, dress, gap_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_tradeoff"]

# Okabe and Ito's palette, distinguishable by colour-blind readers too.
STAGE_COLORS = {
    "masks": "#56B4E9",
    "spectrum": "#E69F00",
    "removal": "#009E73",
    "impair": "#56B4E9",
    "repair": "#E69F00",
    "scale": "#E69F00",
}
OTHER_COLOR = "#CC79A7"
# Stages differ by shape too, for grey prints.
STAGE_MARKERS = ("o", "^", "D", "v", "P", "X", "<", ">")
CHOSEN_COLOR = "#D55E00"

# Opacity of candidates that are not feasible.
MISSED_ALPHA = 0.4


def plot_tradeoff(
    estimator: Any,
    *,
    ax: Axes | None = None,
    points: Mapping[str, tuple[float, float]] | None = None,
) -> Axes:
    """Plot the gap of every candidate of a fit against its utility.

    Both are measured on the rows on which candidates are chosen: the validation rows and a sample
    of the editing rows. Candidates have a colour and a shape by stage, and are pale if they are not
    feasible. The plot marks the untouched network, the chosen one, the tolerance and the target of
    the choice (``tolerance_fraction * tolerance``).

    Parameters
    ----------
    estimator : NetworkEditor
        A fitted editor, such as ``FairLRFTransformer``.
    ax : matplotlib Axes, default=None
        Axes to draw into. None: a new figure of pyplot, which notebooks show; save it with
        ``ax.figure.savefig(path)``.
    points : mapping of str to (gap, utility), default=None
        Further points, for example measured on held-out rows, joined by arrows in order.

    Returns
    -------
    ax : matplotlib Axes
        x: the gap, a difference of rates in [0, 1]; y: the utility.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    ValueError
        If no candidate has a finite gap and utility.

    Examples
    --------
    >>> from fairsvd import FairLRFTransformer
    >>> from fairsvd.datasets import make_biased_classification
    >>> from fairsvd.report import plot_tradeoff
    >>> task = make_biased_classification(600, random_state=0)
    >>> editor = FairLRFTransformer(tolerance=0.2, max_steps=30, random_state=0)
    >>> editor = editor.fit(task.data, task.target, sensitive_features=task.sensitive_features)
    >>> plot_tradeoff(editor).get_xlabel()
    'equalized odds gap (difference of rates)'
    """
    history = estimator.history_
    shown = history[np.isfinite(history["gap"]) & np.isfinite(history["utility"])]
    if shown.empty:
        raise ValueError(
            "history_ has no candidate with a finite gap and utility, so there is nothing to plot: "
            "the network's outputs are unusable on every row. Check its training."
        )
    ax = gap_axes() if ax is None else ax
    _draw_limits(ax, estimator)
    _draw_candidates(ax, shown)
    tuned = estimator.threshold == "tune" and estimator.threshold_ is not None
    untouched = "untouched, threshold tuned" if tuned else "untouched network"
    _draw_point(ax, history.iloc[0], untouched, "s", INK, 70)
    _draw_point(ax, history.iloc[chosen_candidate(history)], "chosen", "*", CHOSEN_COLOR, 330)
    _draw_further(ax, points or {})
    _explain(ax, estimator)
    return ax


def _draw_limits(ax: Axes, estimator: Any) -> None:
    _, tolerance, target = gap_request(estimator)
    ax.axvspan(0, target, color=STAGE_COLORS["removal"], alpha=0.08, lw=0, zorder=0)
    label = f"target of the choice, {target:.3g}"
    ax.axvline(target, color=INK, lw=1.1, ls=(0, (4, 3)), zorder=1, label=label)
    label = f"tolerance, {tolerance:.3g}"
    ax.axvline(tolerance, color=INK, lw=1.1, zorder=1, label=label)


def _draw_candidates(ax: Axes, shown: pd.DataFrame) -> None:
    from matplotlib.colors import to_rgba

    stages = shown[shown["stage"] != "untouched"].groupby("stage", sort=False)
    for k, (stage, rows) in enumerate(stages):
        marker = STAGE_MARKERS[k % len(STAGE_MARKERS)]
        color = STAGE_COLORS.get(str(stage), OTHER_COLOR)
        colors = [to_rgba(color, 1.0 if met else MISSED_ALPHA) for met in rows["feasible"]]
        style: dict[str, Any] = {"edgecolors": "white", "linewidths": 0.6, "marker": marker}
        style["zorder"] = 3
        drawn = ax.scatter(rows["gap"], rows["utility"], s=38, c=colors, **style)
        drawn.set_gid(f"stage {stage}")
        # The legend shows the full colour, even if the first candidate of a stage is pale.
        ax.scatter(
            [], [], color=color, marker=marker, s=38, label=f"{stage}: {len(rows)} candidates"
        )


def _draw_point(ax: Axes, row: pd.Series, label: str, marker: str, color: str, size: float) -> None:
    if not np.isfinite([row["gap"], row["utility"]]).all():
        return
    style: dict[str, Any] = {"edgecolors": "white", "linewidths": 1.0, "zorder": 5}
    ax.scatter(row["gap"], row["utility"], marker=marker, s=size, c=color, label=label, **style)


def _draw_further(ax: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    places = list(points.values())
    for start, end in pairwise(places):
        arrow = {"arrowstyle": "-|>", "color": PALE, "lw": 1.2, "shrinkA": 7, "shrinkB": 7}
        ax.annotate("", xy=end, xytext=start, arrowprops=arrow, zorder=4)
    for number, (label, place) in enumerate(points.items(), start=1):
        face = CHOSEN_COLOR if number == len(points) else "white"
        style: dict[str, Any] = {"marker": "D", "s": 52, "edgecolors": INK, "zorder": 6}
        ax.scatter(*place, c=face, label=label, linewidths=1.2, **style)


def _explain(ax: Axes, estimator: Any) -> None:
    # "Style", since the paper's equations are not public.
    method = "FairLRF-style editing" if hasattr(estimator, "ranks_") else type(estimator).__name__
    utility = utility_name(estimator) or "utility"
    text = "Candidates on the rows they are chosen on, pale if not feasible. Better: up and left."
    dress(ax, gap_request(estimator)[0], utility, f"{method}: the trade-off", text)
