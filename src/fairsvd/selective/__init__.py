"""Selective fine-tuning on synthetic rows (AIM-Fair)."""

from __future__ import annotations

from ._selective import SelectiveFineTuner

__all__ = [
    "SelectiveFineTuner",
]
