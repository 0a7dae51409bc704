"""An audit of what a generator does to itself when it is fed its own rows."""

from __future__ import annotations

from ._audit import autophagy_audit

__all__ = [
    "autophagy_audit",
]
