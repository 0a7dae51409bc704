"""Fine-tuning of a trained network under the soft gap between groups."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from numbers import Real
from typing import Any, ClassVar

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
from ..phases import gap_weights, run_paths
from ._gap_path import SCOPES, GapPath, run_path, untouched
from ._group_shift import ShiftPath, run_shift

__all__ = ["GapFineTuner"]

# Few numbers that steer whole units bear larger steps than single weights do. Nothing holds the
# utility in a descent: at the rates of the penalty the first candidate has lost it.
RATES = {
    "penalty": {"all": 1e-3, "head": 1e-2, "spectrum": 1e-2, "bias": 1e-2},
    "descent": {"all": 1e-4, "head": 3e-4, "spectrum": 3e-4, "bias": 3e-4},
}


class GapFineTuner(NetworkEditor):
    """Fine-tune a trained network on its cross-entropy plus a differentiable gap.

    The gap between groups is taken on soft predictions at the operating threshold, the threshold
    at which the network is run, so that it falls together with the gap of the decisions. The
    network keeps its architecture, needs no sensitive attribute to predict, and what the user
    passed in is not changed.

    Parameters
    ----------
    network : None, skorch net, FrozenEstimator(skorch net) or nn.Module, default=None
        None builds and trains a small network; a skorch net is cloned and trained; a frozen net
        or a module is copied and tuned as it is. With a trained network pass rows that it was
        not trained on.
    mode : {"penalty", "descent"}, default="penalty"
        "penalty": cross-entropy plus ``weight`` times the soft gap. "descent": the soft gap alone,
        from the trained weights on; the choice stops it before the utility is lost.
    weight : float or None, default=None
        Weight of the soft gap in "penalty". None: chosen on validation.
    scope : {"all", "head", "spectrum", "bias"}, default="all"
        What moves: every parameter; the layer that makes the logits; the singular values of all
        linear and convolution layers, and their biases; these biases alone.
    learning_rate : float or None, default=None
        Of Adam. None: 1e-3 for "all" and 1e-2 for the other scopes; in "descent" 1e-4 and 3e-4.
    max_steps : int, default=300
        Cap on the steps of each of two phases, ``min(max_steps, max(30, n_rows))``. The second
        one starts from the best of the first at the threshold that fits it, in smaller steps.
    group_shift : {"auto", "always", "never"}, default="auto"
        Try shifts of the output layer along what tells the groups apart in its input, before the
        tuning. "auto": where the network is over-fitted, its balanced accuracy on the editing rows
        more than 0.10 above that on the validation rows, ``scope`` is "all" or "head" and ``mode``
        is "penalty": rows that are memorised show no gap that a loss could follow.
    balance : {"auto", "cells", "classes"} or None, default="auto"
        How the cross-entropy weighs rows: every (label, group) cell alike, every class alike, or
        every row alike. "auto": "cells" where some cell holds less than half the rows that
        independence of label and group would give it, else "classes".
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
        Rows a training step of the base network, and a step of the tuning on images; on tables a
        step of the tuning sees up to four times as many.
    device : str, torch.device or None, default=None
        Where the copy of the network is edited; None: where it is.
    output : {"features", "logits", "probabilities"}, default="features"
        What ``transform`` returns.
    output_key : str, int or None, default=None
        Where the scores are, for a network that returns more than a tensor: a key or attribute
        ("logits" of a transformers model) or a position in a tuple. None: the tensor itself, the
        first element of a tuple.
    memory : None, str, path or joblib.Memory, default=None
        Folder in which trained base networks are kept, so that a later fit that depends on the
        same ones does not train them again. Entries are checked when they are read. Needs an
        integer ``random_state``.
    precision : {"full", "mixed"}, default="full"
        "mixed" computes losses under ``torch.autocast`` in bfloat16, and sums in
        float32; candidates are judged, and predictions made, in full.
    on_interrupt : {"raise", "keep"}, default="raise"
        What an interrupt (Ctrl-C) does to a fit: "raise" leaves the estimator as it was; "keep",
        once candidates are being made, ends the search there and keeps the best so far.
    n_jobs : int or None, default=None
        Parallel weights; does not change the result.
    verbose : int, default=0
        1 shows a progress bar.
    random_state : int, RandomState or None, default=None
        Seed of everything drawn.

    Attributes
    ----------
    weight_ : float or None
        The weight of the chosen candidate; None where the untouched network or a shift was chosen.
    balance_ : {"cells", "classes"} or None
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        See :class:`NetworkEditor`.

    See Also
    --------
    BiasMaskFineTuner : Moves a part of the weights only.
    FairLRFTransformer : Removes entries of the weights' singular vectors.

    Notes
    -----
    "descent" follows bias gradient descent/ascent of Marcinkevics et al. (arXiv:2208.00781).
    Deviations: the gap is the unsigned soft one of ``constraint``, for any number of groups and
    classes, so that descent is right whatever the sign of the bias; candidates are chosen by the
    objective that all editors share, with the untouched network among them, instead of the
    smallest bias above a floor of utility; steps are larger and fewer. Penalties of this form are
    older than deep networks; the loss at the operating threshold, cell-stratified batches and
    the two phases are ours. Without sensitive features plain fine-tuning runs in either mode.

    A shift adds a multiple of a ridge regression of the group on the output layer's input to the
    weights of a class; multiples up to one standard deviation of the logits are tried for one
    group and class after the other. It is left out where the last layer is no ``nn.Linear``, or
    where there are more than 24 pairs of group and class.

    Examples
    --------
    >>> from fairsvd import GapFineTuner
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(800, random_state=0)
    >>> tuner = GapFineTuner(weight=1.0, max_steps=60, tolerance=0.1, random_state=0)
    >>> tuner = tuner.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> tuner.predict(data.data).shape
    (800,)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **SHARED_CONSTRAINTS,
        "mode": [StrOptions({"penalty", "descent"})],
        "weight": [Interval(Real, 0, None, closed="left"), None],
        "scope": [StrOptions(set(SCOPES))],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), None],
        "max_steps": [positive_int()],
        "group_shift": [StrOptions({"auto", "always", "never"})],
        "balance": [StrOptions({"auto", "cells", "classes"}), None],
    }

    def __init__(
        self,
        network: Any = None,
        *,
        mode: str = "penalty",
        weight: float | None = None,
        scope: str = "all",
        learning_rate: float | None = None,
        max_steps: int = 300,
        group_shift: str = "auto",
        balance: str | None = "auto",
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
        n_jobs: int | None = None,
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.network = network
        self.mode = mode
        self.weight = weight
        self.scope = scope
        self.learning_rate = learning_rate
        self.max_steps = max_steps
        self.group_shift = group_shift
        self.balance = balance
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
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.random_state = random_state

    def _edit(
        self, module: nn.Module, data: EditData, constraint: Constraint, rng: np.random.Generator
    ) -> Iterator[Candidate]:
        shared = {"balance_": constraint.balance}
        none = {**shared, "weight_": None}
        yield Candidate({}, {"stage": "untouched"}, none)
        if self._shifts(data):
            yield from run_shift(ShiftPath(module, data, none))
        yield from run_paths(self._paths(module, data, constraint, rng), run_path, self.n_jobs)

    def _shifts(self, data: EditData) -> bool:
        if self.group_shift != "auto":
            return self.group_shift == "always"
        return data.judge.separate and self.mode == "penalty" and self.scope in ("all", "head")

    def _paths(
        self, module: nn.Module, data: EditData, constraint: Constraint, rng: np.random.Generator
    ) -> list[GapPath]:
        weights, share = self._weights(data)
        mode = "penalty" if share else "descent"
        rate = RATES[mode][self.scope] if self.learning_rate is None else self.learning_rate
        seeds = np.random.SeedSequence(int(rng.integers(2**63 - 1))).spawn(len(weights))
        start = untouched(module, data.output_layer, self.scope)
        return [
            GapPath(
                # Parallel tasks must not share a module.
                module=copy.deepcopy(module),
                data=data,
                constraint=constraint,
                tradeoff=weight,
                n_steps=min(self.max_steps, max(30, len(data.editing))),
                seed=seed,
                attributes={"balance_": constraint.balance, "weight_": weight},
                start=start,
                share=share,
                rate=float(rate),
            )
            for weight, seed in zip(weights, seeds, strict=True)
        ]

    def _weights(self, data: EditData) -> tuple[tuple[float, ...], float]:
        """Weights of the soft gap to try, and the weight of the cross-entropy beside it."""
        if self.mode == "descent" and data.has_groups:
            return (1.0,), 0.0
        return gap_weights(data, self.weight), 1.0
