"""ConFairReweigher: weights for the rows that are typical of a cell that is too rare."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import has_fit_parameter

from .._rng import stage_rng
from .._signature import takes
from ..base import at_least_0, parameter, positive_code, with_parameters
from ..interop import resample_by_weight
from ..objective import Judge
from ._cells import Columns, Rows, learn_constraints
from ._constraints import ConformanceConstraints
from ._template import CellClassifier

__all__ = ["ConFairReweigher"]

# What is tried where alpha is not given; 0 leaves the weights of Kamiran and Calders.
ALPHAS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)


@with_parameters
class ConFairReweigher(CellClassifier):
    """Weigh training rows so that label and group are independent, and typical rows more.

    The rows of every (label, group) cell get the weight at which label and group are independent.
    In cells that are rarer than independence says, rows that keep all conformance constraints of
    their cell get an extra weight, so that the classifier learns from rows that are surely of the
    cell. Prediction needs no group.

    Parameters
    ----------
    alpha : float or None, default=None
        The extra weight in cells of the positive class; half of it in those of the other. With more
        than two classes all cells get the whole. None: the best of six from 0 to 4 on the
        validation rows, by the rule of all editors.
    min_violation : float in [0, 1], default=0.1
        A cell whose constraints the rows of all cells violate less than this on average gets no
        extra weight: they tell nothing apart.

    Attributes
    ----------
    estimator_ : classifier
        Fitted on the weighted rows.
    alpha_ : float
        The chosen extra weight.
    weights_ : ndarray of shape (n_learned,), float64
        Weights of the rows that were learned from, in their order.
    constraints_ : dict of (label, group) to ConformanceConstraints
    violations_ : dict of (label, group) to float
        Mean violation of each cell's constraints by all rows.
    threshold_, offset_ : float
        The threshold as a probability (None for more than two classes) and as a margin.
    classes_, groups_, n_features_in_, feature_names_in_
        As in editors and scikit-learn.

    See Also
    --------
    DifFair : One model a group.
    fairsvd.interop.resample_by_weight : Makes rows of weights.

    Notes
    -----
    ConFair of Yang and Meliou (arXiv:2303.17566) on the weights of Kamiran and Calders (2012),
    n_g n_y / (n n_gy). Where its code is not public, this is what its evaluation shows.
    Deviations: columns are scaled to a range of 1, and those of two values count as categories; the
    density leaves out the row itself; alpha and the threshold are chosen together by balanced
    accuracy under a gap, instead of alpha by the difference of selection rates alone.

    A classifier whose ``fit`` takes ``sample_weight`` gets the weights; for others, such as a
    Pipeline, rows are drawn by them. An editor also gets the groups.

    Examples
    --------
    >>> from fairsvd import ConFairReweigher
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(800, random_state=0)
    >>> model = ConFairReweigher(alpha=1.0, random_state=0)
    >>> model = model.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> model.predict(data.data).shape
    (800,)
    """

    alpha: float | None = parameter(at_least_0(), None, default=None)
    min_violation: float = parameter(at_least_0(), default=0.1)

    def _learn(self, rows: Rows, seed: int) -> None:
        chooses = rows.group_labels and self.alpha is None
        alphas = ALPHAS if chooses else (float(self.alpha or 0.0),)
        decide = None
        if chooses or self._tunes:
            rows, held = self._split(rows, seed)
            decide = partial(self._decide, self._judge(held), held.X)
        self.constraints_: dict[tuple[Any, Any], ConformanceConstraints] = {}
        self.violations_: dict[tuple[Any, Any], float] = {}
        boosts = np.zeros(len(rows.codes))
        if rows.group_labels:
            boosts = self._find_boosts(rows, seed)
        best, self.weights_ = None, np.ones(len(rows.codes))
        for alpha in alphas:
            weights = independence_weights(rows) + alpha * boosts
            model = self._fit_model(rows, weights, seed)
            rank, margin = (False, 0.0), self._fixed_margin()
            if decide is not None:
                rank, margin = decide(model)
            if best is None or rank > best:
                best, self.estimator_, self.alpha_, self.weights_ = rank, model, alpha, weights
                self._set_threshold(margin)

    def _decide(self, judge: Judge, X: Any, model: Any) -> tuple[tuple[bool, float], float]:
        """Rank a fitted classifier on the validation rows, at its best threshold."""
        verdict = judge(torch.as_tensor(self._logits_of(model, X)))
        return verdict.rank, verdict.margin

    def _find_boosts(self, rows: Rows, seed: int) -> NDArray[np.float64]:
        """Find the share of alpha that every row gets."""
        columns = Columns.of(rows.X)
        scaled = columns.scaled(rows.X)
        rng, boosts = stage_rng(seed, "edit"), np.zeros(len(scaled))
        found = learn_constraints(scaled, rows.cells, self.density, rng)
        rare = _rare_cells(rows)
        pos = positive_code(self.pos_label, self.classes_) if rows.n_classes == 2 else None
        for cell, constraints in found.items():
            violation, key = constraints.violation(scaled), rows.key(cell, self.classes_)
            self.constraints_[key] = constraints
            self.violations_[key] = float(violation.mean())
            if rare[cell] and violation.mean() >= self.min_violation:
                typical = (rows.cells == cell) & (violation == 0)
                whole = pos is None or cell // rows.n_groups == pos
                boosts[typical] = 1.0 if whole else 0.5
        return boosts

    def _fit_model(self, rows: Rows, weights: NDArray[np.float64], seed: int) -> Any:
        model, X, y, groups = self._clone(seed), rows.X, rows.y, rows.sensitive
        options: dict[str, Any] = {}
        if np.ptp(weights) > 0:
            if has_fit_parameter(model, "sample_weight"):
                options["sample_weight"] = weights
            else:
                X, y, groups = resample_by_weight(X, y, groups, weights, random_state=seed)
        if groups is not None and takes(model.fit, "sensitive_features"):
            options["sensitive_features"] = groups
        return model.fit(X, y, **options)

    def _scores(self, X: Any) -> NDArray[np.float64]:
        return self._logits_of(self.estimator_, X)


def _expected(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Count the rows of every cell under independence, and those that there are."""
    table = np.bincount(rows.cells, minlength=rows.n_classes * rows.n_groups)
    table = table.reshape(rows.n_classes, rows.n_groups)
    wanted = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    return wanted.reshape(-1), table.reshape(-1)


def independence_weights(rows: Rows) -> NDArray[np.float64]:
    """Weigh rows so that label and group are independent, after Kamiran and Calders."""
    wanted, found = _expected(rows)
    weights: NDArray[np.float64] = (wanted / np.maximum(found, 1))[rows.cells]
    return weights


def _rare_cells(rows: Rows) -> NDArray[np.bool_]:
    wanted, found = _expected(rows)
    rare: NDArray[np.bool_] = found < wanted
    return rare
