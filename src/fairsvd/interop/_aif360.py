"""Turn AIF360's datasets into arguments of ``fit``, and predictions into AIF360's datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from .._messages import listed

if TYPE_CHECKING:
    import pandas as pd
    from aif360.datasets import StructuredDataset

__all__ = ["from_aif360", "to_aif360"]


def from_aif360(dataset: StructuredDataset, *, group_names: bool = False) -> Bunch:
    """Turn an AIF360 dataset into the arguments of editors, scorers and splitters.

    Parameters
    ----------
    dataset : StructuredDataset
        A ``BinaryLabelDataset``, a ``StandardDataset``, or another one with a single column of
        labels and at least two classes.
    group_names : bool, default=False
        Whether to replace the values of the protected attributes by their names in
        ``dataset.metadata["protected_attribute_maps"]``. By default they stay the numbers of
        AIF360's ``privileged_groups``.

    Returns
    -------
    bunch : Bunch
        ``X`` (DataFrame of float64, with the protected attributes if they are features of the
        dataset), ``y`` (Series of the dataset's label values), ``sensitive_features`` (Series, or
        DataFrame of several protected attributes) and ``sample_weight`` (ndarray of shape (n,)).
        All are copies, indexed by the dataset's instance names if these are unique. Also:
        ``favorable_label`` and ``unfavorable_label`` of the dataset, None if it has none;
        ``pos_label``, the favourable label for an editor or a scorer, None if it is not one value;
        ``privileged_values`` and ``unprivileged_values`` (dicts attribute -> list); ``scores``
        (ndarray of shape (n,)); ``metadata``.

    Raises
    ------
    TypeError
        If ``dataset`` is not a StructuredDataset.
    ValueError
        If it has several columns of labels, or ``group_names=True`` and a name is missing.

    Notes
    -----
    The favourable label can be the smaller one, as in AIF360's COMPAS (0) and German (1 against
    2), so pass on ``pos_label``. ``fit`` takes no weights; :func:`resample_by_weight` turns them
    into rows.

    Examples
    --------
    >>> import pandas as pd
    >>> from aif360.datasets import BinaryLabelDataset
    >>> from fairsvd.interop import from_aif360
    >>> table = pd.DataFrame({"sex": [0, 1, 1], "age": [30, 40, 50], "credit": [2, 1, 1]})
    >>> dataset = BinaryLabelDataset(
    ...     favorable_label=1,
    ...     unfavorable_label=2,
    ...     df=table,
    ...     label_names=["credit"],
    ...     protected_attribute_names=["sex"],
    ... )
    >>> d = from_aif360(dataset)
    >>> list(d.X.columns), d.y.tolist(), d.sensitive_features.tolist(), d.pos_label
    (['sex', 'age'], [2.0, 1.0, 1.0], [0.0, 1.0, 1.0], 1.0)

    Pass the parts to an editor::

        editor = FairLRFTransformer(pos_label=d.pos_label)
        editor.fit(d.X, d.y, sensitive_features=d.sensitive_features)
    """
    import pandas as pd

    _check_dataset(dataset)
    names = list(dataset.protected_attribute_names)
    index = pd.Index(dataset.instance_names)
    index = index if index.is_unique else pd.RangeIndex(len(index))
    groups = pd.DataFrame(dataset.protected_attributes.copy(), index=index, columns=names)
    if group_names:
        groups = _name_groups(groups, dataset.metadata)
    favorable: Any = getattr(dataset, "favorable_label", None)
    return Bunch(
        X=pd.DataFrame(dataset.features.copy(), index=index, columns=dataset.feature_names),
        y=pd.Series(dataset.labels[:, 0].copy(), index=index, name=dataset.label_names[0]),
        sensitive_features=groups[names[0]] if len(names) == 1 else groups,
        sample_weight=dataset.instance_weights.copy(),
        favorable_label=favorable,
        unfavorable_label=getattr(dataset, "unfavorable_label", None),
        pos_label=favorable if np.ndim(favorable) == 0 else None,
        privileged_values=_values(names, dataset.privileged_protected_attributes),
        unprivileged_values=_values(names, dataset.unprivileged_protected_attributes),
        scores=dataset.scores[:, 0].copy(),
        metadata=dataset.metadata,
    )


def to_aif360(dataset: StructuredDataset, estimator: Any) -> StructuredDataset:
    """Predict an AIF360 dataset for ``ClassificationMetric``.

    Parameters
    ----------
    dataset : BinaryLabelDataset or MulticlassLabelDataset
        The rows to predict; it is not changed.
    estimator : classifier
        An editor, a Pipeline, a search, or any classifier with ``predict_proba``, fitted on
        ``from_aif360(...).X`` (or on ``dataset.features``) and ``y``.

    Returns
    -------
    predicted : dataset of the same type
        A copy with the predictions as ``labels``, shape (n, 1), and the probability of the
        favourable label (or the sum over several) as ``scores``, shape (n, 1). Features, protected
        attributes, weights and names equal those of ``dataset``; the metadata name it as
        ``previous``.

    Raises
    ------
    TypeError
        If ``dataset`` is not a StructuredDataset.
    ValueError
        If it has no favourable label, or the estimator has no ``predict_proba`` or other classes.

    Notes
    -----
    An editor's scores are shifted by its threshold, so that a score above 0.5 is a favourable
    prediction; they are not calibrated.

    Examples
    --------
    >>> import pandas as pd
    >>> from aif360.datasets import BinaryLabelDataset
    >>> from fairsvd.interop import from_aif360, to_aif360
    >>> from sklearn.dummy import DummyClassifier
    >>> table = pd.DataFrame({"sex": [0, 1, 1], "credit": [0, 1, 1]})
    >>> dataset = BinaryLabelDataset(
    ...     df=table, label_names=["credit"], protected_attribute_names=["sex"]
    ... )
    >>> d = from_aif360(dataset)
    >>> predicted = to_aif360(dataset, DummyClassifier().fit(d.X, d.y))
    >>> predicted.labels.ravel().tolist(), predicted.scores.round(2).ravel().tolist()
    ([1.0, 1.0, 1.0], [0.67, 0.67, 0.67])
    """
    _check_dataset(dataset)
    is_favorable = _favorable_columns(dataset, estimator)
    X = _features_for(dataset, estimator)
    predicted = dataset.copy()
    # AIF360's copy shares its arrays; changes of the result must not reach the original.
    for name in ("features", "protected_attributes", "instance_weights"):
        setattr(predicted, name, getattr(dataset, name).copy())
    predicted.labels = np.asarray(estimator.predict(X), dtype=np.float64).reshape(-1, 1)
    probabilities = np.asarray(estimator.predict_proba(X), dtype=np.float64)
    predicted.scores = probabilities[:, is_favorable].sum(axis=1, keepdims=True)
    return predicted


def _check_dataset(dataset: Any) -> None:
    from aif360.datasets import StructuredDataset

    if not isinstance(dataset, StructuredDataset):
        raise TypeError(
            f"dataset is a {type(dataset).__name__}: wanted an AIF360 dataset (BinaryLabelDataset, "
            "StandardDataset or another StructuredDataset). Pass DataFrames and arrays "
            "to fit directly."
        )
    if dataset.labels.shape[1] != 1:
        raise ValueError(
            f"dataset has the label columns {dataset.label_names}: keep only the one to predict."
        )


def _name_groups(groups: pd.DataFrame, metadata: dict[str, Any]) -> pd.DataFrame:
    maps = metadata.get("protected_attribute_maps", [])
    names = dict(zip(groups.columns, maps, strict=False))
    for name, values in groups.items():
        unnamed = sorted(set(values) - set(names.get(str(name), {})))
        if unnamed:
            raise ValueError(
                f"group_names=True, but metadata['protected_attribute_maps'] names no "
                f"{unnamed} of {name!r}: complete the maps, or use group_names=False."
            )
    return groups.apply(lambda column: column.map(names[column.name]))


def _values(names: list[str], values: list[Any]) -> dict[str, list[float]]:
    pairs = zip(names, values, strict=True)
    return {name: np.asarray(each, dtype=np.float64).tolist() for name, each in pairs}


def _features_for(dataset: StructuredDataset, estimator: Any) -> Any:
    """Return the features, with column names only if the estimator was fitted with names."""
    import pandas as pd

    if getattr(estimator, "feature_names_in_", None) is None:
        return dataset.features
    return pd.DataFrame(dataset.features, columns=dataset.feature_names)


def _favorable_columns(dataset: StructuredDataset, estimator: Any) -> NDArray[np.bool_]:
    """Mark the columns of ``predict_proba`` that belong to favourable labels."""
    kind = type(estimator).__name__
    if getattr(dataset, "favorable_label", None) is None:
        raise ValueError(
            f"dataset is a {type(dataset).__name__}, which has no favourable label: convert it to "
            "a BinaryLabelDataset or a MulticlassLabelDataset."
        )
    if not hasattr(estimator, "predict_proba"):
        raise ValueError(
            f"estimator is a {kind} without predict_proba, which gives the scores: wrap it, for "
            "instance in CalibratedClassifierCV."
        )
    favorable = np.atleast_1d(dataset.favorable_label)
    labels = [*favorable, *np.atleast_1d(dataset.unfavorable_label)]
    if not np.isin(estimator.classes_, labels).all():
        raise ValueError(
            f"estimator ({kind}) has the classes [{listed(estimator.classes_)}] and the dataset "
            f"the labels [{listed(labels)}]: fit it on from_aif360(...).y."
        )
    return np.isin(estimator.classes_, favorable)
