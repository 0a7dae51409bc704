"""The user's request, resolved to a device and a constraint."""

from __future__ import annotations

import multiprocessing
import re
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone

from .._messages import listed
from ..objective import (
    GAPS,
    UNBALANCED_UTILITY,
    Constraint,
    GapLimit,
    PhiObjective,
    Requirement,
    is_unbalanced,
    on_groups,
)
from ._inputs import FitInputs, check_cells

__all__ = ["as_device", "make_constraint", "positive_code"]

# What methods that follow a gap by its name do where no requirement has such a gap.
FOLLOWED = "equalized_odds"


def as_device(device: Any) -> str | None:
    """Check that a device can be used, and choose one of several GPUs for "cuda".

    In a process that joblib or multiprocessing started, "cuda" is a GPU by the process's number, so
    that the workers of a search spread over them. Elsewhere it is torch's current one.

    Raises
    ------
    ValueError
        It is not a device, or not on this machine.
    """
    if device is None:
        return None
    chosen = str(device)
    if chosen == "cuda":
        chosen = gpu_of_worker(multiprocessing.current_process().name, torch.cuda.device_count())
    try:
        if torch.empty(0, device=chosen).is_meta:
            raise NotImplementedError("it holds no numbers")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device={str(device)!r} cannot be used here ({str(error).splitlines()[0]}). Use "
            "None for where the network already is, or 'cpu'."
        ) from error
    return chosen


def gpu_of_worker(process: str, n_devices: int) -> str:
    """Name the GPU of a process: of "LokyProcess-6" among 4 "cuda:1"; without a number "cuda"."""
    number = re.search(r"-(\d+)$", process)
    if number is None or n_devices < 2:
        return "cuda"
    return f"cuda:{(int(number[1]) - 1) % n_devices}"


def make_constraint(editor: Any, inputs: FitInputs) -> Constraint:
    """Resolve the user's request; "auto" depends on how label and group go together.

    Raises
    ------
    ValueError
        ``pos_label`` is no class; the gap cannot be measured on these cells; a parameter of a
        :class:`PhiObjective` is out of its range, or does not go together with another.
    """
    table = inputs.rows.count_cells(len(inputs.classes), inputs.n_groups).numpy()
    pos = positive_code(editor.pos_label, inputs.classes)
    if inputs.rows.weights is not None:
        _check_weighted(editor)
    phi = _phi_of(editor)
    asked = () if phi is not None else _requirements_of(editor, inputs)
    if phi is not None:
        name = phi.measure
    elif asked:
        name = next((each.guide for each in asked if each.guide is not None), FOLLOWED)
    else:
        name = editor.constraint
    unbalanced = inputs.has_groups and is_unbalanced(table)
    utility, balance = editor.utility, editor._loss_balance()
    if isinstance(utility, str) and utility == "auto":
        by_cell = unbalanced and phi is None
        utility = UNBALANCED_UTILITY if by_cell else "balanced_accuracy"
    if balance == "auto":
        balance = "cells" if unbalanced else "classes"
    threshold = None if editor.threshold == "tune" else float(editor.threshold)
    tolerance = float(editor.tolerance if phi is None else phi.epsilon)
    # Of the first requirement's own unit, and no larger than the smallest accepted gap.
    unit = min([tolerance, *(each.limit for each in asked if each.limit > 0)])
    constraint = Constraint(
        gap=name,
        tolerance=asked[0].limit if asked else tolerance,
        fraction=float(editor.tolerance_fraction if phi is None else phi.limit / phi.epsilon),
        utility=utility,
        threshold=threshold,
        pos=pos,
        balance=balance,
        phi=phi,
        requirements=asked,
        unit=unit if asked else 0.0,
        confidence=_confidence_of(editor, phi, inputs.has_groups),
    )
    if inputs.has_groups:
        check_cells(table, inputs, name, pos, constraint.divisions)
    return constraint


def _requirements_of(editor: Any, inputs: FitInputs) -> tuple[Requirement, ...]:
    """Read ``constraint=``; nothing if it is a plain gap, which the judge knows by its name."""
    given = editor.constraint
    if isinstance(given, str) and given in GAPS:
        return ()
    entries = list(given) if isinstance(given, (list, tuple)) else [given]
    if not entries:
        raise ValueError("constraint=[] asks for nothing: name a gap, or list requirements.")
    found = []
    for each in entries:
        if isinstance(each, str):
            each = GapLimit(each, editor.tolerance)
        if not isinstance(each, Requirement):
            raise ValueError(
                f"constraint holds {each!r}: wanted names of gaps, GapLimit, RatioLimit, "
                "MinimumRate, NoHarm, CountLimit or EachAttribute."
            )
        each.check()
        found.append(each)
    return on_groups(found, inputs.division, editor.tolerance)


def _confidence_of(editor: Any, phi: PhiObjective | None, has_groups: bool) -> float | None:
    if editor.confidence is None:
        return None
    if not has_groups:
        raise ValueError(
            f"confidence={editor.confidence!r} promises something of groups, and the rows of fit "
            "have none: pass sensitive_features=, or confidence=None."
        )
    if phi is not None:
        raise ValueError(
            f"confidence={editor.confidence!r} cannot be promised of a PhiObjective, whose rule is "
            "that of its paper: use the name of a gap, or confidence=None."
        )
    return float(editor.confidence)


def _check_weighted(editor: Any) -> None:
    """Refuse what cannot be computed, or promised, of weighted rows.

    Raises
    ------
    ValueError
    """
    if callable(editor.utility):
        raise ValueError(
            f"utility={editor.utility!r} gets labels and predictions, not their weights: with "
            "sample_weight pass the name of a utility, or 'auto'."
        )
    if editor.confidence is not None:
        raise ValueError(
            f"confidence={editor.confidence!r} promises by the binomial distribution of counted "
            "rows, which sums of weights do not have: pass confidence=None, or no sample_weight."
        )


def _phi_of(editor: Any) -> PhiObjective | None:
    if not isinstance(editor.constraint, PhiObjective):
        return None
    editor.constraint.check()
    if callable(editor.utility):
        raise ValueError(
            f"utility={editor.utility!r} cannot be averaged over the resamples of a PhiObjective: "
            "pass the name of a utility, or 'auto' for balanced accuracy."
        )
    # A copy, so that later changes by the user do not affect this fit.
    return clone(editor.constraint)


def positive_code(pos_label: Any, classes: NDArray[Any]) -> int:
    """Find the code of the positive class; None means the second.

    Raises
    ------
    ValueError
        ``pos_label`` is no class.
    """
    if pos_label is None:
        return 1
    positions = np.flatnonzero(classes == pos_label)
    if len(positions) != 1:
        raise ValueError(
            f"pos_label={pos_label!r} is none of the classes "
            f"[{listed(classes.tolist(), show=repr)}]; pass one of "
            "them, or None for the second."
        )
    return int(positions[0])
