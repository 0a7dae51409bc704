"""Editing of the low-rank factors of a trained network."""

from __future__ import annotations

from ._fairlrf import FairLRFTransformer
from ._search import FairLRFTransformerCV

__all__ = ["FairLRFTransformer", "FairLRFTransformerCV"]
