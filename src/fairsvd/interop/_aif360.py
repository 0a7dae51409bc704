"""AIF360's datasets as the arguments of ``fit``, and predictions as AIF360's datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

if TYPE_CHECKING:
    import pandas as pd
    from aif360.datasets import StructuredDataset

__all__ = ["from_aif360", "to_aif360"]


def from_aif360(dataset: StructuredDataset, *, group_names: bool = False) -> Bunch:
    """Read an AIF360 dataset as what editors, scorers and splitters take.

    Parameters
    ----------
    dataset : StructuredDataset
        A ``BinaryLabelDataset``, a ``StandardDataset``, or another one with a single column of
        labels, of two or more classes.
    group_names : bool, default=False
        Replace the values of the protected attributes by their names in
        ``dataset.metadata["protected_attribute_maps"]``. By default they stay the numbers that
        AIF360's ``privileged_groups`` speak of.

    Returns
    -------
    bunch : Bunch
        ``X`` (DataFrame of float64, the protected attributes among its columns where the dataset
        has them among its features), ``y`` (Series, the dataset's own label values),
        ``sensitive_features`` (Series, or DataFrame where several attributes are protected) and
        ``sample_weight`` (ndarray of shape (n,)), copies all of them, indexed by the dataset's
        instance names where these are unique. Besides: ``favorable_label`` and
        ``unfavorable_label`` as in the dataset, None where it has none; ``pos_label``, the
        favourable label to hand to an editor or a scorer, None where it is not one value;
        ``privileged_values`` and ``unprivileged_values`` (a dict of lists, by attribute);
        ``scores`` (ndarray of shape (n,)); ``metadata``.

    Raises
    ------
    TypeError
        ``dataset`` is no StructuredDataset.
    ValueError
        It has several columns of labels, or ``group_names`` are asked for and not all there.

    Notes
    -----
    The favourable label may be the smaller one, as in AIF360's COMPAS (0) and German (1 against
    2), so pass ``pos_label`` on. ``fit`` takes no weights: :func:`resample_by_weight` turns them
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

    What an editor and a scorer take::

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
        groups = _named(groups, dataset.metadata)
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
    """Predict an AIF360 dataset, so that ``ClassificationMetric`` runs on the result.

    Parameters
    ----------
    dataset : BinaryLabelDataset or MulticlassLabelDataset
        The rows; it stays as it is.
    estimator : classifier
        Fitted on ``from_aif360(...).X`` (or on ``dataset.features``) and ``y``: an editor, or any
        classifier with ``predict_proba``, a Pipeline or a search.

    Returns
    -------
    predicted : dataset of the same type
        A copy whose ``labels`` are the predictions, shape (n, 1), and whose ``scores`` are the
        probability of the favourable label (the sum, where several are favourable), shape (n, 1).
        Features, protected attributes, weights and names are equal to those of ``dataset``; the
        metadata name it as the ``previous`` one.

    Raises
    ------
    TypeError
        ``dataset`` is no StructuredDataset.
    ValueError
        It has no favourable label, or the estimator has no ``predict_proba`` or other classes.

    Notes
    -----
    An editor's scores are shifted by its threshold and not calibrated: a score above 0.5 is a
    favourable prediction.

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
    X = _features(dataset, estimator)
    predicted = dataset.copy()
    # AIF360's copy shares its arrays; what is done to the result must not reach the original.
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
            "StandardDataset or another StructuredDataset). DataFrames and arrays go to fit as "
            "they are."
        )
    if dataset.labels.shape[1] != 1:
        raise ValueError(
            f"dataset has the label columns {dataset.label_names}: keep the one that is to be "
            "predicted."
        )


def _named(groups: pd.DataFrame, metadata: dict[str, Any]) -> pd.DataFrame:
    maps = metadata.get("protected_attribute_maps", [])
    found = dict(zip(groups.columns, maps, strict=False))
    for name, values in groups.items():
        unnamed = sorted(set(values) - set(found.get(str(name), {})))
        if unnamed:
            raise ValueError(
                f"group_names=True, but metadata['protected_attribute_maps'] names no "
                f"{unnamed} of {name!r}: complete the maps, or leave the values as they are."
            )
    return groups.apply(lambda column: column.map(found[column.name]))


def _values(names: list[str], values: list[Any]) -> dict[str, list[float]]:
    found = zip(names, values, strict=True)
    return {name: np.asarray(each, dtype=np.float64).tolist() for name, each in found}


def _features(dataset: StructuredDataset, estimator: Any) -> Any:
    """Give names to an estimator that knows names, and none to one that does not."""
    import pandas as pd

    if getattr(estimator, "feature_names_in_", None) is None:
        return dataset.features
    return pd.DataFrame(dataset.features, columns=dataset.feature_names)


def _favorable_columns(dataset: StructuredDataset, estimator: Any) -> NDArray[np.bool_]:
    """Find the columns of ``predict_proba`` that stand for favourable labels."""
    kind = type(estimator).__name__
    if getattr(dataset, "favorable_label", None) is None:
        raise ValueError(
            f"dataset is a {type(dataset).__name__}, which has no favourable label: make a "
            "BinaryLabelDataset or a MulticlassLabelDataset of it."
        )
    if not hasattr(estimator, "predict_proba"):
        raise ValueError(
            f"estimator is a {kind} without predict_proba, which the scores are taken from: wrap "
            "it, for instance in CalibratedClassifierCV."
        )
    favorable = np.atleast_1d(dataset.favorable_label)
    known = [*favorable, *np.atleast_1d(dataset.unfavorable_label)]
    if not np.isin(estimator.classes_, known).all():
        raise ValueError(
            f"estimator ({kind}) has the classes {list(estimator.classes_)} and the dataset the "
            f"labels {known}: fit it on from_aif360(...).y."
        )
    return np.isin(estimator.classes_, favorable)
