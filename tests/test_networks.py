"""Every form in which a network may come, and that what came in stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier
from torch import nn

from fairsvd.exceptions import IgnoredWeightsWarning, NetworkError
from helpers import (
    IGNORE_SMALL_DATA,
    binary_net,
    fingerprint,
    mlp,
    quick,
    skorch_net,
    table,
    trained,
)

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]

# Changes nothing: what comes out is the network that went in.
UNTOUCHED = {"sparsity": 0, "refine": None, "threshold": 0.5}


# Enough for a net of skorch's to learn the table.
TRAINED = {"max_epochs": 60, "lr": 0.02, "optimizer": torch.optim.Adam}


@pytest.fixture
def rows():
    return table()


def fit(network, rows, **settings):
    return quick(network, **settings).fit(rows.X, rows.y, sensitive_features=rows.group)


def probabilities(module, X):
    """Softmax of a module of ours that returns logits or one logit."""
    with torch.no_grad():
        logits = module(torch.tensor(X)).reshape(len(X), -1).double()
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    return logits.softmax(dim=1).numpy()


class Shell(nn.Module):
    """A class for skorch to instantiate."""

    def __init__(self, width=8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, X):
        return self.layers(X)


class Column(nn.Module):
    """One logit, returned as a vector."""

    def __init__(self):
        super().__init__()
        self.inner = mlp(1)

    def forward(self, X):
        return self.inner(X).squeeze(1)


class FunctionalSigmoid(nn.Module):
    """A probability that no layer makes."""

    def __init__(self):
        super().__init__()
        self.inner = mlp(1)

    def forward(self, X):
        return torch.sigmoid(self.inner(X))


def class_based():
    return skorch_net(Shell, module__width=12, **TRAINED)


def with_weights_of(shell, module):
    """Give a module the weights of another with the same parameters in the same order."""
    shell.load_state_dict(dict(zip(shell.state_dict(), module.state_dict().values(), strict=True)))
    return shell.eval()


def frozen(net, module):
    """Initialise a net and give it trained weights."""
    net.initialize()
    net.module_.load_state_dict(module.state_dict())
    return FrozenEstimator(net)


def test_none_trains_a_network_that_predicts(rows):
    editor = fit(None, rows)
    assert editor.score(rows.X, rows.y) > 0.7  # the larger class has 0.5
    assert type(editor.module_).__name__ == "MLP"


@pytest.mark.parametrize("form", ["module", "frozen module", "frozen net", "loaded net"])
def test_a_trained_network_is_edited_as_it_is(rows, form, tmp_path):
    module = trained(mlp(), rows)
    network = module
    if form == "frozen module":
        network = FrozenEstimator(module)
    elif form == "frozen net":
        network = FrozenEstimator(skorch_net(module, max_epochs=0).fit(rows.X, rows.y))
    elif form == "loaded net":
        skorch_net(module).initialize().save_params(f_params=tmp_path / "net.pt")
        net = skorch_net(mlp()).initialize()
        net.load_params(f_params=tmp_path / "net.pt")
        assert not hasattr(net, "classes_")
        network = FrozenEstimator(net)
    before = probabilities(module, rows.X)
    editor = fit(network, rows, **UNTOUCHED)
    np.testing.assert_allclose(editor.predict_proba(rows.X), before, atol=1e-6)
    assert fingerprint(editor.module_) == fingerprint(module)


def test_an_edit_changes_the_copy(rows):
    """What the tests above and below call untouched could have been touched."""
    module = mlp()
    editor = fit(module, rows, max_steps=30, gap_weight=0.0, threshold=0.5)
    assert fingerprint(editor.module_) != fingerprint(module)


def test_labels_of_a_net_without_classes_are_those_of_y(rows):
    module = trained(mlp(), rows)
    network = frozen(skorch_net(mlp()), module)
    labels = np.array(["no", "yes"])[rows.y]
    editor = quick(network, **UNTOUCHED).fit(rows.X, labels, sensitive_features=rows.group)
    assert editor.classes_.tolist() == ["no", "yes"]
    wanted = np.array(["no", "yes"])[probabilities(module, rows.X).argmax(axis=1)]
    assert editor.predict(rows.X).tolist() == wanted.tolist()


@pytest.mark.parametrize("classes", [["no", "yes"], ["yes", "no"]])
def test_columns_belong_to_the_classes_of_the_frozen_net(rows, classes):
    """Column k is classes_[k] of the net, also where its classes are not sorted."""
    module = trained(mlp(), rows)
    network = frozen(skorch_net(mlp(), classes=classes), module)
    labels = np.array(classes)[rows.y]
    editor = quick(network, **UNTOUCHED).fit(rows.X, labels, sensitive_features=rows.group)
    assert editor.classes_.tolist() == classes
    assert editor.score(rows.X, labels) > 0.9
    # Also while it was judged: the rows of fit stood under the right codes.
    assert (editor.report_.groups["accuracy", "before"] > 0.7).all()
    np.testing.assert_allclose(
        editor.predict_proba(rows.X), probabilities(module, rows.X), atol=1e-6
    )


def test_a_frozen_net_may_know_more_classes_than_y_holds():
    rows = table(n_classes=3)
    module = trained(mlp(3), rows)
    network = frozen(skorch_net(mlp(3), classes=["a", "b", "c"]), module)
    some = rows.y != 1
    labels = np.array(["a", "b", "c"])[rows.y][some]
    editor = quick(network, **UNTOUCHED).fit(
        rows.X[some], labels, sensitive_features=rows.group[some]
    )
    assert editor.classes_.tolist() == ["a", "b", "c"]
    assert (editor.report_.groups["accuracy", "before"] > 0.7).all()
    assert editor.predict_proba(rows.X).shape == (len(rows.X), 3)


def test_labels_that_the_frozen_net_does_not_know(rows):
    network = frozen(skorch_net(mlp(), classes=["a", "b"]), mlp())
    with pytest.raises(NetworkError, match=r"y holds the labels \['no', 'yes'\].*\['a', 'b'\]"):
        fit(network, rows._replace(y=np.array(["no", "yes"])[rows.y]))


@pytest.mark.parametrize("form", ["instance", "class"])
def test_an_unfitted_net_is_cloned_and_trained(rows, form):
    net = skorch_net(mlp(), **TRAINED) if form == "instance" else class_based()
    before = fingerprint(net.module) if form == "instance" else None
    editor = fit(net, rows, **UNTOUCHED)
    assert editor.score(rows.X, rows.y) > 0.8
    assert not hasattr(net, "module_")
    assert before is None or fingerprint(net.module) == before


def test_a_fitted_unfrozen_net_is_trained_anew_with_a_warning(rows):
    net = class_based().fit(rows.X, rows.y)
    before = fingerprint(net.module_)
    with pytest.warns(IgnoredWeightsWarning, match="FrozenEstimator"):
        editor = fit(net, rows, **UNTOUCHED)
    assert fingerprint(net.module_) == before != fingerprint(editor.module_)


@pytest.mark.parametrize("make", [lambda: mlp(1), Column], ids=["column", "vector"])
def test_one_logit_stands_for_two_classes(rows, make):
    module = trained(make(), rows)
    editor = fit(module, rows, **UNTOUCHED)
    np.testing.assert_allclose(
        editor.predict_proba(rows.X), probabilities(module, rows.X), atol=1e-6
    )
    assert editor.score(rows.X, rows.y) > 0.9


def test_one_logit_does_not_stand_for_three_classes():
    with pytest.raises(NetworkError, match="1 outputs, but y holds 3 classes"):
        fit(mlp(1), table(n_classes=3))


@pytest.mark.parametrize("state", ["unfitted", "frozen"])
def test_the_binary_classifier_of_skorch(rows, state):
    module = trained(mlp(1), rows)
    net = binary_net(module, max_epochs=0)
    network = FrozenEstimator(net.initialize()) if state == "frozen" else net
    editor = fit(network, rows, **UNTOUCHED)
    np.testing.assert_allclose(
        editor.predict_proba(rows.X), probabilities(module, rows.X), atol=1e-6
    )


CLOSED = {
    "softmax": lambda: mlp(2, nn.Softmax(dim=1)),
    "log-softmax": lambda: mlp(2, nn.LogSoftmax(dim=1)),
    "sigmoid": lambda: mlp(1, nn.Sigmoid()),
    "sigmoid, no layer": FunctionalSigmoid,
    "softmax in a net": lambda: mlp(2, nn.Softmax(dim=1)),
    "sigmoid in a net": lambda: mlp(1, nn.Sigmoid()),
}


@pytest.mark.parametrize("form", CLOSED)
def test_probabilities_are_read_as_log_probabilities(rows, form):
    module = trained(mlp(1 if "sigmoid" in form else 2), rows)
    network = closed = with_weights_of(CLOSED[form](), module)
    if form == "softmax in a net":
        network = FrozenEstimator(NeuralNetClassifier(closed, verbose=0).initialize())
    elif form in ("sigmoid in a net", "sigmoid, no layer"):
        network = FrozenEstimator(binary_net(closed, criterion=nn.BCELoss).initialize())
    editor = fit(network, rows, **UNTOUCHED)
    wanted = probabilities(module, rows.X)
    np.testing.assert_allclose(editor.predict_proba(rows.X), wanted, atol=1e-6)
    noted = any("log-probabilities" in note for note in editor.report_.notes)
    assert noted == (form != "log-softmax")  # its output is logits already


def test_logits_are_not_taken_for_probabilities(rows):
    editor = fit(trained(mlp(), rows), rows)
    assert not any("log-probabilities" in note for note in editor.report_.notes)


def wrong_networks(rows):
    pipeline = make_pipeline(StandardScaler(), skorch_net(mlp())).fit(rows.X, rows.y)
    return {
        "frozen pipeline": (FrozenEstimator(pipeline), r"Pipeline.*scaler, frozen"),
        "pipeline": (pipeline, r"Pipeline.*scaler, frozen"),
        "class": (Shell, r"got type.*pass an instance"),
        "string": ("mlp", r"network must be None, a skorch net.*got str"),
        "unfitted frozen": (FrozenEstimator(skorch_net(mlp())), r"never fitted or initialised"),
        "frozen scaler": (FrozenEstimator(StandardScaler().fit(rows.X)), r"got StandardScaler"),
    }


@pytest.mark.parametrize("form", list(wrong_networks(table())))
def test_what_is_no_network(rows, form):
    network, message = wrong_networks(rows)[form]
    with pytest.raises(NetworkError, match=message):
        fit(network, rows)
