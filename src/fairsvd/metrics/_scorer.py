"""Gaps and ratios as scikit-learn scorers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import sklearn

# Private, and used only here: a search asks the estimator only once for the predictions of all
# scorers of this class. It exists in scikit-learn 1.6 to 1.9.
from sklearn.metrics._scorer import _BaseScorer
from sklearn.utils.metadata_routing import UNCHANGED, MetadataRequest

from ..exceptions import GroupError
from ..groups import encode_groups, find_sensitive
from ._labels import check_table_size, encode_labels
from ._measured import Rows
from ._read import read_rows, read_weights
from ._responses import ask_for_shares
from ._scores import Asked, check_asked, measure, merit, needs_scores

__all__ = ["fairness_scorer"]

_RESPONSES = ("predict", "predict_proba", "decision_function")


@dataclass(eq=False, repr=False)
class _FairnessScorer(_BaseScorer):
    """The callable that :func:`fairness_scorer` returns: ``scorer(estimator, X, y)``."""

    # The predictions that scikit-learn's scorers share; they keep only one column of probabilities.
    _response_method: ClassVar[str] = "predict"

    name: Asked
    sensitive_columns: str | int | Sequence[str | int] | None
    pos_label: Any
    response_method: str
    missing_group: str

    def __post_init__(self) -> None:
        # Named columns must not be overruled by metadata meant for the estimator.
        groups: bool | str | None = self.sensitive_columns is None
        self._requests = {"sensitive_features": groups, "sample_weight": None}

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
        self,
        estimator: Any,
        X: Any,
        y_true: Any,
        *,
        sensitive_features: Any = None,
        sample_weight: Any = None,
    ) -> float:
        """Score a fitted classifier: greater is better; NaN without a comparison."""
        metadata = {"sensitive_features": sensitive_features, "sample_weight": sample_weight}
        return self._score(_ask, estimator, X, y_true, **metadata)

    def _score(
        self,
        method_caller: Callable[..., Any],
        estimator: Any,
        X: Any,
        y_true: Any,
        *,
        sensitive_features: Any = None,
        sample_weight: Any = None,
    ) -> float:
        """Score with predictions from ``method_caller(estimator, "predict", X)``."""
        names = None
        if sensitive_features is None:
            sensitive_features, names = self._find(X, y_true)
        classes = getattr(estimator, "classes_", None)
        what = f"y_pred ({type(estimator).__name__}.predict)"
        arrays, shares = {"y": y_true}, None
        if needs_scores(self.name):
            shares = ask_for_shares(estimator, "predict_proba", X)
        elif self.response_method != "predict":
            shares = ask_for_shares(estimator, self.response_method, X)
        else:
            # scikit-learn's caller needs classes_.
            ask = _ask if classes is None else method_caller
            arrays[what] = ask(estimator, "predict", X)
        labels, codes, pos = encode_labels(arrays, classes, self.pos_label)
        groups = encode_groups(
            sensitive_features, len(codes[0]), missing=self.missing_group, names=names
        )
        sizes = len(labels), groups.n_groups
        check_table_size(*sizes)
        weights = None if sample_weight is None else read_weights(sample_weight, len(codes[0]))
        hard = codes[1] if len(codes) > 1 else None
        rows = Rows(codes[0], groups.codes, *sizes, pos, hard, shares, weights, soft=hard is None)
        return merit(self.name, measure(rows, self.name, groups))

    def get_metadata_routing(self) -> MetadataRequest:
        """Tell scikit-learn which metadata ``score`` takes.

        Returns
        -------
        routing : MetadataRequest
            ``sensitive_features`` is requested unless ``sensitive_columns`` is set;
            ``sample_weight`` only by ``set_score_request``.
        """
        routing = MetadataRequest(owner=self)
        for param, alias in self._requests.items():
            routing.score.add_request(param=param, alias=alias)
        return routing

    def set_score_request(
        self,
        *,
        sensitive_features: bool | str | None = UNCHANGED,
        sample_weight: bool | str | None = UNCHANGED,
    ) -> _FairnessScorer:
        """Change the request, for instance to score two attributes in one search.

        Parameters
        ----------
        sensitive_features, sample_weight : bool, str or None
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
        asked = {"sensitive_features": sensitive_features, "sample_weight": sample_weight}
        self._requests |= {k: alias for k, alias in asked.items() if alias != UNCHANGED}
        return self

    # The parts of scikit-learn's own scorers. TunedThresholdClassifierCV takes a scorer apart, to
    # score the labels of every threshold.

    @property
    def _sign(self) -> int:
        return 1

    @property
    def _kwargs(self) -> dict[str, Any]:
        return {"pos_label": self.pos_label}

    def _score_func(
        self,
        y_true: Any,
        y_pred: Any,
        *,
        pos_label: Any = None,
        sensitive_features: Any = None,
        sample_weight: Any = None,
    ) -> float:
        """Score labels; without sensitive features only y's index can hold the groups."""
        names = None
        if sensitive_features is None:
            sensitive_features, names = self._find_in_labels(y_true)
        read = read_rows(
            y_true,
            y_pred,
            sensitive_features,
            pos_label=pos_label,
            missing_group=self.missing_group,
            sample_weight=sample_weight,
            names=names,
        )
        return merit(self.name, measure(read.rows, self.name, read.groups))

    def _accept_sample_weight(self) -> bool:
        # scikit-learn 1.9 asks every scorer of a dictionary if routing is off.
        return True

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


def _ask(estimator: Any, method: str, X: Any) -> Any:
    return getattr(estimator, method)(X)


def fairness_scorer(
    name: Asked,
    *,
    sensitive_columns: str | int | Sequence[str | int] | None = None,
    pos_label: Any = None,
    response_method: str = "predict",
    missing_group: str = "raise",
) -> _FairnessScorer:
    """Make a scikit-learn scorer of how far groups differ, or of how the worst one fares.

    Parameters
    ----------
    name : str, requirement or list of requirements
        A name that :func:`fairness_score` takes, such as "equalized_odds_difference",
        "ppv_ratio", "tpr_worst" or "auc_worst". Of a :class:`GapLimit`, :class:`RatioLimit`,
        :class:`MinimumRate`, :class:`CountLimit` or :class:`EachAttribute`, or a list, the score is
        minus the largest excess over a limit, 0 where all are met, so that
        ``best_under_gap(..., limit=0)`` takes it.
    sensitive_columns : str, int or list of these, default=None
        Where the groups are if the scorer gets none: names (or positions) of columns of X, else
        levels of X's index, else of y's index. It works without metadata routing; the estimator
        gets X unchanged. None means that ``sensitive_features`` is requested.
    pos_label : label or None, default=None
        The positive class of two; None means ``classes_[1]``.
    response_method : {"predict", "predict_proba", "decision_function"}, default="predict"
        "predict": rates of predicted labels. "predict_proba": means of probabilities instead of
        rates, which are smoother and need no threshold. "decision_function": labels by its sign or
        its largest column. Measures of probabilities always use "predict_proba".
    missing_group : {"raise", "ignore", "own_group"}, default="raise"
        Rows whose group is missing: an error, left out, or a group "missing".

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y, *, sensitive_features=None, sample_weight=None)`` -> float, where
        greater is better: minus a difference, a ratio, or of the worst group its value if that is
        best at 1 and in [0, 1], else minus its distance from the best value. It can be pickled and
        used in any ``scoring=``, alone or in a dictionary.
        ``set_score_request(sensitive_features="name", sample_weight=True)`` takes metadata of
        another name, and weights.

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
    check_asked(name)
    for what, value, choices in (
        ("response_method", response_method, _RESPONSES),
        ("missing_group", missing_group, ("raise", "ignore", "own_group")),
    ):
        if value not in choices:
            raise ValueError(f"{what}={value!r}: wanted one of {', '.join(choices)}.")
    return _FairnessScorer(name, sensitive_columns, pos_label, response_method, missing_group)
