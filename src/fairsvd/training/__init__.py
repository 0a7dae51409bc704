"""Training: batches of rows, and the tuning loop of all methods."""

from __future__ import annotations

from ._batches import AHEAD, Batch, CellBatches, RowBatches, cell_shares
from ._factored import FactoredRMS
from ._tune import tune

__all__ = ["AHEAD", "Batch", "CellBatches", "FactoredRMS", "RowBatches", "cell_shares", "tune"]
