"""Checks of a mitigator, and the groups in its form."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.utils import get_tags

from .._signature import takes
from ..exceptions import GroupError
from ..groups import Groups, Located, encode_groups

__all__ = ["check_mitigator", "encode_located", "is_multiclass", "read_scores_as_double"]

_SCORES = ("predict_proba", "decision_function")


class _DoubleScores(FrozenEstimator):
    """A fitted classifier whose scores are converted to float64."""

    def __getattr__(self, name: str) -> Any:
        method = super().__getattr__(name)
        return (lambda X: np.asarray(method(X), dtype=np.float64)) if name in _SCORES else method


def is_multiclass(mitigator: Any) -> bool:
    """Tell whether a mitigator's tags allow more than two classes."""
    tags = get_tags(mitigator).classifier_tags
    return tags is not None and tags.multi_class


def check_mitigator(mitigator: Any, source: str) -> None:
    """Refuse a mitigator that takes no groups, or that cannot get them at prediction.

    Parameters
    ----------
    mitigator : estimator
    source : str
        Where the groups were found; see :class:`~fairsvd.groups.Located`.

    Raises
    ------
    ValueError
        If it is one of these.
    """
    parameters = inspect.signature(mitigator.fit).parameters.values()
    if not any(p.name == "sensitive_features" or p.kind is p.VAR_KEYWORD for p in parameters):
        raise ValueError(
            f"estimator={type(mitigator).__name__} takes no sensitive_features in fit: wrap the "
            "mitigator itself, with Pipelines and classifiers inside it."
        )
    if source == "index of y" and takes(mitigator.predict, "sensitive_features"):
        raise GroupError(
            f"sensitive_columns were found in the index of y, but {type(mitigator).__name__} needs "
            "the groups at prediction too, where there is no y: put them into X or its index."
        )


def encode_located(located: Located, n_rows: int) -> tuple[Any, Groups]:
    """Return the sensitive columns as a Series or DataFrame of inferred types, and the groups.

    Parameters
    ----------
    located : Located
    n_rows : int

    Raises
    ------
    GroupError
        If some row has no group.
    """
    import pandas as pd

    groups = encode_groups(
        located.values, n_rows, missing="ignore", names=located.names, quantities=True
    )
    if (n_missing := int((groups.codes < 0).sum())) > 0:
        raise GroupError(
            f"sensitive_columns {list(located.names)} have missing values (NaN or None) in "
            f"{n_missing} rows: fill them, or leave these rows out."
        )
    frame = pd.DataFrame(located.values, columns=list(located.names)).infer_objects()
    return frame if frame.shape[1] > 1 else frame.iloc[:, 0], groups


def read_scores_as_double(mitigator: Any) -> None:
    """Convert the scores in a fitted ThresholdOptimizer, which cannot predict from float32."""
    thresholder = getattr(mitigator, "interpolated_thresholder_", None)
    if thresholder is not None:
        thresholder.estimator_ = _DoubleScores(thresholder.estimator_)
