"""Draw psi of every method with its interval, in one panel for each constraint and form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fairness.summary import bootstrap_interval, by_kind, by_task, task_mean

__all__ = ["draw"]

Row = Mapping[str, Any]
# Okabe and Ito's palette, which colour-blind readers can distinguish too.
KINDS = {
    "controls": ("#8A8A8A", "s"),
    "this package": ("#0072B2", "o"),
    "peers": ("#009E73", "^"),
    "peers told the group": ("#D55E00", "v"),
}


def draw(rows: Sequence[Row], families: Mapping[str, Mapping[str, str]], path: Path) -> None:
    """Draw and save the figure; the ending of the path sets the format.

    Parameters
    ----------
    rows : sequence of dict
        What ``bench_methods`` measured.
    families : mapping of kind to (mapping of method to label)
        Kinds as in ``KINDS``; gives the order from above.
    path : Path
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    kinds = by_kind(rows)
    names = {name: label for family in families.values() for name, label in family.items()}
    shown = [name for name in names if any(r["method"] == name and not r["error"] for r in rows)]
    size = (3.0 + 2.6 * len(kinds), 1.4 + 0.24 * len(shown))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, ((constraint, form), own) in zip(panels, kinds.items(), strict=True):
        for kind, family in families.items():
            points(axes, own, [name for name in shown if name in family], shown, kind)
        axes.set_title(f"{constraint.replace('_', ' ')},\n{form}", loc="left", fontsize=10)
        axes.set_xlabel("mean psi, 95 %")
        axes.grid(axis="x", color="#DDDDDD", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(shown)), [names[name] for name in shown], fontsize=8)
    panels[0].invert_yaxis()
    handles = {h.get_label(): h for axes in panels for h in axes.get_legend_handles_labels()[0]}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)
    # No date and a fixed salt make equal figures equal files.
    with rc_context({"svg.hashsalt": "fairsvd"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def points(
    axes: Any, rows: Sequence[Row], methods: Sequence[str], shown: Sequence[str], kind: str
) -> None:
    """Draw the methods of one kind, each on its own line."""
    places, means, bounds = [], [], []
    for name in methods:
        good = [row for row in rows if row["method"] == name and not row["error"]]
        if good:
            values = by_task(good, "psi")
            places.append(shown.index(name))
            means.append(task_mean(values))
            bounds.append(bootstrap_interval(values))
    if not places:
        return
    spread = np.abs(np.array(bounds).T - np.array(means))
    color, marker = KINDS[kind]
    axes.errorbar(means, places, xerr=spread, fmt=marker, color=color, ms=5, lw=1.2, label=kind)
