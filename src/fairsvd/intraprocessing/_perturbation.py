"""Random perturbation: noisy copies of a trained network, the best of which is chosen."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from torch import nn

from ..base import SHARED_CONSTRAINTS, Candidate, EditData, Interval, NetworkEditor, positive_int
from ..objective import Constraint, PhiObjective
from ..phases import run_paths
from ._perturb_trials import Trials, can_stack, run_trials, task_copy

__all__ = ["RandomPerturbation"]

# Trials of one task. A constant, so that what is stacked does not depend on the number of jobs.
TRIALS_A_TASK = 16


class RandomPerturbation(NetworkEditor):
    """Multiply all parameters of a trained network by random numbers near 1, many times.

    Of ``n_trials`` noisy networks and the untouched one that is chosen which has the highest
    utility under the limit on the gap, each at its own threshold. It needs no gradient, and takes
    any network and any utility; much of what it achieves is the threshold's. The network keeps
    its architecture, needs no sensitive attribute to predict, and what the user passed in is not
    changed.

    Parameters
    ----------
    network : None, skorch net, FrozenEstimator(skorch net) or nn.Module, default=None
        None builds and trains a small network; a skorch net is cloned and trained; a frozen net
        or a module is copied and edited as it is. With a trained network pass rows that it was
        not trained on.
    n_trials : int, default=101
        Noisy networks that are judged. The first ones stay the same when there are more.
    scale : float, default=0.1
        Standard deviation of the factors around 1.
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
        "mean_and_worst_cell_accuracy" or ``f(y_true, y_pred)`` on class codes. "auto":
        "mean_and_worst_cell_accuracy" where some cell holds less than half the rows that
        independence of label and group would give it, else "balanced_accuracy".
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
        Of losses, of which there are none here: candidates are judged, and predictions made, in
        full.
    on_interrupt : {"raise", "keep"}, default="raise"
        What an interrupt (Ctrl-C) does to a fit: "raise" leaves the estimator as it was; "keep",
        once candidates are being made, ends the search there and keeps the best so far.
    n_jobs : int or None, default=None
        Parallel trials; does not change the result.
    verbose : int, default=0
        1 shows a progress bar.
    random_state : int, RandomState or None, default=None
        Seed of everything drawn.

    Attributes
    ----------
    trial_ : int or None
        Number of the chosen trial, from 1; None where the untouched network was chosen.
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        See :class:`NetworkEditor`; ``history_`` has a row for each trial, at the position of its
        number.

    See Also
    --------
    LayerwiseOptimizer : Searches one tensor at a time, led by what it has seen.
    BiasMaskFineTuner : Follows gradients.

    Notes
    -----
    The first method of arXiv:2006.08564, with its number of trials and scale: ``theta * (1 +
    scale * N(0, 1))``, entry by entry, always from the original parameters, those of normalisation
    layers included; buffers stay, and what is zero stays zero. Deviations: the untouched network
    is among the candidates; every threshold is tried instead of 501 of them; the choice is that of
    every editor, on the rows as they are, instead of the mean of five bootstrap samples of an
    objective that is zero outside the limit.

    Every trial has a generator of its own. Small networks on tables run 16 trials in one pass
    (judged rows times parameters up to 2**24), others one by one; both give equal logits up to
    rounding.

    Examples
    --------
    >>> from fairsvd import RandomPerturbation
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(800, random_state=0)
    >>> editor = RandomPerturbation(n_trials=20, tolerance=0.1, random_state=0)
    >>> editor = editor.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> len(editor.history_)
    21
    >>> editor.predict(data.data).shape
    (800,)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **SHARED_CONSTRAINTS,
        "n_trials": [positive_int()],
        "scale": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        network: Any = None,
        *,
        n_trials: int = 101,
        scale: float = 0.1,
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
        self.n_trials = n_trials
        self.scale = scale
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
        yield Candidate({}, {"stage": "untouched", "trial": 0}, {"trial_": None})
        seeds = np.random.SeedSequence(int(rng.integers(2**63 - 1))).spawn(self.n_trials)
        stacked = can_stack(module, data)
        tasks = [
            Trials(
                module=task_copy(module, self.n_jobs),
                data=data,
                scale=float(self.scale),
                numbers=tuple(range(first + 1, min(first + TRIALS_A_TASK, self.n_trials) + 1)),
                seeds=tuple(seeds[first : first + TRIALS_A_TASK]),
                stacked=stacked,
            )
            for first in range(0, self.n_trials, TRIALS_A_TASK)
        ]
        yield from run_paths(tasks, run_trials, self.n_jobs)
