"""Removal of weights and units by a score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..caching import Entry
from ..curvature import group_weight_curvature
from ..layers import chosen_weights
from ..objective import Constraint
from ..phases import ScoredRemoval
from ._prune_units import Bias, unit_biases, unit_effects
from ._pruned import Pruned, all_kept, along_rows, masked_weights, weights_of

__all__ = ["Pruning"]


@dataclass(frozen=True, kw_only=True)
class Pruning(ScoredRemoval[Pruned]):
    """Everything that removal by a score needs.

    Attributes
    ----------
    constraint : Constraint
    layers : sequence of str
    ranking : {"layer", "global"}
        Whether each layer loses the same share, or scores compete over all layers.
    module, data, criterion, sparsities, tradeoff, hessian, n_steps, max_memory, privileged, rng
        See :class:`ScoredRemoval`; ``criterion`` can also be "unit".
    """

    constraint: Constraint
    layers: Sequence[str]
    ranking: str

    def nothing(self) -> Pruned:
        """Return the weights with every one kept."""
        return all_kept(weights_of(self.module, self.layers))

    def entries(self, edit: Pruned) -> Mapping[str, Tensor]:
        """Single weights."""
        return edit.weights

    def masked(self, masks: Mapping[str, Tensor]) -> Pruned:
        """Zero what the masks remove: weights, or units and their biases."""
        weights = weights_of(self.module, self.layers)
        if self.criterion != "unit":
            return masked_weights(weights, masks)
        whole = {name: along_rows(masks[name], w).expand_as(w) for name, w in weights.items()}
        own = dict(self.module.named_parameters())
        units: dict[str, Tensor] = {}
        for name, some in self._biases().items():
            for bias, rows in some:
                units.setdefault(bias, torch.ones_like(own[bias], dtype=torch.bool))
                units[bias][rows] &= masks[name]
        biases = {name: own[name].detach() for name in units}
        return replace(masked_weights(weights, whole), plain=biases, units=units)

    def block_of(self, name: str) -> str:
        """Rank within a layer, or all together."""
        return name if self.ranking == "layer" else ""

    def edits(self) -> Iterator[tuple[dict[str, object], Pruned]]:
        """Yield what was tried and the edit, for every sparsity and every form of the score."""
        if self.criterion != "unit":
            yield from super().edits()
        # Without groups there is no gap that a unit could be scored by.
        elif self.data.has_groups and tuple(self.sparsities) != (0,):
            yield from self.in_rounds({}, self._first_effects(), self._effects, _as_scores)

    def first_curvature(self) -> dict[str, Tensor]:
        """Curvature of the untouched network's loss."""
        parts = {
            "criterion": "weight curvature",
            "layers": list(self.layers),
            "hessian": self.hessian,
            "margin": self.data.margin,
            "privileged": self.privileged,
        }
        return self._fetched("curvature", parts, lambda: self._measure(self.module))

    def curvature(self, edit: Pruned) -> dict[str, Tensor]:
        """Curvature of what is left."""
        return self._measure(self.edited(edit))

    def _measure(self, module: nn.Module) -> dict[str, Tensor]:
        found = group_weight_curvature(module, self.layers, self.sides(), **self.pass_settings())
        weights = chosen_weights(self.module, self.layers)
        return {
            weight.parameter: found[layer].reshape(2, *weight.value.shape)
            for layer, weight in weights.items()
        }

    def _biases(self) -> dict[str, list[Bias]]:
        return unit_biases(self.module, self.layers)

    def _first_effects(self) -> dict[str, Tensor]:
        parts = {
            "layers": list(self.layers),
            "margin": self.data.margin,
            "gap": [self.constraint.gap, self.constraint.pos],
            "rows": self.data.batch_size,
        }
        return self._fetched("unit effects", parts, lambda: self._effects(self.nothing()))

    def _effects(self, edit: Pruned) -> dict[str, Tensor]:
        return unit_effects(self.module, self.data, self.constraint, edit, self._biases())

    def _fetched(
        self, name: str, parts: Mapping[str, object], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        entry = self.data.cache.fetch(name, parts, lambda: Entry(compute()))
        return {key: value.to(self.data.device) for key, value in entry.tensors.items()}


def _as_scores(_edit: Pruned, effects: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return effects
