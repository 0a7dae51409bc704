"""What bad input gets, and that a fit that fails or is interrupted leaves no trace."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import KFold, PredefinedSplit
from torch import nn

from fairsvd.exceptions import GroupError, NetworkError, RankWarning
from helpers import IGNORE_SMALL_DATA, convolutions, images, mlp, quick, table, trained

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]

ROWS, IMAGES = table(), images()
NETWORK = trained(mlp(), ROWS)


def with_value(value, X=ROWS.X):
    X = X.copy()
    X[3, 2] = value
    return X


def spoiled():
    module = mlp()
    with torch.no_grad():
        module[0].weight[0, 0] = float("nan")
    return module


def spoiled_for_some():
    """Finite on most rows, infinite where the first column is the largest."""
    return nn.Sequential(Overflow(float(np.partition(ROWS.X[:, 0], -2)[-2])), mlp())


class Overflow(nn.Module):
    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def forward(self, X):
        return torch.where(self.limit < X, torch.inf, X)


def gone(n_missing):
    group = np.array(["f", "m"], dtype=object)[ROWS.group]
    group[:n_missing] = None
    return group


FRAME = pd.DataFrame(ROWS.X, columns=list("abcdef"))
NO_POSITIVES = np.where(ROWS.y == 1, 0, ROWS.group)  # all positive rows are in group 0

# what differs from a good call: parameters, arguments; error; what the message must say, in
# order: the argument, what came, what was wanted or what to do.
BAD = {
    "NaN in X": ({}, {"X": with_value(np.nan)}, ValueError, "Input X contains NaN"),
    "infinity in X": ({}, {"X": with_value(np.inf)}, ValueError, "Input X contains infinity"),
    "NaN in images": (
        {"network": convolutions()},
        {"X": with_value(np.nan, IMAGES.X), "y": IMAGES.y, "s": IMAGES.group},
        ValueError,
        "Input X contains NaN",
    ),
    "X and y": ({}, {"y": ROWS.y[:-1]}, ValueError, r"X.*120.*y.*119.*one label a row"),
    "X and groups": (
        {},
        {"s": ROWS.group[:-1]},
        GroupError,
        r"sensitive_features.*119 rows.*X has 120.*one entry for each row",
    ),
    "one class": ({}, {"y": np.ones(120, int)}, ValueError, r"y holds one class.*\[1\].*two"),
    "no labels": ({}, {"y": None}, ValueError, r"y.*None"),
    "numbers for labels": ({}, {"y": ROWS.X[:, 0]}, ValueError, r"(?i)unknown label type"),
    "one group": (
        {},
        {"s": np.array(["f"] * 120)},
        GroupError,
        r"sensitive_features.*one group.*\['f'\].*Pass an attribute",
    ),
    "no comparable cells": (
        {"constraint": "equal_opportunity"},
        {"s": NO_POSITIVES},
        GroupError,
        r"equal_opportunity cannot be measured.*label 1, group 1.*another constraint",
    ),
    "missing groups": (
        {},
        {"s": gone(2)},
        GroupError,
        r"sensitive_features has missing values.*2.*missing_group='ignore'",
    ),
    "all groups missing": (
        {"missing_group": "ignore"},
        {"s": gone(120)},
        GroupError,
        r"sensitive_features is missing in all 120 rows",
    ),
    "no layer": (
        {"network": nn.Sequential(nn.BatchNorm1d(6), nn.AdaptiveAvgPool1d(2))},
        {},
        NetworkError,
        r"network has no Linear or Conv2d",
    ),
    "no layer among the chosen": (
        {"network": nn.Sequential(nn.Linear(6, 2))},
        {},
        NetworkError,
        r"layers='hidden' leaves no Linear or Conv2d.*\['0'\].*layers='all'",
    ),
    "a pattern that finds nothing": (
        {"layers": re.compile("conv")},
        {},
        NetworkError,
        r"layers=.*conv.*'0', '2', '4'",
    ),
    "an output too many": (
        {"network": mlp(3)},
        {},
        NetworkError,
        r"network has 3 outputs.*2 classes.*one output per class",
    ),
    "an input too many": (
        {},
        {"X": np.hstack([ROWS.X, ROWS.X[:, :1]])},
        NetworkError,
        r"network.*X.*\(7,\).*in_features=6.*Pass X as the network was trained",
    ),
    "a table for images": (
        {"network": convolutions()},
        {},
        NetworkError,
        r"network.*X.*\(6,\).*Conv2d\(4.*Pass X as",
    ),
    "three dimensions": ({}, {"X": ROWS.X[:, :, None]}, ValueError, r"X has 3 dimensions.*images"),
    "NaN logits": (
        {"network": spoiled()},
        {},
        NetworkError,
        r"network.*NaN.*of X.*row 0, 2, 3.*'0.weight' holds NaN",
    ),
    "infinite logits on a row": (
        {"network": spoiled_for_some()},
        {},
        ValueError,
        r"network.*NaN or infinite logits.*X",
    ),
    "a rank above every layer's": (
        {"rank": 9},
        {},
        ValueError,
        r"rank=9.*every layer.*'2': 8.*up to 8.*float.*None",
    ),
    "a rank above 1": ({"rank": 1.5}, {}, ValueError, r"'rank' parameter.*1\.5"),
    "a layer that does not exist": (
        {"layers": ["0", "hidden.2"]},
        {},
        NetworkError,
        r"layers names 'hidden\.2'.*it has \[.*'2'",
    ),
    "a column that is not there": (
        {"sensitive_columns": "sex"},
        {"X": FRAME, "y": pd.Series(ROWS.y), "s": None},
        GroupError,
        r"sensitive_columns=\['sex'\].*Columns of X: \['a', 'b'.*index names of X.*index of y",
    ),
    "a device that is not there": (
        {"device": "cuda:63"},
        {},
        ValueError,
        r"device='cuda:63'.*'cpu'",
    ),
    "what is no device": ({"device": "gpu"}, {}, ValueError, r"device='gpu'.*None.*'cpu'"),
    "a positive label that is none": (
        {"pos_label": "yes"},
        {},
        ValueError,
        r"pos_label='yes'.*\[0, 1\].*pass one of",
    ),
    "five splits": (
        {"validation": KFold(5)},
        {},
        ValueError,
        r"validation is a splitter of 5 splits.*exactly one.*PredefinedSplit",
    ),
    "validation that takes a class": (
        {"validation": PredefinedSplit(np.where(ROWS.y == 1, 0, -1))},
        {},
        ValueError,
        r"validation takes every row of the classes.*hold fewer",
    ),
    "an unknown constraint": (
        {"constraint": "equal_odds"},
        {},
        ValueError,
        r"'constraint' parameter.*equalized_odds.*'equal_odds'",
    ),
}


def arguments(changed):
    given = {"X": ROWS.X, "y": ROWS.y, "s": ROWS.group, **changed}
    return (given["X"], given["y"]), {"sensitive_features": given["s"]}


def state(editor):
    """What an estimator holds, by identity: nothing may be replaced, added or lost."""
    return {name: id(value) for name, value in vars(editor).items()}


def refit(editor, error, message, parameters, changed):
    positional, named = arguments(changed)
    editor.set_params(**parameters)
    before = state(editor)
    with pytest.raises(error) as caught:
        editor.fit(*positional, **named)
    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)
    assert state(editor) == before
    return caught.value


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    parameters, changed, error, message = BAD[name]
    editor = quick(NETWORK)
    refit(editor, error, message, parameters, changed)
    assert not hasattr(editor, "classes_")
    positional, named = arguments({})
    usual = quick(NETWORK).get_params()
    editor.set_params(**{key: usual[key] for key in parameters})
    editor.fit(*positional, **named)  # it was this alone that was wrong
    wanted = editor.predict_proba(ROWS.X)
    found = refit(editor, error, message, parameters, changed)
    assert isinstance(found, ValueError)
    assert np.array_equal(editor.predict_proba(ROWS.X), wanted)


def test_rows_to_predict_are_checked_too():
    editor = quick(NETWORK).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    for X, message in (
        (with_value(np.nan), "Input X contains NaN"),
        (ROWS.X[:, :4], "X has 4 features.*expecting 6"),
        (ROWS.X[:0], "0 sample"),
        (IMAGES.X, "4 features|4 dimensions"),
    ):
        for method in (editor.predict, editor.predict_proba, editor.transform):
            with pytest.raises(ValueError, match=message):
                method(X)


@pytest.mark.parametrize("policy, n_rows, groups", [("ignore", 110, 2), ("own_group", 120, 3)])
def test_missing_groups_that_are_allowed(policy, n_rows, groups):
    editor = quick(NETWORK, missing_group=policy)
    editor.fit(ROWS.X, ROWS.y, sensitive_features=gone(10))
    assert editor.group_counts_.sum() == n_rows
    assert len(editor.groups_) == groups
    assert any("10 rows" in note for note in editor.report_.notes) == (policy == "ignore")


def test_rank_one_is_a_warning():
    with pytest.warns(RankWarning, match=r"rank=1 .*1\.0 or None"):
        quick(NETWORK, rank=1).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
