"""What the user passed in stays bit-identical; their callbacks work; interrupts come through."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from skorch.callbacks import Callback, EarlyStopping
from skorch.dataset import ValidSplit
from torch import nn

from helpers import (
    IGNORE_SMALL_DATA,
    LastWins,
    binary_net,
    convolutions,
    fingerprint,
    global_state,
    images,
    mlp,
    quick,
    skorch_net,
    table,
    trained,
)

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]


def normalised():
    """A network whose buffers and outputs change when it runs in training mode."""
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)
    )


def normalised_convolutions():
    body = list(convolutions())
    return nn.Sequential(body[0], nn.BatchNorm2d(8), nn.Dropout2d(0.5), *body[1:])


def with_gradients():
    """A network that is frozen in part, with a gradient left in the rest."""
    module = mlp()
    module[0].requires_grad_(False)
    module(torch.ones(1, 6)).sum().backward()
    return module


def tied():
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(6, 2))


NETWORKS = {
    "plain": (mlp, table),
    "BatchNorm and Dropout": (normalised, table),
    "images": (normalised_convolutions, images),
    "half frozen": (with_gradients, table),
    "tied layers": (tied, table),
}


@pytest.mark.parametrize("criterion", ["learned", "curvature"])
@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_stays_bit_identical(name, mode, criterion):
    make, data = NETWORKS[name]
    rows, module = data(), make().train(mode == "training")
    before = fingerprint(module)
    editor = quick(module, LastWins, criterion=criterion, threshold=0.5)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    editor.predict_proba(rows.X)
    editor.to_skorch().partial_fit(rows.X, rows.y)
    assert fingerprint(module) == before
    with torch.no_grad():
        module(torch.tensor(rows.X))
    moves = mode == "training" and any(True for _ in module.buffers())
    assert (fingerprint(module) != before) == moves  # the fingerprint sees what a pass moves


def test_a_frozen_net_stays_as_it_was():
    rows = table()
    net = skorch_net(normalised()).fit(rows.X, rows.y)
    before, epochs = fingerprint(net.module_), len(net.history)
    editor = quick(FrozenEstimator(net)).fit(rows.X, rows.y, sensitive_features=rows.group)
    exported = editor.to_skorch().partial_fit(rows.X, rows.y)
    assert fingerprint(net.module_) == before
    assert len(net.history) == epochs < len(exported.history)
    assert fingerprint(exported.module_) != fingerprint(editor.to_module())  # it was trained on


def test_the_edited_network_is_the_estimators_own():
    """Training what was exported does not change the estimator."""
    rows = table()
    editor = quick(trained(mlp(), rows)).fit(rows.X, rows.y, sensitive_features=rows.group)
    before = editor.predict_proba(rows.X)
    with torch.no_grad():
        for exported in (editor.to_module(), editor.to_skorch().module_):
            for parameter in exported.parameters():
                parameter.zero_()
    assert np.array_equal(editor.predict_proba(rows.X), before)


class Counter(Callback):
    """Counts the epochs in a place that clones share."""

    epochs = 0

    def on_epoch_end(self, net, **kwargs):
        type(self).epochs += 1


def test_early_stopping_of_the_users_net_works():
    rows, counter = table(), type("Count", (Counter,), {})
    stopping = EarlyStopping(patience=2, threshold=1.0, threshold_mode="abs", sink=lambda _: None)
    net = skorch_net(
        mlp(),
        max_epochs=50,
        train_split=ValidSplit(3),
        callbacks=[("count", counter()), ("stop", stopping)],
    )
    editor = quick(net).fit(rows.X, rows.y, sensitive_features=rows.group)
    assert counter.epochs == 3  # the first is the best, two more are waited for
    assert hasattr(editor, "module_")


def press_ctrl_c():
    """Raise as the interpreter does: not from a method of a callback."""
    raise KeyboardInterrupt


class Interrupted(nn.Module):
    """Is interrupted in the middle of training."""

    def __init__(self):
        super().__init__()
        self.inner, self.passes = mlp(), 0

    def forward(self, X):
        self.passes += self.training
        if self.training and self.passes > 3:
            press_ctrl_c()
        return self.inner(X)


def test_an_interrupt_while_the_users_net_trains_comes_through():
    rows, before = table(), global_state()
    net = skorch_net(Interrupted(), max_epochs=20)
    editor = quick(net)
    with pytest.raises(KeyboardInterrupt):
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert not hasattr(editor, "module_")
    assert net.module.passes == 0
    assert global_state() == before


def test_skorch_alone_would_have_hidden_the_interrupt():
    rows = table()
    assert skorch_net(Interrupted(), max_epochs=20).fit(rows.X, rows.y).initialized_


@pytest.mark.parametrize("name", ["none", "module"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_that_were_switched_off_stay_so_and_do_no_harm(name, mode):
    rows = table()
    network = mlp() if name == "module" else None
    wanted = quick(network).fit(rows.X, rows.y, sensitive_features=rows.group)
    with mode():
        editor = quick(network).fit(rows.X, rows.y, sensitive_features=rows.group)
        assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    assert np.array_equal(editor.predict_proba(rows.X), wanted.predict_proba(rows.X))


def test_the_threshold_of_a_binary_net_is_not_used_twice():
    rows = table()
    net = binary_net(trained(mlp(1), rows), threshold=0.9).initialize()
    editor = quick(FrozenEstimator(net)).fit(rows.X, rows.y, sensitive_features=rows.group)
    assert np.array_equal(editor.to_skorch().predict(rows.X), editor.predict(rows.X))
    assert net.threshold == 0.9
