"""Measure an edited model on given rows: before, with the threshold only, and after."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from .._messages import listed
from ..arrays import is_dataset
from ..base import NetworkEditor, report_on, untouched_logits
from ..containers import count_rows, read_labels
from ..groups import Groups, encode_groups, require_two_groups
from ..metrics import read_weights, scale_weights

__all__ = ["STATES", "Evaluation", "evaluate", "find_editor", "guess_of_groups", "name_attributes"]

# In the order in which they are shown.
STATES = ("before", "threshold only", "after")

# Rows by which the group is guessed, and rows of a group that can be guessed at all.
MOST_GUESSED, FEWEST_GUESSED = 5000, 10


@dataclass(frozen=True)
class Evaluation:
    """What a model and its untouched network predict for given rows.

    Attributes
    ----------
    editor : NetworkEditor
    X : object
        The rows as the editor gets them.
    y : ndarray of shape (n,), int64
        Codes of the classes.
    groups : Groups
        The group of every row; with several attributes their intersections.
    attributes : tuple of Groups
        The groups of each attribute alone; empty if there is one.
    shares : dict of state to ndarray of shape (n, n_classes), float64
        Probabilities; "after" as ``predict_proba`` gives them.
    codes : dict of state to ndarray of shape (n,), int64
        Codes of the predicted classes.
    fits : dict of str to FairnessReport
        Gaps with their uncertainty, and who lost, on these rows: by each attribute, and by the
        intersections.
    weights : ndarray of shape (n,), float64, or None
        How often every row counts; None: all rows weigh the same.
    main : str
        The attribute, or attributes, whose gap the fit was to close; the intersections if that
        cannot be told.
    """

    editor: Any
    X: Any
    y: NDArray[np.int64]
    groups: Groups
    attributes: tuple[Groups, ...]
    shares: dict[str, NDArray[np.float64]]
    codes: dict[str, NDArray[np.int64]]
    fits: dict[str, Any]
    weights: NDArray[np.float64] | None
    main: str

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Which rows count at all; one of weight 0 is as good as absent."""
        return np.ones(len(self.y), dtype=bool) if self.weights is None else self.weights > 0

    @property
    def fit(self) -> Any:
        """The report on the groups of the fit."""
        return self.fits[self.main]

    @property
    def shown(self) -> Groups:
        """The groups that charts show: those of the fit."""
        every = (*self.attributes, self.groups)
        return next(each for each in every if name_attributes(each) == self.main)

    @property
    def classes(self) -> list[Any]:
        """Labels of the classes."""
        labels: list[Any] = self.editor.classes_.tolist()
        return labels

    @property
    def positive(self) -> int | None:
        """Code of the positive class of two; None for more."""
        return self.editor._report.constraint.pos if len(self.classes) == 2 else None

    def predicted(self, state: str) -> NDArray[np.int64]:
        """Return the codes of the predicted classes."""
        return self.codes[state]


def find_editor(estimator: Any) -> tuple[Any, NetworkEditor]:
    """Return the steps before a fitted editor, or None, and the editor.

    Raises
    ------
    ValueError
        If the estimator is neither an editor nor a Pipeline or a search that ends in one.
    """
    estimator = getattr(estimator, "best_estimator_", estimator)
    steps, last = None, estimator
    if isinstance(estimator, Pipeline):
        last = estimator[-1]
        steps = estimator[:-1] if len(estimator.steps) > 1 else None
    if not isinstance(last, NetworkEditor):
        raise ValueError(
            f"estimator is a {type(estimator).__name__}: wanted a fitted editor of fairsvd, or a "
            "Pipeline or a search that ends in one."
        )
    check_is_fitted(last, "module_")
    return steps, last


def evaluate(
    estimator: Any, X: Any, y: Any, sensitive_features: Any, sample_weight: Any = None
) -> Evaluation:
    """Predict rows with the edited and with the untouched network.

    Parameters
    ----------
    estimator : NetworkEditor, or Pipeline or search that ends in one
        Fitted.
    X, y : as in ``fit``
    sensitive_features : array-like of shape (n,) or (n, n_columns)
        Rows with a missing value count in no group.
    sample_weight : array-like of shape (n,), optional
        How often every row counts. Integers stand for copies; others are scaled to a mean of 1.

    Raises
    ------
    ValueError
        If the inputs do not fit each other, or labels are unknown to the model.
    """
    steps, editor = find_editor(estimator)
    X = X if steps is None else steps.transform(X)
    labels = read_labels(y)
    n_rows = count_rows(X)
    if len(labels) != n_rows:
        raise ValueError(f"y has {len(labels)} labels, and X has {n_rows} rows: give one for each.")
    codes = _codes(labels, editor.classes_)
    weights = _weights(sample_weight, n_rows)
    groups = encode_groups(sensitive_features, n_rows, missing="ignore")
    if weights is not None:
        groups = replace(groups, codes=np.where(weights > 0, groups.codes, -1))
        groups = groups.subset(np.arange(n_rows))
    groups = require_two_groups(groups)
    shares, found = _answers(editor, X)
    predicted = found["before"], found["threshold only"], found["after"]
    several = len(groups.names) if len(groups.names) > 1 else 0
    attributes = tuple(groups.alone(place) for place in range(several))
    every = {name_attributes(each): each for each in (*attributes, groups)}
    fits = {
        name: report_on(editor, codes, each, predicted, weights)
        for name, each in every.items()
        if each.n_groups > 1
    }
    fitted = set(editor.groups_)
    same = [name for name in fits if set(every[name].labels) <= fitted]
    main = same[0] if same else name_attributes(groups)
    return Evaluation(editor, X, codes, groups, attributes, shares, found, fits, weights, main)


def name_attributes(groups: Groups) -> str:
    """Name the attribute of groups, or the attributes that they intersect."""
    return " x ".join(groups.names)


def _codes(labels: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.int64]:
    import pandas as pd

    codes = pd.Index(classes).get_indexer(pd.Index(labels))
    if (codes < 0).any():
        raise ValueError(
            f"y holds the label {labels[codes < 0].tolist()[0]!r}, and the model knows "
            f"[{listed(classes.tolist(), show=repr)}]."
        )
    return codes.astype(np.int64)


def _weights(sample_weight: Any, n_rows: int) -> NDArray[np.float64] | None:
    """Read weights, as ``fit`` does."""
    if sample_weight is None:
        return None
    return scale_weights(read_weights(sample_weight, n_rows))


def _answers(
    editor: Any, X: Any
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.int64]]]:
    """Compute probabilities and predicted codes in every state."""
    before = untouched_logits(editor, X)
    moved = before.copy()
    moved[:, 1] -= editor.offset_
    shown = editor.predict_proba(X)
    # Probabilities that are not shifted do not tell the prediction.
    shifted = editor.shift_probabilities
    after = shown.argmax(axis=1) if shifted else _codes(editor.predict(X), editor.classes_)
    shares = (softmax(before, axis=1), softmax(moved, axis=1), shown)
    codes = (before.argmax(axis=1), moved.argmax(axis=1), after)
    return dict(zip(STATES, shares, strict=True)), dict(zip(STATES, codes, strict=True))


def guess_of_groups(evaluation: Evaluation, seed: int = 0) -> tuple[float, str]:
    """Say how well a linear model guesses the group, and from what.

    Returns
    -------
    auc : float in [0, 1]
        Cross-validated, on at most 5,000 rows, a mean over the groups against the others; 0.5: not
        at all. NaN if a group is too small.
    source : str
        What it was guessed from.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    inputs, source = _inputs(evaluation)
    codes = evaluation.shown.codes
    rows = np.flatnonzero(codes >= 0)
    rows = np.random.default_rng(seed).permutation(rows)[:MOST_GUESSED]
    large = np.bincount(codes[rows]) >= FEWEST_GUESSED
    rows = np.sort(rows[large[codes[rows]]])
    if large.sum() < 2:
        return float("nan"), source
    guess = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    chances = cross_val_predict(guess, inputs[rows], codes[rows], cv=3, method="predict_proba")
    found = np.unique(codes[rows])
    aucs = [roc_auc_score(codes[rows] == g, chances[:, k]) for k, g in enumerate(found)]
    return float(np.mean(aucs)), source


def _inputs(evaluation: Evaluation) -> tuple[NDArray[Any], str]:
    """Return tables as they are; of all else what the network's last layer gets."""
    X = evaluation.X
    if not is_dataset(X) and len(np.shape(X)) == 2 and hasattr(X, "shape"):
        return np.asarray(X, dtype=np.float64), "the inputs"
    editor = copy.copy(evaluation.editor)
    editor.output = "features"
    return np.asarray(editor.transform(X)), "the features before the last layer"
