"""Adversarial fine-tuning: a critic learns what bias a batch has, the network to lower it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from numbers import Real
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
from ._adversarial_path import Budget, DuelPath, run_duel

__all__ = ["AdversarialFineTuner"]

# Around the paper's 20 for images; its 0.75 for tables hardly moved a gap.
BIAS_WEIGHTS = (5.0, 20.0, 100.0)

# Savani et al., code for tables; lambda is missing there and taken from the first version.
PUBLISHED: dict[str, Any] = {
    "n_epochs": 32,
    "critic_steps": 201,
    "actor_steps": 301,
    "critic_rows": 64,
    "bias_weight": 0.75,
    "margin": 0.02,
    "tolerance": 0.05,
    "learning_rate": 1e-4,
    "critic_learning_rate": 1e-3,
    "critic_width": 32,
}


class AdversarialFineTuner(NetworkEditor):
    """Learn to predict the bias of a batch, and tune the network against the prediction.

    In turns, a critic learns to tell the signed bias of a batch from what enters the network's
    output layer, and the network is tuned with a cross-entropy that weighs the more, the larger a
    bias the critic sees. The gradient runs through the critic into all hidden layers. The network
    keeps its architecture, needs no sensitive attribute to predict, and what the user passed in
    is not changed. :meth:`paper` has the paper's values; the defaults are ours, chosen by
    measurement.

    Parameters
    ----------
    network : None, skorch net, FrozenEstimator(skorch net) or nn.Module, default=None
        None builds and trains a small network; a skorch net is cloned and trained; a frozen net
        or a module is copied and edited as it is. With a trained network pass rows that it was
        not trained on.
    n_epochs : int, default=10
        Turns of critic and network, each of which leaves a candidate.
    critic_steps, actor_steps : int, default=50
        Updates of the critic and of the network in an epoch; at most as many as there are rows.
    critic_rows : int, default=64
        Rows a batch, of critic and network: the critic reads all of them side by side. Rounded
        down to a multiple of the number of (label, group) cells.
    bias_weight : float or None, default=None
        Lambda, by which the cross-entropy's weight rises with the predicted bias. None: searched
        on validation.
    margin : float in [0, 1], default=0.02
        The weight rises from a predicted bias of ``tolerance - margin`` on.
    learning_rate : float, default=1e-3
        Of the network.
    critic_learning_rate : float, default=3e-4
        Of the critic.
    critic_width : int, default=32
        Of the critic's hidden layers.
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
        Rows a training step of the base network.
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
        same one does not train it again. Entries are checked when they are read. Needs an integer
        ``random_state``.
    precision : {"full", "mixed"}, default="full"
        "mixed" runs the network of the losses under ``torch.autocast`` in bfloat16; candidates are
        judged, and predictions made, in full.
    on_interrupt : {"raise", "keep"}, default="raise"
        What an interrupt (Ctrl-C) does to a fit: "raise" leaves the estimator as it was; "keep",
        once candidates are being made, ends the search there and keeps the best so far.
    n_jobs : int or None, default=None
        Parallel weights of the bias; does not change the result.
    verbose : int, default=0
        1 shows a progress bar.
    random_state : int, RandomState or None, default=None
        Seed of everything drawn.

    Attributes
    ----------
    balance_ : {"cells", "classes"} or None
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        See :class:`NetworkEditor`; ``history_`` has a row for each epoch, with the critic's mean
        squared error on batches it has not seen (``critic_loss``, dropout off), the variance of
        what it predicts (``target_variance``: what a constant would reach) and the mean weight of
        the cross-entropy (``multiplier``).

    See Also
    --------
    AdversarialDebiasing : An adversary that guesses the group of a row.
    BiasMaskFineTuner : Penalises the soft gap itself.

    Notes
    -----
    The third method of arXiv:2006.08564, with its critic (three hidden layers, dropout 0.2) and
    its loss ``max(1, bias_weight (|g| - tolerance + margin) + 1)`` times cross-entropy. Its code
    for tables leaves dropout and batch statistics on when it chooses, and that for images does not
    start from the given network; here everything but the critic's own learning is in evaluation
    mode, and tuning starts from the given weights. Further deviations: every batch holds every
    cell (weights put the shares right), its rows in the order of the cells; biases are measured at
    the operating threshold, on probabilities sharpened four times; the cross-entropy is balanced
    and taken there too; features are standardised; the untouched network is a candidate, as is
    every epoch, and the core chooses among them.

    The critic predicts a signed difference for every rate that the constraint compares: between
    the two groups, or between each of several groups and all others together; with several
    classes, for each of them. ``|g|`` is the largest over groups and rates (average odds: the mean
    over rates), averaged over classes; what a batch cannot measure is left out. The output layer's
    own parameters lie behind the features, so that only the cross-entropy moves them.
    Without sensitive features there is no critic: plain fine-tuning.

    Examples
    --------
    >>> from fairsvd import AdversarialFineTuner
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(800, random_state=0)
    >>> tuner = AdversarialFineTuner(n_epochs=3, bias_weight=20.0, tolerance=0.1, random_state=0)
    >>> tuner = tuner.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> len(tuner.history_)
    4
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **SHARED_CONSTRAINTS,
        "n_epochs": [positive_int()],
        "critic_steps": [positive_int()],
        "actor_steps": [positive_int()],
        "critic_rows": [positive_int()],
        "bias_weight": [Interval(Real, 0, None, closed="left"), None],
        "margin": [Interval(Real, 0, 1, closed="both")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "critic_learning_rate": [Interval(Real, 0, None, closed="neither")],
        "critic_width": [positive_int()],
        "balance": [StrOptions({"auto", "cells", "classes"}), None],
    }

    def __init__(
        self,
        network: Any = None,
        *,
        n_epochs: int = 10,
        critic_steps: int = 50,
        actor_steps: int = 50,
        critic_rows: int = 64,
        bias_weight: float | None = None,
        margin: float = 0.02,
        learning_rate: float = 1e-3,
        critic_learning_rate: float = 3e-4,
        critic_width: int = 32,
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
        self.n_epochs = n_epochs
        self.critic_steps = critic_steps
        self.actor_steps = actor_steps
        self.critic_rows = critic_rows
        self.bias_weight = bias_weight
        self.margin = margin
        self.learning_rate = learning_rate
        self.critic_learning_rate = critic_learning_rate
        self.critic_width = critic_width
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

    @classmethod
    def paper(cls, network: Any = None, **parameters: Any) -> Self:
        """Make an editor with the paper's values for tables (arXiv:2006.08564, released code).

        Parameters
        ----------
        network : as in the class
        **parameters
            Others than the paper's.
        """
        return cls(network, **{**PUBLISHED, **parameters})

    def _edit(
        self, module: nn.Module, data: EditData, constraint: Constraint, rng: np.random.Generator
    ) -> Iterator[Candidate]:
        attributes = {"balance_": constraint.balance}
        yield Candidate({}, {"stage": "untouched"}, attributes)
        weights = self._bias_weights(data)
        seeds = np.random.SeedSequence(int(rng.integers(2**63 - 1))).spawn(len(weights))
        paths = [
            DuelPath(
                # Parallel tasks must not share a module.
                module=copy.deepcopy(module),
                data=data,
                constraint=constraint,
                bias_weight=weight,
                allowed=constraint.tolerance - self.margin,
                budget=self._budget(len(data.editing)),
                attributes=attributes,
                seed=seed,
            )
            for weight, seed in zip(weights, seeds, strict=True)
        ]
        yield from run_paths(paths, run_duel, self.n_jobs)

    def _bias_weights(self, data: EditData) -> tuple[float, ...]:
        if not data.has_groups:
            return (0.0,)
        if self.bias_weight is None:
            return BIAS_WEIGHTS
        return (float(self.bias_weight),)

    def _budget(self, n_rows: int) -> Budget:
        return Budget(
            n_epochs=self.n_epochs,
            critic_steps=min(self.critic_steps, n_rows),
            actor_steps=min(self.actor_steps, n_rows),
            rows=self.critic_rows,
            learning_rate=self.learning_rate,
            critic_learning_rate=self.critic_learning_rate,
            critic_width=self.critic_width,
        )
