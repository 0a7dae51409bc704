"""The gaps of windows of time, drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["draw_windows"]


def draw_windows(table: pd.DataFrame, name: str, tolerance: float, ax: Any = None) -> Any:
    """Draw gaps with their intervals, the tolerance, and the windows of an alarm.

    Parameters
    ----------
    table : DataFrame
        ``GapMonitor.table``; with a column "attribute" a line for each.
    name : str
        Of the gap, in words.
    tolerance : float
    ax : matplotlib Axes, optional
        None: a new figure.

    Returns
    -------
    ax : matplotlib Axes
    """
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
    several = "attribute" in table
    lines = dict(list(table.groupby("attribute", sort=False))) if several else {name: table}
    windows: list[Any] = []
    for k, (label, part) in enumerate(lines.items()):
        places, measured = np.arange(len(part)), part["gap"].to_numpy()
        windows = part["window"].tolist()
        ax.vlines(places, part["low"], part["high"], color="0.6", linewidth=3)
        ax.plot(places, measured, "o-", color=f"C{k}", label=label)
        rung = part["alarm"].to_numpy(dtype=bool)
        ax.plot(places[rung], measured[rung], "o", color="black", label="" if k else "alarm")
    ax.axhline(tolerance, color="black", linestyle="--", label="tolerance")
    ax.set_xticks(range(len(windows)), [*map(str, windows)], rotation=45, ha="right")
    ax.set_ylabel(name if several else "gap")
    ax.legend()
    return ax
