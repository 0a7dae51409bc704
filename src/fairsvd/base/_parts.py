"""The parts of the rows of a fit: to edit on, to choose on, to certify on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._rng import stage_rng
from ._inputs import FitInputs
from ._split import draw_sample, split_rows

__all__ = ["Parts", "keep_half", "make_parts"]

# Number of editing rows on which candidates are judged besides the validation rows.
SAMPLE_SIZE = 4000

NO_ROWS = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Parts:
    """Row numbers: editing rows, validation rows to choose and to certify on, an editing sample.

    These have a group. ``ungrouped`` are editing and validation rows without one that are kept.
    """

    editing: NDArray[np.int64]
    validation: NDArray[np.int64]
    sample: NDArray[np.int64]
    notes: tuple[str, ...] = ()
    certifying: NDArray[np.int64] = field(default_factory=lambda: NO_ROWS)
    ungrouped: tuple[NDArray[np.int64], NDArray[np.int64]] = (NO_ROWS, NO_ROWS)

    @property
    def training(self) -> NDArray[np.int64]:
        """All rows to train the network on."""
        kept = self.ungrouped[0]
        return np.sort(np.concatenate([self.editing, kept])) if len(kept) else self.editing

    def lessons(self, n_rows: int) -> NDArray[np.int64]:
        """List the editing and validation rows, with a group or not, ascending."""
        # Marked, since np.union1d takes as long as a pass over the rows.
        used = np.zeros(n_rows, dtype=bool)
        for each in (self.editing, self.validation, *self.ungrouped):
            used[each] = True
        return np.flatnonzero(used)


def make_parts(validation: Any, inputs: FitInputs, seed: int) -> Parts:
    """Split the rows; those whose group is missing are left out, or parts of their own."""
    y, groups = inputs.rows.y.numpy(), inputs.rows.groups.numpy()
    cells = inputs.rows.cells(inputs.n_groups).numpy()
    if inputs.keeps:
        # A cell for each label of the rows without a group.
        cells = np.where(groups < 0, -1 - y, cells)
    rng = stage_rng(seed, "split")
    editing, held = split_rows(validation, cells, y, rng, inputs.classes, inputs.passed)
    notes: tuple[str, ...] = ()
    ignored = int((groups < 0).sum())
    ungrouped = NO_ROWS, NO_ROWS
    if ignored:
        if inputs.keeps:
            ungrouped = editing[groups[editing] < 0], held[groups[held] < 0]
            notes = (_say_kept(ignored, len(y)),)
        else:
            left_out = f"{ignored} rows without a group were left out of fit"
            notes = (f"{left_out} (missing_group='ignore').",)
        editing, held = editing[groups[editing] >= 0], held[groups[held] >= 0]
    is_editing = np.zeros(len(y), dtype=bool)
    is_editing[editing] = True
    if is_editing[held].any():
        has_splitter = hasattr(validation, "split")
        why = "as validation= says" if has_splitter else "too few rows to set any apart"
        notes = (*notes, f"Candidates are chosen on rows that are edited on, too: {why}.")
    sample = draw_sample(editing, SAMPLE_SIZE, stage_rng(seed, "sample"))
    return Parts(editing, held, sample, notes, ungrouped=ungrouped)


def _say_kept(n_kept: int, n_rows: int) -> str:
    return (
        f"{n_kept} of {n_rows} rows have no group (missing_group='keep'). They serve the training "
        "of a network that came untrained; a network of the cells, where the editor has one, which "
        "learns their labels, and by which validation rows without a group count in the choice of "
        "a fair rule; and the rows of an imitation. Whatever else compares groups (a soft gap, the "
        "choice of other candidates, the report) uses the other rows alone."
    )


def keep_half(parts: Parts, inputs: FitInputs, seed: int) -> Parts:
    """Keep half of every cell's validation rows out of the choice.

    Raises
    ------
    ValueError
        Validation rows are edited on, so that nothing can be certified on them.
    """
    rows, rng = parts.validation, stage_rng(seed, "certificate")
    if np.isin(rows, parts.editing).any():
        raise ValueError(
            "confidence= needs validation rows that are not edited on: pass more rows, a share or "
            "another splitter as validation=, or confidence=None."
        )
    y, cells = inputs.rows.y.numpy()[rows], inputs.rows.cells(inputs.n_groups).numpy()[rows]
    choosing, certifying = split_rows(0.5, cells, y, rng, inputs.classes)
    note = (
        f"Of {len(rows)} validation rows {len(certifying)} were kept to certify the result: "
        "candidates were chosen, and the report is made, on the others."
    )
    notes = (*parts.notes, note)
    return replace(parts, validation=rows[choosing], certifying=rows[certifying], notes=notes)
