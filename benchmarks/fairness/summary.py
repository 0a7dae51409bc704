"""Turn measured rows into one Markdown table for each constraint and form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["bootstrap_interval", "by_kind", "by_task", "markdown", "task_mean"]

Row = Mapping[str, Any]
DRAWS = 2000
COLUMNS = (
    ("accuracy", "accuracy"),
    ("balanced_accuracy", "bal. acc."),
    ("equalized_odds_difference", "EO gap"),
    ("demographic_parity_difference", "DP gap"),
    ("worst_cell", "worst cell"),
    ("phi", "phi"),
    ("seconds", "seconds"),
)


def task_mean(values: Mapping[str, np.ndarray]) -> float:
    """Average over the seeds of every task, then over tasks, so that all tasks weigh alike."""
    return float(np.mean([np.mean(seeds) for seeds in values.values()]))


def bootstrap_interval(
    values: Mapping[str, np.ndarray], level: float = 0.95
) -> tuple[float, float]:
    """Compute a percentile interval of the mean by resampling the seeds inside every task.

    Parameters
    ----------
    values : mapping of task to ndarray of shape (n_seeds,)
    level : float in (0, 1), default=0.95

    Returns
    -------
    low, high : float
    """
    rng = np.random.default_rng(0)
    means = [
        seeds[rng.integers(len(seeds), size=(DRAWS, len(seeds)))].mean(axis=1)
        for seeds in values.values()
    ]
    low, high = np.quantile(np.mean(means, axis=0), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def by_task(rows: Iterable[Row], column: str) -> dict[str, np.ndarray]:
    """Collect a column as task -> values of the seeds."""
    collected: dict[str, list[float]] = {}
    for row in rows:
        collected.setdefault(row["task"], []).append(row[column])
    return {task: np.array(values) for task, values in collected.items()}


def by_kind(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Collect rows as (constraint, form) -> rows, sorted."""
    collected: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        collected.setdefault((row["constraint"], row["form"]), []).append(row)
    return dict(sorted(collected.items()))


def harm(rows: Sequence[Row]) -> float:
    """Compute the mean, over tasks and seeds, of the largest fall of a group's rate beyond noise.

    The fall is against the untouched network at its best threshold.
    """
    return float(np.mean([row["harm"] for row in rows]))


def line(label: str, rows: Sequence[Row], tasks: Sequence[str]) -> str:
    """Write one method's line; failed runs are counted in the last cell."""
    good, failed = [r for r in rows if not r["error"]], [r for r in rows if r["error"]]
    remark = f"{len(good)}" + (
        f", {len(failed)} failed: {failed[0]['error'][:80]}" if failed else ""
    )
    needs = "yes" if rows[0]["needs_group"] else "no"
    if not good:
        cells = ["-"] * (2 + len(tasks) + len(COLUMNS))
    else:
        values = by_task(good, "psi")
        low, high = bootstrap_interval(values)
        cells = [f"**{task_mean(values):.3f}** ({low:.3f}-{high:.3f})"]
        cells += [f"{values[t].mean():.3f}" if t in values else "-" for t in tasks]
        cells += [f"{task_mean(by_task(good, column)):.3f}" for column, _ in COLUMNS]
        cells.append(f"{harm(good):.3f}")
    return "| " + " | ".join([label, needs, *cells, remark.replace("|", "/")]) + " |"


def table(rows: Sequence[Row], labels: Mapping[str, str]) -> list[str]:
    """Write the lines of one table, methods in the order of ``labels``."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    head = ["method", "needs group", "psi (95 %)", *(f"psi {task}" for task in tasks)]
    head += [title for _, title in COLUMNS] + ["harm", "runs"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, label in labels.items():
        own = [row for row in rows if row["method"] == name]
        lines += [line(label, own, tasks)] if own else []
    return lines


def markdown(rows: Sequence[Row], labels: Mapping[str, str]) -> str:
    """Write all tables.

    Parameters
    ----------
    rows : sequence of dict
        What ``bench_methods`` measured.
    labels : mapping of method to its name in the table
        Gives the order.

    Returns
    -------
    text : str
    """
    lines: list[str] = []
    for (constraint, form), chosen in by_kind(rows).items():
        seeds = len({row["seed"] for row in chosen})
        lines += [f"### {constraint.replace('_', ' ')}, {form}, {seeds} seeds", ""]
        lines += [*table(chosen, labels), ""]
    lines += [
        "psi = balanced accuracy - max(0, gap - .05); phi = balanced accuracy where the gap is",
        "below .05, else 0; harm = the largest fall, beyond noise, of a group's TPR or TNR (for",
        "demographic parity also of its selection rate) against the untouched network at its best",
        "threshold; seconds without the base network's training.",
        "",
    ]
    return "\n".join(lines)
