"""What an edit is given, made by hand: no fit around it, every number known."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fairsvd.arrays import LabelledRows, as_batches
from fairsvd.base import EditData
from fairsvd.objective import Constraint, GapJudge
from helpers import Rows


def constraint(gap: str = "equalized_odds", pos: int = 1) -> Constraint:
    """Make a request of a tolerance of five points."""
    return Constraint(gap, 0.05, 0.4, "balanced_accuracy", None, pos, "classes")


def labelled(rows: Rows) -> LabelledRows:
    """Make editing rows."""
    return LabelledRows(as_batches(rows.X), torch.tensor(rows.y), torch.tensor(rows.group))


def edit_data(
    rows: Rows,
    n_groups: int = 2,
    n_classes: int = 2,
    *,
    dtype: torch.dtype = torch.float64,
    request: Constraint | None = None,
    **changes: Any,
) -> EditData:
    """Make the data of an edit whose judged rows are its editing rows."""
    kind = {torch.float64: np.float64, torch.float32: np.float32}[dtype]
    editing = labelled(rows._replace(X=rows.X.astype(kind)))
    parts = np.zeros(len(rows.y), dtype=int)
    request = constraint() if request is None else request
    settings = {
        "untouched": torch.zeros(len(rows.y), n_classes),
        "kind": "logits",
        "output_layer": "4",
        "margin": 0.3 if n_classes == 2 else 0.0,
        "batch_size": 16,
        **changes,
    }
    return EditData(
        editing=editing,
        judged=editing.X,
        judge=GapJudge(rows.y, rows.group, parts, n_classes, n_groups, request),
        n_classes=n_classes,
        n_groups=n_groups,
        group_labels=tuple(range(n_groups)),
        device=torch.device("cpu"),
        dtype=dtype,
        **settings,
    )
