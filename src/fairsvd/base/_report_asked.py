"""The table of what was asked: what was measured, what can be said of other rows, what is met."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._rng import stage_rng
from ..objective import Requirement, Seen

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["tabulate_asked"]

LEVEL = 0.95


def tabulate_asked(data: Any) -> pd.DataFrame:
    """Tabulate everything that was asked, before and after, and whether it is met on these rows.

    Parameters
    ----------
    data : ReportData

    Returns
    -------
    table : DataFrame
        ``FairnessReport.constraints``.
    """
    import pandas as pd

    if not data.has_groups:
        return pd.DataFrame()
    rows = []
    for each in data.constraint.listed:
        old, new = (
            float(each.measure(counts, data.constraint.pos, data.before))
            for counts in (data.before, data.after)
        )
        met = bool(new <= each.limit) and not data.is_constant
        values = {"before": old, "after": new, "upper": _bound(data, each), "limit": each.limit}
        rows.append({"constraint": each.name, **values, "met": met})
    return pd.DataFrame(rows).set_index("constraint")


def _bound(data: Any, asked: Requirement) -> float:
    """Bound what was asked for on all rows of this kind, as a certificate does."""
    # Moves of weighted rows are no counts, and a user's function may be slow.
    if (asked.compares and data.weighted is not None) or not asked.is_fast:
        return float("nan")
    seen = Seen(data.effective, data.before, data.moves, data.constraint.pos)
    return asked.bound(seen, LEVEL, stage_rng(data.seed, "bootstrap"))
