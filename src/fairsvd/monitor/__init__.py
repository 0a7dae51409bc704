"""Watch the gaps of a model in use, with an alarm of a stated false-alarm rate."""

from __future__ import annotations

from ._monitor import GapMonitor

__all__ = ["GapMonitor"]
