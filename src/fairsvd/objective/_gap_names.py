"""The names of the gaps, and the rates that each of them compares between groups."""

from __future__ import annotations

__all__ = ["GAPS", "compared"]

GAPS = (
    "demographic_parity",
    "equal_opportunity",
    "equalized_odds",
    "average_odds",
    "signed_average_odds",
    "accuracy_parity",
)

# Which rates a gap compares between groups; two of them are combined as the gap's name says.
_COMPARED = {
    "demographic_parity": ("selection",),
    "equal_opportunity": ("tpr",),
    "equalized_odds": ("tpr", "fpr"),
    "average_odds": ("tpr", "fpr"),
    "signed_average_odds": ("tpr", "fpr"),
    "accuracy_parity": ("accuracy",),
}


def compared(name: str) -> tuple[str, ...]:
    """Return the fields of ``Rates`` that a gap compares.

    Raises
    ------
    ValueError
        If no gap has that name.
    """
    if name not in _COMPARED:
        raise ValueError(f"Unknown gap {name!r}: choose one of {', '.join(GAPS)}.")
    return _COMPARED[name]
