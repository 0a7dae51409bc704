"""Bias-mask fine-tuning: tune the weights that drive the bias, then the output layer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from re import Pattern
from typing import Any, Self

import numpy as np

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
from ..phases import TuningEditor, run_paths
from ._bias_plan import Plan
from ._steps import run_path

__all__ = ["BiasMaskFineTuner"]

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
    "max_epochs": math.inf,
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
        need. If that is more than ``max_epochs`` allows, the budget says how many there are.
    learning_rate : float or None, default=None
        Learning rate of the masked weights. None: 3e-3, and 3e-4 under a budget.
    head_learning_rate : float or None, default=None
        Learning rate of the output layer. None: 1e-2, and 1e-3 under a budget.
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
    learning_rate: float | None = parameter(positive(), None, default=None)
    head_learning_rate: float | None = parameter(positive(), None, default=None)
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
        brief = plan.cut is not None
        yield self._first_candidate(task, {}, attributes, imitates=plan.imitates or not brief)
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
