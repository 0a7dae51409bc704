"""What an image task of the benchmark gives, and how its editing rows are parted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import nn

from benchmarks.tasks import Rows

__all__ = ["VALIDATION", "ImageProblem", "ImageTask", "halves", "taken"]

# Methods choose among candidates on a quarter of the rows that they get.
VALIDATION = 0.25


@dataclass(frozen=True)
class ImageProblem:
    """The rows of one task, form and seed.

    Attributes
    ----------
    groups : tuple of str
        The name of each group code.
    base : Rows or None
        Train the base network, and nothing else; None where ``network`` is given.
    unbiased : Rows or None
        The same images without the bias, for the oracle.
    train, validation : Rows
        What methods get: rows to edit on, and rows to choose on.
    test : Rows
    steps : int
        Least number of batches of the base network's training.
    network : nn.Module or None
        The base network, where a task brings its own. Methods work on copies.
    """

    task: str
    form: str
    seed: int
    groups: tuple[str, ...]
    base: Rows | None
    unbiased: Rows | None
    train: Rows
    validation: Rows
    test: Rows
    steps: int
    network: nn.Module | None = None

    @property
    def n_classes(self) -> int:
        """Count the classes."""
        return 1 + int(self.train.y.max())


@dataclass(frozen=True)
class ImageTask:
    """How a task is loaded, and in which forms.

    Attributes
    ----------
    load : callable
        (form, seed, dev, quick) -> ImageProblem, without its name.
    forms : tuple of str
    """

    load: Callable[[str, int, bool, bool], ImageProblem]
    forms: tuple[str, ...]


def taken(rows: Rows, positions: np.ndarray) -> Rows:
    """Take some rows."""
    return Rows(*(column[positions] for column in rows))


def halves(rows: Rows, seed: int) -> tuple[Rows, Rows]:
    """Set a quarter of every (label, group) cell apart, to choose on."""
    from sklearn.model_selection import train_test_split

    n_groups = 1 + rows.g.max()
    cells = rows.y * n_groups + rows.g
    counts = np.bincount(cells)
    # A cell with a single row is split together with the largest cell of its label.
    for lone in np.flatnonzero(counts == 1):
        first = lone // n_groups * n_groups
        cells[cells == lone] = first + counts[first : first + n_groups].argmax()
    edit, choose = train_test_split(
        np.arange(len(rows.y)), test_size=VALIDATION, stratify=cells, random_state=seed
    )
    return taken(rows, np.sort(edit)), taken(rows, np.sort(choose))
