"""Tables of the rerun of Savani et al., together with the reruns that others have published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["MEASURES", "PUBLISHED", "markdown"]

Row = Mapping[str, Any]

# This package's names of the measures, and the paper's.
MEASURES = {
    "demographic_parity": "SPD",
    "equal_opportunity": "EOD",
    "signed_average_odds": "AOD",
}
TASKS = ("adult-sex", "bank-age", "compas-race")


class Cell(NamedTuple):
    """A published result: the bias, mean and deviation, and phi as the poster writes it."""

    bias: str
    phi: str


# Posters of Marcinkevics, Ozkan and Vogt (arXiv:2208.00781), 20 seeds; Adult, Bank, COMPAS.
PUBLISHED: dict[str, dict[str, tuple[Cell, Cell, Cell]]] = {
    "demographic_parity": {
        "Standard": (Cell("-.32±.02", "0"), Cell(".18±.04", "0"), Cell(".19±.03", "0")),
        "Random (Savani et al.)": (
            Cell("-.04±.01", ".59 [.59, .60]"),
            Cell(".03±.04", ".52 [0, .55]"),
            Cell(".09±.04", "0"),
        ),
        "reject option": (
            Cell("-.04±.02", ".78 [0, .80]"),
            Cell(".08±.04", "0 [0, .56]"),
            Cell("-.01±.01", ".50"),
        ),
        "equalized odds": (
            Cell("-.09±.01", "0"),
            Cell(".06±.03", "0 [0, .69]"),
            Cell(".03±.06", ".59 [0, .60]"),
        ),
        "Pruning": (
            Cell("-.04±.07", ".54 [.52, .57]"),
            Cell(".02±.02", ".83 [.80, .85]"),
            Cell(".03±.04", ".62 [.41, .64]"),
        ),
        "Bias GD/A": (
            Cell("-.01±.04", ".67 [.64, .69]"),
            Cell(".03±.05", ".85 [0, .87]"),
            Cell(".01±.04", ".63 [.46, .64]"),
        ),
    },
    "equal_opportunity": {
        "Standard": (
            Cell("-.14±.02", "0"),
            Cell(".01±.04", ".86 [0, .87]"),
            Cell(".20±.05", "0"),
        ),
        "Random (Savani et al.)": (
            Cell("-.07±.03", "0"),
            Cell(".02±.04", ".86 [0, .87]"),
            Cell(".09±.04", "0"),
        ),
        "reject option": (
            Cell("-.05±.03", ".81 [0, .82]"),
            Cell(".04±.04", ".86 [0, .87]"),
            Cell("-.01±.01", ".50"),
        ),
        "equalized odds": (
            Cell("-.01±.04", ".72 [.53, .74]"),
            Cell(".04±.10", "0 [0, .68]"),
            Cell(".03±.06", ".59 [0, .60]"),
        ),
        "Pruning": (
            Cell("-.03±.03", ".81 [.79, .81]"),
            Cell(".01±.05", ".86 [0, .87]"),
            Cell(".02±.06", ".56 [0, .62]"),
        ),
        "Bias GD/A": (
            Cell("-.04±.03", ".81 [0, .82]"),
            Cell(".00±.06", ".86 [0, .87]"),
            Cell(".02±.06", ".62 [0, .64]"),
        ),
    },
    "signed_average_odds": {},
}

COLUMNS = (("bias", "bias"), ("balanced_accuracy", "bal. acc."), ("phi", "phi"))


def spread(values: Sequence[float]) -> str:
    """Write mean and standard deviation over the seeds."""
    return f"{np.mean(values):.2f}±{np.std(values):.2f}"


def cells_of(rows: Sequence[Row]) -> list[str]:
    """Write bias, balanced accuracy and phi of one method on one task."""
    good = [row for row in rows if not row["error"]]
    if not good:
        return ["-"] * len(COLUMNS)
    cells = [spread([row[column] for row in good]) for column, _ in COLUMNS]
    n_constant = sum(row["constant"] for row in good)
    if n_constant:
        # A constant predictor has no bias and a balanced accuracy of a half.
        cells[-1] += f" ({n_constant} constant)"
    return cells


def line(label: str, cells: Sequence[str], end: Sequence[str]) -> str:
    """Write a line of the table."""
    return "| " + " | ".join([label, *cells, *end]) + " |"


def table(rows: Sequence[Row], labels: Mapping[str, str], measure: str) -> list[str]:
    """Write the lines of one measure: ours, then the published ones in italics."""
    head = ["method", *(f"{task}: {title}" for task in TASKS for _, title in COLUMNS)]
    head += ["CPU seconds", "runs"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, label in labels.items():
        own = [row for row in rows if row["method"] == name]
        if not own:
            continue
        cells = [
            cell for task in TASKS for cell in cells_of([row for row in own if row["task"] == task])
        ]
        seconds = [row["seconds"] for row in own if not row["error"]]
        failed = [row["error"] for row in own if row["error"]]
        runs = f"{len(seconds)}" + (
            f", {len(failed)} failed: {failed[0][:80]}".replace("|", "/") if failed else ""
        )
        mean = f"{np.mean(seconds):.1f}" if seconds else "-"
        lines.append(line(label, cells, [mean, runs]))
    for name, results in PUBLISHED[measure].items():
        cells = [text for cell in results for text in (cell.bias, "", cell.phi)]
        lines.append(line(f"*published: {name}*", cells, ["", "20 each"]))
    return lines


def markdown(rows: Sequence[Row], labels: Mapping[str, str]) -> str:
    """Write all tables.

    Parameters
    ----------
    rows : sequence of dict
        What ``savani`` measured.
    labels : mapping of method to its name in the table
        Gives the order.
    """
    lines: list[str] = []
    for measure, short in MEASURES.items():
        chosen = [row for row in rows if row["constraint"] == measure]
        if chosen:
            lines += [f"### {short} ({measure})", ""]
            lines += [*table(chosen, labels, measure), ""]
    lines += [
        "Test rows, mean±standard deviation over seeds. Bias: unprivileged less privileged (women",
        "less men, under 25 less others, others less Caucasian); phi: balanced accuracy where the",
        "absolute bias is below .05, else 0; constant: runs that predict everybody alike; CPU",
        "seconds without the network's training; published: posters of arXiv:2208.00781, phi there",
        "median [quartiles].",
        "",
    ]
    return "\n".join(lines)
