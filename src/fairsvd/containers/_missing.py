"""Missing values that numpy has turned into text."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["restore_missing"]

# What numpy makes of a missing value in an array of strings, as np.array(["a", nan]) does. "None"
# is not among them, since it may be a real label.
SPELLINGS = ("nan", "NaN", "NaT", "<NA>")


def restore_missing(array: NDArray[Any]) -> NDArray[Any]:
    """Put None in place of the text that numpy makes of a missing value.

    Only arrays of the dtype string are changed: "nan" in a list or in a column of objects was
    written by the user.
    """
    lost = np.isin(array, SPELLINGS) if array.dtype.kind == "U" else np.zeros(1, dtype=bool)
    if not lost.any():
        return array
    values = array.astype(object)
    values[lost] = None
    return values
