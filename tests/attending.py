"""Networks with attention for the one editor that needs it, around those that have none."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNet
from torch import Tensor, nn

# Editors that refuse networks without attention.
NEED_ATTENTION = ("AttentionTemper",)


class Attending(nn.Module):
    """A network whose rows are shifted by what attention makes of their first six numbers."""

    n_heads = 1

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embed, self.shift = nn.Linear(1, 4), nn.Linear(4, 1)
            self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
        self.to(next(network.parameters()).dtype)
        self.train(network.training)

    def forward(self, X: Tensor) -> Any:
        Z = torch.tanh(self.embed(X.flatten(1)[:, :6].unsqueeze(2)))
        shares = torch.softmax(2 * self.query(Z) @ self.key(Z).mT, dim=-1)
        shift = self.shift((shares @ self.value(Z)).mean(1))
        return self.network(X + shift.reshape(-1, *[1] * (X.ndim - 1)))


def attending(network: Any) -> Any:
    """Put attention before a network in any of the forms that an editor takes."""
    if isinstance(network, FrozenEstimator):
        net = network.estimator
        return FrozenEstimator(_around(net, net.module_).initialize())
    if isinstance(network, NeuralNet):
        return _around(network, network.module)
    return network if network is None else Attending(network)


def _around(net: NeuralNet, module: nn.Module) -> NeuralNet:
    """Make a net with the settings of another; skorch sets no module of one that exists."""
    return type(net)(**{**net.get_params(deep=False), "module": Attending(module)})
