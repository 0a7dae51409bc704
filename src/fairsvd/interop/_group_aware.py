"""A wrapper for mitigators that need the groups, for searches and Pipelines."""

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

from .._messages import listed
from .._signature import takes
from ..base import HasMethods, restored_on_failure
from ..containers import as_known, is_frame, read_labels
from ..exceptions import GroupError
from ..groups import drop_sensitive, find_sensitive, require_two_groups
from ._mitigator import check_mitigator, encode_located, is_multiclass, read_scores_as_double

__all__ = ["GroupAwareWrapper"]


def _has(name: str) -> Callable[[Any], bool]:
    """Make a check that the inner estimator has a method."""
    return lambda wrapper: hasattr(getattr(wrapper, "estimator_", wrapper.estimator), name)


class GroupAwareWrapper(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """Passes the sensitive attribute from X to a mitigator that takes it as an argument.

    fairlearn's ``ThresholdOptimizer`` takes ``sensitive_features`` in ``fit`` and ``predict``, its
    ``ExponentiatedGradient`` in ``fit``. scikit-learn's searches, ``cross_validate`` and scorers
    pass no metadata to ``predict``, and Pipelines none to a ``fit`` that does not name it. The
    wrapper makes such a mitigator an ordinary classifier with ``fit(X, y)`` and ``predict(X)``.

    Parameters
    ----------
    estimator : estimator
        The mitigator; a clone of it is fitted. It gets the class codes 0..K-1 as labels, as
        fairlearn requires, so that y can hold any labels. Freeze an estimator inside it that is
        fitted already, ``FrozenEstimator(classifier)``, since clones lose their fit.
    sensitive_columns : str, int or list of these
        Names (or positions) of columns of X, else levels of the index of X; several are
        intersected. For a mitigator that needs the groups only in ``fit`` they can also be in the
        index of y.
    drop : bool, default=True
        Whether to remove these columns from the X that the mitigator gets, as the editors do.
        False keeps them, for a classifier that was fitted with them.
    random_state : int, RandomState or None, default=None
        Passed to the mitigator's ``predict`` if that takes it. Both of fairlearn's draw their
        predictions at random; with an integer every call with the same rows gives equal ones.

    Attributes
    ----------
    estimator_ : estimator
        The fitted mitigator.
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted.
    groups_ : list
        Groups seen in ``fit``; tuples for intersections.
    n_features_in_, feature_names_in_
        As in scikit-learn, without the dropped columns.

    See Also
    --------
    fairsvd.fairness_scorer : Its ``sensitive_columns=`` finds the groups in the same places.

    Notes
    -----
    Limits of the mitigators and of scikit-learn:

    * A mitigator whose ``predict`` takes the groups needs them in every X; for the others X can
      have the dropped columns or not. The editors of this package need them only in ``fit``.
    * Earlier steps must keep the attribute: use a ``ColumnTransformer`` that passes it through, and
      ``set_output(transform="pandas")`` to keep its name or index, or use its position.
    * A group that ``fit`` did not see is an error, where fairlearn would predict 0.
    * A random prediction depends on the position of its row, so a subset of rows can get other
      predictions. For the same reason there is no ``predict_proba`` unless the mitigator has one.

    A ``ThresholdOptimizer`` gets the scores of its classifier as float64, since with pandas 3
    fairlearn 0.15 cannot predict from float32.

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
        """Fit a clone of the mitigator with the groups found in X.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, n_features)
            Has the sensitive attributes as columns or as levels of its index.
        y : array-like of shape (n,)
            Any labels, of two classes unless the mitigator takes more.

        Returns
        -------
        self : object

        Raises
        ------
        GroupError
            If the groups are not found, missing in some rows, or all the same.
        ValueError
            If y has one class, or more than the mitigator takes; the mitigator's ``fit`` takes no
            ``sensitive_features``; or X has no columns but the sensitive ones.
        """
        self._validate_params()
        with restored_on_failure(self):
            return self._fit(X, y)

    def _fit(self, X: Any, y: Any) -> Self:
        X, y = as_known(X, "X"), as_known(y, "y")
        labels = None if y is None else read_labels(y)
        table, labels = check_X_y(X, labels, dtype=None, ensure_all_finite=False, estimator=self)
        X = X if is_frame(X) else table
        self.classes_, codes = self._encode(labels)
        located = find_sensitive(X, y, self.sensitive_columns)
        mitigator = clone(self.estimator)
        check_mitigator(mitigator, located.source)
        values, groups = encode_located(located, len(codes))
        self.groups_ = list(require_two_groups(groups).labels)
        rest = located.X if self.drop else X
        if rest.shape[1] == 0:
            raise ValueError(
                f"X has {X.shape[1]} feature(s), all of them sensitive_columns: nothing is left to "
                "learn from. Pass more columns, or use drop=False."
            )
        validate_data(self, rest, skip_check_array=True)
        self.estimator_ = mitigator.fit(rest, codes, sensitive_features=values)
        read_scores_as_double(self.estimator_)
        return self

    def _encode(self, y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y has one class only ({classes.tolist()}): pass at least two.")
        if len(classes) > 2 and not is_multiclass(self.estimator):
            raise ValueError(
                "Only binary classification is supported. The type of the target is "
                f"{type_of_target(y)}: {type(self.estimator).__name__} takes two classes, y has "
                f"{len(classes)}."
            )
        return classes, codes

    def _ask(self, name: str, X: Any) -> NDArray[Any]:
        """Call a method of the mitigator with the arguments that it takes."""
        check_is_fitted(self, "estimator_")
        method = getattr(self.estimator_, name)
        X = as_known(X, "X")
        X = X if is_frame(X) else check_array(X, dtype=None, ensure_all_finite=False)
        rest = X
        if self.drop:
            rest = drop_sensitive(X, self.sensitive_columns, self.n_features_in_)
        validate_data(self, rest, reset=False, skip_check_array=True)
        extra: dict[str, Any] = {}
        if takes(method, "sensitive_features"):
            extra["sensitive_features"] = self._read_groups(X)
        if takes(method, "random_state"):
            extra["random_state"] = self.random_state
        return np.asarray(method(rest, **extra))

    def _read_groups(self, X: Any) -> Any:
        try:
            located = find_sensitive(X, None, self.sensitive_columns)
        except GroupError as error:
            raise GroupError(
                f"{type(self.estimator_).__name__} needs the groups at prediction too, but X lacks "
                f"sensitive_columns={self.sensitive_columns!r}: pass X with the columns (or index "
                "levels) that it had in fit."
            ) from error
        values, groups = encode_located(located, X.shape[0])
        if unseen := [label for label in groups.labels if label not in self.groups_]:
            raise GroupError(
                f"sensitive_columns={self.sensitive_columns!r} have the groups "
                f"[{listed(unseen, show=repr)}], which fit did not see "
                f"([{listed(self.groups_, show=repr)}]): leave these rows out, or fit with "
                "such rows."
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
            If the mitigator needs the groups and they are not found, missing, or new.
        """
        codes = self._ask("predict", X).reshape(-1).astype(np.int64)
        return self.classes_[codes]

    @available_if(_has("predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Compute the mitigator's probabilities, if it has any.

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
        """Compute the mitigator's margins, if it has any.

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
        # The draw for a row depends on its position.
        tags.non_deterministic = takes(self.estimator.predict, "random_state")
        return tags
