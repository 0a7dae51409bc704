"""The report's tables of several attributes: of each alone, of some together, and of all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._rng import stage_rng
from ..groups import Groups
from ..metrics import few_rows, group_index, margins_of, name_attributes
from ..objective import GAPS, estimate_gaps, gap, merge_groups

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["tables_by_attribute"]


def tables_by_attribute(data: Any) -> dict[str, pd.DataFrame]:
    """Make ``groups_by_attribute`` and ``gaps_by_attribute`` of a report.

    Both are empty for a single attribute. Marginal groups are sums of intersections.

    Parameters
    ----------
    data : ReportData
    """
    import pandas as pd

    if len(data.names) < 2:
        return {"groups_by_attribute": pd.DataFrame(), "gaps_by_attribute": pd.DataFrame()}
    groups = Groups(np.arange(len(data.labels)), data.labels, data.names)
    divisions = [*margins_of(groups), groups]
    return {
        "groups_by_attribute": pd.concat([_rates(data, each) for each in divisions]),
        "gaps_by_attribute": pd.concat(
            {name_attributes(each): _gaps(data, each) for each in divisions}, names=["attributes"]
        ),
    }


def _rates(data: Any, division: Groups) -> pd.DataFrame:
    before, after, plain = (
        merge_groups(counts, division.codes.tolist(), 0)
        for counts in (data.before, data.after, data.plain)
    )
    index = group_index(division.labels, division.names)
    frame = data.rate_frame(before, after, plain.sum(axis=(1, 2)), index)
    frame["", "few_rows"] = few_rows(plain.sum(axis=2), data.classes.tolist())
    return frame


def _gaps(data: Any, division: Groups) -> pd.DataFrame:
    import pandas as pd

    members, pos = division.codes.tolist(), data.constraint.pos
    before, after, effective = (
        merge_groups(counts, members, 0) for counts in (data.before, data.after, data.effective)
    )
    found = estimate_gaps(effective, GAPS, pos, stage_rng(data.seed, "bootstrap"))
    rows = [
        {
            "gap": name,
            "before": float(gap(before, name, pos)),
            "after": float(gap(after, name, pos)),
            **found[name]._asdict(),
        }
        for name in GAPS
    ]
    return pd.DataFrame(rows).set_index("gap")
