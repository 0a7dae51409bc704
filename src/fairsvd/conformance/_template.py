"""What both classifiers share: reading, the threshold, and the outputs."""

from __future__ import annotations

from numbers import Real
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils import get_tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, check_X_y, validate_data

from .._rng import resolve_seed, stage_rng
from .._warn import warn
from ..base import (
    ClassifiesByLogits,
    HasMethods,
    Interval,
    Splitter,
    StrOptions,
    fraction,
    parameter,
    positive_code,
    restored_on_failure,
    split_rows,
    with_parameters,
)
from ..containers import as_known, is_frame, read_labels
from ..exceptions import MissingSensitiveFeaturesWarning
from ..groups import drop_sensitive, encode_groups, find_sensitive, require_two_groups
from ..objective import GAPS, Constraint, Judge, make_judge, margin_of_threshold
from ._cells import Rows

__all__ = ["CellClassifier"]

# Least probability whose logarithm is taken.
TINY = 1e-12


@with_parameters
class CellClassifier(ClassifiesByLogits, MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """Base class of classifiers that learn from conformance constraints of cells.

    Parameters
    ----------
    estimator : classifier or None, default=None
        With ``predict_proba`` or ``decision_function``; clones of it are fitted. Networks, editors
        and Pipelines do too. None: a logistic regression.
    density : float in (0, 1], default=0.2
        Share of a cell's rows, the densest ones, that its constraints are learned on.
    constraint : str, default="equalized_odds"
        Name of the gap by which the threshold is chosen, as in editors.
    tolerance : float in [0, 1], default=0.05
        The accepted gap.
    tolerance_fraction : float in (0, 1], default=0.4
        A gap beyond this share of the tolerance counts against the utility.
    threshold : "tune" or float in (0, 1), default="tune"
        Probability of ``classes_[1]`` from which on it is predicted. "tune": the one of best
        balanced accuracy under the gap on the validation rows. Not used for more than two classes.
    pos_label : label or None, default=None
        The positive class of two; None means the second.
    sensitive_columns : str, int, list of these or None, default=None
        Where the groups are if ``fit`` gets no ``sensitive_features``: columns of X, or index
        levels of X or y. Columns of X are taken out of what the classifier gets.
    validation : float in (0, 1) or splitter, default=0.25
        Rows on which is chosen, drawn within every (label, group) cell; or a splitter of one split.
        Where nothing is chosen all rows are learned from.
    random_state : int, RandomState instance or None, default=None
        Seeds the draws, and every ``random_state`` of the classifier that is None.
    """

    estimator: Any = parameter(HasMethods(["fit", "predict"]), None, default=None, kw_only=False)
    density: float = parameter(fraction("right"), default=0.2)
    constraint: str = parameter(StrOptions(set(GAPS)), default="equalized_odds")
    tolerance: float = parameter(fraction(), default=0.05)
    tolerance_fraction: float = parameter(fraction("right"), default=0.4)
    threshold: Any = parameter(
        StrOptions({"tune"}), Interval(Real, 0, 1, closed="neither"), default="tune"
    )
    pos_label: Any = parameter(default=None)
    sensitive_columns: Any = parameter(str, int, list, tuple, None, default=None)
    validation: Any = parameter(fraction("neither"), Splitter(), default=0.25)
    random_state: Any = parameter("random_state", default=None)

    __metadata_request__fit = {"sensitive_features": True}  # noqa: RUF012 (scikit-learn's form)

    def fit(self, X: Any, y: Any, *, sensitive_features: Any = None) -> Self:
        """Learn the constraints, and fit clones of the classifier.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, n_features)
            Constraints are about its columns of numbers with more than two values.
        y : array-like of shape (n,)
            At least two classes, any labels.
        sensitive_features : array-like of shape (n,) or (n, n_columns), default=None
            Groups, any labels; several columns are intersected.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If X holds images or other rows that are no table, or an input is invalid.
        GroupError
            If there is a single group, or groups are missing.
        """
        self._validate_params()
        with restored_on_failure(self):
            rows = self._read(X, y, sensitive_features)
            self._learn(rows, resolve_seed(self.random_state))
        return self

    def _learn(self, rows: Rows, seed: int) -> None:
        raise NotImplementedError

    def _scores(self, X: Any) -> NDArray[np.float64]:
        """Compute logits (n, n_classes) of checked rows, before the threshold."""
        raise NotImplementedError

    def _read(self, X: Any, y: Any, sensitive_features: Any) -> Rows:
        X, y = as_known(X, "X"), as_known(y, "y")
        if getattr(X, "ndim", 2) > 2 or (hasattr(X, "__getitem__") and not _is_table(X)):
            raise ValueError(
                f"X is a {type(X).__name__} of rows that are no lists of numbers: conformance "
                "constraints bound sums of a table's columns. Pass a table, for example the "
                "features that a network makes of images (transform of an editor)."
            )
        labels = None if y is None else read_labels(y)
        kind = None if is_frame(X) else "numeric"
        table, labels = check_X_y(X, labels, dtype=kind, estimator=self)
        X = X if is_frame(X) else table
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y holds one class only ({self.classes_.tolist()}): a classifier needs rows of "
                "two classes or more."
            )
        if sensitive_features is None and self.sensitive_columns is not None:
            located = find_sensitive(X, y, self.sensitive_columns)
            sensitive_features, X = located.values, located.X
        elif self.sensitive_columns is not None:
            X = drop_sensitive(X, self.sensitive_columns)
        validate_data(self, X, skip_check_array=True)
        group_codes, self.groups_ = np.zeros(len(codes), dtype=np.int64), []
        if sensitive_features is None:
            warn(
                "fit got no sensitive_features (and sensitive_columns is None): the classifier is "
                "fitted as it is. Pass sensitive_features=, or name columns of X or index levels "
                "of y in sensitive_columns=.",
                MissingSensitiveFeaturesWarning,
            )
        else:
            groups = require_two_groups(encode_groups(sensitive_features, len(codes)))
            group_codes, self.groups_ = groups.codes, list(groups.labels)
        codes = codes.astype(np.int64)
        return Rows(X, labels, codes, group_codes, self.groups_, len(self.classes_))

    @property
    def _tunes(self) -> bool:
        return self.threshold == "tune" and len(self.classes_) == 2

    def _split(self, rows: Rows, seed: int) -> tuple[Rows, Rows]:
        """Split into rows to learn from and rows to choose on."""
        how = self.validation, rows.cells, rows.codes, stage_rng(seed, "split"), self.classes_
        editing, held = split_rows(*how)
        return rows.take(editing), rows.take(held)

    def _judge(self, rows: Rows) -> Judge:
        tuned = self._tunes or len(self.classes_) > 2
        request = Constraint(
            gap=self.constraint,
            tolerance=float(self.tolerance),
            fraction=float(self.tolerance_fraction),
            utility="balanced_accuracy",
            threshold=None if tuned else float(self.threshold),
            pos=positive_code(self.pos_label, self.classes_),
            balance=None,
        )
        one_part = np.zeros_like(rows.codes)
        return make_judge(rows.codes, rows.groups, one_part, rows.n_classes, rows.n_groups, request)

    def _clone(self, seed: int) -> Any:
        """Make the classifier to fit, seeded where it is not."""
        if self.estimator is None:
            return LogisticRegression(max_iter=1000)
        model = clone(self.estimator)
        unset = {
            name: seed
            for name, value in model.get_params().items()
            if value is None and (name == "random_state" or name.endswith("__random_state"))
        }
        return model.set_params(**unset)

    def _logits_of(self, model: Any, X: Any) -> NDArray[np.float64]:
        """Compute the logits (n, n_classes) of a fitted classifier, which may lack a class."""
        if hasattr(model, "predict_proba"):
            found = np.log(np.clip(model.predict_proba(X), TINY, None), dtype=np.float64)
        elif hasattr(model, "decision_function"):
            scores = np.asarray(model.decision_function(X), dtype=np.float64)
            found = np.stack([np.zeros_like(scores), scores], 1) if scores.ndim == 1 else scores
        else:
            raise ValueError(
                f"estimator={type(model).__name__} has neither predict_proba nor "
                "decision_function: pass a classifier that scores rows."
            )
        logits = np.full((len(found), len(self.classes_)), np.log(TINY))
        logits[:, np.searchsorted(self.classes_, model.classes_)] = found
        return logits

    def _set_threshold(self, margin: float) -> None:
        binary = len(self.classes_) == 2
        self.offset_ = margin if binary else 0.0
        self.threshold_ = float(1 / (1 + np.exp(-margin))) if binary else None

    def _fixed_margin(self) -> float:
        return 0.0 if self.threshold == "tune" else margin_of_threshold(float(self.threshold))

    def _checked(self, X: Any) -> Any:
        """Check rows for prediction, with or without the sensitive columns."""
        check_is_fitted(self, "offset_")
        X = as_known(X, "X")
        X = X if is_frame(X) else check_array(X, dtype="numeric", estimator=self)
        if self.sensitive_columns is not None:
            X = drop_sensitive(X, self.sensitive_columns, self.n_features_in_)
        validate_data(self, X, reset=False, skip_check_array=True)
        return X

    def _logits(self, X: Any) -> NDArray[np.float64]:
        logits = self._scores(self._checked(X))
        if len(self.classes_) == 2:
            logits[:, 1] -= self.offset_
        return logits

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Compute probabilities, shifted so that the largest is the prediction.

        Parameters
        ----------
        X : as in ``predict``

        Returns
        -------
        probabilities : ndarray of shape (n, n_classes), float64
            In the order of ``classes_``. Those of a classifier without ``predict_proba`` are its
            margins through a logistic function.
        """
        logits = torch.as_tensor(self._logits(X))
        return torch.softmax(logits, dim=1).numpy()

    def __sklearn_tags__(self) -> Any:
        """Describe the classifier to scikit-learn."""
        tags = super().__sklearn_tags__()
        if self.estimator is not None:
            inner = get_tags(self.estimator).classifier_tags
            tags.classifier_tags.multi_class = inner is None or inner.multi_class
        return tags


def _is_table(X: Any) -> bool:
    """Tell whether indexing gives a table's rows, and not a data set's items."""
    return hasattr(X, "shape") or isinstance(X, (list, tuple))
