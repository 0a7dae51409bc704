"""Reading and validation of ready synthetic sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._messages import listed
from ..arrays import Batches, LabelledRows
from ..base import FitInputs, read_predict_inputs
from ..containers import read_labels
from ..exceptions import GroupError
from ..groups import encode_groups

__all__ = ["Given", "read_given"]


@dataclass(frozen=True)
class Given:
    """The user's data besides the real rows, encoded.

    Attributes
    ----------
    balanced, biased : LabelledRows or None
        The ready synthetic sets.
    group_labels : tuple
        Groups of the synthetic rows; empty if there are no groups at all.
    classes : ndarray of shape (n_classes,)
    shares : ndarray of shape (n_classes, n_groups) or None
        Share of every cell among the real rows, if the user passed it; adds up to 1.
    """

    balanced: LabelledRows | None
    biased: LabelledRows | None
    group_labels: tuple[Any, ...]
    classes: NDArray[Any]
    shares: NDArray[np.float64] | None

    @property
    def n_groups(self) -> int:
        """Count the groups of the synthetic rows; 1 without any."""
        return max(1, len(self.group_labels))

    def as_shares(self, table: NDArray[np.float64]) -> dict[Any, float]:
        """Write a table of cells as a dictionary, keys as in ``cell_shares``."""
        labels = self.classes.tolist()
        if not self.group_labels:
            return {label: float(row[0]) for label, row in zip(labels, table, strict=True)}
        return {
            (label, group): float(table[k, g])
            for k, label in enumerate(labels)
            for g, group in enumerate(self.group_labels)
        }


def read_given(editor: Any, inputs: FitInputs) -> Given:
    """Encode the synthetic sets and the shares of the cells as the real rows are encoded.

    Parameters
    ----------
    editor : SelectiveFineTuner
        Has read the real rows, so it knows their columns.
    inputs : FitInputs
        The real rows.

    Raises
    ------
    ValueError
        A set is no (X, y, groups), does not fit the real rows, or lacks a cell.
    """
    if editor.synthetic is None and editor.synthetic_biased is not None:
        raise ValueError(
            "synthetic_biased was given without synthetic: pass the balanced set too, or neither."
        )
    labels = inputs.group_labels
    balanced = biased = None
    if editor.synthetic is not None:
        X, y, groups = _parts(editor.synthetic, "synthetic")
        rows, labels = _read(editor, inputs, X, y, groups, labels)
        balanced = rows
        _check_cells(balanced, inputs, labels)
    if editor.synthetic_biased is not None:
        X, y, _ = _parts(editor.synthetic_biased, "synthetic_biased")
        biased = LabelledRows(
            *_plain(editor, inputs, X, y, "synthetic_biased"), torch.zeros(len(y))
        )
    shares = _shares(editor.cell_shares, inputs.classes, labels)
    return Given(balanced, biased, labels, inputs.classes, shares)


def _parts(dataset: Any, name: str) -> tuple[Any, Any, Any]:
    if not isinstance(dataset, (tuple, list)) or len(dataset) not in (2, 3):
        raise ValueError(
            f"{name} is a {type(dataset).__name__}"
            + (f" of {len(dataset)} entries" if isinstance(dataset, (tuple, list)) else "")
            + ": pass (X, y, sensitive_features)."
        )
    X, y, *rest = dataset
    return X, y, rest[0] if rest else None


def _plain(
    editor: Any, inputs: FitInputs, X: Any, y: Any, name: str
) -> tuple[Batches, torch.Tensor]:
    try:
        batches = read_predict_inputs(editor, X, inputs.rows.X.fields)
        batches = batches.like(inputs.rows.X.dtype)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    row_shape = inputs.rows.X.item_shape
    if batches.item_shape != row_shape:
        raise ValueError(
            f"{name} has rows of shape {batches.item_shape}, X has {row_shape}: pass rows as the "
            "editor gets them, after every step of a Pipeline that comes before."
        )
    labels = read_labels(y, f"{name} y")
    if labels.shape != (len(batches),):
        raise ValueError(
            f"{name} has {len(batches)} rows and labels of shape {labels.shape}: pass one label a "
            "row."
        )
    place = {label: k for k, label in enumerate(inputs.classes.tolist())}
    unknown = sorted({repr(label) for label in labels.tolist() if label not in place})
    if unknown:
        raise ValueError(
            f"{name} has the labels {listed(unknown)}, y has [{listed(place, show=repr)}]: leave "
            "these rows out, or name the labels as in y."
        )
    return batches, torch.as_tensor([place[label] for label in labels.tolist()])


def _read(
    editor: Any, inputs: FitInputs, X: Any, y: Any, groups: Any, real_labels: tuple[Any, ...]
) -> tuple[LabelledRows, tuple[Any, ...]]:
    batches, codes = _plain(editor, inputs, X, y, "synthetic")
    if groups is None:
        if real_labels:
            raise GroupError(
                "synthetic is (X, y) without groups, but the real rows have some: pass "
                "(X, y, sensitive_features)."
            )
        return LabelledRows(batches, codes, torch.zeros_like(codes)), ()
    try:
        encoded = encode_groups(groups, len(codes))
    except GroupError as error:
        raise GroupError(f"synthetic: {error}") from error
    if len(encoded.labels) < 2:
        raise GroupError(
            f"synthetic holds the single group {encoded.labels[0]!r}: there is nothing to balance. "
            "Draw rows of every (label, group) cell."
        )
    labels = real_labels or tuple(encoded.labels)
    unknown = [label for label in encoded.labels if label not in labels]
    if unknown:
        raise GroupError(
            f"synthetic has the groups [{listed(unknown, show=repr)}], the real rows have "
            f"[{listed(labels, show=repr)}]: leave these rows out, or name the groups alike."
        )
    place = np.array([labels.index(label) for label in encoded.labels])
    return LabelledRows(batches, codes, torch.as_tensor(place[encoded.codes])), labels


def _check_cells(rows: LabelledRows, inputs: FitInputs, labels: tuple[Any, ...]) -> None:
    """Refuse a set without rows of a cell that the real rows have, or may have."""
    n_groups, n_classes = max(1, len(labels)), len(inputs.classes)
    counts = rows.count_cells(n_classes, n_groups)
    # A network may know classes that no real row has.
    real_counts = torch.bincount(inputs.rows.y, minlength=n_classes)[:, None].expand_as(counts)
    if inputs.has_groups:
        real_counts = inputs.rows.count_cells(n_classes, n_groups)
    missing = torch.nonzero((counts == 0) & (real_counts > 0)).tolist()
    if missing:
        classes = inputs.classes.tolist()
        names = [
            f"(label {classes[k]!r}" + (f", group {labels[g]!r})" if labels else ")")
            for k, g in missing
        ]
        raise ValueError(
            f"synthetic has no rows in {listed(names)}: a balanced set has rows in every cell."
        )


def _shares(
    shares: Any, classes: NDArray[Any], groups: tuple[Any, ...]
) -> NDArray[np.float64] | None:
    if shares is None:
        return None
    keys = {(c, g): (k, j) for k, c in enumerate(classes.tolist()) for j, g in enumerate(groups)}
    if not keys:
        raise ValueError("cell_shares was given, but there are no groups: leave it out.")
    table = np.zeros((len(classes), len(groups)))
    if not isinstance(shares, Mapping) or set(shares) != set(keys):
        raise ValueError(
            "cell_shares must be a dict with exactly the keys "
            f"{listed(sorted(keys, key=repr), show=repr)}, got {listed([shares], show=repr)}."
        )
    for key, share in shares.items():
        table[keys[key]] = share
    if not np.isfinite(table).all() or (table < 0).any() or table.sum() <= 0:
        raise ValueError(
            f"cell_shares holds {listed(sorted(shares.values()))}: pass counts or shares that are "
            "at least 0, not all of them 0."
        )
    return table / table.sum()
