"""Plots of groups: their errors before and after an edit, and their scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from ..metrics import scaled_counts
from ._evaluate import STATES, Evaluation
from ._slices import name_group, share_of
from ._style import GROUP_COLORS, INK, PALE, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_errors", "draw_scores", "plot_errors"]

BEFORE_COLOR, AFTER_COLOR = "#C4C4C4", "#0072B2"
# Bars of the scores, of equal width in [0, 1].
N_BARS = 25
GROUPS_SHOWN = 8


def plot_errors(estimator: Any, *, ax: Axes | None = None) -> Axes:
    """Plot each group's errors before and after an edit, with 95 % intervals.

    Measured on the validation rows of the fit. :meth:`FairnessReport.plot_errors` draws the same
    for other rows.

    Parameters
    ----------
    estimator : NetworkEditor
        Fitted with groups.
    ax : matplotlib Axes, default=None
        Axes to draw into. None: a new figure of pyplot, which notebooks show; save it with
        ``ax.figure.savefig(path)``.

    Returns
    -------
    ax : matplotlib Axes
        Horizontal bars: for two classes the share of positive rows that is missed and the share of
        negative rows with a false alarm, for more the share of all rows that is wrong.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    ValueError
        If it was fitted without groups.

    Examples
    --------
    >>> from fairsvd import GapFineTuner
    >>> from fairsvd.datasets import make_biased_classification
    >>> from fairsvd.report import plot_errors
    >>> task = make_biased_classification(600, random_state=0)
    >>> editor = GapFineTuner(max_steps=20, random_state=0)
    >>> editor = editor.fit(task.data, task.target, sensitive_features=task.sensitive_features)
    >>> plot_errors(editor).get_xlabel()
    'share of rows, with 95 % intervals'
    """
    check_is_fitted(estimator, "module_")
    data = estimator._report
    if not data.has_groups:
        raise ValueError(
            f"{type(estimator).__name__} was fitted without groups: pass sensitive_features to fit."
        )
    pos = data.constraint.pos if len(data.classes) == 2 else None
    names = [name_group(label) for label in data.labels]
    counts = data.before, data.after
    if data.weighted is not None:
        before, after = map(scaled_counts, counts, data.weighted.squares)
        counts = before, after
    return draw_errors(counts, names, pos, "validation rows", ax=ax)


def draw_errors(
    counts: tuple[NDArray[Any], NDArray[Any]],
    names: list[str],
    pos: int | None,
    rows: str,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw the bars of :func:`plot_errors`.

    Parameters
    ----------
    counts : (before, after), each an ndarray of shape (n_groups, n_classes, n_classes)
        Rows by [group, true, predicted]; of weighted ones those of equal weight that tell as much.
    names : list of str
        Of the groups.
    pos : int or None
        Code of the positive class; None for more than two.
    rows : str
        What they are, for the title.
    ax : matplotlib Axes, optional
    """
    kinds = ("missed", "false alarm") if pos is not None else ("wrong",)
    bars = [(name, kind) for kind in kinds for name in names]
    ax = new_axes(7.2, 1.5 + 0.5 * len(bars)) if ax is None else ax
    for when, table, shift in zip(("before", "after"), counts, (-0.19, 0.19), strict=True):
        values = [_error(table[names.index(name)], kind, pos) for name, kind in bars]
        middle, low, high = np.array(values).T
        color = BEFORE_COLOR if when == "before" else AFTER_COLOR
        places = np.arange(len(bars)) + shift
        ax.barh(places, middle, 0.36, color=color, edgecolor=INK, lw=0.6, label=when)
        arms = np.nan_to_num([middle - low, high - middle]).clip(0)
        ax.errorbar(middle, places, xerr=arms, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    labels = [f"{name}: {kind}" for name, kind in bars]
    _dress_errors(ax, labels, f"Errors of each group on {rows}")
    return ax


def _error(table: NDArray[Any], kind: str, pos: int | None) -> tuple[float, float, float]:
    """Compute a share of errors and its interval from one group's counts [true, predicted]."""
    if pos is None:
        right, total = float(np.trace(table)), float(table.sum())
        wrong = total - right
    else:
        own = table[pos] if kind == "missed" else table[1 - pos]
        wrong = float(own[1 - pos] if kind == "missed" else own[pos])
        total = float(own.sum())
    return share_of(wrong, total)


def _dress_errors(ax: Axes, labels: list[str], title: str) -> None:
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.set_xlabel("share of rows, with 95 % intervals")
    ax.grid(axis="x", color="#E6E6E6", lw=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_title(title, loc="left", color=INK, weight="bold", fontsize=10)
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.18), ncols=2, frameon=False)


def draw_scores(evaluation: Evaluation, *, axes: Any = None) -> NDArray[Any]:
    """Draw how the probability of the positive class is spread in each group.

    Parameters
    ----------
    evaluation : Evaluation
        Of two classes.
    axes : sequence of two Axes, optional
        None: a new figure of pyplot.

    Returns
    -------
    axes : ndarray of two Axes
        Before and after the edit; lines of steps whose area is 1, and the threshold.
    """
    if axes is None:
        from matplotlib import pyplot

        _, axes = pyplot.subplots(
            1, 2, figsize=(9.0, 3.4), dpi=150, layout="constrained", sharey=True
        )
    edges = np.linspace(0, 1, N_BARS + 1)
    for ax, state in zip(axes, (STATES[0], STATES[-1]), strict=True):
        for k, label in enumerate(evaluation.shown.labels[:GROUPS_SHOWN]):
            own = evaluation.shown.codes == k
            shares = evaluation.shares[state][own, evaluation.positive]
            weights = None if evaluation.weights is None else evaluation.weights[own]
            heights, _ = np.histogram(shares, edges, density=True, weights=weights)
            color = GROUP_COLORS[k % len(GROUP_COLORS)]
            style = ("-", "--", "-.", ":")[k % 4]
            ax.stairs(heights, edges, color=color, ls=style, lw=1.6, label=name_group(label))
        ax.axvline(_threshold(evaluation, state), color=PALE, lw=1, ls=(0, (4, 3)))
        ax.set_title(state, loc="left", fontsize=10, color=INK)
        ax.set_xlabel("predicted probability")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("density")
    axes[0].legend(frameon=False, fontsize=8)
    return np.asarray(axes)


def _threshold(evaluation: Evaluation, state: str) -> float:
    """Find the probability of the positive class at which the prediction changes."""
    editor = evaluation.editor
    if state != STATES[-1] or editor.shift_probabilities:
        return 0.5
    at = float(editor.threshold_)
    return at if evaluation.positive == 1 else 1 - at
