"""What a bias-mask fit does, from its parameters and the data."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._rng import torch_generator
from ..base import EditData
from ..caching import Entry
from ..layers import chosen_weights, first_name, layer_parameters, select_layers
from ..objective import SHARPNESS, Constraint
from ..phases import GAP_WEIGHTS, rows_a_step
from ._importance import (
    Importance,
    Operating,
    as_named,
    batch_importance,
    from_named,
    row_importance,
)
from ._ratio import bias_ratio, hard_masks, reset_mask, shuffled, soft_masks
from ._steps import Optimizer, Path, Step

__all__ = ["Plan"]

# Weights of the bias that are searched: of the soft gap beside a whole cross-entropy, and around
# the papers' own 0.1 for their losses.
BIAS_WEIGHTS = {"penalty": GAP_WEIGHTS, "bmft": (0.03, 0.1, 0.3), "swift": (0.03, 0.1, 0.3)}

# Both papers write average odds as half the sum of two gaps; the soft gap is the sum.
SUMS_OF_TWO = ("average_odds", "equalized_odds", "signed_average_odds")


@dataclass(frozen=True)
class Plan:
    """Resolves the parameters of an editor against a network and the data.

    Attributes
    ----------
    editor : BiasMaskFineTuner
        Gives the parameters.
    module : nn.Module
    data : EditData
    constraint : Constraint
    """

    editor: Any
    module: nn.Module
    data: EditData
    constraint: Constraint

    @cached_property
    def layers(self) -> list[str]:
        """Layers that the mask covers."""
        return select_layers(self.module, self.editor.layers, self.data.output_layer)

    @cached_property
    def head(self) -> str:
        """Name of the layer that makes the logits, or of the one that stands for its weight."""
        return first_name(self.module, self.data.output_layer)

    @cached_property
    def names(self) -> dict[str, str]:
        """Parameter names of the weights, by layer."""
        layers = [*self.layers, self.head]
        return {name: w.parameter for name, w in chosen_weights(self.module, layers).items()}

    @property
    def ours(self) -> bool:
        """Tell our own loss from the papers'."""
        return bool(self.editor.loss == "penalty")

    def importance(self, seed: np.random.SeedSequence) -> Importance:
        """Measure the covered layers and the output layer, or find what was measured before."""
        layers = list(self.names)
        margin, sharpness = (self.data.margin, SHARPNESS) if self.ours else (0.0, 1.0)
        at, by_batch = Operating(margin, sharpness), self.editor.importance == "batch_gradient"
        parts = {"layers": layers, "at": [margin, sharpness], "constraint": vars(self.constraint)}
        parts |= {"rows": self.data.batch_size}
        if by_batch:
            parts |= {"seed": [seed.entropy, seed.spawn_key]}

        def compute() -> Entry:
            given = self.module, layers, self.data, self.constraint, at
            if by_batch:
                return Entry(as_named(batch_importance(*given, np.random.default_rng(seed))))
            return Entry(as_named(row_importance(*given, max_memory=self.editor.max_memory)))

        entry = self.data.cache.fetch("importance", parts, compute)
        return from_named(entry.tensors, self.data.device)

    def ratio(self, importance: Importance) -> dict[str, Tensor]:
        """Divide the importance for the bias by that for the prediction, weight by weight."""
        bias_only = self.editor.rank_by == "bias"
        return bias_ratio(*importance, self.editor.granularity, bias_only=bias_only)

    def masks(self, importance: Importance, seed: np.random.SeedSequence) -> dict[str, Tensor]:
        """Make the masks of the covered layers, broadcast to their weights."""
        measured = self.ratio(importance)
        ratio = {self.names[layer]: measured[self.names[layer]] for layer in self.layers}
        if self.editor.importance == "random":
            ratio = shuffled(ratio, torch_generator(np.random.default_rng(seed)))
        made = (
            soft_masks(ratio) if self.editor.mask == "soft" else hard_masks(ratio, self.editor.keep)
        )
        return {name: mask.expand_as(importance[0][name]) for name, mask in made.items()}

    def resets(self, importance: Importance) -> dict[str, Tensor]:
        """Choose the entries of the output layer that are set to zero."""
        how, name = self.editor.head_reset, self.names[self.head]
        if how == "none":
            return {}
        if how == "zero":
            whole = layer_parameters(self.module, self.data.output_layer)
            return {each: torch.ones_like(p, dtype=torch.bool) for each, p in whole.items()}
        # Where the weights are averaged over units or layers the reset still looks at single ones.
        bias_of, prediction_of = importance
        ratio = bias_ratio({name: bias_of[name]}, {name: prediction_of[name]}, "weight")
        return {name: reset_mask(ratio[name])}

    def attributes(self, masks: dict[str, Tensor], importance: Importance) -> dict[str, Any]:
        """Collect the fitted attributes that do not depend on the candidate."""
        made = {name: mask.detach().cpu().clone() for name, mask in masks.items()}
        found: dict[str, Any] = {
            "masks_": made,
            "masked_fraction_": {
                layer: float(made[self.names[layer]].double().mean()) for layer in self.layers
            },
            "balance_": self.constraint.balance,
        }
        if self.editor.store_importance:
            found["importance_"] = {
                name: (of_bias.cpu(), importance[1][name].cpu())
                for name, of_bias in importance[0].items()
            }
        return found

    def paths(
        self,
        masks: dict[str, Tensor],
        resets: dict[str, Tensor],
        attributes: dict[str, Any],
        seed: np.random.SeedSequence,
    ) -> list[Path]:
        """Make a path for every weight of the bias."""
        weights = self._bias_weights()
        return [
            Path(
                # Parallel tasks must not share a module.
                module=copy.deepcopy(self.module),
                data=self.data,
                constraint=self.constraint,
                masks=masks,
                resets=resets,
                impair=self._step("impair", weight),
                repair=self._step("repair", weight),
                optimizer=self._optimizer(),
                at_threshold=self.ours,
                record={"bias_weight": weight},
                attributes=attributes,
                seed=child,
            )
            for weight, child in zip(weights, seed.spawn(len(weights)), strict=True)
        ]

    def _bias_weights(self) -> tuple[float, ...]:
        editor = self.editor
        if editor.loss == "swift" and editor.bias_weight is not None and editor.bias_weight > 1:
            raise ValueError(
                f"bias_weight={editor.bias_weight} with loss='swift', which is a mixture of both "
                "losses: pass a number in [0, 1], or loss='penalty'."
            )
        if not self.data.has_groups:
            return (0.0,)
        if editor.bias_weight is None:
            return BIAS_WEIGHTS[editor.loss]
        return (float(editor.bias_weight),)

    def _step(self, name: str, weight: float) -> Step:
        editor, first = self.editor, name == "impair"
        share, tradeoff = self._weights(first, weight)
        epochs = editor.impair_epochs if first else editor.repair_epochs
        n_rows, rows = len(self.data.editing), self._rows()
        n_steps = epochs * -(-n_rows // rows)
        if epochs:
            n_steps = max(n_steps, min(editor.min_steps, max(30, n_rows)))
        return Step(
            name=name,
            share=share,
            tradeoff=tradeoff,
            balance=self.constraint.balance if self.ours else "cells",
            learning_rate=editor.learning_rate if first else editor.head_learning_rate,
            n_steps=n_steps,
            every=max(1, n_steps // max(1, epochs)),
        )

    def _weights(self, first: bool, weight: float) -> tuple[float, float]:
        """Weights of the cross-entropy and of the soft gap."""
        if not self.data.has_groups:
            return 1.0, 0.0
        if self.ours:
            return 1.0, weight
        half = 0.5 if self.constraint.gap in SUMS_OF_TWO else 1.0
        if self.editor.loss == "bmft":
            return (0.0, half) if first else (1.0, weight * half)
        return (weight, (1 - weight) * half) if first else (1 - weight, weight * half)

    def _rows(self) -> int:
        return rows_a_step(self.data) if self.ours else self.data.batch_size

    def _optimizer(self) -> Optimizer:
        editor = self.editor
        return Optimizer(
            name=editor.optimizer,
            momentum=editor.momentum,
            weight_decay=editor.weight_decay,
            rows=self._rows(),
            patience=editor.patience,
        )
