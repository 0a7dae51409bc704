"""Editors and reports as HTML, for notebooks; every text of users and data is escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COMMON", "editor_html", "parameters_html", "report_html"]

# What most fits set, in the order in which it is shown; all other parameters are for experts.
COMMON = (
    "network",
    "constraint",
    "tolerance",
    "confidence",
    "utility",
    "threshold",
    "pos_label",
    "sensitive_columns",
    "missing_group",
    "validation",
    "device",
    "memory",
    "n_jobs",
    "verbose",
    "random_state",
)


def editor_html(editor: Any) -> str:
    """List an editor's parameters and, once it is fitted, what its report says."""
    fitted = editor.report_.summary().splitlines() if hasattr(editor, "module_") else []
    lines = "".join(f"<li>{escape(line)}</li>" for line in fitted)
    return f"{parameters_html(editor)}{f'<ul>{lines}</ul>' if lines else ''}"


def parameters_html(estimator: Any) -> str:
    """List the parameters in two tables, the common ones first, changed ones in bold.

    Parameters
    ----------
    estimator : estimator
    """
    values = estimator.get_params(deep=False)
    defaults = type(estimator)().get_params(deep=False)
    common = [name for name in COMMON if name in values]
    expert = [name for name in sorted(values) if name not in common]
    parts = [
        _details(title, _parameter_rows(names, values, defaults), opened=title == "Common")
        for title, names in (("Common", common), ("Expert", expert))
    ]
    return "".join(parts)


def _parameter_rows(names: list[str], values: dict[str, Any], defaults: dict[str, Any]) -> str:
    rows = []
    for name in names:
        text = escape(_short(values[name]))
        changed = _short(values[name]) != _short(defaults[name])
        rows.append(f"<tr><td>{name}</td><td>{f'<b>{text}</b>' if changed else text}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _short(value: Any, longest: int = 80) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _details(title: str, content: str, *, opened: bool) -> str:
    state = " open" if opened else ""
    return f"<details{state}><summary>{title} parameters</summary>{content}</details>"


def report_html(report: Any) -> str:
    """Show a report of a fit: its sentences, the groups, the gaps, and the notes.

    Parameters
    ----------
    report : FairnessReport
        ``report_`` of an editor.
    """
    tables = [("Groups", report.groups), ("Gaps", report.gaps), ("Losses", report.harm)]
    shown = "".join(f"<h4>{title}</h4>{_frame(table)}" for title, table in tables if len(table))
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    sentences = "".join(f"<li>{escape(line)}</li>" for line in report.summary().splitlines())
    return f"<div><ul>{sentences}</ul>{shown}<h4>Notes</h4><ul>{notes}</ul></div>"


def _frame(table: pd.DataFrame) -> str:
    return str(table.to_html(float_format="{:.3f}".format, na_rep="-", border=0))
