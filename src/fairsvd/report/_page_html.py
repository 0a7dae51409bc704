"""The page of a report: headings, tables, charts and style, all escaped and in one file."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from ._page_charts import charts
from ._page_content import Content
from ._page_formats import number
from ._page_style import STYLE
from ._page_words import LIMITS, NO_ADVICE, Facts
from ._slices import LEGAL_RATIO, SHOWN

if TYPE_CHECKING:
    import pandas as pd


__all__ = ["page"]

# A page that asks for nothing: no script, no font, no picture from elsewhere.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
SECTIONS = {
    "summary": "In short",
    "groups": "Every group, before and after",
    "gaps": "Gaps between groups",
    "losses": "Who lost what",
    "charts": "Charts",
    "edit": "What was edited, and how",
    "data": "The data",
    "limits": "What this cannot promise",
    "identity": "Versions and signatures",
}


def page(report: Content) -> str:
    """Write the page of a report.

    Parameters
    ----------
    report : Content

    Returns
    -------
    html : str
        A whole document, whose texts from data and user are escaped.
    """
    bodies = {
        "summary": _summary(report),
        "groups": _groups(report.table),
        "gaps": _gaps(report),
        "losses": _losses(report),
        "charts": _charts(report),
        "edit": _edit(report),
        "data": _facts([*report.facts["data"], *report.facts["groups"]]),
        "limits": _limits(),
        "identity": _facts(report.facts["identity"]) + _signatures(report),
    }
    links = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, title in SECTIONS.items())
    sections = "".join(
        f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{title}</h2>'
        f"{bodies[key]}</section>"
        for key, title in SECTIONS.items()
    )
    title = f"Fairness report: {type(report.evaluation.editor).__name__}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        '<a class="skip" href="#summary">Skip to the summary</a>'
        f"<header><h1>{escape(title)}</h1>{_lines(report)}</header>"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav><main>{sections}</main>'
        f"<footer><p>{escape(NO_ADVICE)}</p></footer></body></html>\n"
    )


def _lines(report: Content) -> str:
    pairs = [("Intended use", report.intended_use), ("Owner", report.owner)]
    return "".join(
        f"<p><strong>{name}:</strong> {escape(text or 'not stated')}</p>" for name, text in pairs
    )


def _summary(report: Content) -> str:
    sentences = "".join(f"<li>{escape(line)}</li>" for line in report.summary().splitlines())
    return f"<ul>{sentences}</ul>"


def _groups(table: pd.DataFrame) -> str:
    """Write a table for each attribute, and for the intersections."""
    parts = [
        "<p>Each cell: before, with the threshold only, <strong>after</strong>, and the 95 % "
        "interval after. Impact ratio: the selection rate over that of the most selected group; "
        f"⚑ marks one below {LEGAL_RATIO:g} (the four-fifths rule).</p>"
    ]
    for attribute, rows in table.groupby("attribute", sort=False):
        parts.append(_group_table(str(attribute), rows))
    return "".join(parts)


def _group_table(attribute: str, rows: pd.DataFrame) -> str:
    names = {**SHOWN, "impact_ratio": "impact ratio"}
    if rows["impact_ratio"].isna().all():
        del names["impact_ratio"]
    body = []
    for group, states in rows.groupby("group", sort=False):
        by_state = states.set_index("state")
        last = by_state.loc["after"]
        positives = f" ({last['n_positive']:,} positive)" if last["n_positive"] >= 0 else ""
        cells = [("rows", f"{last['n']:,}{positives}")]
        cells += [(title, _states(by_state, name)) for name, title in names.items()]
        body.append((escape(str(group)), cells))
    return _table(f"Measures by {attribute}" if attribute != "all" else "All rows", "group", body)


def _states(by_state: pd.DataFrame, name: str) -> str:
    before, alone, after = (number(value) for value in by_state[name])
    last = by_state.loc["after"]
    text = f"{before} → {alone} → <strong>{after}</strong>"
    if name == "impact_ratio":
        return text + (" ⚑" if last[name] < LEGAL_RATIO else "")
    low, high = last[f"{name}_low"], last[f"{name}_high"]
    if low != low:
        return text
    return f'{text} <span class="interval">{number(low)} to {number(high)}</span>'


def _table(caption: str, first: str, body: list[tuple[str, list[tuple[str, str]]]]) -> str:
    """Write a table; the cells' names stand in them, too, for phones that show rows as cards.

    Parameters
    ----------
    caption, first : str
        The caption, and the heading of the first column; texts.
    body : list of (name of the row, list of (heading, cell))
        Names and cells are HTML.
    """
    headings = [name for name, _ in body[0][1]]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in (first, *headings))
    rows = ""
    for name, cells in body:
        texts = "".join(
            f'<td data-label="{escape(label, quote=True)}"><span>{text}</span></td>'
            for label, text in cells
        )
        rows += f'<tr><th scope="row">{name}</th>{texts}</tr>'
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(caption, quote=True)}">'
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _gaps(report: Content) -> str:
    tables = "".join(_gap_table(name, fit.gaps) for name, fit in report.evaluation.fits.items())
    return (
        "<p>A gap is the largest minus the smallest rate of any group. Noise floor: the gap that "
        "equal treatment would show on that many rows. Upper bound: the true gap is below it with "
        f"95 % confidence.</p>{tables}"
    )


def _gap_table(attribute: str, gaps: pd.DataFrame) -> str:
    body = []
    for name, row in gaps.iterrows():
        met = {True: "met", False: "not met"}.get(row["met"], "")
        cells = [
            ("before", number(row["before"])),
            ("threshold only", number(row["threshold_only"])),
            ("after", f"<strong>{number(row['after'])}</strong>"),
            ("95 % interval", f"{number(row['low'])} to {number(row['high'])}"),
            ("upper bound", number(row["upper"])),
            ("noise floor", number(row["noise_floor"])),
            ("tolerance", number(row["tolerance"])),
            ("verdict", met or "-"),
        ]
        body.append((escape(str(name).replace("_", " ")), cells))
    return _table(f"Gaps by {attribute}", "gap", body)


def _losses(report: Content) -> str:
    fits = report.evaluation.fits.items()
    return "".join(_loss_table(name, fit.harm) for name, fit in fits)


def _loss_table(attribute: str, harm: pd.DataFrame) -> str:
    body = []
    for row in harm.reset_index().to_dict("records"):
        cells = [
            ("rate", escape(str(row["rate"]))),
            ("change", f"{row['change']:+.3f}"),
            ("rows lost", f"{row['lost']:,}"),
            ("rows gained", f"{row['gained']:,}"),
            ("of rows", f"{row['rows']:,}"),
            ("verdict", escape(str(row["verdict"]))),
        ]
        body.append((escape(str(row["group"])), cells))
    return _table(f"Changes by {attribute}, and whether they are beyond noise", "group", body)


def _charts(report: Content) -> str:
    figures = "".join(
        f"<figure>{chart.svg}<figcaption><strong>{escape(chart.title)}.</strong> "
        f"{escape(chart.text)}</figcaption></figure>"
        for chart in charts(report.evaluation)
    )
    return f'<div class="charts">{figures}</div>'


def _facts(pairs: Facts) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in pairs)
    return f"<dl>{rows}</dl>"


def _limits() -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in LIMITS) + "</ul>"


def _edit(report: Content) -> str:
    settings: dict[str, Any] = report.evaluation.editor.get_params(deep=False)
    rows = [(name, repr(value)) for name, value in sorted(settings.items())]
    parameters = f"<details><summary>All parameters</summary>{_facts(rows)}</details>"
    return _facts(report.facts["edit"]) + parameters


def _signatures(report: Content) -> str:
    lines = ("Prepared by", "Reviewed by", "Approved by")
    rows = "".join(f'<p class="line"><span>{name}</span><span>Date</span></p>' for name in lines)
    return f'<div class="signatures">{rows}</div>'
