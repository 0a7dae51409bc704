"""What a user must not overlook about a fit, in words."""

from __future__ import annotations

import numpy as np

from .._messages import listed
from .._warn import warn
from ..exceptions import (
    ConstantPredictionsWarning,
    ConstraintNotMetWarning,
    InterruptedFitWarning,
    LevellingDownWarning,
    OverfittedNetworkWarning,
    SmallCellWarning,
)
from ..objective import PhiObjective
from ._report_data import ReportData

__all__ = ["chosen_by_phi", "warn_about"]

# Entries of a list that a message shows.
SHOWN = 6


def warn_about(report: ReportData, overfitted: float | None) -> None:
    """Warn about everything that a user must not overlook, and note it.

    Parameters
    ----------
    report : ReportData
    overfitted : float or None
        How far the network is over-fitted, in balanced accuracy; None if it is not.
    """
    for category, text in _complaints(report, overfitted):
        report.notes.append(text)
        warn(text, category)


def _complaints(report: ReportData, overfitted: float | None) -> list[tuple[type[Warning], str]]:
    found: list[tuple[type[Warning], str]] = []
    if report.n_judged is not None:
        found.append((InterruptedFitWarning, _interrupted(report.n_judged)))
    if not report.has_groups:
        return found
    if not report.verdict.feasible:
        found.append((ConstraintNotMetWarning, _not_met(report)))
    if report.is_constant:
        text = "The chosen network predicts one class only on the validation rows."
        found.append((ConstantPredictionsWarning, text))
    if overfitted is not None:
        found.append((OverfittedNetworkWarning, _overfitted(overfitted)))
    if report.lost:
        found.append((LevellingDownWarning, _levelled_down(report)))
    small = _small_cells(report)
    if small:
        found.append((SmallCellWarning, _too_small(report, small)))
    return found


def chosen_by_phi(report: ReportData, phi: PhiObjective) -> str:
    """Say how candidate and threshold were chosen under a :class:`PhiObjective`."""
    how = f"the mean over {phi.n_bootstrap} resamples of" if phi.n_bootstrap else "on"
    return (
        f"Candidate and threshold were chosen by phi: {report.constraint.utility} where "
        f"{phi.measure} is below {phi.limit:.3g} (epsilon - slack), else 0; {how} the "
        f"{report.plain.sum()} validation rows."
    )


def _not_met(report: ReportData) -> str:
    c, v = report.constraint, report.verdict
    if c.phi is not None:
        return (
            f"No candidate has {c.gap} below {c.limit:.3f} (epsilon - slack) in any resample "
            f"of the validation rows: the untouched network was kept, with {v.gap:.3f}."
        )
    if report.certificate is not None:
        return (
            f"{report.certificate} What is best without a promise was kept. Pass more rows, raise "
            "the limit, or set confidence=None."
        )
    if c.requirements:
        asked = ", ".join(f"{each.name} <= {each.limit:.3g}" for each in c.requirements)
        return (
            f"No candidate meets everything that constraint= asks ({asked}) at an acceptable "
            "utility: read report_.constraints, ask for less, or pass more rows."
        )
    return (
        f"No candidate keeps {c.gap} within the tolerance of {c.limit:.3g} at "
        f"an acceptable utility; the chosen one has {v.gap:.3f}. Raise tolerance, pass more "
        "rows, or read report_."
    )


def _interrupted(n_judged: int) -> str:
    count = "1 candidate" if n_judged == 1 else f"{n_judged} candidates"
    return (
        f"The fit was interrupted after {count}, the untouched network being the first: the best "
        "so far was kept (on_interrupt='keep')."
    )


def _overfitted(excess: float) -> str:
    return (
        f"The network's balanced accuracy is {excess:.2f} higher on its editing rows than on "
        "validation: gaps on the editing rows say little. Both sets are held to the limit each."
    )


def _levelled_down(report: ReportData) -> str:
    falls = [
        f"{report.name(each.group)} ({report.rate_in_words(each)} {each.change:+.3f})"
        for each in report.changes
        if each.fell
    ]
    others = "another group gained" if report.traded else "no other group gained"
    return (
        "The edit serves some groups worse than the network did before, beyond noise: "
        f"{listed(falls, SHOWN, longest=None)}; {others}. report_.harm has every rate, "
        "report_.summary() says it in words."
    )


def _needed(report: ReportData) -> float:
    # The standard error of a rate is at most 0.5 / sqrt(n).
    return 0.25 / max(_tolerance(report), 1e-3) ** 2


def _tolerance(report: ReportData) -> float:
    c = report.constraint
    return c.unit if c.requirements else c.tolerance


def _small_cells(report: ReportData) -> list[str]:
    cells = report.effective.sum(axis=2)
    return [
        f"(label {report.classes[k]}, group {report.name(g)}): {cells[g, k]}"
        for g, k in np.argwhere(cells < _needed(report))
    ]


def _too_small(report: ReportData, cells: list[str]) -> str:
    return (
        f"Too few validation rows to certify a tolerance of {_tolerance(report)}: "
        f"{listed(cells, SHOWN, longest=None)} rows. About {_needed(report):.0f} a cell are "
        "needed; read the gap beside its interval and noise floor in report_.gaps."
    )
