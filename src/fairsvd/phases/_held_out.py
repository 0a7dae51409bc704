"""The validation rows whose loss stops a training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..arrays import Batches, to_device
from ..base import EditData
from ..groups import cell_codes
from ..networks import MANY_ROWS, fast_logits, mean_loss

__all__ = ["HeldOut"]

# Of many rows a part of an epoch teaches as much, and some of the validation rows tell when to end.
MOST_LOOKED_AT = 10_000


@dataclass(frozen=True)
class HeldOut:
    """The validation rows, the codes of their cells and their weights, which stop a training."""

    data: EditData
    rows: Batches
    codes: Tensor
    weights: Tensor | None = None

    @classmethod
    def of(cls, data: EditData) -> HeldOut:
        """Look them up once for all epochs."""
        judge = data.judge
        rows = np.flatnonzero(judge.parts == 0)
        if len(data.editing) > MANY_ROWS:
            # Evenly spaced, since a table may be sorted.
            rows = rows[:: -(-len(rows) // MOST_LOOKED_AT)]
        codes = torch.as_tensor(cell_codes(judge.y[rows], judge.groups[rows], data.n_groups))
        weights = None if judge.weights is None else torch.as_tensor(judge.weights[rows])
        return cls(data, data.judged.subset(rows), codes, weights)

    def loss(self, network: nn.Module) -> float:
        """Compute the mean cross-entropy of the cells."""

        def run(X: Tensor) -> Tensor:
            return network(to_device(X, self.data.device, self.data.dtype))

        return mean_loss(fast_logits(run, self.rows), self.codes, self.weights)
