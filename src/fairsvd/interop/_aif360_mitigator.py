"""An editor among AIF360's algorithms.

This file imports AIF360, so it is imported itself only when ``AIF360Mitigator`` is asked for.
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

from ._aif360 import from_aif360, to_aif360
from ._resample import resample_by_weight

__all__ = ["AIF360Mitigator"]

Conditions = Sequence[Mapping[str, float]]


class AIF360Mitigator(Transformer):
    """Stand an editor where one of AIF360's in-processing algorithms stood.

    Parameters
    ----------
    editor : estimator
        An editor, or a Pipeline or search around one. It is cloned, never changed.
    unprivileged_groups, privileged_groups : list of dict, default=None
        As AIF360 takes them: each dict is a group, a value for each of its protected attributes.
        Rows that belong to neither have a missing group, which the editor refuses unless
        ``missing_group`` says otherwise. None: all protected attributes of the dataset count, each
        combination of their values as a group.
    random_state : int, RandomState instance or None, default=None
        Of the draw of rows by weight. The editor has its own.

    Attributes
    ----------
    editor_ : estimator
        The fitted clone, with ``report_`` and ``history_`` where it is an editor.

    Raises
    ------
    ValueError
        One of the two lists of groups comes without the other, a group names an attribute that
        the dataset does not have, or a row belongs to both; and whatever the editor refuses.

    See Also
    --------
    from_aif360, to_aif360 : The two ways between AIF360's datasets and scikit-learn's arguments.

    Notes
    -----
    ``fit(dataset)``, ``predict(dataset)`` and ``fit_predict(dataset)`` are those of AIF360, with
    its metadata. As in AIF360's in-processing algorithms the protected attributes stay among the
    features; an editor with ``sensitive_columns=["sex"]`` takes that column out.

    Wherever ``pos_label`` of the editor is None it becomes the dataset's favourable label. ``fit``
    runs under metadata routing, so a Pipeline or a search needs no further word about the groups.

    ``fit`` of an editor takes no weights: where the instance weights are not all equal, for
    instance after ``Reweighing``, rows are drawn by weight (:func:`resample_by_weight`, which
    also says what copies of rows mean for the editor's validation rows).

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
        """Edit on the rows of a dataset.

        Parameters
        ----------
        dataset : BinaryLabelDataset
            With true labels.

        Returns
        -------
        self : object
        """
        d = from_aif360(dataset)
        X, y, groups = d.X, d.y, self._groups(d)
        if np.ptp(d.sample_weight) > 0:
            X, y, groups = resample_by_weight(X, y, groups, d.sample_weight, self.random_state)
        editor = _with_favorable(clone(self.editor), d.pos_label)
        with sklearn.config_context(enable_metadata_routing=True):
            self.editor_ = editor.fit(X, y, sensitive_features=groups)
        return self

    def predict(self, dataset: BinaryLabelDataset) -> BinaryLabelDataset:
        """Predict the rows of a dataset, without looking at their groups.

        Parameters
        ----------
        dataset : BinaryLabelDataset
            With the features of the one in ``fit``.

        Returns
        -------
        predicted : BinaryLabelDataset
            As of :func:`to_aif360`.

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
    """Tell which rows meet at least one of the conditions."""
    unknown = sorted({name for each in conditions for name in each} - set(attributes.columns))
    if unknown:
        raise ValueError(
            f"groups are described by {unknown}, which the dataset does not protect: its protected "
            f"attributes are {list(attributes.columns)}."
        )
    met = np.zeros(len(attributes), dtype=bool)
    for each in conditions:
        met |= (attributes[list(each)] == pd.Series(each)).all(axis=1).to_numpy()
    return met


def _with_favorable(editor: Any, favorable: Any) -> Any:
    """Set every ``pos_label`` that is open, at any depth of a Pipeline or search."""
    found = editor.get_params().items()
    open_ = [name for name, value in found if name.split("__")[-1] == "pos_label" and value is None]
    return editor.set_params(**dict.fromkeys(open_, favorable))
