"""DifFair: one model a group, and each row served by the model whose rows it is like."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._rng import stage_rng
from ..base import with_parameters
from ..exceptions import GroupError, MissingSensitiveFeaturesWarning
from ._cells import Columns, Rows, learn_constraints
from ._template import CellClassifier

__all__ = ["DifFair"]


@with_parameters
class DifFair(CellClassifier):
    """Fit one classifier a group, and serve each row by its conformance, not by its group.

    A row is served by the model of the group that has the (label, group) cell whose constraints the
    row violates least. The group is needed in ``fit`` only.

    Parameters
    ----------
    estimator : classifier or None, default=None
        With ``predict_proba`` or ``decision_function``; one clone of it is fitted for each group.
        None: a logistic regression.

    Attributes
    ----------
    estimators_ : list of classifier
        One for each of ``groups_``; a single one without sensitive features.
    constraints_ : dict of (label, group) to ConformanceConstraints
    threshold_, offset_ : float
        The one threshold of all models, as a probability (None for more than two classes) and as a
        margin.
    classes_, groups_, n_features_in_, feature_names_in_
        As in editors and scikit-learn.

    See Also
    --------
    ConFairReweigher : One model of weighted rows.

    Notes
    -----
    DifFair of Yang and Meliou (arXiv:2303.17566). Deviations: of models whose constraints a row
    violates equally, most often not at all, the one with the smallest mean squared standard score
    serves it; columns are scaled to a range of 1, and those of two values count as categories; the
    threshold is chosen by balanced accuracy under a gap.

    Examples
    --------
    >>> from fairsvd import DifFair
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(800, random_state=0)
    >>> model = DifFair(random_state=0)
    >>> model = model.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> len(model.estimators_), model.serving_group(data.data[:3]).shape
    (2, (3,))
    """

    def _learn(self, rows: Rows, seed: int) -> None:
        held = None
        if self._tunes:
            rows, held = self._split(rows, seed)
        self.constraints_, self._columns = {}, None
        if rows.group_labels:
            self._columns = Columns.of(rows.X)
            scaled = self._columns.scaled(rows.X)
            found = learn_constraints(scaled, rows.cells, self.density, stage_rng(seed, "edit"))
            self.constraints_ = {rows.key(c, self.classes_): each for c, each in found.items()}
        parts = [rows.take(np.flatnonzero(rows.groups == g)) for g in range(rows.n_groups)]
        self.estimators_ = [self._fit_model(part, g, seed) for g, part in enumerate(parts)]
        margin = self._fixed_margin()
        if held is not None:
            margin = self._judge(held)(torch.as_tensor(self._scores(held.X))).margin
        self._set_threshold(margin)

    def _fit_model(self, rows: Rows, group: int, seed: int) -> Any:
        if len(np.unique(rows.codes)) < 2:
            label = self.classes_.tolist()[rows.codes[0]]
            raise GroupError(
                f"group {self.groups_[group]!r} has rows of the class {label!r} only: a model "
                "of its own cannot be fitted. Merge groups, or use ConFairReweigher."
            )
        with warnings.catch_warnings():
            # An editor has one group to learn from here, which is meant.
            warnings.simplefilter("ignore", MissingSensitiveFeaturesWarning)
            return self._clone(seed).fit(rows.X, rows.y)

    def serving_group(self, X: Any) -> NDArray[Any]:
        """Tell which group's model serves each row.

        Parameters
        ----------
        X : as in ``predict``

        Returns
        -------
        groups : ndarray of shape (n,), object
            Labels out of ``groups_``; None in every row without sensitive features.
        """
        places = self._route(self._checked(X))
        labels = np.full(max(1, len(self.groups_)), None, dtype=object)
        for k, label in enumerate(self.groups_):
            labels[k] = label  # one by one, since a label may be a tuple
        return labels[places]

    def _route(self, X: Any) -> NDArray[np.int64]:
        if self._columns is None:
            return np.zeros(len(X), dtype=np.int64)
        scaled, n_groups = self._columns.scaled(X), len(self.groups_)
        violation, distance = np.full((2, len(scaled), n_groups), np.inf)
        for (_, group), constraints in self.constraints_.items():
            k = self.groups_.index(group)
            found = constraints.violation(scaled), constraints.distance(scaled)
            # Of a group's cells the one that is violated least, and of equal ones the nearest.
            better = (found[0] < violation[:, k]) | (
                (found[0] == violation[:, k]) & (found[1] < distance[:, k])
            )
            violation[:, k] = np.where(better, found[0], violation[:, k])
            distance[:, k] = np.where(better, found[1], distance[:, k])
        least = violation == violation.min(axis=1, keepdims=True)
        return np.where(least, distance, np.inf).argmin(axis=1)

    def _scores(self, X: Any) -> NDArray[np.float64]:
        places = self._route(X)
        scores = np.zeros((len(X), len(self.classes_)))
        for k in np.unique(places):
            mine = places == k
            part = X[mine] if not hasattr(X, "iloc") else X.iloc[np.flatnonzero(mine)]
            scores[mine] = self._logits_of(self.estimators_[k], part)
        return scores
