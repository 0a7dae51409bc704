"""Bias-mask fine-tuning: tune the weights that drive the bias, then the output layer."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral, Real
from re import Pattern
from typing import Any, ClassVar, Self

import numpy as np
from torch import nn

from ..base import (
    SHARED_CONSTRAINTS,
    Candidate,
    EditData,
    Interval,
    NetworkEditor,
    StrOptions,
    positive_int,
)
from ..objective import Constraint, PhiObjective
from ..phases import run_paths
from ._plan import Plan
from ._steps import run_path

__all__ = ["BiasMaskFineTuner"]

# Values of the authors' released code where both papers agree.
PUBLISHED: dict[str, Any] = {
    "keep": 0.5,
    "granularity": "weight",
    "importance": "batch_gradient",
    "bias_weight": 0.1,
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


class BiasMaskFineTuner(NetworkEditor):
    """Bias-mask fine-tuning, following the released code of BMFT and SWiFT.

    A mask marks the weights whose importance for the bias is large beside their importance for
    the prediction. A first step ("impair") tunes only those, a second one ("repair") only the
    layer that makes the logits. :meth:`bmft` and :meth:`swift` have the values of both papers;
    the defaults are ours, chosen by measurement. The network keeps its architecture, needs no
    sensitive attribute to predict, and what the user passed in is not changed.

    Parameters
    ----------
    network : None, skorch net, FrozenEstimator(skorch net) or nn.Module, default=None
        None builds and trains a small network; a skorch net is cloned and trained; a frozen net
        or a module is copied and edited as it is. With a trained network pass rows that it was
        not trained on.
    mask : {"hard", "soft"}, default="hard"
        "hard": the share ``keep`` of largest ratios moves, the rest keeps its bits (BMFT).
        "soft": every update is multiplied by tanh(ratio) (SWiFT).
    keep : float in (0, 1], default=0.5
        Share of all weights of the chosen layers that a hard mask lets move; of all units or
        layers with the other granularities. 1: all of them.
    granularity : {"weight", "unit", "layer"}, default="weight"
        What is masked as one: a weight, an output unit's incoming weights, a layer.
    importance : {"fisher", "batch_gradient", "random"}, default="fisher"
        Mean square of the gradients of batches of ``batch_size`` rows. "fisher": its expectation,
        exact, from every row's own gradient. "batch_gradient": over batches that are drawn, as in
        both papers' code. "random": the first one's ratios dealt out anew within each layer, a
        control.
    rank_by : {"ratio", "bias"}, default="ratio"
        "bias" leaves the importance for the prediction out, a control.
    loss : {"penalty", "bmft", "swift"}, default="penalty"
        With L_p the balanced cross-entropy, L_b the soft gap and w = ``bias_weight``. "penalty":
        L_p + w L_b in both steps, at the operating threshold. "bmft": L_b, then L_p + w L_b.
        "swift": w L_p + (1 - w) L_b, then (1 - w) L_p + w L_b.
    bias_weight : float or None, default=None
        None: searched on validation.
    head_reset : {"zero", "partial", "none"}, default="none"
        What of the output layer is set to zero before the second step: everything (BMFT), the
        entries that drive the bias more than its average entry (SWiFT), nothing.
    layers : {"hidden", "all"}, list of str or re.Pattern, default="hidden"
        Linear, Conv2d and attention layers that the mask covers, named as for
        :class:`FairLRFTransformer`; "hidden" leaves out the one that makes the logits, which the
        second step tunes whole.
    impair_epochs, repair_epochs : int, default=10
        Passes over the rows in either step; 0 leaves the step out.
    min_steps : int, default=300
        A step makes at least ``min(min_steps, max(30, n_rows))`` updates; 0: as many as its
        epochs say.
    learning_rate : float, default=3e-3
        Of the masked weights.
    head_learning_rate : float, default=1e-2
        Of the output layer.
    optimizer : {"adam", "sgd"}, default="adam"
    momentum : float in [0, 1), default=0.9
        Of "sgd".
    weight_decay : float, default=0.0
        Masked like every other part of an update.
    balance : {"auto", "cells", "classes"} or None, default="auto"
        How the cross-entropy of "penalty" weighs rows: every (label, group) cell alike, every
        class alike, or every row alike. "auto": "cells" where some cell holds less than half the
        rows that independence of label and group would give it, else "classes". The papers'
        losses see every cell alike.
    patience : int or None, default=None
        A step ends early after this many candidates, one an epoch, without a better one.
    store_importance : bool, default=False
        Keep ``importance_``.
    constraint : str or PhiObjective, default="equalized_odds"
        The gap: "demographic_parity", "equal_opportunity", "equalized_odds", "average_odds",
        "signed_average_odds" or "accuracy_parity"; or a :class:`PhiObjective`.
    tolerance : float in [0, 1], default=0.05
        The gap that is accepted, a difference of rates.
    tolerance_fraction : float in (0, 1], default=0.4
        A gap beyond this share of the tolerance counts against a candidate, point for point with
        its utility, on the rows it is chosen on; one beyond the tolerance is not feasible.
    utility : str or callable, default="auto"
        "balanced_accuracy", "cell_balanced_accuracy", "accuracy", "worst_cell_accuracy",
        "mean_and_worst_cell_accuracy" or ``f(y_true, y_pred)`` on class codes. "auto": by the rule
        of ``balance``, "mean_and_worst_cell_accuracy" or "balanced_accuracy".
    threshold : "tune" or float in (0, 1), default="tune"
        Probability of ``classes_[1]`` above which it is predicted.
    pos_label : label, default=None
        The class that counts as positive; None: ``classes_[1]``.
    sensitive_columns : str, int or list, default=None
        Names or positions of columns of X, or names of index levels of X or y.
    missing_group : {"raise", "ignore", "own_group"}, default="raise"
        What happens to rows whose group is missing.
    validation : float in (0, 1) or splitter, default=0.25
        Rows on which candidates are chosen: a share of every (label, group) cell, or a splitter
        of exactly one split.
    batch_size : int, default=256
        Rows a training step of the base network, a batch of ``importance="batch_gradient"``, and a
        step of either tuning; on tables, with ``loss="penalty"``, up to four times as many.
    device : str, torch.device or None, default=None
        Where the copy of the network is edited; None: where it is.
    output : {"features", "logits", "probabilities"}, default="features"
        What ``transform`` returns.
    output_key : str, int or None, default=None
        Where the scores are, for a network that returns more than a tensor: a key or attribute
        ("logits" of a transformers model) or a position in a tuple. None: the tensor itself, the
        first element of a tuple.
    memory : None, str, path or joblib.Memory, default=None
        Folder in which trained base networks and importances are kept, so that a later fit that
        depends on the same ones does not compute them again. Entries are checked when they are
        read. Needs an integer ``random_state``.
    precision : {"full", "mixed"}, default="full"
        "mixed" computes losses and importances under ``torch.autocast`` in bfloat16, and sums in
        float32; candidates are judged, and predictions made, in full.
    on_interrupt : {"raise", "keep"}, default="raise"
        What an interrupt (Ctrl-C) does to a fit: "raise" leaves the estimator as it was; "keep",
        once candidates are being made, ends the search there and keeps the best so far.
    max_memory : int, default=2**28
        Limit in bytes of the temporary memory of ``importance="fisher"``.
    n_jobs : int or None, default=None
        Parallel weights of the bias; does not change the result.
    verbose : int, default=0
        1 shows a progress bar.
    random_state : int, RandomState or None, default=None
        Seed of everything drawn.

    Attributes
    ----------
    masks_ : dict of parameter name to Tensor
        What updates are multiplied by, of the weight's shape: boolean for a hard mask, in [0, 1]
        for a soft one.
    masked_fraction_ : dict of layer name to float in [0, 1]
        Mean of each layer's mask: the share of its weights that may move.
    importance_ : dict of parameter name to (bias, prediction)
        Only with ``store_importance=True``; Tensors of the weight's shape, at least 0.
    balance_ : {"cells", "classes"} or None
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        See :class:`NetworkEditor`; ``history_`` has a row for each epoch of both steps.

    See Also
    --------
    FairPruner : Removes weights instead of tuning them.
    FairLRFTransformer : Removes entries of the weights' singular vectors.

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
    Without sensitive features there is no bias loss: hard masks rest on ties, soft ones are zero.

    On the tables it was measured on (``docs/results/masks.md``) a random mask of equal size comes
    out within noise of the measured one, and full fine-tuning with the same loss too: most of what
    the method achieves is the loss at the operating threshold and the choice, not the mask.

    Examples
    --------
    >>> from fairsvd import BiasMaskFineTuner
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(800, random_state=0)
    >>> tuner = BiasMaskFineTuner(bias_weight=1.0, tolerance=0.1, random_state=0)
    >>> tuner = tuner.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> round(
    ...     sum(m.sum().item() for m in tuner.masks_.values())
    ...     / sum(m.numel() for m in tuner.masks_.values()),
    ...     2,
    ... )
    0.5
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **SHARED_CONSTRAINTS,
        "mask": [StrOptions({"hard", "soft"})],
        "keep": [Interval(Real, 0, 1, closed="right")],
        "granularity": [StrOptions({"weight", "unit", "layer"})],
        "importance": [StrOptions({"fisher", "batch_gradient", "random"})],
        "rank_by": [StrOptions({"ratio", "bias"})],
        "loss": [StrOptions({"penalty", "bmft", "swift"})],
        "bias_weight": [Interval(Real, 0, None, closed="left"), None],
        "head_reset": [StrOptions({"zero", "partial", "none"})],
        "layers": [StrOptions({"hidden", "all"}), list, tuple, Pattern],
        "impair_epochs": [Interval(Integral, 0, None, closed="left")],
        "repair_epochs": [Interval(Integral, 0, None, closed="left")],
        "min_steps": [Interval(Integral, 0, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "head_learning_rate": [Interval(Real, 0, None, closed="neither")],
        "optimizer": [StrOptions({"adam", "sgd"})],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "balance": [StrOptions({"auto", "cells", "classes"}), None],
        "patience": [positive_int(), None],
        "store_importance": ["boolean"],
        "max_memory": [positive_int()],
    }

    def __init__(
        self,
        network: Any = None,
        *,
        mask: str = "hard",
        keep: float = 0.5,
        granularity: str = "weight",
        importance: str = "fisher",
        rank_by: str = "ratio",
        loss: str = "penalty",
        bias_weight: float | None = None,
        head_reset: str = "none",
        layers: Any = "hidden",
        impair_epochs: int = 10,
        repair_epochs: int = 10,
        min_steps: int = 300,
        learning_rate: float = 3e-3,
        head_learning_rate: float = 1e-2,
        optimizer: str = "adam",
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        balance: str | None = "auto",
        patience: int | None = None,
        store_importance: bool = False,
        constraint: str | PhiObjective = "equalized_odds",
        tolerance: float = 0.05,
        tolerance_fraction: float = 0.4,
        utility: Any = "auto",
        threshold: Any = "tune",
        pos_label: Any = None,
        sensitive_columns: Any = None,
        missing_group: str = "raise",
        validation: Any = 0.25,
        batch_size: int = 256,
        device: Any = None,
        output: str = "features",
        output_key: str | int | None = None,
        memory: Any = None,
        precision: str = "full",
        on_interrupt: str = "raise",
        max_memory: int = 2**28,
        n_jobs: int | None = None,
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.network = network
        self.mask = mask
        self.keep = keep
        self.granularity = granularity
        self.importance = importance
        self.rank_by = rank_by
        self.loss = loss
        self.bias_weight = bias_weight
        self.head_reset = head_reset
        self.layers = layers
        self.impair_epochs = impair_epochs
        self.repair_epochs = repair_epochs
        self.min_steps = min_steps
        self.learning_rate = learning_rate
        self.head_learning_rate = head_learning_rate
        self.optimizer = optimizer
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.balance = balance
        self.patience = patience
        self.store_importance = store_importance
        self.constraint = constraint
        self.tolerance = tolerance
        self.tolerance_fraction = tolerance_fraction
        self.utility = utility
        self.threshold = threshold
        self.pos_label = pos_label
        self.sensitive_columns = sensitive_columns
        self.missing_group = missing_group
        self.validation = validation
        self.batch_size = batch_size
        self.device = device
        self.output = output
        self.output_key = output_key
        self.memory = memory
        self.precision = precision
        self.on_interrupt = on_interrupt
        self.max_memory = max_memory
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.random_state = random_state

    @classmethod
    def bmft(cls, network: Any = None, **parameters: Any) -> Self:
        """Make an editor with BMFT's values (arXiv:2408.06890, released code).

        Parameters
        ----------
        network : as in the class
        **parameters
            Others than the paper's.
        """
        own = {"mask": "hard", "loss": "bmft", "head_reset": "zero"}
        return cls(network, **{**PUBLISHED, **own, **parameters})

    @classmethod
    def swift(cls, network: Any = None, **parameters: Any) -> Self:
        """Make an editor with SWiFT's values (arXiv:2508.18826, released code, skin images).

        Parameters
        ----------
        network : as in the class
        **parameters
            Others than the paper's.
        """
        own = {"mask": "soft", "loss": "swift", "head_reset": "partial"}
        return cls(network, **{**PUBLISHED, **own, **parameters})

    def _edit(
        self, module: nn.Module, data: EditData, constraint: Constraint, rng: np.random.Generator
    ) -> Iterator[Candidate]:
        seeds = np.random.SeedSequence(int(rng.integers(2**63 - 1))).spawn(3)
        plan = Plan(self, module, data, constraint)
        importance = plan.importance(seeds[0])
        masks = plan.masks(importance, seeds[1])
        attributes = plan.attributes(masks, importance)
        yield Candidate({}, {"stage": "untouched"}, attributes)
        paths = plan.paths(masks, plan.resets(importance), attributes, seeds[2])
        yield from run_paths(paths, run_path, self.n_jobs)
