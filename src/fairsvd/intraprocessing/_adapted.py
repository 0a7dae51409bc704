"""Low-rank adapters of a network's weights, and the training of those that predict the group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._rng import torch_generator
from ..base import Task
from ..phases import Edit, make_batches
from ..training import Batch, tune
from ._critic import forward_with_features

__all__ = ["Adapted", "learn_group"]


@dataclass(frozen=True)
class Adapted(Edit):
    """Weights plus low-rank products.

    Attributes
    ----------
    weights : dict of parameter name to Tensor
    up, down : dict of parameter name to Tensor
        B (n_outputs, rank) and A (rank, n_inputs).
    """

    weights: dict[str, Tensor]
    up: dict[str, Tensor]
    down: dict[str, Tensor]

    @classmethod
    def start(cls, weights: dict[str, Tensor], rank: int, generator: torch.Generator) -> Adapted:
        """Make adapters that change nothing yet, as leaves."""
        up, down = {}, {}
        for name, weight in weights.items():
            n_outputs, n_inputs = weight.flatten(1).shape
            size = min(rank, n_outputs, n_inputs)
            drawn = torch.randn(size, n_inputs, generator=generator, dtype=torch.float64)
            down[name] = (drawn / n_inputs**0.5).to(weight).requires_grad_()
            up[name] = weight.new_zeros(n_outputs, size).requires_grad_()
        return cls(weights, up, down)

    @classmethod
    def received(cls, adapters: Mapping[str, Any], weights: dict[str, Tensor]) -> Adapted:
        """Take adapters that were trained elsewhere, if they fit these weights.

        Raises
        ------
        ValueError
            They are for other weights.
        """
        if set(adapters) != set(weights):
            raise ValueError(
                f"group_adapters hold {sorted(adapters)}, but the chosen layers have the weights "
                f"{sorted(weights)}: both sides need the same network and the same layers."
            )
        up, down = {}, {}
        for name, weight in weights.items():
            pair = up[name], down[name] = [
                torch.as_tensor(each).to(weight) for each in adapters[name]
            ]
            shapes = [tuple(each.shape) for each in pair]
            n_outputs, n_inputs = weight.flatten(1).shape
            rank = shapes[0][-1]
            if shapes != [(n_outputs, rank), (rank, n_inputs)]:
                raise ValueError(
                    f"group_adapters[{name!r}] have the shapes {shapes}: wanted "
                    f"({n_outputs}, rank) and (rank, {n_inputs})."
                )
        return cls(weights, up, down)

    def tensors(self) -> list[Tensor]:
        """List the trainable tensors."""
        return [*self.up.values(), *self.down.values()]

    def state(self) -> dict[str, Tensor]:
        """Return the merged weights, differentiably."""
        return {
            name: weight + (self.up[name] @ self.down[name]).reshape(weight.shape)
            for name, weight in self.weights.items()
        }

    def without(self, share: float) -> dict[str, Tensor]:
        """Return the weights minus a share of the adapters."""
        merged = self.state()
        return {name: (1 + share) * w - share * merged[name] for name, w in self.weights.items()}

    def detached(self) -> Adapted:
        """Return a copy that later steps do not change."""
        up, down = (
            {name: value.detach().clone() for name, value in part.items()}
            for part in (self.up, self.down)
        )
        return Adapted(self.weights, up, down)

    def attributes(self) -> dict[str, Any]:
        """Return the adapters as a fitted attribute."""
        return {"adapters_": {name: (self.up[name], self.down[name]) for name in self.up}}


def learn_group(
    task: Task,
    weights: dict[str, Tensor],
    rank: int,
    n_steps: int,
    rate: float,
    rng: np.random.Generator,
) -> Adapted:
    """Train adapters, and a new output layer, that predict the group.

    The generator is not advanced, so that an edit's other draws do not depend on the variant.
    """
    data, own = task.data, rng.spawn(1)[0]
    adapted = Adapted.start(weights, rank, torch_generator(own))
    forward = forward_with_features(task.module, data)
    batches = make_batches(data, None, own)
    with torch.no_grad():
        width = forward({}, next(iter(batches)).X)[1].shape[1]
    settings: dict[str, Any] = {"dtype": data.dtype, "device": data.device}
    head = torch.zeros(data.n_groups, width + 1, **settings).requires_grad_()

    def loss(batch: Batch) -> Tensor:
        features = forward(adapted.state(), batch.X)[1]
        scores = nn.functional.linear(features, head[:, 1:], head[:, 0])
        losses = nn.functional.cross_entropy(scores, batch.groups, reduction="none")
        # The output layer has no part in the features; the adapter there keeps its place.
        return (losses * batch.gap_weights).mean() + 0 * sum(t.sum() for t in adapted.tensors())

    leaves = [*adapted.tensors(), head]
    for _ in tune(loss, leaves, batches, n_steps=n_steps, learning_rate=rate, every=n_steps):
        pass
    return adapted.detached()
