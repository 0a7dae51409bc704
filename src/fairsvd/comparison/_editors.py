"""Methods of this package, and the controls: the base network itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from .._signature import takes
from ..base import NetworkEditor
from ._answers import Answer, ask
from ._classifiers import filled
from ._fold import Fold

__all__ = ["FRACTION", "edit", "one_threshold", "untouched"]

# Share of the tolerance to which other packages' methods are held: a choice at the tolerance itself
# exceeds it on new rows too often.
FRACTION = 0.4


def untouched(fold: Fold, constraint: str) -> Answer:
    """Leave the base network alone: its most probable class."""
    return Answer(fold.before, _shares(fold))


def one_threshold(fold: Fold, constraint: str) -> Answer:
    """Move the base network's one threshold to the best balanced accuracy, whatever the gap."""
    return Answer(fold.at_threshold(fold.test), _shares(fold, fold.margin))


def _shares(fold: Fold, margin: float = 0.0) -> NDArray[np.float64] | None:
    """Compute the base network's probabilities of the test rows, if they are wanted."""
    if not fold.problem.wants_shares:
        return None
    logits = fold.logits(fold.test).double().numpy()
    logits[:, 1] -= margin
    return np.asarray(softmax(logits, axis=1))


def edit(editor: Any, fold: Fold, constraint: str) -> Answer:
    """Edit the base network on its training rows, choosing on the validation rows.

    A classifier of :mod:`fairsvd.conformance` has an editor's parameters and no network: it learns
    from the training rows itself.
    """
    problem, rows = fold.problem, fold.fitting
    positive = None if problem.pos is None else problem.classes[problem.pos]
    copy = filled(editor, network=fold.network, random_state=fold.seed, pos_label=positive)
    copy.set_params(validation=fold.split, tolerance=problem.tolerance)
    options = {}
    if isinstance(copy.constraint, str):
        takes_all = isinstance(copy, NetworkEditor) and fold.asked is not None
        copy.set_params(constraint=fold.asked if takes_all else constraint)
    if fold.problem.weights is not None:
        if takes(copy.fit, "sample_weight"):
            options["sample_weight"] = fold.weights(rows)
        else:
            raise ValueError(
                f"{type(copy).__name__} takes no sample_weight: compare it without weights."
            )
    copy.fit(fold.X(rows), fold.y(rows), sensitive_features=fold.sensitive(rows), **options)
    return ask(copy, fold, fold.X(fold.test))
