"""From parameters and inputs to what an edit works on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._rng import stage_rng
from ..groups import cell_codes
from ..networks import AdoptedNetwork, fast_logits, probe_rows, raw_output, to_logits
from ..objective import Constraint, Judge, count_table, is_unbalanced, utility_from_counts
from ._candidates import EditData
from ._inputs import FitInputs, check_cells
from ._split import draw_sample, split_rows

__all__ = ["Parts", "as_device", "excess_fit", "make_constraint", "make_data", "make_parts"]

# Editing rows that candidates are judged on beside the validation rows.
SAMPLE_SIZE = 4000

# Lead in balanced accuracy of the editing over the validation rows from which the network counts
# as over-fitted.
OVERFIT = 0.10


@dataclass(frozen=True)
class Parts:
    """Row numbers of the editing rows, of validation, and of the sample of editing rows."""

    editing: NDArray[np.int64]
    validation: NDArray[np.int64]
    sample: NDArray[np.int64]
    notes: tuple[str, ...] = ()


def as_device(device: Any) -> str | None:
    """Check that a device is there.

    Raises
    ------
    ValueError
        It is not a device, or not on this machine.
    """
    if device is None:
        return None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device={str(device)!r} cannot be used here ({str(error).splitlines()[0]}). Use "
            "None for where the network already is, or 'cpu'."
        ) from error
    return str(device)


def _table(inputs: FitInputs) -> NDArray[np.int64]:
    known = inputs.rows.groups.numpy() >= 0
    y, groups = inputs.rows.y.numpy()[known], inputs.rows.groups.numpy()[known]
    cells = cell_codes(y, groups, inputs.n_groups)
    size = len(inputs.classes) * inputs.n_groups
    return np.bincount(cells, minlength=size).reshape(-1, inputs.n_groups)


def make_constraint(editor: Any, inputs: FitInputs) -> Constraint:
    """Resolve what the user asked for; "auto" by how label and group go together.

    Raises
    ------
    ValueError
        ``pos_label`` is no class; the gap cannot be measured on these cells.
    """
    table = _table(inputs)
    pos = _positive_code(editor.pos_label, inputs.classes)
    if inputs.has_groups:
        check_cells(table, inputs, editor.constraint, pos)
    unbalanced = inputs.has_groups and is_unbalanced(table)
    utility, balance = editor.utility, getattr(editor, "balance", "auto")
    if isinstance(utility, str) and utility == "auto":
        utility = "cell_balanced_accuracy" if unbalanced else "balanced_accuracy"
    if balance == "auto":
        balance = "cells" if unbalanced else "classes"
    threshold = None if editor.threshold == "tune" else float(editor.threshold)
    return Constraint(
        gap=editor.constraint,
        tolerance=float(editor.tolerance),
        fraction=float(editor.tolerance_fraction),
        utility=utility,
        threshold=threshold,
        pos=pos,
        balance=balance,
    )


def _positive_code(pos_label: Any, classes: NDArray[Any]) -> int:
    if pos_label is None:
        return 1
    found = np.flatnonzero(classes == pos_label)
    if len(found) != 1:
        raise ValueError(
            f"pos_label={pos_label!r} is none of the classes {classes.tolist()}; pass one of "
            "them, or None for the second."
        )
    return int(found[0])


def make_parts(validation: Any, inputs: FitInputs, seed: int) -> Parts:
    """Split the rows; rows whose group is missing and ignored are left out of all parts."""
    y, groups = inputs.rows.y.numpy(), inputs.rows.groups.numpy()
    cells = cell_codes(y, groups, inputs.n_groups)
    editing, held = split_rows(validation, cells, y, stage_rng(seed, "split"))
    notes: tuple[str, ...] = ()
    ignored = int((groups < 0).sum())
    if ignored:
        editing, held = editing[groups[editing] >= 0], held[groups[held] >= 0]
        notes = (f"{ignored} rows without a group were left out of fit (missing_group='ignore').",)
    if len(np.intersect1d(editing, held)):
        notes = (*notes, "Too few rows to set any apart: candidates are chosen on all rows.")
    sample = draw_sample(editing, SAMPLE_SIZE, stage_rng(seed, "sample"))
    return Parts(editing, held, sample, notes)


def make_data(
    batch_size: int,
    inputs: FitInputs,
    parts: Parts,
    adopted: AdoptedNetwork,
    constraint: Constraint,
) -> EditData:
    """Gather what an edit may look at, the judge's floor and the operating threshold set.

    Raises
    ------
    ValueError
        The network's logits on X are not finite.
    """
    rows = np.concatenate([parts.validation, parts.sample])
    of_part = np.repeat([0, 1], [len(parts.validation), len(parts.sample)])
    judged = inputs.rows.subset(rows)
    n_classes = len(inputs.classes)
    judge = Judge(
        judged.y.numpy(), judged.groups.numpy(), of_part, n_classes, inputs.n_groups, constraint
    )
    probe = probe_rows(adopted.module, inputs.rows.X)

    def run(X: Tensor) -> Tensor:
        output = raw_output(adopted.module, X.to(probe.device, probe.dtype))
        return to_logits(output, adopted.kind)

    logits = fast_logits(run, judged.X)
    if not bool(logits.isfinite().all()):
        raise ValueError(
            "the network returns NaN or infinite logits on some rows of X: its training "
            "diverged, or X is not scaled as it was for training."
        )
    operating = judge.for_utility(logits)
    overfitted = _excess(judge, logits.numpy(), operating.margin) > OVERFIT
    judge = Judge(**{**vars(judge), "separate": overfitted and inputs.has_groups}).against(logits)
    return EditData(
        editing=inputs.rows.subset(parts.editing),
        judged=judged.X,
        judge=judge,
        untouched=logits,
        kind=adopted.kind,
        output_layer=adopted.output_layer,
        n_classes=n_classes,
        n_groups=inputs.n_groups,
        group_labels=inputs.group_labels,
        margin=operating.margin,
        batch_size=batch_size,
        device=probe.device,
        dtype=probe.dtype,
    )


def _excess(judge: Judge, logits: NDArray[Any], margin: float) -> float:
    """Balanced accuracy on editing minus validation rows, at the operating threshold."""
    logits = logits.astype(np.float64)
    logits[:, 1] -= margin
    predicted = logits.argmax(axis=1)
    scores = []
    for part in (0, 1):
        mask = judge.parts == part
        codes = judge.y[mask], predicted[mask], judge.groups[mask]
        counts = count_table(*codes, judge.n_classes, judge.n_groups)
        scores.append(float(utility_from_counts(counts, "balanced_accuracy")))
    return scores[1] - scores[0]


def excess_fit(data: EditData) -> float | None:
    """Return how far the network is over-fitted, or None where it is not."""
    if not data.judge.separate:
        return None
    return _excess(data.judge, data.untouched.numpy(), data.margin)
