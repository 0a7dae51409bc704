"""Make the table that compares our best default with its rivals.

Blind, the rival is OxonFair with inferred groups, which needs no group to predict either. With the
group among the features, the rival is the best post-processor that receives the group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.fairness.summary import bootstrap_interval, by_kind, by_task, task_mean

__all__ = ["against", "verdicts"]

Row = Mapping[str, Any]
RIVALS = {
    "blind": ("oxonfair-inferred",),
    "with-group": (
        "oxonfair-actual",
        "threshold-optimizer",
        "eq-odds-postprocessing",
        "reject-option",
    ),
}


def best(rows: Sequence[Row], methods: Iterable[str]) -> tuple[str, list[Row]] | None:
    """Give the method of highest mean psi, and its rows; None where none was measured."""
    found = {
        name: own
        for name in methods
        if (own := [row for row in rows if row["method"] == name and not row["error"]])
    }
    if not found:
        return None
    name = max(found, key=lambda name: task_mean(by_task(found[name], "psi")))
    return name, found[name]


def differences(ours: Sequence[Row], theirs: Sequence[Row]) -> dict[str, Any]:
    """Subtract psi on equal tasks and seeds: task -> values of the seeds."""
    known = {(row["task"], row["seed"]): row["psi"] for row in theirs}
    paired = [
        {"task": row["task"], "psi": row["psi"] - known[row["task"], row["seed"]]}
        for row in ours
        if (row["task"], row["seed"]) in known
    ]
    return by_task(paired, "psi")


def verdicts(rows: Sequence[Row], ours: Iterable[str], labels: Mapping[str, str]) -> str:
    """Write the table.

    Parameters
    ----------
    rows : sequence of dict
        What ``bench_methods`` measured.
    ours : iterable of str
        The editors with their defaults.
    labels : mapping of method to its name in the table

    Returns
    -------
    text : str
    """
    ours, tasks = list(ours), list(dict.fromkeys(row["task"] for row in rows))
    head = ["constraint, form", "our best", "psi", "against", "psi", "difference (95 %)", *tasks]
    lines = ["### Our best default against its rivals", ""]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (constraint, form), own in by_kind(rows).items():
        sides = best(own, ours), best(own, RIVALS[form])
        if sides[0] is None or sides[1] is None:
            continue
        cells = [f"{constraint.replace('_', ' ')}, {form}"]
        for name, found in sides:
            cells += [labels[name], f"{task_mean(by_task(found, 'psi')):.3f}"]
        gained = differences(sides[0][1], sides[1][1])
        low, high = bootstrap_interval(gained)
        cells.append(f"**{task_mean(gained):+.3f}** ({low:+.3f} to {high:+.3f})")
        cells += [f"{gained[task].mean():+.3f}" if task in gained else "-" for task in tasks]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Differences are taken on equal tasks and seeds.", ""]
    return "\n".join(lines)


def against(rows: Sequence[Row], labels: Mapping[str, str], rival: str) -> str:
    """Write every method's mean difference of psi from one method's, on equal tasks and seeds.

    Parameters
    ----------
    rows : sequence of dict
        What ``bench_methods`` measured.
    labels : mapping of method to its name in the table
    rival : str
        A method.

    Returns
    -------
    text : str
        A 95 % interval stands where every task has several seeds; else a mean alone.
    """
    kinds = by_kind([row for row in rows if not row["error"]])
    head = ["method", *(f"{c.replace('_', ' ')}, {form}" for c, form in kinds), "runs"]
    lines = [f"### Psi less that of {labels[rival]}", ""]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, label in labels.items():
        cells, runs = [], 0
        for own in kinds.values():
            ours, theirs = ([row for row in own if row["method"] == m] for m in (name, rival))
            gained = differences(ours, theirs)
            runs += sum(map(len, gained.values()))
            cells.append(_mean_with_interval(gained) if gained else "-")
        if runs and name != rival:
            lines.append(f"| {label} | {' | '.join(cells)} | {runs} |")
    return "\n".join([*lines, "", "Means over tasks; differences of equal tasks and seeds.", ""])


def _mean_with_interval(gained: Mapping[str, Any]) -> str:
    mean = f"{task_mean(gained):+.3f}"
    if min(map(len, gained.values())) < 2:
        return mean
    low, high = bootstrap_interval(gained)
    return f"{mean} ({low:+.3f} to {high:+.3f})"
