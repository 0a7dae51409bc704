"""Nets of skorch go in, trained in whatever way, and come back edited, usable and trainable."""

from __future__ import annotations

import copy
import pickle
from contextlib import nullcontext
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from skorch.callbacks import Checkpoint, EarlyStopping, EpochScoring, LRScheduler
from skorch.dataset import ValidSplit
from skorch.hf import AccelerateMixin
from torch import nn

from fairsvd.base._export import net_around
from fairsvd.exceptions import NetworkError
from helpers import IGNORE_SMALL_DATA, LastWins, fingerprint, mlp, table

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

ROWS = table(120)


@pytest.fixture(autouse=True)
def seeded():
    """Give each test the same draws, as skorch takes them from the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield


class Body(nn.Module):
    """A network whose size is a parameter."""

    def __init__(self, hidden=4, n_outputs=2):
        super().__init__()
        self.inner, self.outer = nn.Linear(6, hidden), nn.Linear(hidden, n_outputs)

    def forward(self, X):
        return self.outer(torch.relu(self.inner(X)))


class Focal(nn.Module):
    """A loss of the user's own, with a parameter."""

    def __init__(self, gamma=0.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, logits, y):
        right = logits.log_softmax(1).gather(1, y[:, None])
        return -((1 - right.exp()) ** self.gamma * right).mean()


def softmax(logits):
    """Turn logits into probabilities, where skorch cannot tell by the criterion."""
    return logits.softmax(-1)


TRAINING = {"optimizer": torch.optim.Adam, "lr": 0.02, "max_epochs": 8, "verbose": 0}


def classifier(module=Body, **settings):
    return NeuralNetClassifier(module, **{"criterion": nn.CrossEntropyLoss, **TRAINING, **settings})


def binary(module=Body, **settings):
    size = {"module__n_outputs": 1} if module is Body else {}
    return NeuralNetBinaryClassifier(module, **{**size, **TRAINING, **settings})


NETS = {
    "classifier": lambda: classifier(module__hidden=9),
    "instance": lambda: classifier(mlp()),
    "probabilities": lambda: classifier(mlp(2, nn.Softmax(1)), criterion=nn.NLLLoss),
    "weighted criterion": lambda: classifier(criterion__weight=torch.tensor([1.0, 2.0])),
    "own criterion": lambda: classifier(
        criterion=Focal, criterion__gamma=1.0, predict_nonlinearity=softmax
    ),
    "own iterator": lambda: classifier(
        batch_size=32,
        iterator_train__shuffle=True,
        iterator_train__drop_last=True,
        iterator_train__generator=torch.Generator().manual_seed(0),
    ),
    "own optimizer": lambda: classifier(
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.9,
        optimizer__param_groups=[("outer.*", {"lr": 0.1})],
        lr=0.03,
        warm_start=True,
    ),
    "callbacks off": lambda: classifier(callbacks="disable"),
    "names": lambda: classifier(classes=["no", "yes"]),
    "binary": lambda: binary(module__hidden=9),
    "binary, threshold": lambda: binary(threshold=0.8),
    "binary, instance": lambda: binary(mlp(1)),
    "binary, vector": lambda: binary(mlp(1, nn.Flatten(0))),
    "binary, probability": lambda: binary(mlp(1, nn.Sigmoid()), criterion=nn.BCELoss),
    "binary, weight": lambda: binary(criterion__pos_weight=torch.tensor(2.0)),
}


def targets(net):
    return ROWS.y.astype(np.float32) if isinstance(net, NeuralNetBinaryClassifier) else ROWS.y


@cache
def trained(name):
    net = NETS[name]()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return net.fit(ROWS.X, targets(net))


def edit(network, y=ROWS.y, **settings):
    """Edit a net so that it changes, with a threshold that has to be folded in."""
    quick = {"max_steps": 6, "gap_weight": 1.0, "threshold": 0.35, "random_state": 0}
    editor = LastWins(network, **{**quick, **settings})
    return editor.fit(ROWS.X, y, sensitive_features=ROWS.group)


@cache
def edited(name, form):
    return edit(FrozenEstimator(trained(name)) if form == "frozen" else NETS[name]())


@pytest.fixture(params=NETS)
def name(request):
    return request.param


@pytest.fixture(params=["frozen", "trained here"])
def form(request):
    return request.param


def log_loss(net):
    shares = net.predict_proba(ROWS.X)[np.arange(len(ROWS.y)), ROWS.y]
    return -np.log(np.clip(shares, 1e-12, None)).mean()


def state_of(net):
    """Everything of a user's net that an edit could disturb."""
    optimizer = pickle.dumps(net.optimizer_.state_dict())
    return fingerprint(net.module_), list(net.history), optimizer, repr(net), net.get_params()


def test_predictions_are_the_editors(name, form):
    editor = edited(name, form)
    net = editor.to_skorch()
    assert type(net) is type(NETS[name]())
    np.testing.assert_allclose(
        net.predict_proba(ROWS.X), editor.predict_proba(ROWS.X), rtol=0, atol=1e-6
    )
    assert np.array_equal(net.predict(ROWS.X), editor.predict(ROWS.X))
    assert net.score(ROWS.X, ROWS.y) == editor.score(ROWS.X, ROWS.y)
    # And they are not those that came in; without the threshold they would be others again.
    assert np.abs(editor.predict_proba(ROWS.X) - trained(name).predict_proba(ROWS.X)).max() > 0.05
    bare = copy.deepcopy(net)
    bare.module_.load_state_dict(editor.module_.state_dict())
    assert not np.array_equal(bare.predict(ROWS.X), net.predict(ROWS.X))


def test_an_edit_that_is_none_gives_the_bits_back(name):
    before = trained(name)
    editor = edit(FrozenEstimator(before), sparsity=0, refine=None, threshold=0.5)
    returned = editor.to_skorch()
    if editor.threshold_ == 0.5 and getattr(before, "threshold", 0.5) == 0.5:
        assert np.array_equal(returned.predict(ROWS.X), before.predict(ROWS.X))
    np.testing.assert_allclose(
        returned.predict_proba(ROWS.X), before.predict_proba(ROWS.X), rtol=0, atol=1e-6
    )


def test_what_comes_back_can_be_trained_further(name, form):
    editor = edited(name, form)
    before = editor.predict_proba(ROWS.X)
    net = editor.to_skorch()
    loss, epochs = log_loss(net), len(net.history)
    net.partial_fit(ROWS.X, targets(net))
    assert log_loss(net) < loss
    assert len(net.history) == epochs + 8
    net.set_params(lr=0.0)
    assert net.optimizer_.param_groups[-1]["lr"] == 0.0
    assert np.array_equal(editor.predict_proba(ROWS.X), before)


def test_what_came_in_stays_as_it_was(name):
    net = trained(name)
    before = copy.deepcopy(state_of(net)[:4])
    editor = edit(FrozenEstimator(net))
    editor.to_skorch().partial_fit(ROWS.X, targets(net))
    assert state_of(net)[:4] == before
    net_unfitted = NETS[name]()
    fresh = copy.deepcopy(net_unfitted)
    edit(net_unfitted)
    assert not net_unfitted.initialized_
    assert repr(net_unfitted) == repr(fresh)
    if isinstance(net_unfitted.module, nn.Module):
        assert fingerprint(net_unfitted.module) == fingerprint(fresh.module)


def test_copies_and_files(name, tmp_path):
    net = edited(name, "frozen").to_skorch()
    expected = net.predict_proba(ROWS.X)
    assert np.array_equal(pickle.loads(pickle.dumps(net)).predict_proba(ROWS.X), expected)
    files = {
        "f_params": tmp_path / "params.pt",
        "f_optimizer": tmp_path / "optimizer.pt",
        "f_history": tmp_path / "history.json",
    }
    net.save_params(**files)
    # The architecture is the user's, so that a net of theirs takes the edited parameters.
    theirs = NETS[name]().initialize()
    assert not np.array_equal(theirs.predict_proba(ROWS.X), expected)
    theirs.load_params(**files)
    assert np.array_equal(theirs.predict_proba(ROWS.X), expected)
    fresh = clone(net)
    assert not fresh.initialized_
    assert fresh.get_params().keys() == net.get_params().keys()
    assert log_loss(fresh.fit(ROWS.X, targets(fresh))) < 1


def test_a_net_of_which_the_parameters_were_loaded(tmp_path):
    trained("classifier").save_params(f_params=tmp_path / "params.pt")
    net = NETS["classifier"]().initialize()
    net.load_params(f_params=tmp_path / "params.pt")
    with pytest.raises(AttributeError):
        net.classes_  # noqa: B018
    words = np.array(["no", "yes"])
    editor = edit(FrozenEstimator(net), words[ROWS.y])
    returned = editor.to_skorch()
    assert returned.classes_.tolist() == [0, 1]
    assert np.array_equal(words[returned.predict(ROWS.X)], editor.predict(ROWS.X))
    assert log_loss(returned.partial_fit(ROWS.X, ROWS.y)) < log_loss(editor.to_skorch())


CALLBACKS = {
    "EarlyStopping": lambda folder: EarlyStopping(patience=2, load_best=True),
    "Checkpoint": lambda folder: Checkpoint(dirname=folder),
    "Checkpoint, best": lambda folder: Checkpoint(dirname=folder, load_best=True),
    "EpochScoring": lambda folder: EpochScoring("roc_auc", lower_is_better=False),
    "LRScheduler": lambda folder: LRScheduler(policy="StepLR", step_size=3, gamma=0.5),
    "LRScheduler, cycle": lambda folder: LRScheduler(
        policy="CyclicLR", base_lr=0.01, max_lr=0.05, step_every="batch", cycle_momentum=False
    ),
}


@pytest.mark.parametrize("callback", CALLBACKS)
def test_callbacks_go_on(callback, form, tmp_path):
    net = classifier(
        max_epochs=8,
        train_split=ValidSplit(4, stratified=True),
        callbacks=[("mine", CALLBACKS[callback](tmp_path))],
    )
    if form == "frozen":
        net = FrozenEstimator(net.fit(ROWS.X, ROWS.y))
    editor = edit(net)
    returned = editor.to_skorch()
    assert np.array_equal(returned.predict(ROWS.X), editor.predict(ROWS.X))
    loss, epochs = log_loss(returned), len(returned.history)
    returned.partial_fit(ROWS.X, ROWS.y)
    assert log_loss(returned) < loss
    assert len(returned.history) > epochs
    if callback == "LRScheduler":
        rates = returned.history[:, "event_lr"]
        expected = [0.02 * 0.5 ** (epoch // 3) for epoch in range(16)]
        np.testing.assert_allclose(rates, expected)
    if callback == "EpochScoring":
        assert returned.history[-1, "roc_auc"] > 0.5


@pytest.mark.parametrize("monitor", ["valid_loss_best", "roc_auc_best"])
def test_a_checkpoint_of_the_network_before_the_edit_never_comes_back(monitor, tmp_path):
    """skorch takes the best epoch in a net's history for one of the weights that it has now."""
    checkpoint = Checkpoint(dirname=tmp_path, load_best=True, monitor=monitor)
    scoring = EpochScoring("roc_auc", lower_is_better=False)
    net = classifier(max_epochs=40, callbacks=[("auc", scoring), ("checkpoint", checkpoint)])
    net.fit(ROWS.X, ROWS.y)
    # So few steps at such a rate that training further does not reach what was the best.
    editor = edit(FrozenEstimator(net), threshold=0.02)
    returned = editor.to_skorch().set_params(max_epochs=2, lr=1e-3)
    returned.partial_fit(ROWS.X, ROWS.y)
    # skorch goes back to the best epoch's history too, which is one of those after the edit.
    assert len(returned.history) > len(net.history)
    assert returned.history[-1, "valid_loss"] > min(net.history[:, "valid_loss"])
    moved = np.abs(returned.predict_proba(ROWS.X) - editor.predict_proba(ROWS.X)).max()
    away = np.abs(returned.predict_proba(ROWS.X) - net.predict_proba(ROWS.X)).max()
    assert moved < 0.05 < 0.3 < away


WORDS = np.array(["no", "yes"])


@pytest.mark.parametrize("labels", ["names", "codes"])
def test_class_names_of_the_net(labels):
    """skorch trains on codes whatever ``classes`` says, so both are what the net was trained on."""
    net = trained("names")
    names = np.array(["no", "yes"] if labels == "names" else [0, 1])
    editor = edit(FrozenEstimator(net), names[ROWS.y])
    assert editor.classes_.tolist() == names.tolist()
    returned = editor.to_skorch()
    assert returned.classes_.tolist() == ["no", "yes"]
    assert np.array_equal(names[returned.predict(ROWS.X)], editor.predict(ROWS.X))
    with pytest.raises(NetworkError, match="trained for"):
        edit(FrozenEstimator(net), np.array([1, 2])[ROWS.y])


def test_class_names_in_another_order():
    """Trained here, the columns are in the order of the sorted labels, and the net says so."""
    editor = edit(classifier(classes=["yes", "no"]), WORDS[ROWS.y])
    returned = editor.to_skorch()
    assert editor.classes_.tolist() == returned.classes_.tolist() == ["no", "yes"]
    predicted = returned.classes_[returned.predict(ROWS.X)]
    assert np.array_equal(predicted, editor.predict(ROWS.X))


def test_the_net_follows_the_module_to_another_device():
    editor = edited("weighted criterion", "frozen")
    # The only other device that is everywhere; it computes nothing.
    module = editor.to_module().to("meta")
    net = net_around(module, editor._adopted, editor.classes_)
    assert net.device == "meta"
    assert net.criterion_.weight.device.type == "meta"
    assert {p.device.type for g in net.optimizer_.param_groups for p in g["params"]} == {"meta"}
    assert trained("weighted criterion").device == "cpu"


class Wrapped(nn.Module):
    """What an accelerator makes of a module."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *arguments):
        return self.module(*arguments)


class Accelerator:
    """As much of accelerate's class as skorch uses, on one CPU."""

    device_placement, is_main_process = False, True

    def prepare(self, part):
        return Wrapped(part) if isinstance(part, Body) else part

    def unwrap_model(self, module, keep_fp32_wrapper):
        return module.module if isinstance(module, Wrapped) else module

    def accumulate(self, module):
        return nullcontext()

    autocast = staticmethod(nullcontext)
    gather_for_metrics = staticmethod(lambda output: output)

    def backward(self, loss):
        loss.backward()

    def wait_for_everyone(self):
        pass


class AcceleratedNet(AccelerateMixin, NeuralNetClassifier):
    """A net that accelerate trains."""


def test_a_net_that_accelerate_has_trained_and_unwrapped(form):
    net = classifier()
    settings = {key: value for key, value in net.get_params(deep=False).items() if key != "device"}
    net = AcceleratedNet(**settings, accelerator=Accelerator())
    if form == "frozen":
        net = FrozenEstimator(net.fit(ROWS.X, ROWS.y))
        assert type(net.module_) is Body
    editor = edit(net)
    returned = editor.to_skorch()
    assert returned.device is None
    np.testing.assert_allclose(
        returned.predict_proba(ROWS.X), editor.predict_proba(ROWS.X), rtol=0, atol=1e-6
    )
    loss = log_loss(returned)
    assert log_loss(returned.partial_fit(ROWS.X, ROWS.y)) < loss
