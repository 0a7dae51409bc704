"""Adversarial debiasing: the network unlearns what lets an adversary guess the group."""

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
from ..phases import run_paths
from ._debiasing_path import DebiasingPath, run_debiasing

__all__ = ["AdversarialDebiasing"]

# Below 1 an over-fitted network hardly moves; at 10 the labels still count.
ALPHAS = (1.0, 3.0, 10.0)


class AdversarialDebiasing(NetworkEditor):
    """Tune a network against an adversary that guesses the group from its predictions.

    On every batch a small adversary learns to guess the group of a row, and the network is moved
    along the gradient of its own loss, less the part that would help the adversary, away from
    what helps it. The network keeps its architecture, needs no sensitive attribute to predict,
    and what the user passed in is not changed.

    Parameters
    ----------
    network : None, skorch net, FrozenEstimator(skorch net) or nn.Module, default=None
        None builds and trains a small network; a skorch net is cloned and trained; a frozen net
        or a module is copied and edited as it is. With a trained network pass rows that it was
        not trained on.
    alpha : float or None, default=None
        Weight of the step away from the adversary. None: searched on validation. 0: the
        projection alone.
    max_steps : int, default=300
        Updates of the network: ``min(max_steps, max(30, n_rows))``; each tenth leaves a
        candidate.
    learning_rate : float, default=3e-4
        Of the network.
    adversary_steps : int, default=3
        Updates of the adversary for each of the network.
    adversary_learning_rate : float, default=0.1
        Of the adversary.
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
        Rows a training step of the base network, and a step of the tuning; on tables up to four
        times as many.
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
        Parallel alphas; does not change the result.
    verbose : int, default=0
        1 shows a progress bar.
    random_state : int, RandomState or None, default=None
        Seed of everything drawn.

    Attributes
    ----------
    balance_ : {"cells", "classes"} or None
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        See :class:`NetworkEditor`; ``history_`` has ten rows for each alpha, with the adversary's
        mean loss since the row before (``adversary_loss``) and that of an adversary that does not
        look at the predictions (``blind_loss``).

    See Also
    --------
    AdversarialFineTuner : A critic that predicts the bias of a batch.
    BiasMaskFineTuner : Penalises the soft gap itself.

    Notes
    -----
    The method of arXiv:1801.07593, from a trained network on. With g the gradient of the
    balanced cross-entropy and h that of the adversary's loss, the update is ``g - proj_h g -
    alpha h``. It is taken for each parameter tensor on its own, where the paper has all weights
    as one vector, so that no tensor's update helps the adversary to first order. It is handed to
    Adam, whose steps are no longer exactly orthogonal to h.

    The adversary is linear, as in the paper: a softmax over the groups, on ``softmax((1 + |c|)
    logits)`` at the operating threshold, ``c`` being learned. For equalized and average odds it
    knows the label: each class has its own coefficients and, other than in the paper, its own
    intercept, without which it would follow what the label alone tells about the group. For equal
    opportunity it sees the rows of the positive class only, or with several classes of each row
    the probability of its own class; for accuracy parity that probability without the class; for
    demographic parity the probabilities alone. Rows count by the true shares of their cells.
    It learns for 30 steps before the network moves, and three times on every batch.
    Without sensitive features there is no adversary: plain fine-tuning.

    Examples
    --------
    >>> from fairsvd import AdversarialDebiasing
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(800, random_state=0)
    >>> tuner = AdversarialDebiasing(alpha=1.0, tolerance=0.1, random_state=0)
    >>> tuner = tuner.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> len(tuner.history_)
    11
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **SHARED_CONSTRAINTS,
        "alpha": [Interval(Real, 0, None, closed="left"), None],
        "max_steps": [positive_int()],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "adversary_steps": [positive_int()],
        "adversary_learning_rate": [Interval(Real, 0, None, closed="neither")],
        "balance": [StrOptions({"auto", "cells", "classes"}), None],
    }

    def __init__(
        self,
        network: Any = None,
        *,
        alpha: float | None = None,
        max_steps: int = 300,
        learning_rate: float = 3e-4,
        adversary_steps: int = 3,
        adversary_learning_rate: float = 0.1,
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
        self.alpha = alpha
        self.max_steps = max_steps
        self.learning_rate = learning_rate
        self.adversary_steps = adversary_steps
        self.adversary_learning_rate = adversary_learning_rate
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
        attributes = {"balance_": constraint.balance}
        yield Candidate({}, {"stage": "untouched"}, attributes)
        alphas = self._alphas(data)
        seeds = np.random.SeedSequence(int(rng.integers(2**63 - 1))).spawn(len(alphas))
        paths = [
            DebiasingPath(
                # Parallel tasks must not share a module.
                module=copy.deepcopy(module),
                data=data,
                constraint=constraint,
                alpha=alpha,
                n_steps=min(self.max_steps, max(30, len(data.editing))),
                learning_rate=self.learning_rate,
                adversary_steps=self.adversary_steps,
                adversary_learning_rate=self.adversary_learning_rate,
                attributes=attributes,
                seed=seed,
            )
            for alpha, seed in zip(alphas, seeds, strict=True)
        ]
        yield from run_paths(paths, run_debiasing, self.n_jobs)

    def _alphas(self, data: EditData) -> tuple[float, ...]:
        if not data.has_groups:
            return (0.0,)
        return ALPHAS if self.alpha is None else (float(self.alpha),)
