"""The report page, text tables and plots of fits and audits."""

from __future__ import annotations

from ._fit import chosen_candidate, removed_frame, utility_name
from ._page import FairnessReport
from ._plot import plot_tradeoff
from ._plot_autophagy import plot_autophagy, plot_feedback
from ._plot_cells import plot_cells
from ._plot_groups import plot_errors
from ._plot_mask import plot_mask
from ._style import INK, PALE, dress, gap_axes
from ._tables import before_after, format_table, gap_estimates, small_cells

__all__ = [
    "INK",
    "PALE",
    "FairnessReport",
    "before_after",
    "chosen_candidate",
    "dress",
    "format_table",
    "gap_axes",
    "gap_estimates",
    "plot_autophagy",
    "plot_cells",
    "plot_errors",
    "plot_feedback",
    "plot_mask",
    "plot_tradeoff",
    "removed_frame",
    "small_cells",
    "utility_name",
]
