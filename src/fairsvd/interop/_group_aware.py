"""Mitigators that are told the groups, inside scikit-learn's searches and Pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_array, check_is_fitted, check_X_y, validate_data

from .._signature import takes
from ..base import HasMethods, restored_on_failure
from ..exceptions import GroupError
from ..groups import drop_sensitive, find_sensitive, is_frame, require_two_groups
from ._mitigator import check_told, encoded, is_multiclass, scores_as_double

__all__ = ["GroupAwareWrapper"]


def _has(name: str) -> Callable[[Any], bool]:
    """Show a method where the inner estimator has it."""
    return lambda wrapper: hasattr(getattr(wrapper, "estimator_", wrapper.estimator), name)


class GroupAwareWrapper(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """Reads the sensitive attribute out of X for a mitigator that wants it as an argument.

    fairlearn's ``ThresholdOptimizer`` takes ``sensitive_features`` in ``fit`` and ``predict``, its
    ``ExponentiatedGradient`` in ``fit``. scikit-learn's searches, ``cross_validate`` and scorers
    pass no metadata to ``predict``, and Pipelines none to a ``fit`` that does not name it. Wrapped,
    such a mitigator is an ordinary classifier: ``fit(X, y)`` and ``predict(X)``.

    Parameters
    ----------
    estimator : estimator
        The mitigator; a clone of it is fitted. It gets the class codes 0..K-1 for labels, which
        fairlearn wants, so that y may hold any two labels here. An estimator inside it that is
        fitted already goes in frozen, ``FrozenEstimator(classifier)``: clones lose their fit.
    sensitive_columns : str, int or list of these
        Names (or positions) of columns of X, else levels of the index of X; several are
        intersected. A mitigator that wants the groups in ``fit`` only also finds them in the index
        of y.
    drop : bool, default=True
        Take columns that were found among X's out of what the mitigator gets, as the editors do.
        False leaves them in, which a classifier needs that was fitted with them.
    random_state : int, RandomState or None, default=None
        Handed to the mitigator's ``predict`` where that takes it. Both of fairlearn's draw their
        predictions at random; with an integer every call with the same rows gives the same ones.

    Attributes
    ----------
    estimator_ : estimator
        The fitted mitigator.
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted.
    groups_ : list
        Groups seen in ``fit``; tuples for intersections.
    n_features_in_, feature_names_in_
        As in scikit-learn; without the columns that were dropped.

    See Also
    --------
    fairsvd.fairness_scorer : Its ``sensitive_columns=`` finds the groups in the same places.

    Notes
    -----
    Limits, all of them the mitigator's or scikit-learn's:

    * A mitigator whose ``predict`` takes the groups needs them in every X; for the others X may
      come with or without dropped columns. The editors of this package need them in ``fit`` alone.
    * Steps in front of this one must keep the attribute: a ``ColumnTransformer`` that passes it
      through, ``set_output(transform="pandas")`` for its name or index to survive, or its position.
    * A group that was not there in ``fit`` is an error, where fairlearn would predict 0.
    * A prediction that is drawn depends on the place of its row, so that a part of the rows may get
      others than in the whole. For the same reason there is no ``predict_proba`` unless the
      mitigator has one.

    A ``ThresholdOptimizer`` gets the scores of its classifier as float64: with pandas 3, fairlearn
    0.15 cannot predict from float32.

    Examples
    --------
    >>> import numpy as np
    >>> from fairlearn.postprocessing import ThresholdOptimizer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import GridSearchCV
    >>> from fairsvd import fairness_scorer
    >>> from fairsvd.datasets import make_biased_classification
    >>> from fairsvd.interop import GroupAwareWrapper
    >>> task = make_biased_classification(600, random_state=0)
    >>> X = np.column_stack([task.data, task.groups])
    >>> optimizer = ThresholdOptimizer(
    ...     estimator=LogisticRegression(), predict_method="predict_proba"
    ... )
    >>> search = GridSearchCV(
    ...     GroupAwareWrapper(optimizer, -1, random_state=0),
    ...     {"estimator__constraints": ["demographic_parity", "equalized_odds"]},
    ...     scoring=fairness_scorer("demographic_parity_difference", sensitive_columns=-1),
    ... )
    >>> search.fit(X, task.target).best_params_
    {'estimator__constraints': 'demographic_parity'}
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "estimator": [HasMethods(["fit", "predict"])],
        "sensitive_columns": [str, Integral, list, tuple],
        "drop": ["boolean"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator: Any,
        sensitive_columns: str | int | Sequence[str | int],
        *,
        drop: bool = True,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.estimator = estimator
        self.sensitive_columns = sensitive_columns
        self.drop = drop
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Fit a clone of the mitigator, with the groups that are found in X.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, n_features)
            Holds the sensitive columns, or has them as levels of its index.
        y : array-like of shape (n,)
            Any labels; two classes unless the mitigator takes more.

        Returns
        -------
        self : object

        Raises
        ------
        GroupError
            The groups are not found, missing in some rows, or one only.
        ValueError
            y has one class, or more than the mitigator takes; the mitigator's ``fit`` takes no
            ``sensitive_features``; nothing is left of X without the sensitive columns.
        """
        self._validate_params()
        with restored_on_failure(self):
            return self._fit(X, y)

    def _fit(self, X: Any, y: Any) -> Self:
        table, labels = check_X_y(X, y, dtype=None, ensure_all_finite=False, estimator=self)
        X = X if is_frame(X) else table
        self.classes_, codes = self._encoded(labels)
        located = find_sensitive(X, y, self.sensitive_columns)
        mitigator = clone(self.estimator)
        check_told(mitigator, located.source)
        values, groups = encoded(located, len(codes))
        self.groups_ = list(require_two_groups(groups).labels)
        rest = located.X if self.drop else X
        if rest.shape[1] == 0:
            raise ValueError(
                f"X has {X.shape[1]} feature(s), all of them sensitive_columns: nothing is left to "
                "learn from. Pass more columns, or drop=False."
            )
        validate_data(self, rest, skip_check_array=True)
        self.estimator_ = mitigator.fit(rest, codes, sensitive_features=values)
        scores_as_double(self.estimator_)
        return self

    def _encoded(self, y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y holds one class only ({classes.tolist()}): two are needed.")
        if len(classes) > 2 and not is_multiclass(self.estimator):
            raise ValueError(
                "Only binary classification is supported. The type of the target is "
                f"{type_of_target(y)}: {type(self.estimator).__name__} takes two classes, y has "
                f"{len(classes)}."
            )
        return classes, codes

    def _ask(self, name: str, X: Any) -> NDArray[Any]:
        """Call a method of the mitigator with what it takes."""
        check_is_fitted(self, "estimator_")
        method = getattr(self.estimator_, name)
        X = X if is_frame(X) else check_array(X, dtype=None, ensure_all_finite=False)
        rest = X
        if self.drop:
            rest = drop_sensitive(X, self.sensitive_columns, self.n_features_in_)
        validate_data(self, rest, reset=False, skip_check_array=True)
        extra: dict[str, Any] = {}
        if takes(method, "sensitive_features"):
            extra["sensitive_features"] = self._known_groups(X)
        if takes(method, "random_state"):
            extra["random_state"] = self.random_state
        return np.asarray(method(rest, **extra))

    def _known_groups(self, X: Any) -> Any:
        try:
            located = find_sensitive(X, None, self.sensitive_columns)
        except GroupError as error:
            raise GroupError(
                f"{type(self.estimator_).__name__} wants the groups at prediction too, and X lacks "
                f"sensitive_columns={self.sensitive_columns!r}: pass X with the columns (or index "
                "levels) that it had in fit."
            ) from error
        values, groups = encoded(located, X.shape[0])
        if unseen := [label for label in groups.labels if label not in self.groups_]:
            raise GroupError(
                f"sensitive_columns={self.sensitive_columns!r} hold the groups {unseen}, which "
                f"were not there in fit ({self.groups_}): leave these rows out, or fit with such "
                "rows."
            )
        return values

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict labels.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, n_features)
            As in ``fit``.

        Returns
        -------
        labels : ndarray of shape (n,), of the labels' dtype

        Raises
        ------
        GroupError
            The mitigator wants the groups and they are not found, missing, or new.
        """
        codes = self._ask("predict", X).reshape(-1).astype(np.int64)
        return self.classes_[codes]

    @available_if(_has("predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Compute the mitigator's probabilities, where it has any.

        Parameters
        ----------
        X : as in ``predict``

        Returns
        -------
        probabilities : ndarray of shape (n, n_classes)
            In the order of ``classes_``.
        """
        return self._ask("predict_proba", X)

    @available_if(_has("decision_function"))  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> NDArray[Any]:
        """Compute the mitigator's margins, where it has any.

        Parameters
        ----------
        X : as in ``predict``

        Returns
        -------
        margin : ndarray of shape (n,) for two classes, else (n, n_classes)
        """
        return self._ask("decision_function", X)

    def __sklearn_tags__(self) -> Any:
        """Describe the wrapped mitigator to scikit-learn."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = is_multiclass(self.estimator)
        # What is drawn for a row depends on its place.
        tags.non_deterministic = takes(self.estimator.predict, "random_state")
        return tags
