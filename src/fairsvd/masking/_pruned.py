"""An edit of single weights: which are kept, and the state that results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..base import Candidate
from ..layers import chosen_weights
from ..masks import removed_fraction
from ..objective import Verdict

__all__ = ["Pruned", "all_kept", "masked_weights", "untouched_attributes", "weights_of"]


@dataclass(frozen=True)
class Pruned:
    """Weights with their removed entries zeroed, factors of their rows, and what was tuned beside.

    Attributes
    ----------
    weights : mapping of parameter name to Tensor
    masks : mapping of parameter name to Tensor
        True (or 1) where a weight is kept; of the weight's shape.
    scales : mapping of parameter name to Tensor of shape (n_units,)
        Factor of every output unit.
    plain : mapping of parameter name to Tensor
        Biases and the output layer, where they may have changed.
    units : mapping of bias name to boolean Tensor
        False where the bias goes with its unit.
    """

    weights: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    scales: Mapping[str, Tensor] = field(default_factory=dict)
    plain: Mapping[str, Tensor] = field(default_factory=dict)
    units: Mapping[str, Tensor] = field(default_factory=dict)

    def state(self) -> dict[str, Tensor]:
        """Everything that differs from the untouched network's state dict."""
        weights = {
            name: along_rows(self.scales[name], w) * w if name in self.scales else w
            for name, w in self.weights.items()
        }
        plain = {
            name: value * self.units[name] if name in self.units else value
            for name, value in self.plain.items()
        }
        return {**weights, **plain}

    def detached(self) -> Pruned:
        """Copy, so that later steps do not change it."""
        return replace(
            self,
            scales={name: value.detach().clone() for name, value in self.scales.items()},
            plain={name: value.detach().clone() for name, value in self.plain.items()},
        )

    def candidate(
        self,
        params: Mapping[str, Any],
        attributes: Mapping[str, Any],
        verdict: Verdict,
        logits: Tensor,
    ) -> Candidate:
        """Pack as a candidate with its fitted attributes."""
        removed = removed_fraction(self.masks)
        fitted = {**attributes, "masks_": mask_arrays(self.masks), "removed_fraction_": removed}
        with torch.no_grad():
            state = {name: value.detach().clone() for name, value in self.state().items()}
        record = {**params, "removed_fraction": removed}
        return Candidate(state, record, fitted, None, verdict, logits)


def along_rows(values: Tensor, weight: Tensor) -> Tensor:
    """Shape one value an output unit (n_units,) so that it multiplies the rows of a weight."""
    return values.reshape(-1, *[1] * (weight.ndim - 1))


def weights_of(module: nn.Module, layers: Sequence[str]) -> dict[str, Tensor]:
    """Weights of some layers, by parameter name; not copied."""
    found = chosen_weights(module, layers)
    return {weight.parameter: weight.value.detach() for weight in found.values()}


def masked_weights(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Pruned:
    """Zero what the masks remove."""
    return Pruned({name: w * masks[name] for name, w in weights.items()}, masks)


def all_kept(weights: Mapping[str, Tensor]) -> Pruned:
    """Keep every weight."""
    return Pruned(weights, {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items()})


def untouched_attributes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fitted attributes of an editor that edited nothing."""
    masks = {name: np.ones(tuple(w.shape), dtype=bool) for name, w in weights.items()}
    return {"masks_": masks, "removed_fraction_": 0.0}


def mask_arrays(masks: Mapping[str, Tensor]) -> dict[str, NDArray[np.bool_]]:
    """Boolean arrays of the weights' shapes."""
    return {name: mask.detach().bool().cpu().numpy() for name, mask in masks.items()}
