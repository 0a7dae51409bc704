"""The plots of a comparison, one point per method: what it reaches, and what it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..report import INK, PALE, dress, gap_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_changes", "plot_comparison"]

# Okabe and Ito's palette, distinguishable by colour-blind readers too; markers change after it.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F6A00")
MARKERS = ("o", "^", "D", "v")


def plot_comparison(
    summary: pd.DataFrame, front: pd.DataFrame, constraint: str, tolerance: float, ax: Axes | None
) -> Axes:
    """Draw the methods of a summary.

    Parameters
    ----------
    summary : DataFrame
        Summary of one constraint; index: the methods.
    front : DataFrame
        Its rows that no other row beats, sorted by the gap.
    constraint : str
    tolerance : float
    ax : matplotlib Axes or None
    """
    ax = gap_axes() if ax is None else ax
    ax.axvline(tolerance, color=INK, lw=1.1, zorder=1, label=f"tolerance, {tolerance:.3g}")
    style: dict[str, Any] = {"color": PALE, "lw": 1.3, "ls": (0, (4, 3)), "zorder": 2}
    ax.plot(front["gap"], front["balanced_accuracy"], label="no other is better", **style)
    methods = summary[summary["balanced_accuracy"].notna() & summary["gap"].notna()]
    for number, (name, row) in enumerate(methods.iterrows()):
        _draw_method(ax, str(name), row, number, ("gap", "balanced_accuracy"))
    text = "Means over the folds on test rows, with 95 % intervals. Better: up and left."
    dress(ax, constraint, "balanced_accuracy", "Methods compared", text)
    return ax


def plot_changes(table: pd.DataFrame, constraint: str, ax: Axes | None) -> Axes:
    """Draw the changes of methods against the reference of the no-harm protocol.

    Parameters
    ----------
    table : DataFrame
        Result of ``no_harm`` for one constraint; index: the methods.
    constraint : str
    ax : matplotlib Axes or None
    """
    ax = gap_axes() if ax is None else ax
    methods = table[(table["folds"] > 0) & (table["quadrant"] != "reference")]
    if methods.empty:
        raise ValueError("no method has numbers beside the reference: see the column 'error'.")
    for number, (name, row) in enumerate(methods.iterrows()):
        label = f"{name}, {row['groups_lost']:.2g} groups lose"
        _draw_method(ax, str(name), row, number, ("fairness_change", "utility_change"), label)
    reference = table.index[table["quadrant"] == "reference"][0]
    ax.plot(0, 0, "*", ms=13, color=INK, zorder=4, label=f"{reference} (reference)")
    text = "Against the reference, means over the folds with 95 % intervals. Shaded: no harm."
    dress(ax, constraint, "change of balanced accuracy", "Help and harm", text)
    ax.set_xlabel(f"fall of the {constraint.replace('_', ' ')} gap (difference of rates)")
    reach = 1.1 * max(abs(end) for end in (*ax.dataLim.intervalx, *ax.dataLim.intervaly, 0.01))
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach))
    ax.axhline(0, color=INK, lw=1.1, zorder=1)
    ax.axvline(0, color=INK, lw=1.1, zorder=1)
    ax.fill_between([0, reach], 0, reach, color=COLORS[2], alpha=0.08, lw=0, zorder=0)
    return ax


def _draw_method(
    ax: Axes, name: str, row: pd.Series, number: int, at: tuple[str, str], label: str = ""
) -> None:
    untouched = name == "untouched"
    color = INK if untouched else COLORS[number % len(COLORS)]
    marker = "s" if untouched else MARKERS[number // len(COLORS) % len(MARKERS)]
    label = label or name
    x, y = at
    drawn = ax.errorbar(
        row[x],
        row[y],
        xerr=_arms(row, x),
        yerr=_arms(row, y),
        fmt=marker,
        ms=7,
        color=color,
        mfc="white" if row["needs_group"] else color,
        elinewidth=1.0,
        capsize=2,
        zorder=4,
        label=f"{label} (needs the group)" if row["needs_group"] else label,
    )
    drawn.lines[0].set_gid(f"method {name}")


def _arms(row: pd.Series, name: str) -> Any:
    """Compute the lengths of the error bars, below and above the mean."""
    arms = [row[name] - row[f"{name}_low"], row[f"{name}_high"] - row[name]]
    return np.maximum(arms, 0.0)[:, None]  # by rounding the mean may be outside its interval
