"""The data of the demo, split into rows to fit on and held-out rows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from ..datasets import load_adult, load_biased_digits, make_tinted

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Rows", "Task", "load_task"]

HELD_OUT = 0.3

# Share of rows whose colour agrees with the label: enough to mislead a network visibly, while some
# dozens of rows disagree.
STRENGTH = 0.95


@dataclass(frozen=True)
class Rows:
    """Rows of a task.

    Attributes
    ----------
    X : DataFrame or ndarray, n rows
    y : Series of shape (n,)
        Labels; its index holds the group of every row and is named.
    """

    X: Any
    y: pd.Series


@dataclass(frozen=True)
class Task:
    """The data of the demo.

    Attributes
    ----------
    about : tuple of str
        Lines that describe it.
    fit, held_out : Rows
    steps : list of (name, transformer)
        Preprocessing, fitted on the rows to fit.
    """

    about: tuple[str, ...]
    fit: Rows
    held_out: Rows
    steps: list[tuple[str, Any]]


def load_task(name: str, seed: int) -> Task:
    """Load the demo's data.

    Parameters
    ----------
    name : {"auto", "adult", "digits"}
        "auto": Adult if the folder FAIRSVD_DATA has it, else digits.
    seed : int
        Seed of the split and of the tints.

    Raises
    ------
    DatasetNotFoundError
        If ``name="adult"``, and Adult is neither found nor can be downloaded.
    """
    if name == "auto":
        name = "adult" if _has_adult() else "digits"
    return _adult(seed) if name == "adult" else _digits(seed)


def _has_adult() -> bool:
    folder = Path(os.environ.get("FAIRSVD_DATA") or "-").expanduser() / "adult"
    return all((folder / name).is_file() for name in ("adult.data", "adult.test"))


def _make_labels(y: Any, groups: Any, name: str) -> pd.Series:
    import pandas as pd

    return pd.Series(np.asarray(y), index=pd.Index(np.asarray(groups, dtype=object), name=name))


def _split(y: pd.Series, seed: int) -> tuple[Any, Any]:
    cells = [f"{label} {group}" for group, label in y.items()]
    positions = np.arange(len(y))
    fit, held = train_test_split(positions, test_size=HELD_OUT, random_state=seed, stratify=cells)
    return np.sort(fit), np.sort(held)


def _adult(seed: int) -> Task:
    adult = load_adult()
    # The group is not a feature, since such a network would need it at prediction.
    X = adult.data.drop(columns=adult.group_columns["sex"])
    y = _make_labels(adult.target, adult.sensitive_features["sex"], "sex")
    fit, held = _split(y, seed)
    encode = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    prepare = ColumnTransformer(
        [
            ("categories", encode, make_column_selector(dtype_exclude="number")),
            ("numbers", StandardScaler(), make_column_selector(dtype_include="number")),
        ]
    )
    about = (
        f"Data     UCI Adult, {len(y):,} people; label: income above 50,000 dollars; groups: sex,",
        "         which is not among the features",
    )
    to_fit, held_out = (Rows(X.iloc[rows], y.iloc[rows]) for rows in (fit, held))
    return Task(about, to_fit, held_out, [("prepare", prepare)])


def _digits(seed: int) -> Task:
    digits = load_biased_digits(strength=STRENGTH, random_state=seed)
    y = _make_labels(digits.target % 2, digits.sensitive_features["color"], "color")
    fit, held = _split(y, seed)
    # Red and blue have one channel each, so the sum is the grey image. Every held-out image is
    # painted in both colours, so it serves both groups, and no cell is small.
    grey, labels = digits.images[held].sum(axis=1), y.to_numpy()[held]
    colors = np.repeat([0, 1], len(held))
    painted = make_tinted(np.tile(grey, (2, 1, 1)), np.tile(labels, 2), groups=colors)
    about = (
        f"Data     scikit-learn's handwritten digits, {len(y):,} images, label: odd; groups: the",
        f"         colour, {STRENGTH:.0%} of odd digits are blue and of even ones red; held-out",
        "         images are shown in both colours",
    )
    y_held = _make_labels(painted.target, painted.sensitive_features["color"], "color")
    return Task(about, Rows(digits.images[fit], y.iloc[fit]), Rows(painted.images, y_held), [])
