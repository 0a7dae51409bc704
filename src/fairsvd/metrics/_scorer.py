"""Gaps and ratios as scikit-learn scorers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import sklearn
from numpy.typing import NDArray

# Private, and used only here: a search asks the estimator only once for the predictions of all
# scorers of this class. It exists in scikit-learn 1.6 to 1.9.
from sklearn.metrics._scorer import _BaseScorer
from sklearn.utils.metadata_routing import MetadataRequest

from ..exceptions import GroupError
from ..groups import encode_groups, find_sensitive
from ..objective import count_table
from ._responses import ask_for_shares, share_table
from ._scores import check_table_size, encode_labels, measure, split_name

__all__ = ["fairness_scorer"]

_RESPONSES = ("predict", "predict_proba", "decision_function")


@dataclass(eq=False, repr=False)
class _FairnessScorer(_BaseScorer):
    """The callable that :func:`fairness_scorer` returns: ``scorer(estimator, X, y)``."""

    # The predictions that scikit-learn's scorers share; they keep only one column of probabilities.
    _response_method: ClassVar[str] = "predict"

    name: str
    sensitive_columns: str | int | Sequence[str | int] | None
    pos_label: Any
    response_method: str
    missing_group: str

    def __post_init__(self) -> None:
        # Named columns must not be overruled by metadata meant for the estimator.
        self._request: bool | str | None = self.sensitive_columns is None

    def __repr__(self) -> str:
        defaults = {"response_method": "predict", "missing_group": "raise"}
        fields = ("sensitive_columns", "pos_label", "response_method", "missing_group")
        changed = [
            f", {field}={getattr(self, field)!r}"
            for field in fields
            if getattr(self, field) != defaults.get(field)
        ]
        return f"fairness_scorer({self.name!r}{''.join(changed)})"

    def __call__(
        self, estimator: Any, X: Any, y_true: Any, *, sensitive_features: Any = None
    ) -> float:
        """Score a fitted classifier: minus a difference, or a ratio; NaN without a comparison."""
        return self._score(_ask, estimator, X, y_true, sensitive_features=sensitive_features)

    def _score(
        self,
        method_caller: Callable[..., Any],
        estimator: Any,
        X: Any,
        y_true: Any,
        *,
        sensitive_features: Any = None,
    ) -> float:
        """Score with predictions from ``method_caller(estimator, "predict", X)``."""
        names = None
        if sensitive_features is None:
            sensitive_features, names = self._find(X, y_true)
        classes = getattr(estimator, "classes_", None)
        if self.response_method != "predict":
            response = ask_for_shares(estimator, self.response_method, X)
        else:
            # scikit-learn's caller needs classes_.
            response = (_ask if classes is None else method_caller)(estimator, "predict", X)
        what = f"y_pred ({type(estimator).__name__}.predict)"
        arrays = {"y": y_true} | ({what: response} if self.response_method == "predict" else {})
        counts, pos = self._counts(arrays, response, classes, sensitive_features, names)
        # 0 plus, since minus 0 looks odd.
        return 0.0 + self._sign * measure(counts, self.name, pos)

    def get_metadata_routing(self) -> MetadataRequest:
        """Tell scikit-learn which metadata ``score`` takes.

        Returns
        -------
        routing : MetadataRequest
            ``sensitive_features`` is requested unless ``sensitive_columns`` is set.
        """
        routing = MetadataRequest(owner=self)
        routing.score.add_request(param="sensitive_features", alias=self._request)
        return routing

    def set_score_request(self, *, sensitive_features: bool | str | None) -> _FairnessScorer:
        """Change the request, for instance to score two attributes in one search.

        Parameters
        ----------
        sensitive_features : bool, str or None
            True or False: take it or not. A string: take the metadata of that name instead.
            None: raise an error if it is passed.

        Returns
        -------
        self : scorer
            This scorer.

        Raises
        ------
        RuntimeError
            If metadata routing is off.
        """
        if not sklearn.get_config()["enable_metadata_routing"]:
            raise RuntimeError(
                "set_score_request needs metadata routing: switch it on with "
                "sklearn.set_config(enable_metadata_routing=True)."
            )
        self._request = sensitive_features
        return self

    # The parts of scikit-learn's own scorers. TunedThresholdClassifierCV takes a scorer apart, to
    # score the labels of every threshold.

    @property
    def _sign(self) -> int:
        return 1 if split_name(self.name)[1] else -1

    @property
    def _kwargs(self) -> dict[str, Any]:
        return {"pos_label": self.pos_label}

    def _score_func(
        self, y_true: Any, y_pred: Any, *, pos_label: Any = None, sensitive_features: Any = None
    ) -> float:
        """Measure labels; without sensitive features only y's index can hold the groups."""
        names = None
        if sensitive_features is None:
            sensitive_features, names = self._find_in_labels(y_true)
        labels, (true, predicted), pos = encode_labels(
            {"y": y_true, "predictions": y_pred}, None, pos_label
        )
        groups = encode_groups(
            sensitive_features, len(true), missing=self.missing_group, names=names
        )
        sizes = len(labels), groups.n_groups
        check_table_size(*sizes)
        return measure(count_table(true, predicted, groups.codes, *sizes), self.name, pos)

    def _accept_sample_weight(self) -> bool:
        # scikit-learn 1.9 asks every scorer of a dictionary if routing is off.
        return False

    def _find(self, X: Any, y: Any) -> tuple[Any, tuple[str, ...]]:
        if self.sensitive_columns is None:
            raise ValueError(
                f"{self!r} got no sensitive_features. Either switch metadata routing on "
                "(sklearn.set_config(enable_metadata_routing=True)) and pass sensitive_features= "
                "to the search's fit, or in params= to cross_validate; or name columns of X, or "
                "index levels of X or y, in fairness_scorer(..., sensitive_columns=...); or call "
                "scorer(estimator, X, y, sensitive_features=...)."
            )
        located = find_sensitive(X, y, self.sensitive_columns)
        return located.values, located.names

    def _find_in_labels(self, y: Any) -> tuple[Any, tuple[str, ...]]:
        try:
            return self._find(None, y)
        except GroupError as error:
            raise GroupError(
                f"sensitive_columns={self.sensitive_columns!r} were not found in the index of y, "
                "and here scikit-learn shows the scorer labels only, not X: name levels of y's "
                "index, or leave sensitive_columns out, switch metadata routing on and pass "
                "sensitive_features= to fit."
            ) from error

    def _counts(
        self,
        arrays: dict[str, Any],
        response: Any,
        classes: Any,
        sensitive_features: Any,
        names: Any,
    ) -> tuple[NDArray[Any], int | None]:
        """Count true against predicted classes in each group, from predictions or shares."""
        labels, codes, pos = encode_labels(arrays, classes, self.pos_label)
        groups = encode_groups(
            sensitive_features, len(codes[0]), missing=self.missing_group, names=names
        )
        sizes = len(labels), groups.n_groups
        check_table_size(*sizes)
        if len(codes) > 1:
            return count_table(codes[0], codes[1], groups.codes, *sizes), pos
        return share_table(codes[0], response, groups.codes, *sizes), pos


def _ask(estimator: Any, method: str, X: Any) -> Any:
    return getattr(estimator, method)(X)


def fairness_scorer(
    name: str,
    *,
    sensitive_columns: str | int | Sequence[str | int] | None = None,
    pos_label: Any = None,
    response_method: str = "predict",
    missing_group: str = "raise",
) -> _FairnessScorer:
    """Make a scikit-learn scorer of a gap or ratio between groups.

    Parameters
    ----------
    name : str
        "demographic_parity", "equal_opportunity", "equalized_odds", "average_odds",
        "signed_average_odds" or "accuracy_parity", followed by "_difference" or "_ratio".
    sensitive_columns : str, int or list of these, default=None
        Where the groups are if the scorer gets none: names (or positions) of columns of X, else
        levels of X's index, else of y's index. It works without metadata routing; the estimator
        gets X unchanged. None means that ``sensitive_features`` is requested.
    pos_label : label or None, default=None
        The positive class of two; None means ``classes_[1]``.
    response_method : {"predict", "predict_proba", "decision_function"}, default="predict"
        "predict": rates of predicted labels. "predict_proba": means of probabilities instead of
        rates, which are smoother and need no threshold. "decision_function": labels by its sign or
        its largest column.
    missing_group : {"raise", "ignore", "own_group"}, default="raise"
        Rows whose group is missing: an error, left out, or a group "missing".

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y, *, sensitive_features=None)`` -> float, where greater is better:
        minus a difference, in [-1, 0], or a ratio, in [0, 1]. It can be pickled and used in any
        ``scoring=``, alone or in a dictionary. ``set_score_request(sensitive_features="name")``
        takes metadata of another name.

    Raises
    ------
    ValueError
        If a name is unknown. When called: if there are no sensitive features, or as in
        :func:`fairness_score`.

    Notes
    -----
    The groups are those of the scored rows. If fewer than two groups have a common rate to compare,
    the score is NaN, not a perfect 0: split with ``JointStratifiedKFold`` to have every
    (label, group) cell in every fold.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from fairsvd import fairness_scorer
    >>> X, sex = np.arange(8.0).reshape(-1, 1), ["f"] * 4 + ["m"] * 4
    >>> classifier = LogisticRegression().fit(X, X[:, 0] > 3.5)
    >>> scorer = fairness_scorer("demographic_parity_difference")
    >>> scorer(classifier, X, X[:, 0] > 3.5, sensitive_features=sex)
    -1.0
    """
    split_name(name)
    for what, value, choices in (
        ("response_method", response_method, _RESPONSES),
        ("missing_group", missing_group, ("raise", "ignore", "own_group")),
    ):
        if value not in choices:
            raise ValueError(f"{what}={value!r}: wanted one of {', '.join(choices)}.")
    return _FairnessScorer(name, sensitive_columns, pos_label, response_method, missing_group)
