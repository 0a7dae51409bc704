"""An audit of a generator that is trained on its own samples."""

from __future__ import annotations

from ._audit import autophagy_audit

__all__ = ["autophagy_audit"]
