"""Bias-mask fine-tuning: tune the weights that drive the bias, then the output layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from re import Pattern
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from .._rng import torch_generator
from ..base import (
    Candidate,
    StrOptions,
    Task,
    at_least_0,
    fraction,
    parameter,
    positive,
    positive_int,
    register_editor,
)
from ..caching import Entry
from ..layers import chosen_weights, first_name, layer_parameters, select_layers
from ..objective import SHARPNESS
from ..phases import GAP_WEIGHTS, Teacher, TuningEditor, count_step_rows, count_steps, run_paths
from ._importance import (
    Importance,
    Operating,
    as_named,
    batch_importance,
    from_named,
    row_importance,
)
from ._ratio import bias_ratio, make_hard_masks, make_soft_masks, reset_mask, shuffle
from ._steps import Optimizer, Path, Step, run_path

__all__ = ["BiasMaskFineTuner"]

# Weights of the soft gap that are searched: those of every editor for "penalty", and values around
# the papers' own 0.1 for their losses.
SEARCHED_WEIGHTS = {"penalty": GAP_WEIGHTS, "bmft": (0.03, 0.1, 0.3), "swift": (0.03, 0.1, 0.3)}

# Both papers write average odds as half the sum of two gaps; the soft gap is the sum.
SUMS_OF_TWO = ("average_odds", "equalized_odds", "signed_average_odds")

# Values of the authors' released code where both papers agree.
PUBLISHED: dict[str, Any] = {
    "tuned_fraction": 0.5,
    "granularity": "weight",
    "importance": "batch_gradient",
    "gap_weight": 0.1,
    "impair_epochs": 10,
    "repair_epochs": 10,
    "min_steps": 0,
    "learning_rate": 1e-4,
    "head_learning_rate": 1e-3,
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "patience": None,
    "batch_size": 64,
}


@register_editor(impair_epochs=1, repair_epochs=1, min_steps=3, gap_weight=1.0)
class BiasMaskFineTuner(TuningEditor):
    """Bias-mask fine-tuning, following the released code of BMFT and SWiFT.

    A mask marks the weights whose importance for the bias is large compared with their importance
    for the prediction. A first step ("impair") tunes only those, a second one ("repair") only the
    layer that makes the logits. :meth:`bmft` and :meth:`swift` have the values of both papers; the
    defaults are ours, chosen by measurement. The network keeps its architecture, needs no sensitive
    attribute to predict, and what the user passed in is not changed.

    Parameters
    ----------
    mask : {"hard", "soft"}, default="hard"
        "hard": the share ``tuned_fraction`` of largest ratios is tuned, the rest stays (BMFT).
        "soft": every update is multiplied by tanh(ratio) (SWiFT).
    tuned_fraction : float in (0, 1], default=0.5
        Share of all weights of the chosen layers that a hard mask tunes; with the other
        granularities, of all units or layers. 1: all of them.
    granularity : {"weight", "unit", "layer"}, default="weight"
        What has one value in the mask: a weight, an output unit's incoming weights, a layer.
    importance : {"fisher", "batch_gradient", "random"}, default="fisher"
        Mean square of the gradients of batches of ``batch_size`` rows. "fisher": its exact
        expectation, from every row's own gradient. "batch_gradient": over drawn batches, as in both
        papers' code. "random": the ratios of "fisher" shuffled within each layer, a control.
    rank_by : {"ratio", "bias"}, default="ratio"
        "bias" leaves out the importance for the prediction, a control.
    loss : {"penalty", "bmft", "swift"}, default="penalty"
        With L_p the balanced cross-entropy, L_b the soft gap and w = ``gap_weight``. "penalty":
        L_p + w L_b in both steps, at the operating threshold. "bmft": L_b, then L_p + w L_b.
        "swift": w L_p + (1 - w) L_b, then (1 - w) L_p + w L_b.
    gap_weight : float or None, default=None
        None: searched on validation. Not used with a teacher.
    head_reset : {"zero", "partial", "none"}, default="none"
        Entries of the output layer that are set to zero before the second step: all (BMFT), those
        that drive the bias more than the average entry (SWiFT), none.
    layers : {"hidden", "all"}, list of str or re.Pattern, default="hidden"
        Linear, Conv2d and attention layers that the mask covers, named as for
        :class:`FairLRFTransformer`; "hidden" leaves out the one that makes the logits, which the
        second step tunes as a whole.
    impair_epochs, repair_epochs : int, default=10
        Passes over the rows in either step; 0 leaves the step out.
    min_steps : int, default=300
        A step makes at least ``min(min_steps, max(30, n_rows))`` updates; 0: as many as its epochs
        need.
    learning_rate : float, default=3e-3
        Learning rate of the masked weights.
    head_learning_rate : float, default=1e-2
        Learning rate of the output layer.
    optimizer : {"adam", "sgd"}, default="adam"
    momentum : float in [0, 1), default=0.9
        Momentum of "sgd".
    weight_decay : float, default=0.0
        Masked like every other part of an update.
    patience : int or None, default=None
        A step ends early after this many candidates, one per epoch, without a better one.
    store_importance : bool, default=False
        Keep ``importance_``.
    max_memory : int, default=2**28
        Limit in bytes of the temporary memory of ``importance="fisher"``.

    Attributes
    ----------
    masks_ : dict of parameter name to Tensor
        Factors of the updates, of the weight's shape: boolean for a hard mask, in [0, 1] for a soft
        one.
    masked_fraction_ : dict of layer name to float in [0, 1]
        Mean of each layer's mask: the share of its weights that may change.
    importance_ : dict of parameter name to (bias, prediction)
        Only with ``store_importance=True``; Tensors of the weight's shape, at least 0.
    objective_, balance_ : str or None
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        See :class:`NetworkEditor`; ``history_`` has one row for each epoch of both steps.

    See Also
    --------
    FairPruner : Removes weights instead of tuning them.

    Notes
    -----
    BMFT is arXiv:2408.06890 and SWiFT arXiv:2508.18826. Deviations from the released code, which
    does not run: masks multiply updates, so that frozen weights keep their bits under momentum,
    Adam and weight decay; masks cover weights of linear and convolution layers, whose biases and
    normalisations stay as they are; normalisation stays in evaluation mode; the largest ratios
    are taken by rank; every batch holds every (label, group) cell; images are not augmented
    again. SWiFT's bias loss is not published: both presets use BMFT's, ``1/2 (|TPR gap| + |FPR
    gap|)`` on probabilities, without letting the two cancel. With more than two groups the gap is
    the worst against the best group's, with several classes the mean over the classes. With
    "fisher" a row's bias loss is its probabilities times the gap's derivative in them. As in
    every editor the untouched network is among the candidates and the threshold is tuned
    (``threshold=0.5`` for the papers' own).
    ``balance`` is for "penalty"; the papers' losses see every cell alike.
    Without sensitive features there is no bias loss: the hard mask is then arbitrary, the soft one
    is zero.

    On the tables of ``docs/results/masks.md`` a random mask of equal size and full fine-tuning with
    the same loss do as well as the measured mask, within noise: the method works mostly by the loss
    at the operating threshold and by the choice, not by the mask.

    Examples
    --------
    >>> from fairsvd import BiasMaskFineTuner
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(800, random_state=0)
    >>> tuner = BiasMaskFineTuner(gap_weight=1.0, tolerance=0.1, random_state=0)
    >>> tuner = tuner.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> tuner.predict(data.data).shape
    (800,)
    """

    mask: str = parameter(StrOptions({"hard", "soft"}), default="hard")
    tuned_fraction: float = parameter(fraction(closed="right"), default=0.5)
    granularity: str = parameter(StrOptions({"weight", "unit", "layer"}), default="weight")
    importance: str = parameter(
        StrOptions({"fisher", "batch_gradient", "random"}), default="fisher"
    )
    rank_by: str = parameter(StrOptions({"ratio", "bias"}), default="ratio")
    loss: str = parameter(StrOptions({"penalty", "bmft", "swift"}), default="penalty")
    gap_weight: float | None = parameter(at_least_0(), None, default=None)
    head_reset: str = parameter(StrOptions({"zero", "partial", "none"}), default="none")
    layers: Any = parameter(StrOptions({"hidden", "all"}), list, tuple, Pattern, default="hidden")
    impair_epochs: int = parameter(positive_int(0), default=10)
    repair_epochs: int = parameter(positive_int(0), default=10)
    min_steps: int = parameter(positive_int(0), default=300)
    learning_rate: float = parameter(positive(), default=3e-3)
    head_learning_rate: float = parameter(positive(), default=1e-2)
    optimizer: str = parameter(StrOptions({"adam", "sgd"}), default="adam")
    momentum: float = parameter(fraction(closed="left"), default=0.9)
    weight_decay: float = parameter(at_least_0(), default=0.0)
    patience: int | None = parameter(positive_int(), None, default=None)
    store_importance: bool = parameter("boolean", default=False)
    max_memory: int = parameter(positive_int(), default=2**28)

    @classmethod
    def bmft(cls, network: Any = None, **parameters: Any) -> Self:
        """Make an editor with BMFT's values (arXiv:2408.06890, released code).

        Parameters
        ----------
        network : as in the class
        **parameters
            Values that replace the paper's.
        """
        preset = {"mask": "hard", "loss": "bmft", "head_reset": "zero"}
        return cls(network, **{**PUBLISHED, **preset, **parameters})

    @classmethod
    def swift(cls, network: Any = None, **parameters: Any) -> Self:
        """Make an editor with SWiFT's values (arXiv:2508.18826, released code, skin images).

        Parameters
        ----------
        network : as in the class
        **parameters
            Values that replace the paper's.
        """
        preset = {"mask": "soft", "loss": "swift", "head_reset": "partial"}
        return cls(network, **{**PUBLISHED, **preset, **parameters})

    def _edit(self, task: Task, rng: np.random.Generator) -> Iterator[Candidate]:
        seeds = np.random.SeedSequence(int(rng.integers(2**63 - 1))).spawn(3)
        plan = Plan.of(task, editor=self, imitates=self._may_imitate(task))
        importance = plan.importance(seeds[0])
        masks = plan.masks(importance, seeds[1])
        attributes = plan.attributes(masks, importance)
        yield Candidate({}, {"stage": "untouched"}, attributes)
        teacher = self._find_teacher(task, rng) if plan.imitates else None
        paths = plan.paths(masks, plan.resets(importance), attributes, teacher, seeds[2])
        yield from run_paths(paths, run_path, self.n_jobs)

    def _count_candidates(self, task: Task) -> int | None:
        if not task.data.has_groups:
            return None  # there is nothing to mask, and a mask may let nothing move
        return 1 + Plan.of(task, editor=self, imitates=self._may_imitate(task)).count_candidates()

    def _may_imitate(self, task: Task) -> bool:
        if self.loss == "penalty":
            return self._imitates(task, self.gap_weight)
        if self.objective == "teacher":
            raise ValueError(
                f"loss={self.loss!r} is a paper's, which objective='teacher' would replace. Use "
                "loss='penalty', or objective='soft_gap'."
            )
        return False


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

    editor: BiasMaskFineTuner
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
                return Entry(
                    as_named(batch_importance(self, layers, at, np.random.default_rng(seed)))
                )
            return Entry(
                as_named(row_importance(self, layers, at, max_memory=self.editor.max_memory))
            )

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
        masks = (
            make_soft_masks(ratio)
            if self.editor.mask == "soft"
            else make_hard_masks(ratio, self.editor.tuned_fraction)
        )
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
        weights = self._searched_weights()
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
            for weight, subtask, child in plain.spread(weights, seed, self.editor.n_jobs)
        ]

    def count_candidates(self) -> int:
        """Count the candidates of all paths, if none ends early."""
        steps = [self._step(name, 0.0) for name in ("impair", "repair")]
        return len(self._searched_weights()) * sum(-(-s.n_steps // s.every) for s in steps)

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

    def _step(self, name: str, weight: float) -> Step:
        editor, first = self.editor, name == "impair"
        share, gap_weight = self._weights(first, weight)
        epochs = editor.impair_epochs if first else editor.repair_epochs
        n_rows, rows = len(self.data.editing), self._rows()
        n_steps = epochs * -(-n_rows // rows)
        if epochs:
            n_steps = max(n_steps, count_steps(editor.min_steps, self.data))
        return Step(
            name=name,
            share=share,
            gap_weight=gap_weight,
            balance=self.constraint.balance if self.ours else "cells",
            learning_rate=editor.learning_rate if first else editor.head_learning_rate,
            n_steps=n_steps,
            every=max(1, n_steps // max(1, epochs)),
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

    def _rows(self) -> int:
        return count_step_rows(self.data) if self.ours else self.data.batch_size

    def _optimizer(self) -> Optimizer:
        editor = self.editor
        return Optimizer(
            name=editor.optimizer,
            momentum=editor.momentum,
            weight_decay=editor.weight_decay,
            rows=self._rows(),
            patience=editor.patience,
        )
