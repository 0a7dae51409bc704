"""The edit that changes nothing leaves the predictions as they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from torch import nn

from fairsvd import FairLRFTransformer
from helpers import (
    IGNORE_SMALL_DATA,
    LastWins,
    convolutions,
    images,
    mlp,
    quick,
    skorch_net,
    table,
    trained,
)

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]

IDENTITY = {"sparsity": 0, "refine": None, "threshold": 0.5}


def strided(groups):
    """Convolutions with stride, padding, dilation, and a bias or none."""
    return nn.Sequential(
        nn.Conv2d(4, 8, (3, 2), stride=(2, 1), padding=1, groups=groups, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, dilation=2, padding=2, groups=groups),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 2),
    )


NETWORKS = {
    "Linear": (mlp, table),
    "Linear, three classes": (lambda: mlp(3), lambda: table(n_classes=3)),
    "Linear, float64": (lambda: mlp().double(), table),
    "Conv2d": (convolutions, images),
    "grouped": (lambda: convolutions(groups=4), images),
    "depthwise": (lambda: convolutions(groups=8), images),
    "strided": (lambda: strided(1), images),
    "strided, grouped": (lambda: strided(2), images),
}


def probabilities(module, X):
    with torch.no_grad():
        return module(torch.tensor(X)).double().softmax(dim=1).numpy()


def setting(name):
    make, data = NETWORKS[name]
    rows = data()
    if name == "Linear, float64":
        return make().eval(), rows
    return trained(make(), rows, n_steps=15), rows


@pytest.mark.parametrize("layers", ["hidden", "all"])
@pytest.mark.parametrize("criterion", ["learned", "curvature", "magnitude", "random"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_identity_edit_predicts_as_the_network(name, criterion, layers):
    module, rows = setting(name)
    editor = quick(module, criterion=criterion, layers=layers, **IDENTITY)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    X = rows.X.astype(np.float64) if name == "Linear, float64" else rows.X
    np.testing.assert_allclose(editor.predict_proba(X), probabilities(module, X), atol=1e-6)
    assert editor.removed_fraction_ == 0
    assert editor.offset_ == 0
    assert all(mask.all() for sides in editor.masks_.values() for mask in sides.values())


@pytest.mark.parametrize("name", [name for name in NETWORKS if "float64" not in name])
def test_writing_the_factors_back_is_the_identity_too(name):
    """Not only is nothing edited: the product of all factors is the weight that was factored."""
    module, rows = setting(name)
    # The curvature keeps every entry: a share of 1e-9 rounds to none of them.
    editor = quick(module, LastWins, criterion="magnitude", **{**IDENTITY, "sparsity": 1e-9})
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    changed = [
        not torch.equal(a, b)
        for a, b in zip(editor.module_.parameters(), module.parameters(), strict=True)
    ]
    assert any(changed)  # by rounding: the weights are a product now
    np.testing.assert_allclose(
        editor.predict_proba(rows.X), probabilities(module, rows.X), atol=1e-6
    )


@pytest.mark.parametrize("change", [{"sparsity": 0.3}, {"rank": 0.5}, {"threshold": 0.3}])
def test_anything_else_is_not_the_identity(change):
    """What the tests above find equal can differ."""
    module, rows = setting("grouped")
    editor = quick(module, LastWins, criterion="magnitude", **{**IDENTITY, **change})
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    difference = editor.predict_proba(rows.X) - probabilities(module, rows.X)
    assert abs(difference).max() > 1e-3


def test_the_identity_edit_of_a_trained_net_and_of_the_default():
    rows = table()
    net = skorch_net(mlp(), max_epochs=3).fit(rows.X, rows.y)
    editor = quick(FrozenEstimator(net), **IDENTITY)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    np.testing.assert_allclose(editor.predict_proba(rows.X), net.predict_proba(rows.X), atol=1e-6)
    default = FairLRFTransformer(random_state=0, **IDENTITY)
    default.fit(rows.X, rows.y, sensitive_features=rows.group)
    wanted = probabilities(default.module_, rows.X)
    np.testing.assert_allclose(default.predict_proba(rows.X), wanted, atol=1e-6)
    assert default.threshold_ == 0.5
