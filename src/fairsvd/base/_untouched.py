"""The network as it was before the edit, to compare with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted
from torch import nn

from ..groups import Groups
from ..metrics import Rows
from ..networks import AdoptedNetwork, all_logits, copied, explaining, plain_copy, take_packed
from ..objective import again_on, count_moves, count_table
from ._inputs import read_predict_inputs
from ._report_weights import Weighted
from ._summary import FairnessReport

__all__ = ["keep_untouched", "report_on", "untouched_logits"]


def keep_untouched(adopted: AdoptedNetwork) -> AdoptedNetwork:
    """Keep what is needed to run the unedited network later.

    A network that was trained in ``fit`` exists nowhere else, so a copy is kept. One that came
    trained is still the editor's parameter ``network``.
    """
    module = nn.Identity() if adopted.frozen else copied(adopted.module)
    return replace(adopted, module=module, net=None)


def untouched_logits(editor: Any, X: Any) -> NDArray[np.float64]:
    """Compute the logits of the network as it was before the edit.

    Parameters
    ----------
    editor : NetworkEditor
        Fitted.
    X : as in ``predict``

    Returns
    -------
    logits : ndarray of shape (n, n_classes), float64
        Without any threshold: the largest is what the unedited network predicts.

    Raises
    ------
    NotFittedError
        If the editor is not fitted.
    """
    check_is_fitted(editor, "module_")
    before = editor._untouched
    fields = editor._adopted.fields
    module = _given_module(editor) if before.frozen else before.module
    if before.frozen and fields is not None:
        take_packed(module, fields)
    batches = read_predict_inputs(editor, X, fields)
    with explaining():
        return all_logits(module, batches, **before.reading).double().numpy()


def _given_module(editor: Any) -> nn.Module:
    """Copy the user's network as ``fit`` does, to the device of the edited one."""
    given = (
        editor.network.estimator if isinstance(editor.network, FrozenEstimator) else editor.network
    )
    module, _ = plain_copy(given if isinstance(given, nn.Module) else given.module_)
    device = next(editor.module_.parameters()).device
    return module.eval().to(device)


def report_on(
    editor: Any,
    y: NDArray[np.int64],
    groups: Groups,
    predicted: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    weights: NDArray[np.float64] | None = None,
) -> FairnessReport:
    """Make the report of a fit anew, on other rows than those of the choice.

    Parameters
    ----------
    editor : NetworkEditor
        Fitted.
    y : ndarray of shape (n,), int64
        Codes of the classes.
    groups : Groups
        -1 stands for a row without a group.
    predicted : tuple of 3 ndarrays of shape (n,), int64
        Codes of the classes that the untouched network predicts, the untouched network with the
        threshold of the edit, and the edited network.
    weights : ndarray of shape (n,), float64, optional
        How often every row counts; None: once.

    Returns
    -------
    report : FairnessReport
    """
    known = groups.codes >= 0
    y, codes = y[known], groups.codes[known]
    before, alone, after = (each[known] for each in predicted)
    weights = None if weights is None else weights[known]
    sizes = len(editor.classes_), groups.n_groups
    constraint = editor._report.constraint
    rows = Rows(y, codes, *sizes, constraint.pos, weights=weights)

    def count(codes_of_classes: NDArray[np.int64]) -> NDArray[Any]:
        return count_table(y, codes_of_classes, codes, *sizes, weights)

    data = replace(
        editor._report,
        before=count(before),
        after=count(after),
        threshold_only=count(alone),
        moves=count_moves(y, (before, after), codes, sizes, constraint.pos, weights),
        labels=groups.labels,
        names=groups.names,
        constraint=replace(constraint, requirements=again_on(constraint.requirements, groups)),
        # Of the rows of the choice; a promise holds for these alone.
        scores=({}, {}),
        certificate=None,
        n_judged=None,
        notes=[],
        rows="",
        weighted=Weighted.of(rows, before, after),
    )
    return data.report()
