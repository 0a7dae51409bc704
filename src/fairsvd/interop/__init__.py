"""Bridges to AIF360 and fairlearn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._aif360 import from_aif360, to_aif360
from ._aif360_tables import load_aif360
from ._group_aware import GroupAwareWrapper
from ._resample import resample_by_weight

if TYPE_CHECKING:
    from ._aif360_mitigator import AIF360Mitigator

__all__ = [
    "AIF360Mitigator",
    "GroupAwareWrapper",
    "from_aif360",
    "load_aif360",
    "resample_by_weight",
    "to_aif360",
]


def __getattr__(name: str) -> object:
    """Import the class that derives from one of AIF360 on first use."""
    if name != "AIF360Mitigator":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ._aif360_mitigator import AIF360Mitigator

    return AIF360Mitigator


def __dir__() -> list[str]:
    """List the names here, including those imported on first use."""
    return sorted({*globals(), *__all__})
