"""What the report says of groups that are a proxy, or a record with errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..objective import FLIPPABLE, bound_under_flips

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["add_flips", "say_flips"]


def add_flips(gaps: pd.DataFrame, counts: NDArray[Any], pos: int | None, flip_rate: float) -> None:
    """Add the bounds of the gaps between the true groups to the table of gaps.

    Parameters
    ----------
    gaps : DataFrame
        Indexed by the names of gaps; receives the columns true_low and true_high.
    counts : ndarray of shape (n_groups, n_classes, n_classes)
        Rows by [recorded group, true, predicted].
    pos : int or None
    flip_rate : float in [0, 1)
    """
    unknown = float("nan"), float("nan")
    bounds = [
        bound_under_flips(counts, str(name), pos, flip_rate) if name in FLIPPABLE else unknown
        for name in gaps.index
    ]
    gaps["true_low"], gaps["true_high"] = np.array(bounds).T


def say_flips(counts: NDArray[Any], name: str, pos: int | None, flip_rate: float) -> str:
    """Say that the groups are not certain, and what this means for the gap that was asked for."""
    said = (
        f"The groups are a proxy, or a record with errors: up to {flip_rate:.3g} of the rows of "
        "every group and label may belong to another group (flip_rate). The edit and the choice "
        "take them as they are"
    )
    if name not in FLIPPABLE or len(counts) < 2:
        return f"{said}."
    low, high = bound_under_flips(counts, name, pos, flip_rate)
    words = name.replace("_", " ")
    return f"{said}; the gap in {words} between the true groups is {low:.3f} to {high:.3f} here."
