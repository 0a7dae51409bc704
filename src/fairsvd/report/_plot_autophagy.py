"""The plots of audits: what is lost from generation to generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["plot_autophagy", "plot_feedback"]

# Okabe and Ito's palette, distinguishable by colour-blind readers too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933")
WHOLE_COLOR, PALE = "#222222", "#8A8A8A"

# Measures that are constant for the whole table.
ONLY_CELLS = ("share", "share_ratio", "extinct")

# Label of each measure, and its value without any loss.
LABELS: dict[str, tuple[str, float | None]] = {
    "share": ("share of the rows", None),
    "share_ratio": ("imbalance, relative to the real one", 1.0),
    "frechet_distance": ("Frechet distance", 0.0),
    "variance_ratio": ("variance, relative to the real one", 1.0),
    "extinct_categories": ("extinct categories", 0.0),
    "detector_auc": ("AUC of a detector", 0.5),
    "extinct": ("extinct (1) or not (0)", 0.0),
}
FEEDBACK_LABELS: dict[str, tuple[str, float | None]] = {
    "selection_rate": ("selection rate", None),
    "tpr": ("true positive rate", None),
    "fpr": ("false positive rate", None),
    "accuracy": ("accuracy", None),
    "share": ("share of the training rows", None),
    "equalized_odds": ("equalized odds gap", 0.0),
    "demographic_parity": ("demographic parity gap", 0.0),
}


def plot_autophagy(
    audit: Any,
    *,
    measures: Sequence[str] = ("share", "frechet_distance", "variance_ratio", "detector_auc"),
    axes: Any = None,
) -> NDArray[Any]:
    """Plot the summary of an autophagy audit, one panel per measure.

    A line is the median over loops, the band around it spans the quantiles of the audit, and the
    dashed line is the value of samples like the real rows.

    Parameters
    ----------
    audit : Bunch
        Result of :func:`fairsvd.autophagy_audit`.
    measures : sequence of str
        Some measures of ``audit.summary``. Default: share, Frechet distance, variance ratio and
        detector AUC.
    axes : sequence of matplotlib Axes, default=None
        Axes to draw into, one per measure. None: a new figure of pyplot, ``axes[0].figure``.

    Returns
    -------
    axes : ndarray of Axes, of shape (n_measures,)

    Raises
    ------
    ValueError
        If a measure is unknown, or the numbers of axes and measures differ.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.mixture import GaussianMixture
    >>> from fairsvd import autophagy_audit
    >>> from fairsvd.report import plot_autophagy
    >>> X = np.random.default_rng(0).normal(size=(60, 2))
    >>> settings = {"n_generations": 2, "n_seeds": 2, "detector": None, "random_state": 0}
    >>> audit = autophagy_audit(GaussianMixture(), X, **settings)
    >>> [ax.get_ylabel() for ax in plot_autophagy(audit, measures=["variance_ratio"])]
    ['variance, relative to the real one']
    """
    title = f"Trained on its own samples: {audit.mode}, cells {audit.conditions}"
    return _plot_panels(audit.summary, measures, LABELS, title, axes)


def plot_feedback(
    audit: Any,
    *,
    measures: Sequence[str] = ("selection_rate", "accuracy", "share", "equalized_odds"),
    axes: Any = None,
) -> NDArray[Any]:
    """Plot the summary of a feedback audit, one panel per measure.

    A line is the median over loops, the band around it spans the quantiles of the audit.

    Parameters
    ----------
    audit : Bunch
        Result of :func:`fairsvd.feedback_audit`.
    measures : sequence of str
        Some measures of ``audit.summary``. "share" is drawn for (label, group) pairs.
    axes : sequence of matplotlib Axes, default=None
        Axes to draw into, one per measure. None: a new figure of pyplot, ``axes[0].figure``.

    Returns
    -------
    axes : ndarray of Axes, of shape (n_measures,)

    Raises
    ------
    ValueError
        If a measure is unknown, or the numbers of axes and measures differ.
    """
    summary = audit.summary
    # The shares of groups never change by labels.
    whole_groups = (summary["measure"] == "share") & summary["label"].isna()
    title = f"Trained on the labels of its predecessor: intervention {audit.intervention}"
    return _plot_panels(summary[~whole_groups], measures, FEEDBACK_LABELS, title, axes)


def _plot_panels(
    summary: pd.DataFrame,
    measures: Sequence[str],
    labels: dict[str, tuple[str, float | None]],
    title: str,
    axes: Any,
) -> NDArray[Any]:
    unknown = [name for name in measures if name not in labels]
    if unknown or not len(measures):
        raise ValueError(f"measures={list(measures)}: wanted some of {', '.join(labels)}.")
    axes = _new_axes(len(measures)) if axes is None else np.asarray(axes, dtype=object).reshape(-1)
    if len(axes) != len(measures):
        raise ValueError(f"axes holds {len(axes)} Axes for {len(measures)} measures: pass as many.")
    for ax, name in zip(axes, measures, strict=True):
        shown = summary[summary["measure"] == name]
        _draw(ax, shown[shown["cell"] != "all"] if name in ONLY_CELLS else shown)
        _dress(ax, *labels[name])
    _explain(axes, title)
    return np.asarray(axes)


def _new_axes(n: int) -> NDArray[Any]:
    from matplotlib import pyplot

    n_columns = min(n, 2)
    n_rows = -(-n // n_columns)
    size = (4.6 * n_columns, 3.1 * n_rows + 0.9)
    _, grid = pyplot.subplots(
        n_rows, n_columns, figsize=size, dpi=150, layout="constrained", squeeze=False
    )
    axes = grid.reshape(-1)
    for spare in axes[n:]:
        spare.remove()
    return np.asarray(axes[:n])


def _draw(ax: Axes, table: pd.DataFrame) -> None:
    cells = [cell for cell in table["cell"].unique() if cell != "all"]
    colors = {cell: COLORS[k % len(COLORS)] for k, cell in enumerate(cells)}
    for cell, rows in table.groupby("cell", sort=False):
        color = colors.get(str(cell), WHOLE_COLOR)
        # An infinite value, the ratio of an extinct cell, ends the line.
        low, middle, high = (
            np.where(np.isfinite(rows[k]), rows[k], np.nan) for k in ("low", "median", "high")
        )
        style = "-" if cell != "all" else (0, (1, 1))
        label = "all rows" if cell == "all" else str(cell)
        ax.plot(rows["generation"], middle, color=color, ls=style, marker="o", ms=3, label=label)
        ax.fill_between(rows["generation"], low, high, color=color, alpha=0.13, lw=0)


def _dress(ax: Axes, label: str, ideal: float | None) -> None:
    from matplotlib.ticker import MaxNLocator

    if ideal is not None:
        ax.axhline(ideal, color=PALE, lw=1, ls=(0, (4, 3)), zorder=0)
    ax.set_xlabel("generation")
    ax.set_ylabel(label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(color="#E6E6E6", lw=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _explain(axes: Any, title: str) -> None:
    axes[0].set_title(title, loc="left", fontsize=10, weight="bold")
    # From the panel with most lines, since not all show the whole table.
    handles, labels = max((ax.get_legend_handles_labels() for ax in axes), key=lambda h: len(h[1]))
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
    axes[-1].legend(handles, labels, **place, frameon=False, fontsize=8)
