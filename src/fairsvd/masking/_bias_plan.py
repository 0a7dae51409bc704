"""The plan of a bias-mask fit: its masks, and the steps that its parameters or a budget give."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._rng import torch_generator
from ..base import Task
from ..caching import Entry
from ..layers import chosen_weights, first_name, layer_parameters, select_layers
from ..objective import SHARPNESS
from ..phases import FORWARD, GAP_WEIGHTS, Budget, Teacher, count_step_rows, count_steps, settles
from ._importance import (
    Importance,
    Operating,
    as_named,
    batch_importance,
    from_named,
    row_importance,
)
from ._ratio import bias_ratio, make_hard_masks, make_soft_masks, reset_mask, shuffle
from ._steps import Optimizer, Path, Step

__all__ = ["Plan"]

# Weights of the soft gap that are searched: those of every editor for "penalty", and values around
# the papers' own 0.1 for their losses.
SEARCHED_WEIGHTS = {"penalty": GAP_WEIGHTS, "bmft": (0.03, 0.1, 0.3), "swift": (0.03, 0.1, 0.3)}

STEPS = ("impair", "repair")

# Learning rates of the masked weights and of the output layer, and those under a budget.
RATES, BRIEF_RATES = (3e-3, 1e-2), (3e-4, 1e-3)

# Under a budget: passes over the rows that the importance costs, the first step's share of what is
# left, and candidates of either step.
MEASURING, IMPAIRING, BRIEF_LOOKS = 5, 0.7, 2

# Both papers write average odds as half the sum of two gaps; the soft gap is the sum.
SUMS_OF_TWO = ("average_odds", "equalized_odds", "signed_average_odds")


@dataclass(frozen=True)
class Plan(Task):
    """Resolves the parameters of an editor against a network and the data.

    Attributes
    ----------
    editor : BiasMaskFineTuner
        Holds the parameters.
    imitates : bool
        Whether the first step imitates a teacher.
    """

    editor: Any
    imitates: bool = False

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
        """Tell whether the loss is our own, not a paper's."""
        return bool(self.editor.loss == "penalty")

    def importance(self, seed: np.random.SeedSequence) -> Importance:
        """Measure the covered layers and the output layer, or read an earlier measurement."""
        layers = list(self.names)
        margin, sharpness = (self.data.margin, SHARPNESS) if self.ours else (0.0, 1.0)
        at, by_batch = Operating(margin, sharpness), self.editor.importance == "batch_gradient"
        parts = {"layers": layers, "at": [margin, sharpness], "constraint": vars(self.constraint)}
        parts |= {"rows": self.data.batch_size}
        if by_batch:
            parts |= {"seed": [seed.entropy, seed.spawn_key]}

        def compute() -> Entry:
            if by_batch:
                found = batch_importance(self, layers, at, np.random.default_rng(seed))
            else:
                found = row_importance(self, layers, at, max_memory=self.editor.max_memory)
            return Entry(as_named(found))

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
            ratio = shuffle(ratio, torch_generator(np.random.default_rng(seed)))
        if self.editor.mask == "soft":
            masks = make_soft_masks(ratio)
        else:
            masks = make_hard_masks(ratio, self.editor.tuned_fraction)
        return {name: mask.expand_as(importance[0][name]) for name, mask in masks.items()}

    def resets(self, importance: Importance) -> dict[str, Tensor]:
        """Choose the entries of the output layer that are set to zero."""
        how, name = self.editor.head_reset, self.names[self.head]
        if how == "none":
            return {}
        if how == "zero":
            head = layer_parameters(self.module, self.data.output_layer)
            return {each: torch.ones_like(p, dtype=torch.bool) for each, p in head.items()}
        # The reset compares single weights even if the mask averages over units or layers.
        bias_of, prediction_of = importance
        ratio = bias_ratio({name: bias_of[name]}, {name: prediction_of[name]}, "weight")
        return {name: reset_mask(ratio[name])}

    def attributes(self, masks: dict[str, Tensor], importance: Importance) -> dict[str, Any]:
        """Collect the fitted attributes that do not depend on the candidate."""
        cpu_masks = {name: mask.detach().cpu().clone() for name, mask in masks.items()}
        attributes: dict[str, Any] = {
            "masks_": cpu_masks,
            "masked_fraction_": {
                layer: float(cpu_masks[self.names[layer]].double().mean()) for layer in self.layers
            },
            "balance_": self.constraint.balance,
            "objective_": "teacher" if self.imitates else "soft_gap",
        }
        if self.editor.store_importance:
            attributes["importance_"] = {
                name: (of_bias.cpu(), importance[1][name].cpu())
                for name, of_bias in importance[0].items()
            }
        return attributes

    def paths(
        self,
        masks: dict[str, Tensor],
        resets: dict[str, Tensor],
        attributes: dict[str, Any],
        teacher: Teacher | None,
        seed: np.random.SeedSequence,
    ) -> list[Path]:
        """Make a path for every weight of the soft gap, or the one that imitates."""
        plain = Task(self.module, self.data, self.constraint)
        return [
            Path.of(
                subtask,
                masks=masks,
                resets=resets,
                impair=self._step("impair", weight),
                repair=self._step("repair", weight),
                optimizer=self._optimizer(),
                at_threshold=self.ours,
                record={"gap_weight": weight} if teacher is None else {"alpha": teacher.rule.alpha},
                teacher=teacher,
                attributes=attributes,
                seed=child,
            )
            for weight, subtask, child in plain.spread(self.weights, seed, self.editor.n_jobs)
        ]

    def count_candidates(self) -> int:
        """Count the candidates of all paths, if none ends early."""
        steps = [self._step(name, 0.0) for name in STEPS]
        return len(self.weights) * sum(-(-s.n_steps // s.every) for s in steps if s.n_steps)

    def _searched_weights(self) -> tuple[float, ...]:
        editor = self.editor
        if editor.loss == "swift" and editor.gap_weight is not None and editor.gap_weight > 1:
            raise ValueError(
                f"gap_weight={editor.gap_weight} with loss='swift', which is a mixture of both "
                "losses: pass a number in [0, 1], or loss='penalty'."
            )
        if not self.data.has_groups:
            return (0.0,)
        if self.imitates:
            return (1.0,)
        if editor.gap_weight is None:
            return SEARCHED_WEIGHTS[editor.loss]
        return (float(editor.gap_weight),)

    @cached_property
    def weights(self) -> tuple[float, ...]:
        """Weights of the soft gap that are tried: one of them under a budget."""
        asked = self._searched_weights()
        return asked if self.cut is None else asked[len(asked) // 2 :][:1]

    @cached_property
    def cut(self) -> Budget | None:
        """The budget of both steps, where they would cost more; None: where they do not."""
        budget = self.editor._budget(self, self.imitates)
        if budget is None:
            return None
        updates = sum(self._cost(name) for name in STEPS) * budget.step_rows
        least = MEASURING * budget.n_editing + updates + 2 * budget.look
        if budget.visits < least and self.editor.max_epochs is not None:
            raise ValueError(
                f"max_epochs={self.editor.max_epochs:g} does not suffice: {MEASURING} passes over "
                "the editing rows measure the importance of the parameters, and either step takes "
                "one update and one look at the judged rows at least. Use at least "
                f"{self._fewest_epochs(budget, least)}."
            )
        budget = budget.less(MEASURING * budget.n_editing)
        visits = 0.0
        for name in STEPS:
            n, every = self._planned(name)
            visits += n * self._cost(name) * self._all_rows() + -(-n // every) * budget.look
        return budget if len(self._searched_weights()) * visits > budget.visits else None

    def _fewest_epochs(self, budget: Budget, least: float) -> int:
        """Find the whole number of epochs of which the edit's part has the least visits."""
        short = (1.5 if self.imitates else 1.0) * (least - budget.visits)  # a teacher takes a third
        return math.ceil(self.editor.max_epochs + short / budget.n_editing - 1e-9)

    def _cost(self, name: str) -> float:
        """Count the visits of a row that a step learns from; of a lesson, with its answer."""
        lessons = self.imitates and (name == "impair" or not settles(self.data))
        return 1 + FORWARD * lessons

    def _planned(self, name: str) -> tuple[int, int]:
        """Count a step's updates, and those between two candidates, as the parameters say."""
        editor = self.editor
        epochs = editor.impair_epochs if name == "impair" else editor.repair_epochs
        n_steps = epochs * -(-len(self.data.editing) // self._all_rows())
        if epochs:
            n_steps = max(n_steps, count_steps(editor.min_steps, self.data))
        return n_steps, max(1, n_steps // max(1, epochs))

    def _counts(self, name: str) -> tuple[int, int]:
        """Count a step's updates, and those between two candidates."""
        n_steps, every = self._planned(name)
        if self.cut is None or not n_steps:
            return n_steps, every
        share = IMPAIRING if name == "impair" else 1 - IMPAIRING
        budget = replace(self.cut, visits=share * self.cut.visits)
        looks = budget.count_looks(BRIEF_LOOKS)
        an_update = self._cost(name) * self.cut.step_rows
        n_steps = max(1, int(share * self.cut.count_steps(2 * looks, an_update)))
        return n_steps, -(-n_steps // looks)

    def _step(self, name: str, weight: float) -> Step:
        editor, first = self.editor, name == "impair"
        share, gap_weight = self._weights(first, weight)
        n_steps, every = self._counts(name)
        rate = editor.learning_rate if first else editor.head_learning_rate
        if rate is None:
            rate = (RATES if self.cut is None else BRIEF_RATES)[0 if first else 1]
        return Step(
            name=name,
            share=share,
            gap_weight=gap_weight,
            balance=self.constraint.balance if self.ours else "cells",
            learning_rate=rate,
            n_steps=n_steps,
            every=every,
        )

    def _weights(self, first: bool, weight: float) -> tuple[float, float]:
        """Return the weights of the cross-entropy and of the soft gap."""
        if not self.data.has_groups:
            return 1.0, 0.0
        if self.ours:
            return 1.0, weight
        half = 0.5 if self.constraint.gap in SUMS_OF_TWO else 1.0
        if self.editor.loss == "bmft":
            return (0.0, half) if first else (1.0, weight * half)
        return (weight, (1 - weight) * half) if first else (1 - weight, weight * half)

    def _all_rows(self) -> int:
        return count_step_rows(self.data) if self.ours else self.data.batch_size

    def _optimizer(self) -> Optimizer:
        editor = self.editor
        return Optimizer(
            name=editor.optimizer,
            momentum=editor.momentum,
            weight_decay=editor.weight_decay,
            rows=self._all_rows() if self.cut is None else self.cut.step_rows,
            patience=editor.patience,
            brief=self.cut is not None,
        )
