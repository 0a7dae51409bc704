"""Saved editors that hold nets of skorch, or a network that is kept once."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from skorch.callbacks import Checkpoint, EarlyStopping, EpochScoring, LRScheduler
from torch import nn

import fairsvd
from fairsvd.comparison import compare  # noqa: F401 (registers every editor)
from fairsvd.exceptions import UntrustedError
from saved_files import toy_network, toy_rows
from saved_users import Block, Net, check, fitted

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.FairsvdWarning"),
]


def net_of(kind=NeuralNetClassifier, module=Net, **params):
    if kind is not NeuralNetBinaryClassifier:
        params["criterion"] = nn.CrossEntropyLoss
    return kind(module, max_epochs=2, verbose=0, **params)


NETS = {
    "class": lambda: net_of(module__width=5, lr=0.05, optimizer=torch.optim.Adam),
    "callbacks": lambda: net_of(
        train_split=None,
        callbacks=[
            ("rate", LRScheduler("StepLR", step_size=1)),
            EarlyStopping("train_loss"),
            EpochScoring("accuracy", lower_is_better=False, on_train=True),
        ],
    ),
    "factory": lambda: net_of(module=lambda: Net(5)),
}


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
@pytest.mark.parametrize("frozen", [False, True])
def test_skorch_nets_as_parameters(make, frozen, tmp_path):
    X, y, groups = toy_rows()
    net = make()
    width = net.get_params().get("module__width", 6 if net.module is Net else 5)
    if frozen:
        net = FrozenEstimator(net.fit(X, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        editor = fitted(net)
    given = net if frozen else Net(width)
    ways = [{"network": given}] + ([{"trusted": [Net, Block]}] if net_class(net) is Net else [])
    for how in ways:
        if not frozen and net_class(net) is not Net:
            continue  # a lambda as a parameter cannot be saved
        again = check(editor, tmp_path, **how)
        old, new = (each.to_skorch().partial_fit(X, y) for each in (editor, again))
        assert new.history[-1]["train_loss"] == old.history[-1]["train_loss"]
        assert new.optimizer_.param_groups[0]["lr"] == old.optimizer_.param_groups[0]["lr"]
        refitted = clone(again).fit(X, y, sensitive_features=groups)
        assert np.array_equal(refitted.predict_proba(X), editor.predict_proba(X))


def net_class(net):
    return getattr(net, "estimator", net).module


class UsersNet(NeuralNetClassifier):
    pass


def test_a_users_class_of_nets_comes_by_trust_or_with_the_net(tmp_path):
    net = net_of(UsersNet).initialize()
    editor = fitted(FrozenEstimator(net))
    for how in ({"network": net}, {"trusted": [UsersNet, Net, Block]}):
        assert type(check(editor, tmp_path, **how).network.estimator) is UsersNet
    with pytest.raises(UntrustedError, match="UsersNet"):
        fairsvd.load(tmp_path / "model", network=Net())


def test_a_binary_net_of_torchs_own_layers(tmp_path):
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    check(fitted(net_of(NeuralNetBinaryClassifier, module)), tmp_path)


def test_a_net_of_a_device_that_is_not_here_comes_to_the_cpu(tmp_path):
    net = net_of(module=toy_network()).initialize()
    editor = fitted(FrozenEstimator(net))
    net.device = "cuda:7"
    fairsvd.save(editor, tmp_path / "model")
    X, y, _ = toy_rows()
    again = fairsvd.load(tmp_path / "model")
    assert again.network.estimator.device == "cpu"
    assert again.to_skorch().partial_fit(X, y).predict(X).shape == (40,)


def test_a_callback_that_writes_files_needs_trust(tmp_path):
    folder = tmp_path / "checkpoints"
    callbacks = [Checkpoint(dirname=str(folder), monitor=None)]
    editor = fitted(net_of(module=toy_network(), callbacks=callbacks))
    fairsvd.save(editor, tmp_path / "model")
    with pytest.raises(UntrustedError, match="Checkpoint"):
        fairsvd.load(tmp_path / "model")
    fairsvd.load(tmp_path / "model", trusted="skorch.callbacks.Checkpoint")
