"""The common style of plots of utility against a gap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["INK", "PALE", "dress", "gap_axes"]

INK, PALE = "#222222", "#8A8A8A"


def gap_axes() -> Axes:
    """Make axes in a new figure outside pyplot.

    pyplot would keep the figure alive, and choose a backend with a window.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(8.6, 5.0), dpi=150, layout="constrained").add_subplot()


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
