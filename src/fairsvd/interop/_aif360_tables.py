"""AIF360's four tables, from this package's loaders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils import Bunch

from ..datasets import load_adult, load_bank, load_compas, load_german

if TYPE_CHECKING:
    import pandas as pd
    from aif360.datasets import BinaryLabelDataset

__all__ = ["load_aif360"]


@dataclass(frozen=True)
class _Attribute:
    """A protected attribute: its privileged rows, and the names of its two values."""

    name: str
    is_privileged: Callable[[pd.Series], pd.Series]
    privileged: str
    unprivileged: str


@dataclass(frozen=True)
class _Table:
    """AIF360's form of one of the tables.

    ``labels`` has the number and the name of every label in the order of the loader's codes. The
    favourable label is the loader's.
    """

    load: Callable[[], list[Bunch]]
    label_name: str
    labels: tuple[tuple[float, str], tuple[float, str]]
    attributes: tuple[_Attribute, ...]
    dropped: tuple[str, ...] = ()


def _is(value: str) -> Callable[[pd.Series], pd.Series]:
    return lambda column: column == value


# Names, numbers, privileged groups and the order of rows and columns as in AIF360 0.6.1.
TABLES = {
    "adult": _Table(
        load=lambda: [load_adult(subset="test"), load_adult(subset="train")],
        label_name="income-per-year",
        labels=((0.0, "<=50K"), (1.0, ">50K")),
        attributes=(
            _Attribute("race", _is("White"), "White", "Non-white"),
            _Attribute("sex", _is("Male"), "Male", "Female"),
        ),
    ),
    "german": _Table(
        load=lambda: [load_german()],
        label_name="credit",
        labels=((2.0, "Bad Credit"), (1.0, "Good Credit")),
        attributes=(
            _Attribute("sex", _is("male"), "Male", "Female"),
            _Attribute("age", lambda age: age > 25, "Old", "Young"),
        ),
        dropped=("age_group",),
    ),
    "compas": _Table(
        load=lambda: [load_compas()],
        label_name="two_year_recid",
        labels=((0.0, "No recid."), (1.0, "Did recid.")),
        attributes=(
            _Attribute("sex", _is("Female"), "Female", "Male"),
            _Attribute("race", _is("Caucasian"), "Caucasian", "Not Caucasian"),
        ),
    ),
    "bank": _Table(
        load=lambda: [load_bank()],
        label_name="y",
        labels=((0.0, "no"), (1.0, "yes")),
        attributes=(
            _Attribute(
                "age",
                lambda age: age.between(25, 60, inclusive="left"),
                "25 to 59",
                "below 25 or above 59",
            ),
        ),
        dropped=("age_group",),
    ),
}


def load_aif360(name: str) -> BinaryLabelDataset:
    """Load one of AIF360's tables as AIF360's class does, with pandas 3 too.

    Parameters
    ----------
    name : {"adult", "german", "compas", "bank"}
        As ``AdultDataset``, ``GermanDataset``, ``CompasDataset`` and ``BankDataset``.

    Returns
    -------
    dataset : BinaryLabelDataset
        Features, labels and protected attributes equal those of AIF360's class, in its order:
        rows with missing values are left out, categories are one-hot columns (``"column=value"``),
        and each protected attribute is 1 for the privileged and 0 for the others, also in the
        features. ``metadata`` has ``label_maps`` and ``protected_attribute_maps``.

    Raises
    ------
    ValueError
        If ``name`` is none of the four, or a file is not in the expected form.
    DatasetNotFoundError
        If the files are not found and cannot be downloaded.

    Notes
    -----
    AIF360's classes read files from its package folder and raise a TypeError on the string columns
    of pandas 3. Here the files are those of :mod:`fairsvd.datasets`.

    =========  =======================================  ====================  ==========
    name       protected attributes, 1 is               favourable label      rows
    =========  =======================================  ====================  ==========
    adult      race (White), sex (Male)                 1 (against 0)         45,222
    german     sex (male), age (above 25)               1 (against 2)         1,000
    compas     sex (Female), race (Caucasian)           0 (against 1)         6,167
    bank       age (25 to 59)                           1 (against 0)         30,488
    =========  =======================================  ====================  ==========

    The privileged ages of ``bank`` are those of AIF360 0.6.1; the group of
    :func:`fairsvd.datasets.load_bank` is 25 and above.

    Examples
    --------
    >>> from fairsvd.interop import from_aif360, load_aif360
    >>> d = from_aif360(load_aif360("german"), group_names=True)  # doctest: +SKIP
    >>> d.y.groupby(d.sensitive_features["age"]).mean().round(2)  # doctest: +SKIP
    """
    from aif360.datasets import BinaryLabelDataset

    if name not in TABLES:
        raise ValueError(f"name={name!r}: wanted one of {', '.join(TABLES)}.")
    table = TABLES[name]
    loaded = table.load()
    attributes = table.attributes
    favorable = loaded[0].favourable_label
    maps = [{1.0: each.privileged, 0.0: each.unprivileged} for each in attributes]
    return BinaryLabelDataset(
        favorable_label=table.labels[favorable][0],
        unfavorable_label=table.labels[1 - favorable][0],
        df=_encode(table, loaded),
        label_names=[table.label_name],
        protected_attribute_names=[each.name for each in attributes],
        privileged_protected_attributes=[np.array([1.0]) for _ in attributes],
        unprivileged_protected_attributes=[np.array([0.0]) for _ in attributes],
        metadata={"label_maps": [dict(table.labels)], "protected_attribute_maps": maps},
    )


def _encode(table: _Table, loaded: list[Bunch]) -> pd.DataFrame:
    """Make the one-hot encoded table of complete rows, with its label."""
    import pandas as pd

    frame = pd.concat([each.data for each in loaded], ignore_index=True)
    target = pd.concat([each.target for each in loaded], ignore_index=True)
    label = target.map({code: number for code, (number, _) in enumerate(table.labels)})
    frame = frame.drop(columns=list(table.dropped)).assign(**{table.label_name: label}).dropna()
    for each in table.attributes:
        frame[each.name] = each.is_privileged(frame[each.name]).astype("float64")
    texts = frame.select_dtypes("category").columns
    # As objects, since a category without a complete row would get a column of zeros.
    frame = frame.astype(dict.fromkeys(texts, "object"))
    return pd.get_dummies(frame, columns=list(texts), prefix_sep="=", dtype="float64")
