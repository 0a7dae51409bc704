"""The constraint on an edit, and how candidates are judged."""

from __future__ import annotations

from ._attributes import EachAttribute, again_on, on_groups
from ._bounds import bound_gap, bound_ratio, bound_shares, bound_statistic, rows_needed
from ._constraint import (
    UNBALANCED_UTILITY,
    UTILITIES,
    Constraint,
    ask_utility,
    is_unbalanced,
    utility_from_counts,
)
from ._counts import count_table
from ._flips import FLIPPABLE, bound_under_flips
from ._gap_names import compared
from ._gaps import GAPS, Rates, gap, rates, ratio, soft_gap
from ._harm import Change, Moves, count_moves, judged_rates
from ._judge import GapJudge, Judge
from ._loss import SHARPNESS, edit_loss, imitation_loss, make_shift, shift_logits
from ._one_attribute import OneAttribute, merge_groups
from ._phi import PhiObjective
from ._phi_judge import make_judge
from ._requirement import Requirement, Seen
from ._requirements import CountLimit, GapLimit, MinimumRate, NoHarm, RatioLimit
from ._resampling import resampled_counts
from ._rule import ALPHAS, FairRule, solve_rules
from ._soft_gap import RunningMeans
from ._soft_statistic import SoftRows
from ._statistics import OF_ALL_CLASSES, STATISTICS, class_mean, statistic, statistic_rows
from ._uncertainty import GapEstimate, estimate_gaps, estimate_spread
from ._verdict import Curves, Verdict, margin_of_threshold

__all__ = [
    "ALPHAS",
    "FLIPPABLE",
    "GAPS",
    "OF_ALL_CLASSES",
    "SHARPNESS",
    "STATISTICS",
    "UNBALANCED_UTILITY",
    "UTILITIES",
    "Change",
    "Constraint",
    "CountLimit",
    "Curves",
    "EachAttribute",
    "FairRule",
    "GapEstimate",
    "GapJudge",
    "GapLimit",
    "Judge",
    "MinimumRate",
    "Moves",
    "NoHarm",
    "OneAttribute",
    "PhiObjective",
    "Rates",
    "RatioLimit",
    "Requirement",
    "RunningMeans",
    "Seen",
    "SoftRows",
    "Verdict",
    "again_on",
    "ask_utility",
    "bound_gap",
    "bound_ratio",
    "bound_shares",
    "bound_statistic",
    "bound_under_flips",
    "class_mean",
    "compared",
    "count_moves",
    "count_table",
    "edit_loss",
    "estimate_gaps",
    "estimate_spread",
    "gap",
    "imitation_loss",
    "is_unbalanced",
    "judged_rates",
    "make_judge",
    "make_shift",
    "margin_of_threshold",
    "merge_groups",
    "on_groups",
    "rates",
    "ratio",
    "resampled_counts",
    "rows_needed",
    "shift_logits",
    "soft_gap",
    "solve_rules",
    "statistic",
    "statistic_rows",
    "utility_from_counts",
]
