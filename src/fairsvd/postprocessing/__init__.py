"""Methods that put a decision rule behind a network."""

from __future__ import annotations

from ._blind import BlindPostProcessor

__all__ = ["BlindPostProcessor"]
