"""Rows, labels and groups may lie on the device, whatever the network, and are read once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import simulated_cuda
from fairsvd import JointStratifiedKFold, fairness_scorer
from fairsvd.metrics import fairness_score
from helpers import IGNORE_SMALL_DATA, convolutions, images, mlp, quick, skorch_net, table, trained

DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    *(pytest.mark.filterwarnings(each) for each in IGNORE_SMALL_DATA),
]


def there(values):
    return torch.tensor(np.asarray(values), device=DEVICE)


def fitted(network, X, y, groups, **settings):
    return quick(network, **settings).fit(X, y, sensitive_features=groups)


@pytest.mark.parametrize("device", [None, DEVICE])
def test_a_data_set_there_trains_a_skorch_net(device):
    rows = table()
    X = TensorDataset(there(rows.X))
    wanted = fitted(skorch_net(mlp()), rows.X, rows.y, rows.group)
    found = fitted(skorch_net(mlp()), X, rows.y, rows.group, device=device)
    kind = "cpu" if device is None else device
    assert {p.device.type for p in found.module_.parameters()} == {kind}
    close = {"rtol": 2e-3, "atol": 2e-3}
    np.testing.assert_allclose(found.predict_proba(X), wanted.predict_proba(rows.X), **close)


@pytest.mark.parametrize("kind", ["table", "images"])
def test_x_y_and_groups_there_are_those_of_the_cpu(kind):
    rows = table() if kind == "table" else images()
    network = trained(mlp() if kind == "table" else convolutions(), rows)
    wanted = fitted(network, rows.X, rows.y, rows.group)
    X, y, groups = there(rows.X), there(rows.y), there(rows.group)
    found = fitted(network, X, y, groups)
    assert np.array_equal(found.predict_proba(X), wanted.predict_proba(rows.X))
    assert found.score(X, y) == wanted.score(rows.X, rows.y)
    assert found.groups_ == wanted.groups_


def test_splits_and_scores_of_what_lies_there():
    rows = table()
    X, y, groups = there(rows.X), there(rows.y), there(rows.group)
    folds = JointStratifiedKFold(2)
    for found, wanted in zip(
        folds.split(X, y, sensitive_features=groups),
        folds.split(rows.X, rows.y, sensitive_features=rows.group),
        strict=True,
    ):
        assert np.array_equal(found[1], wanted[1])
    name = "equalized_odds_difference"
    assert fairness_score(name, y, y.flip(0), sensitive_features=groups) == fairness_score(
        name, rows.y, rows.y[::-1].copy(), sensitive_features=rows.group
    )
    editor = fitted(trained(mlp(), rows), rows.X, rows.y, rows.group)
    scorer = fairness_scorer(name)
    assert scorer(editor, X, y, sensitive_features=groups) == scorer(
        editor, rows.X, rows.y, sensitive_features=rows.group
    )


@pytest.mark.skipif(not simulated_cuda.installed(), reason="counts copies of the simulated device")
def test_labels_and_groups_are_copied_as_a_whole():
    rows = table()
    network = trained(mlp(), rows)
    y, groups = there(rows.y), there(rows.group)
    with simulated_cuda.count() as counts:
        fitted(network, rows.X, y, groups)
    # Groups once for their names and once for their values; never element by element.
    assert counts.total["d2h"] == 3
