"""A report as plain text, Markdown, records for JSON, and the table of Local Law 144."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np

from ._page_content import Content
from ._page_words import LIMITS, NO_ADVICE
from ._slices import LEGAL_RATIO, SHOWN
from ._tables import before_after, format_table

if TYPE_CHECKING:
    import pandas as pd


__all__ = ["as_json", "ll144_frame", "markdown_sections", "number", "records", "text_tables"]

SHORT = ("selection_rate", "tpr", "fpr", "accuracy")
# Local Law 144 lets an auditor leave out groups below this share of the applicants.
LL144_SHARE = 0.02


def number(value: Any, decimals: int = 3) -> str:
    """Write a number; what cannot be measured is a dash."""
    return "-" if value is None or not np.isfinite(value) else f"{value:.{decimals}f}"


def text_tables(report: Content) -> str:
    """Write each group's rates before and after, the gaps, and the sentences."""
    table = report.table.set_index("group")
    before, after = (table[table["state"] == state] for state in ("before", "after"))
    rates = before_after(before[["n", *SHORT]], after[["n", *SHORT]])
    gaps = report.evaluation.fit.gaps
    gaps = gaps[["before", "threshold_only", "after", "low", "high", "noise_floor"]]
    gaps = gaps.set_axis(gaps.index.str.replace("_", " "))
    return "\n".join(
        [
            "Rates on these rows: untouched network -> edited network\n",
            format_table(rates),
            f"\nGaps by {report.evaluation.main}; low to high: the 95 % interval after\n",
            format_table(gaps),
            f"\n{report.summary()}",
        ]
    )


def as_json(report: Content) -> str:
    """Write what the report is about, and every measure, as JSON."""
    facts = {name: dict(pairs) for name, pairs in report.facts.items() if name != "edit"}
    edit = [list(pair) for pair in report.facts["edit"]]  # notes have one name
    about = {"intended_use": report.intended_use, "owner": report.owner, **facts, "edit": edit}
    content = {"about": about, "measures": records(report)}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def records(report: Content) -> list[dict[str, Any]]:
    """List every measure of every slice and state, and every gap."""
    found = []
    for row in report.table.to_dict("records"):
        about = {"attribute": row["attribute"], "slice": row["group"], "state": row["state"]}
        for name in SHOWN:
            ends = row[f"{name}_low"], row[f"{name}_high"]
            found.append(_record(name, about, row[name], None, ends, row["n"]))
        found.append(
            _record("impact_ratio", about, row["impact_ratio"], LEGAL_RATIO, None, row["n"])
        )
    n_rows = int(report.table["n"].iloc[0])
    for attribute, fit in report.evaluation.fits.items():
        for row in fit.gaps.reset_index().to_dict("records"):
            found += _gap_records(attribute, row, n_rows)
    return found


def _gap_records(attribute: str, row: dict[Hashable, Any], n_rows: int) -> list[dict[str, Any]]:
    """Make a record of a gap in each state; the interval is that of the last."""
    found = []
    for state in ("before", "threshold_only", "after"):
        about = {"attribute": attribute, "slice": "all groups", "state": state.replace("_", " ")}
        ends = (row["low"], row["high"]) if state == "after" else None
        name = f"{row['gap']}_difference"
        found.append(_record(name, about, row[state], row["tolerance"], ends, n_rows))
    return found


def _record(
    metric: str, about: dict[str, Any], value: Any, limit: Any, ends: Any, n: int
) -> dict[str, Any]:
    interval = None if ends is None else [_finite(end) for end in ends]
    return {
        "metric": metric,
        **about,
        "value": _finite(value),
        "threshold": _finite(limit),
        "interval": None if interval is None or None in interval else interval,
        "n": int(n),
    }


def _finite(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def ll144_frame(report: Content) -> pd.DataFrame:
    """Tabulate selection rates and impact ratios of the edited model."""
    table = report.table[(report.table["state"] == "after") & (report.table["attribute"] != "all")]
    if len(report.evaluation.editor.classes_) > 2:
        raise ValueError("the table of Local Law 144 counts selections: it takes two classes.")
    n_rows = int(report.table["n"].iloc[0])
    if report.evaluation.weights is not None:
        raise ValueError(
            "the table of Local Law 144 counts applicants, and these rows are weighted: make it of "
            "a report without sample_weight."
        )
    few = table["n"] < LL144_SHARE * n_rows
    note = few.map({True: f"below {LL144_SHARE:.0%} of the applicants", False: ""})
    frame = table[["attribute", "group", "n", "selection_rate", "impact_ratio"]].assign(note=note)
    frame.insert(3, "selected", (frame["n"] * frame["selection_rate"]).round().astype(int))
    names = {"attribute": "category", "n": "applicants"}
    frame = frame.rename(columns=names)
    # A spreadsheet would execute a group's name that begins like a formula.
    safe = frame["group"].str.replace(r"^(?=[=+\-@\t\r])", "'", regex=True)
    return frame.assign(group=safe).round({"selection_rate": 4, "impact_ratio": 4})


def markdown_sections(report: Content) -> dict[str, str]:
    """Return the Markdown of each section by the names of skops' model cards."""
    facts = report.facts
    settings = {k: repr(v) for k, v in sorted(report.evaluation.editor.get_params(False).items())}
    table = report.table
    shown = table[table["state"] != "threshold only"]
    gaps = report.gaps
    columns = ["attribute", "group", "state", "n", *SHOWN, "impact_ratio"]
    return {
        "Model description": _listed(facts["edit"]),
        "Model description/Intended uses & limitations": "\n\n".join(
            [
                _inline(report.intended_use or "Not stated."),
                "\n".join(f"- {line}" for line in LIMITS),
                NO_ADVICE,
            ]
        ),
        "Model description/Training Procedure": _listed([*facts["data"], *facts["groups"]]),
        "Model description/Training Procedure/Hyperparameters": _table(
            ["parameter", "value"], [[name, value] for name, value in settings.items()]
        ),
        "Model description/Evaluation Results": "\n\n".join(
            [
                report.summary().replace("\n", "  \n"),
                _table(columns, shown[columns].to_numpy().tolist()),
                _table(["by", "gap", *gaps.columns], gaps.reset_index().to_numpy().tolist()),
            ]
        ),
        "Model Card Authors": _inline(report.owner or "Not stated."),
        "Citation": _listed(facts["identity"]),
    }


def _listed(pairs: list[tuple[str, str]]) -> str:
    return "\n".join(f"- **{_inline(name)}**: {_inline(text)}" for name, text in pairs)


def _table(columns: list[str], rows: list[list[Any]]) -> str:
    head = ["| " + " | ".join(_inline(name.replace("_", " ")) for name in columns) + " |"]
    head.append("|" + " --- |" * len(columns))
    return "\n".join(head + ["| " + " | ".join(map(_cell, row)) + " |" for row in rows])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    return "-" if value is None else _inline(str(value))


def _inline(text: str) -> str:
    """Keep what comes from data from being read as Markdown or HTML."""
    for character in "\\`*_[]|":
        text = text.replace(character, f"\\{character}")
    return text.replace("<", "&lt;").replace("\n", " ")
