"""The parameters that all editors share, written once for code and docs."""

from __future__ import annotations

from numbers import Integral
from os import PathLike
from typing import Any

import torch
from joblib import Memory

from ..metrics import CALIBRATIONS
from ..objective import GAPS, STATISTICS, UTILITIES, PhiObjective, Requirement
from ._parameters import (
    Splitter,
    StrOptions,
    confidence_level,
    fraction,
    negative_int,
    parameter,
    positive_int,
    with_parameters,
)

__all__ = ["OUTPUTS", "SharedParameters"]

# What transform may return.
OUTPUTS = ("features", "logits", "probabilities")


@with_parameters
class SharedParameters:
    """Parameters of every editor.

    Parameters
    ----------
    network : None, skorch net, FrozenEstimator(skorch net) or nn.Module, default=None
        None builds and trains a small network; a skorch net is cloned and trained; a frozen net
        or a module is copied and edited as it is. With a trained network pass rows that it was
        not trained on.
    constraint : str, requirement, list of these or PhiObjective, default="equalized_odds"
        The gap: "demographic_parity", "equal_opportunity", "equalized_odds", "average_odds",
        "signed_average_odds" or "accuracy_parity", or a statistic of :class:`GapLimit`; a
        :class:`GapLimit`, :class:`RatioLimit`, :class:`MinimumRate`, :class:`NoHarm` or
        :class:`CountLimit`, of several attributes alone in an :class:`EachAttribute`; a list of
        these, all of which are to be met; or a :class:`PhiObjective`.
    tolerance : float in [0, 1], default=0.05
        The accepted gap, a difference of rates, where ``constraint`` names a gap.
    confidence : float in [0.5, 1) or None, default=None
        With a confidence, half of the validation rows are kept out of every choice, and a candidate
        is feasible if a bound that holds with this confidence meets the constraint on them: see
        ``report_.certificate``. None: the measured gap decides.
    tolerance_fraction : float in (0, 1], default=0.4
        On the rows of the choice, the part of a gap beyond this share of the tolerance is
        subtracted from a candidate's utility; a gap beyond the tolerance is not feasible.
    utility : str or callable, default="auto"
        "balanced_accuracy", "cell_balanced_accuracy", "accuracy", "worst_cell_accuracy",
        "mean_and_worst_cell_accuracy" or ``f(y_true, y_pred)`` on class codes. "auto":
        "mean_and_worst_cell_accuracy" where some (label, group) cell holds less than half the rows
        that independence of label and group would give it, else "balanced_accuracy".
    threshold : "tune" or float in (0, 1), default="tune"
        Probability of ``classes_[1]`` above which it is predicted.
    shift_probabilities : bool, default=True
        Whether ``predict_proba`` is shifted so that its largest entry is the prediction. False: it
        is what the edited network gives, and ``predict`` compares it with ``threshold_``, as
        scikit-learn's FixedThresholdClassifier does. ``report_.measures`` has the calibration of
        either, before and after the edit.
    calibrate : {"temperature", "isotonic"} or None, default=None
        Map the probabilities of ``predict_proba`` so that they fit the labels of the validation
        rows: by one factor of the logits, or by an isotonic regression (two classes; it wants
        about a thousand rows). The map is one for all groups and strictly monotone, so that
        ``predict`` and the order of rows stay, and it maps ``threshold_`` too; ``threshold`` and
        ``history_`` are of the network's own probabilities. ``report_.measures`` has what a map
        that was fitted on other folds gives. Needs ``shift_probabilities=False``.
    pos_label : label, default=None
        The class that counts as positive; None: ``classes_[1]``.
    sensitive_columns : str, int or list, default=None
        Names or positions of columns of X, or names of index levels of X or y.
    missing_group : {"raise", "ignore", "keep", "own_group"}, default="raise"
        What happens to rows whose group is missing: an error; they are left out; they are kept for
        what needs no group (see the guide on partly known groups); or they are a group "missing".
    flip_rate : float in [0, 1) or None, default=None
        For groups that are a proxy, or a record with errors: the share of the rows of every group
        and label that may belong to another group. The report then says so, and what the gaps
        between the true groups may be; the edit does not change. See
        :func:`fairsvd.metrics.noisy_gap`.
    validation : float in (0, 1) or splitter, default=0.25
        Rows on which candidates are chosen: a share of every (label, group) cell, or a splitter
        of exactly one split.
    batch_size : int, default=256
        Rows of a training step of the base network and of a step of an edit; on tables a step of an
        edit uses up to four times as many. No step uses more rows than there are to edit on.
    micro_batch_size : int or None, default=None
        For networks whose activations of a whole step do not fit into memory: at most so many rows
        pass at once, and pass again on the way back (activation checkpointing), so that a step
        takes about a third longer. Gradients are those of the whole step up to rounding, the gap
        of all its rows included, which a smaller ``batch_size`` would measure on fewer. It holds
        for the steps of the edit, not for a training of the base network or a teacher, nor for
        steps that need features or gradients of the rows. None: all rows at once.
    device : str, torch.device or None, default=None
        Where the copy of the network is edited; None: on the network's own device.
    output : {"features", "logits", "probabilities"}, default="features"
        What ``transform`` returns.
    output_key : str, int or None, default=None
        Where the scores are, for a network that returns more than a tensor: a key or attribute
        ("logits" of a transformers model) or a position in a tuple. None: the tensor itself, the
        first element of a tuple.
    output_kind : {"auto", "logits", "probabilities"}, default="auto"
        What the scores are. "auto": the criterion of a skorch net says, or the last operation of
        the network (a linear layer, a sigmoid or softmax), or else the values on some rows:
        probabilities are in [0, 1]. ``report_.notes`` say what was taken, and a warning where it is
        not certain. Columns of probabilities that do not add up to 1 are divided by their sum.
    memory : None, str, path or joblib.Memory, default=None
        Folder that keeps trained base networks and what an edit measures on them (factors,
        curvature, importances, learned masks), so that a later fit that needs the same results does
        not compute them again. Entries are checked when they are read, and never run code; the
        environment variable ``FAIRSVD_MEMORY_KEY`` keeps out those of others. Of a joblib.Memory
        only the location is used. Needs an integer ``random_state``.
    precision : {"full", "mixed", "mixed_float16"}, default="full"
        "mixed" computes losses, curvature and importances under ``torch.autocast`` in bfloat16, and
        sums in float32; judging and predictions use full precision. "mixed_float16" is for GPUs
        that are slow in bfloat16 (V100, T4): losses in float16 with scaled gradients, and the rest
        in full.
    on_interrupt : {"raise", "keep"}, default="raise"
        What an interrupt (Ctrl-C) does to a fit: "raise" leaves the estimator as it was; "keep"
        ends the search, once candidates are being made, and keeps the best so far.
    n_jobs : int or None, default=None
        Parts of an edit (trade-offs, trials, tensors) that run in parallel; does not change the
        result.
    verbose : int, default=0
        1 shows on stderr how many candidates are done, the time left, the stage, and the utility
        and gap of the best so far: as a bar, or as lines if stderr is no terminal.
    random_state : int, RandomState or None, default=None
        Seed of all random draws.
    """

    # adopt() checks the network and says what it may be.
    network: Any = parameter(default=None, kw_only=False)
    constraint: Any = parameter(
        StrOptions({*GAPS, *STATISTICS}),
        PhiObjective,
        Requirement,
        list,
        tuple,
        default="equalized_odds",
    )
    tolerance: float = parameter(fraction(), default=0.05)
    confidence: float | None = parameter(confidence_level(), None, default=None)
    tolerance_fraction: float = parameter(fraction(closed="right"), default=0.4)
    utility: Any = parameter(StrOptions({"auto", *UTILITIES}), callable, default="auto")
    threshold: Any = parameter(StrOptions({"tune"}), fraction(closed="neither"), default="tune")
    shift_probabilities: bool = parameter("boolean", default=True)
    calibrate: str | None = parameter(StrOptions(set(CALIBRATIONS)), None, default=None)
    pos_label: Any = parameter(default=None)
    sensitive_columns: Any = parameter(str, Integral, list, tuple, None, default=None)
    missing_group: str = parameter(
        StrOptions({"raise", "ignore", "keep", "own_group"}), default="raise"
    )
    flip_rate: float | None = parameter(fraction(closed="left"), None, default=None)
    validation: Any = parameter(fraction(closed="neither"), Splitter(), default=0.25)
    batch_size: int = parameter(positive_int(), default=256)
    micro_batch_size: int | None = parameter(positive_int(), None, default=None)
    device: Any = parameter(str, torch.device, None, default=None)
    output: str = parameter(StrOptions(set(OUTPUTS)), default="features")
    output_key: str | int | None = parameter(str, Integral, None, default=None)
    output_kind: str = parameter(StrOptions({"auto", "logits", "probabilities"}), default="auto")
    memory: Any = parameter(str, PathLike, Memory, None, default=None)
    precision: str = parameter(StrOptions({"full", "mixed", "mixed_float16"}), default="full")
    on_interrupt: str = parameter(StrOptions({"raise", "keep"}), default="raise")
    n_jobs: int | None = parameter(positive_int(), negative_int(), None, default=None)
    verbose: int = parameter("verbose", default=0)
    random_state: Any = parameter("random_state", default=None)
