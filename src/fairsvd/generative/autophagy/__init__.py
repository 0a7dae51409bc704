"""Audits of generators and classifiers that are trained on their own output."""

from __future__ import annotations

from ._audit import autophagy_audit
from ._feedback import feedback_audit

__all__ = ["autophagy_audit", "feedback_audit"]
