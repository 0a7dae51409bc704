"""The common style of plots of utility against a gap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["GROUP_COLORS", "GROUP_MARKERS", "INK", "PALE", "dress", "gap_axes", "new_axes"]

# Okabe and Ito's palette, distinguishable by colour-blind readers too, dark enough for lines.
GROUP_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7F6A00", "#56B4E9")
GROUP_MARKERS = ("o", "s", "^", "D", "v", "P")

INK, PALE = "#222222", "#8A8A8A"


def new_axes(width: float, height: float) -> Axes:
    """Make axes in a new figure of pyplot, as scikit-learn's displays do.

    So a notebook shows it, a script shows it with ``pyplot.show()``, and ``pyplot.close()`` frees
    it.

    Parameters
    ----------
    width, height : float
        In inches.
    """
    from matplotlib import pyplot

    _, ax = pyplot.subplots(figsize=(width, height), dpi=150, layout="constrained")
    return ax


def gap_axes() -> Axes:
    """Make axes for a gap against a utility."""
    return new_axes(8.6, 5.0)


def dress(ax: Axes, gap: str, utility: str, title: str, text: str) -> None:
    """Label the axes, put the legend beside them, and a title and a line of text above.

    Parameters
    ----------
    ax : matplotlib Axes
        Axes with everything drawn.
    gap, utility : str
        Names, with underscores.
    title, text : str
    """
    ax.set_xlabel(f"{gap.replace('_', ' ')} gap (difference of rates)")
    ax.set_ylabel(utility.replace("_", " "))
    ax.margins(x=0.05, y=0.08)
    ax.set_xlim(left=0)
    ax.grid(color="#E6E6E6", lw=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(PALE)
    ax.tick_params(colors=INK, length=3)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelspacing=0.9)
    ax.set_title(title, loc="left", color=INK, weight="bold", pad=24)
    place: dict[str, Any] = {"xy": (0, 1), "xycoords": "axes fraction", "xytext": (0, 9)}
    ax.annotate(text, **place, textcoords="offset points", color="#666666", fontsize=8.5)
