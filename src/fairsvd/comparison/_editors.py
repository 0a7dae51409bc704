"""Methods of this package, and the controls: the base network itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._classifiers import filled
from ._fold import Fold

__all__ = ["FRACTION", "edit", "one_threshold", "untouched"]

# Share of the tolerance to which other packages' methods are held: a choice at the tolerance itself
# exceeds it on new rows too often.
FRACTION = 0.4


def untouched(fold: Fold, constraint: str) -> NDArray[np.int64]:
    """Leave the base network alone: its most probable class."""
    return fold.before


def one_threshold(fold: Fold, constraint: str) -> NDArray[np.int64]:
    """Move the base network's one threshold to the best balanced accuracy, whatever the gap."""
    return fold.at_threshold(fold.test)


def edit(editor: Any, fold: Fold, constraint: str) -> NDArray[np.int64]:
    """Edit the base network on its training rows, choosing on the validation rows.

    A classifier of :mod:`fairsvd.conformance` has an editor's parameters and no network: it learns
    from the training rows itself.
    """
    problem, rows = fold.problem, fold.fitting
    positive = None if problem.pos is None else problem.classes[problem.pos]
    copy = filled(editor, network=fold.network, random_state=fold.seed, pos_label=positive)
    copy.set_params(validation=fold.split, tolerance=problem.tolerance)
    if isinstance(copy.constraint, str):
        copy.set_params(constraint=constraint)
    copy.fit(fold.X(rows), fold.y(rows), sensitive_features=fold.sensitive(rows))
    return fold.codes_of_labels(copy.predict(fold.X(fold.test)))
