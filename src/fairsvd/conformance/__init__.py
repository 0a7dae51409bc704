"""Conformance constraints of a table's cells, and the classifiers that use them."""

from __future__ import annotations

from ._constraints import ConformanceConstraints
from ._diffair import DifFair
from ._reweigher import ConFairReweigher

__all__ = ["ConFairReweigher", "ConformanceConstraints", "DifFair"]
