"""Fine-tuning under the soft gap: one weight of it, start to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..base import Candidate
from ..layers import Factors, editable_layers, factorise, full_rank, layer_parameters
from ..objective import Verdict
from ..phases import TuningPath, layer_biases, loss_of, run_phases, tuned

__all__ = ["SCOPES", "GapPath", "Values", "run_path", "untouched"]

SCOPES = ("all", "head", "spectrum", "bias")

# Steps of the second phase, which starts from the best of the first, against the first one's.
SLOWER = 1 / 3


@dataclass(frozen=True)
class Values:
    """Parameters that move, some of them the singular values of a layer's weight.

    Attributes
    ----------
    plain : dict of parameter name to Tensor
    factors : dict of layer name to Factors
    """

    plain: dict[str, Tensor]
    factors: dict[str, Factors] = field(default_factory=dict)

    def tensors(self) -> list[Tensor]:
        """List what moves."""
        return [*self.plain.values(), *(f.S for f in self.factors.values())]

    def state(self) -> dict[str, Tensor]:
        """Everything that differs from the untouched network's state dict."""
        weights = {f.parameter: f.weight() for f in self.factors.values()}
        return {**self.plain, **weights}

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Values:
        """Change every tensor that moves."""
        return Values(
            {name: change(value) for name, value in self.plain.items()},
            {name: replace(f, S=change(f.S)) for name, f in self.factors.items()},
        )

    def detached(self) -> Values:
        """Copy, so that later steps do not change it."""
        return self.mapped(lambda value: value.detach().clone())


@dataclass(frozen=True, kw_only=True)
class GapPath(TuningPath[Values]):
    """One weight's way through both phases, self-contained so that it can run anywhere.

    Attributes
    ----------
    start : Values
        What moves, as it is in the untouched network.
    share : float
        Weight of the cross-entropy: 1, or 0 where the gap alone is to fall.
    rate : float
        Learning rate of the first phase.
    module, data, constraint, tradeoff, n_steps, seed, attributes
        See :class:`TuningPath`.
    """

    max_removed: None = None
    start: Values
    share: float
    rate: float

    def loss(self, state: Callable[[], Mapping[str, Tensor]], margin: float) -> Any:
        """Make the loss of a batch for a state that depends on trainable tensors."""
        settings = {"margin": margin, "tradeoff": self.tradeoff, "share": self.share}
        return loss_of(self.module, self.data, self.constraint, state, **settings)

    def pack(
        self, edit: Values, params: Mapping[str, Any], verdict: Verdict, logits: Tensor
    ) -> Candidate:
        """Make a candidate of a judged edit."""
        with torch.no_grad():
            state = {name: value.detach().clone() for name, value in edit.state().items()}
        return Candidate(state, params, self.attributes, verdict=verdict, logits=logits)


def run_path(path: GapPath) -> Iterator[Candidate]:
    """Run both phases; see :func:`fairsvd.base.run_phases`."""
    first = partial(_moved, rate=path.rate)
    second = partial(_moved, rate=path.rate * SLOWER)
    return run_phases(
        path,
        None,
        lambda each, rng: first(each, each.start, rng),
        second,
        "settle",
        first="tune",
    )


def _moved(
    path: GapPath, start: Values, rng: np.random.Generator, rate: float
) -> Iterator[tuple[int, Values]]:
    """Move the values from a start on, at the threshold that fits it."""
    leaves = start.mapped(lambda value: value.detach().clone().requires_grad_())
    return tuned(path, start, leaves.tensors(), lambda: leaves, rng, rate)


def untouched(module: nn.Module, output_layer: str, scope: str) -> Values:
    """Collect what a scope lets move, as it is.

    Parameters
    ----------
    module : nn.Module
    output_layer : str
    scope : {"all", "head", "spectrum", "bias"}

    Raises
    ------
    ValueError
        The network has nothing of that kind.
    """
    factors: dict[str, Factors] = {}
    found: dict[str, Tensor]
    if scope == "all":
        found = {n: p for n, p in module.named_parameters() if p.is_floating_point()}
    elif scope == "head":
        found = dict(layer_parameters(module, output_layer))
    else:
        found = layer_biases(module)
    if scope == "spectrum":
        layers = editable_layers(module)
        factors = {name: factorise(layer, full_rank(layer)) for name, layer in layers.items()}
    values = Values({n: p.detach().clone() for n, p in found.items()}, factors)
    if not values.tensors():
        raise ValueError(
            f"scope={scope!r}, but the network has no parameter of that kind: its linear and "
            "convolution layers have no biases. Use scope='all', 'head' or 'spectrum'."
        )
    return values
