"""An editor with the interface of AIF360's algorithms.

This file imports AIF360, so it is imported only when ``AIF360Mitigator`` is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import sklearn
from aif360.algorithms import Transformer
from aif360.datasets import BinaryLabelDataset
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import Bunch

from ..base import NetworkEditor
from ._aif360 import from_aif360, to_aif360
from ._resample import resample_by_weight

__all__ = ["AIF360Mitigator"]

Conditions = Sequence[Mapping[str, float]]


class AIF360Mitigator(Transformer):
    """Use an editor like one of AIF360's in-processing algorithms.

    Parameters
    ----------
    editor : estimator
        An editor, or a Pipeline or search around one. It is cloned, never changed.
    unprivileged_groups, privileged_groups : list of dict, default=None
        As in AIF360: each dict is a group and maps protected attributes to values. Rows of neither
        list have a missing group, which the editor refuses unless ``missing_group`` allows it.
        None: every combination of values of all protected attributes is a group.
    random_state : int, RandomState instance or None, default=None
        Seed of the draw of rows by weight. The editor has its own.

    Attributes
    ----------
    editor_ : estimator
        The fitted clone; an editor has ``report_`` and ``history_``.

    Raises
    ------
    ValueError
        If only one of the two lists of groups is given, a group names an attribute that the
        dataset does not have, a row belongs to both, or the editor refuses an argument.

    See Also
    --------
    from_aif360, to_aif360 : Conversion between AIF360's datasets and scikit-learn's arguments.

    Notes
    -----
    ``fit(dataset)``, ``predict(dataset)`` and ``fit_predict(dataset)`` are those of AIF360, with
    its metadata. As in AIF360's in-processing algorithms the protected attributes stay among the
    features; an editor with ``sensitive_columns=["sex"]`` removes that column.

    If the editor's ``pos_label`` is None, it becomes the dataset's favourable label. ``fit`` runs
    under metadata routing, so that the groups reach the editor through a Pipeline or a search.

    If the instance weights are not all equal, for instance after ``Reweighing``, an editor gets
    them as ``sample_weight``. For a Pipeline or a search, whose other parts may take no weights,
    rows are drawn by weight instead; see :func:`resample_by_weight`, also for what copies of rows
    mean for the editor's validation rows.

    Examples
    --------
    >>> from fairsvd import FairLRFTransformer
    >>> from fairsvd.interop import AIF360Mitigator
    >>> mitigator = AIF360Mitigator(
    ...     FairLRFTransformer(random_state=0),
    ...     unprivileged_groups=[{"sex": 0}],
    ...     privileged_groups=[{"sex": 1}],
    ... )

    With a ``BinaryLabelDataset`` for training and one to predict::

        predicted = mitigator.fit(train).predict(test)
        ClassificationMetric(test, predicted, [{"sex": 0}], [{"sex": 1}])
    """

    def __init__(
        self,
        editor: Any,
        unprivileged_groups: Conditions | None = None,
        privileged_groups: Conditions | None = None,
        *,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            editor=editor,
            unprivileged_groups=unprivileged_groups,
            privileged_groups=privileged_groups,
            random_state=random_state,
        )
        self.editor = editor
        self.unprivileged_groups = unprivileged_groups
        self.privileged_groups = privileged_groups
        self.random_state = random_state

    def fit(self, dataset: BinaryLabelDataset) -> Self:
        """Fit the editor on the rows of a dataset.

        Parameters
        ----------
        dataset : BinaryLabelDataset
            Rows with true labels.

        Returns
        -------
        self : object
        """
        d = from_aif360(dataset)
        X, y, groups = d.X, d.y, self._groups(d)
        editor = _with_favorable(clone(self.editor), d.pos_label)
        weights: dict[str, Any] = {}
        if np.ptp(d.sample_weight) > 0 and isinstance(editor, NetworkEditor):
            weights = {"sample_weight": d.sample_weight}
        elif np.ptp(d.sample_weight) > 0:
            X, y, groups = resample_by_weight(X, y, groups, d.sample_weight, self.random_state)
        with sklearn.config_context(enable_metadata_routing=True):
            self.editor_ = editor.fit(X, y, sensitive_features=groups, **weights)
        return self

    def predict(self, dataset: BinaryLabelDataset) -> BinaryLabelDataset:
        """Predict the rows of a dataset without using their groups.

        Parameters
        ----------
        dataset : BinaryLabelDataset
            Has the features of the dataset of ``fit``.

        Returns
        -------
        predicted : BinaryLabelDataset
            From :func:`to_aif360`.

        Raises
        ------
        NotFittedError
            If called before ``fit``.
        """
        if not hasattr(self, "editor_"):
            raise NotFittedError("this AIF360Mitigator is not fitted: call fit or fit_predict.")
        return to_aif360(dataset, self.editor_)

    def _groups(self, d: Bunch) -> Any:
        low, high = self.unprivileged_groups, self.privileged_groups
        if low is None and high is None:
            return d.sensitive_features
        if low is None or high is None:
            raise ValueError(
                f"unprivileged_groups={low} and privileged_groups={high}: give both or neither."
            )
        attributes = pd.DataFrame(d.sensitive_features)
        unprivileged, privileged = _members(attributes, low), _members(attributes, high)
        if (unprivileged & privileged).any():
            raise ValueError(
                f"unprivileged_groups={low} and privileged_groups={high} have "
                f"{int((unprivileged & privileged).sum())} rows in common: each may be in one only."
            )
        labels = pd.Series(None, index=d.y.index, dtype=object, name="group")
        labels[unprivileged], labels[privileged] = "unprivileged", "privileged"
        return labels


def _members(attributes: pd.DataFrame, conditions: Conditions) -> NDArray[np.bool_]:
    """Mark the rows that meet at least one of the conditions."""
    unknown = sorted({name for each in conditions for name in each} - set(attributes.columns))
    if unknown:
        raise ValueError(
            f"groups use the attributes {unknown}, which the dataset does not protect: its "
            f"protected attributes are {list(attributes.columns)}."
        )
    met = np.zeros(len(attributes), dtype=bool)
    for each in conditions:
        met |= (attributes[list(each)] == pd.Series(each)).all(axis=1).to_numpy()
    return met


def _with_favorable(editor: Any, favorable: Any) -> Any:
    """Set every ``pos_label`` that is None, at any depth of a Pipeline or search."""
    parameters = editor.get_params().items()
    unset = [k for k, v in parameters if k.split("__")[-1] == "pos_label" and v is None]
    return editor.set_params(**dict.fromkeys(unset, favorable))
