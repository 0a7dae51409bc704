"""Run any classifier with scikit-learn's interface as a method of the comparison."""

from __future__ import annotations

from typing import Any

from sklearn import get_config
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from .._signature import takes
from ._answers import Answer, ask
from ._fold import Fold

__all__ = ["SENSITIVE", "filled", "fit_classifier", "predict_options"]

SENSITIVE, WEIGHTS = "sensitive_features", "sample_weight"


def filled(estimator: Any, **settings: Any) -> Any:
    """Clone an estimator and set the given parameters that it has and that are None."""
    copy = clone(estimator)
    values = copy.get_params(deep=False)
    unset = {k: v for k, v in settings.items() if k in values and values[k] is None}
    return copy.set_params(**unset)


def predict_options(model: Any, fold: Fold) -> dict[str, Any]:
    """Collect the group and the seed as arguments of ``predict``, if it takes them."""
    options: dict[str, Any] = {SENSITIVE: fold.sensitive(fold.test), "random_state": fold.seed}
    return {name: value for name, value in options.items() if takes(model.predict, name)}


def fit_classifier(estimator: Any, fold: Fold, constraint: str) -> Answer:
    """Fit a clone on all rows outside the test rows, and predict.

    It can train on the validation rows, since it chooses nothing on them. Rows are drawn by their
    weights if it takes no weights.
    """
    model, rows = filled(estimator, random_state=fold.seed), fold.fitting
    options: dict[str, Any] = {}
    if fold.problem.weights is not None:
        if name := _fit_parameter(model, WEIGHTS):
            options[name] = fold.weights(rows)
        else:
            rows = fold.drawn(rows)
    if name := _fit_parameter(model, SENSITIVE):
        options[name] = fold.sensitive(rows)
    # A Pipeline has its own preprocessing, and may look for the names of columns.
    X = fold.raw_X if isinstance(getattr(model, "estimator", model), Pipeline) else fold.X
    model.fit(X(rows), fold.y(rows), **options)
    return ask(model, fold, X(fold.test), **predict_options(model, fold))


def _fit_parameter(model: Any, wanted: str) -> str:
    """Return the name under which ``fit`` takes groups or weights; "" if it takes none."""
    if isinstance(model, Pipeline):
        name, last = model.steps[-1]
        if not (hasattr(last, "fit") and takes(last.fit, wanted)):
            return ""
        routed = get_config()["enable_metadata_routing"]
        return wanted if routed else f"{name}__{wanted}"
    return wanted if takes(model.fit, wanted) else ""
