"""The plot of a comparison: balanced accuracy against the gap, a point a method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_comparison"]

# Okabe and Ito's palette, distinct for colour-blind eyes too; another marker once it is used up.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F6A00")
MARKERS = ("o", "^", "D", "v")
INK, PALE = "#222222", "#8A8A8A"


def plot_comparison(
    summary: pd.DataFrame, front: pd.DataFrame, constraint: str, tolerance: float, ax: Axes | None
) -> Axes:
    """Draw the methods of a summary.

    Parameters
    ----------
    summary : DataFrame
        Of one constraint; index: the methods.
    front : DataFrame
        Its rows that no other one beats, sorted by the gap.
    constraint : str
    tolerance : float
    ax : matplotlib Axes or None
    """
    ax = _new_axes() if ax is None else ax
    ax.axvline(tolerance, color=INK, lw=1.1, zorder=1, label=f"tolerance, {tolerance:.3g}")
    style: dict[str, Any] = {"color": PALE, "lw": 1.3, "ls": (0, (4, 3)), "zorder": 2}
    ax.plot(front["gap"], front["balanced_accuracy"], label="no other is better", **style)
    methods = summary[summary["balanced_accuracy"].notna() & summary["gap"].notna()]
    for number, (name, row) in enumerate(methods.iterrows()):
        _draw_method(ax, str(name), row, number)
    _dress(ax, constraint)
    return ax


def _new_axes() -> Axes:
    # A figure of its own: pyplot would keep it alive, and choose a backend with a window.
    from matplotlib.figure import Figure

    return Figure(figsize=(8.6, 5.0), dpi=150, layout="constrained").add_subplot()


def _draw_method(ax: Axes, name: str, row: pd.Series, number: int) -> None:
    untouched = name == "untouched"
    color = INK if untouched else COLORS[number % len(COLORS)]
    marker = "s" if untouched else MARKERS[number // len(COLORS) % len(MARKERS)]
    drawn = ax.errorbar(
        row["gap"],
        row["balanced_accuracy"],
        xerr=_arms(row, "gap"),
        yerr=_arms(row, "balanced_accuracy"),
        fmt=marker,
        ms=7,
        color=color,
        mfc="white" if row["needs_group"] else color,
        elinewidth=1.0,
        capsize=2,
        zorder=4,
        label=f"{name} (needs the group)" if row["needs_group"] else name,
    )
    drawn.lines[0].set_gid(f"method {name}")


def _arms(row: pd.Series, name: str) -> Any:
    """Lengths of the error bars, below and above the mean."""
    arms = [row[name] - row[f"{name}_low"], row[f"{name}_high"] - row[name]]
    return np.maximum(arms, 0.0)[:, None]  # the mean may miss its interval's ends by rounding


def _dress(ax: Axes, constraint: str) -> None:
    ax.set_xlabel(f"{constraint.replace('_', ' ')} gap (difference of rates)")
    ax.set_ylabel("balanced accuracy")
    ax.margins(x=0.05, y=0.08)
    ax.set_xlim(left=0)
    ax.grid(color="#E6E6E6", lw=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(PALE)
    ax.tick_params(colors=INK, length=3)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelspacing=0.7)
    ax.set_title("Methods compared", loc="left", color=INK, weight="bold", pad=24)
    text = "Means over the folds on test rows, with 95 % intervals. Better: up and left."
    place: dict[str, Any] = {"xy": (0, 1), "xycoords": "axes fraction", "xytext": (0, 9)}
    ax.annotate(text, **place, textcoords="offset points", color="#666666", fontsize=8.5)
