"""The tables of the benchmark: load, choose the group, split, encode.

Every task comes in two forms. ``with-group`` keeps the group's columns among the features;
``blind`` removes these columns only. Other columns that reveal the group (husband, wife) stay, as
they would in practice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FORMS", "TASKS", "Problem", "Rows", "Task", "encode", "load_problem", "split"]

FORMS = ("with-group", "blind")
SHARES = (0.49, 0.21, 0.30)


class Rows(NamedTuple):
    """Some rows of a task.

    Attributes
    ----------
    X : float32 ndarray of shape (n, d) or (n, C, H, W)
    y : int64 ndarray of shape (n,)
        0 or 1.
    g : int64 ndarray of shape (n,)
        Group codes, 0 to n_groups - 1.
    """

    X: np.ndarray
    y: np.ndarray
    g: np.ndarray


@dataclass(frozen=True)
class Problem:
    """One split of one form of one task.

    Attributes
    ----------
    groups : tuple of str
        The name of each group code.
    train, validation, test : Rows
    """

    task: str
    form: str
    seed: int
    groups: tuple[str, ...]
    train: Rows
    validation: Rows
    test: Rows


@dataclass(frozen=True)
class Task:
    """How a table becomes a two-group task.

    Attributes
    ----------
    loader : str
        Function of ``fairsvd.datasets``.
    attribute : str
        The sensitive feature that defines the groups.
    keep : tuple of str
        Values of the attribute whose rows stay; empty for all.
    against : str or None
        If there are more than two values: the value that is compared with all others.
    drop : tuple of str
        Columns that no form uses.
    """

    loader: str
    attribute: str
    keep: tuple[str, ...] = ()
    against: str | None = None
    drop: tuple[str, ...] = ()


TASKS = {
    "adult-sex": Task("load_adult", "sex"),
    # The charge in words becomes 370 sparse columns, by which a network memorises its 2,600 rows.
    "compas-race": Task(
        "load_compas",
        "race",
        keep=("African-American", "Caucasian"),
        drop=("c_charge_desc",),
    ),
    # The length of a call is only known after the call, when the answer is known too.
    "bank-age": Task("load_bank", "age_group", drop=("duration",)),
    "german-age": Task("load_german", "age_group"),
    "adult-race": Task("load_adult", "race", against="White"),
}


def group_names(task: Task, values: pd.Series) -> np.ndarray:
    """Name the group of every row from the values of the attribute."""
    names = values.astype(str).to_numpy(dtype=object)
    if task.against is not None:
        names = np.where(names == task.against, task.against, f"not {task.against}")
    return names.astype(str)


def load_table(task: Task, form: str) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Load a task's features in one form, its 0/1 labels and its group names."""
    from fairsvd import datasets

    if form not in FORMS:
        raise ValueError(f"form must be one of {FORMS}, got {form!r}; choose one of them")
    bunch = getattr(datasets, task.loader)()
    values = bunch.sensitive_features[task.attribute]
    chosen = values.isin(task.keep).to_numpy() if task.keep else np.ones(len(values), bool)
    hidden = bunch.group_columns[task.attribute] if form == "blind" else []
    frame = bunch.data[chosen].drop(columns=[*task.drop, *hidden]).reset_index(drop=True)
    labels = bunch.target.to_numpy()[chosen].astype(np.int64)
    return frame, labels, group_names(task, values[chosen])


def split(strata: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split rows 49/21/30 into train, validation and test, stratified.

    Parameters
    ----------
    strata : ndarray of shape (n,)
        The (label, group) cell of every row.
    seed : int

    Returns
    -------
    train, validation, test : int64 ndarray
        Row positions, ascending.
    """
    from sklearn.model_selection import train_test_split

    positions = np.arange(len(strata))
    rest, test = train_test_split(
        positions, test_size=SHARES[2], stratify=strata, random_state=seed
    )
    train, validation = train_test_split(
        rest, test_size=SHARES[1] / (1 - SHARES[2]), stratify=strata[rest], random_state=seed
    )
    return np.sort(train), np.sort(validation), np.sort(test)


def encode(frame: pd.DataFrame, train: np.ndarray) -> np.ndarray:
    """One-hot encode the categories and standardise the numbers by the training rows.

    Parameters
    ----------
    frame : DataFrame of shape (n, c)
    train : ndarray of int
        The rows whose mean, deviation and median are used.

    Returns
    -------
    X : float32 ndarray of shape (n, d)
    """
    import pandas as pd

    numeric = frame.select_dtypes("number").astype(float)
    numeric = numeric.fillna(numeric.iloc[train].median())
    centre, scale = numeric.iloc[train].mean(), numeric.iloc[train].std(ddof=0)
    scaled = (numeric - centre) / scale.where(scale > 0, 1.0)
    others = frame.drop(columns=list(numeric)).astype(object)
    dummies = pd.get_dummies(others.where(others.notna(), "missing").astype(str))
    return np.hstack([scaled.to_numpy(), dummies.to_numpy(dtype=float)]).astype(np.float32)


def load_problem(name: str, form: str, seed: int, *, dev: bool = False) -> Problem:
    """Load, split and encode one task.

    Parameters
    ----------
    name : str
        A key of ``TASKS``.
    form : {"with-group", "blind"}
    seed : int
        Draws the split.
    dev : bool, default=False
        Leave the seed's test rows out and repeat the split inside the rest, so that methods can
        be tuned without touching a test row of that seed.

    Returns
    -------
    problem : Problem
    """
    task = TASKS[name]
    frame, y, names = load_table(task, form)
    groups, g = np.unique(names, return_inverse=True)
    strata = y * len(groups) + g
    train, validation, test = split(strata, seed)
    if dev:
        inside = np.sort(np.concatenate([train, validation]))
        train, validation, test = (inside[part] for part in split(strata[inside], seed))
    X = encode(frame, train)
    parts = (Rows(X[part], y[part], g[part]) for part in (train, validation, test))
    return Problem(name, form, seed, tuple(map(str, groups)), *parts)
