"""What kind of output a network has: as its criterion or its values say, and read in numbers."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNet
from torch import nn

from fairsvd.arrays import as_batches
from fairsvd.networks import ShiftedNetwork, all_features, fold_offset, to_logits
from helpers import (
    IGNORE_SMALL_DATA,
    LastWins,
    binary_net,
    convolutions,
    images,
    mlp,
    quick,
    table,
    trained,
)

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]

ROWS = table()
UNTOUCHED = {"sparsity": 0, "refine": None, "threshold": 0.5}


def fit(network, rows=ROWS, **settings):
    return quick(network, **settings).fit(rows.X, rows.y, sensitive_features=rows.group)


def outputs(module, X=ROWS.X):
    """What the network itself returns, in float64."""
    with torch.no_grad():
        return module.eval()(torch.tensor(X)).double()


def reads_as_probabilities(editor):
    return any("log-probabilities" in note for note in editor.report_.notes)


class Lambda(nn.Module):
    """A function at the end of a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, X):
        return self.function(X)


def test_two_outputs_that_add_up_to_one_are_no_probabilities_where_one_is_negative():
    module = mlp(1, Lambda(lambda z: torch.cat([1 - 3 * z, 3 * z], dim=1)))
    scores = outputs(module)
    editor = fit(module, **UNTOUCHED)
    assert not reads_as_probabilities(editor)
    np.testing.assert_allclose(editor.predict_proba(ROWS.X), scores.softmax(dim=1), atol=1e-6)
    assert scores.min() < 0


# Outputs in [0, 1] that do not add up to 1.
SHARES = {
    "two sigmoids": lambda: mlp(2, nn.Sigmoid()),
    "two sigmoids in forward": lambda: mlp(2, Lambda(torch.sigmoid)),
    "nine tenths of a softmax": lambda: mlp(2, nn.Softmax(dim=1), Lambda(lambda p: 0.9 * p)),
}


@pytest.mark.parametrize("threshold", [0.5, 0.3])
@pytest.mark.parametrize("name", SHARES)
def test_columns_in_range_count_by_their_share_in_the_sum(name, threshold):
    module = SHARES[name]()
    scores = outputs(module)
    assert scores.sum(dim=1).sub(1).abs().min() > 1e-3
    editor = fit(module, **{**UNTOUCHED, "threshold": threshold})
    assert reads_as_probabilities(editor)
    # A threshold of 0.3 raises the odds by 0.7 / 0.3.
    odds = scores[:, 1] / scores[:, 0] * (1 - threshold) / threshold
    wanted = odds / (1 + odds)
    np.testing.assert_allclose(editor.predict_proba(ROWS.X)[:, 1], wanted, atol=1e-5)
    exported = outputs(editor.to_module())
    assert exported.argmax(dim=1).tolist() == editor.predict(ROWS.X).tolist()
    found = editor.to_skorch().predict_proba(ROWS.X)
    np.testing.assert_allclose(found[:, 1], wanted, atol=1e-5)


def test_three_outputs_below_one_that_add_up_to_it_are_none_where_one_is_negative():
    """With two outputs the other one would be above one."""
    rows = table(n_classes=3)

    def pulled(z):
        a = -0.1 - 0.3 * z[:, :1].sigmoid()
        b = (1 - a) * (0.45 + 0.1 * z[:, 1:2].sigmoid())
        return torch.cat([a, b, 1 - a - b], dim=1)

    module = mlp(2, Lambda(pulled))
    scores = outputs(module, rows.X)
    assert scores.max() < 1 and scores.sum(1).sub(1).abs().max() < 1e-6
    editor = fit(module, rows, **UNTOUCHED)
    np.testing.assert_allclose(editor.predict_proba(rows.X), scores.softmax(dim=1), atol=1e-6)


def test_one_row_that_looks_like_probabilities_does_not_decide():
    """At the first row both sigmoids are one half; the others do not add up to one."""
    module = nn.Sequential(nn.Linear(6, 2, bias=False), nn.Sigmoid())
    rows = ROWS._replace(X=np.vstack([np.zeros((1, 6), np.float32), ROWS.X[1:]]))
    scores = outputs(module, rows.X)
    assert scores[0].tolist() == [0.5, 0.5]
    editor = fit(module, rows, layers="all", **UNTOUCHED)
    wanted = scores / scores.sum(dim=1, keepdim=True)
    np.testing.assert_allclose(editor.predict_proba(rows.X), wanted, atol=1e-6)


def test_log_probabilities_of_a_plain_net_are_logits():
    """NLLLoss means probabilities for skorch's classifier alone, which takes their logarithm."""
    module = trained(mlp(2, nn.LogSoftmax(dim=1)), ROWS)
    net = NeuralNet(module, criterion=nn.NLLLoss, verbose=0).initialize()
    editor = fit(FrozenEstimator(net), **UNTOUCHED)
    np.testing.assert_allclose(editor.predict_proba(ROWS.X), outputs(module).exp(), atol=1e-6)


def test_the_criterion_of_a_net_comes_before_its_last_layer():
    """A sigmoid under a criterion for logits makes a logit in [0, 1], as the net itself says."""
    net = binary_net(trained(mlp(1, nn.Sigmoid()), ROWS)).initialize()
    editor = fit(FrozenEstimator(net), **UNTOUCHED)
    np.testing.assert_allclose(editor.predict_proba(ROWS.X), net.predict_proba(ROWS.X), atol=1e-6)
    wanted = outputs(net.module_).sigmoid()[:, 0]
    np.testing.assert_allclose(editor.predict_proba(ROWS.X)[:, 1], wanted, atol=1e-6)


@pytest.mark.parametrize("end", [nn.Dropout(0.2), nn.Identity(), nn.Unflatten(1, (1,))])
def test_layers_that_only_hand_on_do_not_hide_a_sigmoid(end):
    module = mlp(1, nn.Sigmoid(), end)
    shares = outputs(module)[:, 0]
    editor = fit(module, **UNTOUCHED)
    assert reads_as_probabilities(editor)
    np.testing.assert_allclose(editor.predict_proba(ROWS.X)[:, 1], shares, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "least"), [(torch.float32, -87.33654475), (torch.float64, -708.39641853)]
)
def test_probabilities_are_clipped_at_the_least_positive_number_and_nowhere_before(dtype, least):
    """log(2^-126) = -126 log 2 in single precision, -1022 log 2 in double."""
    assert least == pytest.approx({torch.float32: -126, torch.float64: -1022}[dtype] * np.log(2))
    pair = torch.tensor([[0.0, 1.0], [1e-30, 1.0], [0.25, 0.75]], dtype=dtype)
    wanted = [[least, 0.0], [-69.07755279, 0.0], [np.log(0.25), np.log(0.75)]]
    np.testing.assert_allclose(to_logits(pair, "probabilities"), wanted, rtol=1e-6)
    one = torch.tensor([[1.0], [0.0], [0.75]], dtype=dtype)
    wanted = [[least, 0.0], [0.0, least], [np.log(0.25), np.log(0.75)]]
    np.testing.assert_allclose(to_logits(one, "one_probability"), wanted, rtol=1e-6)
    assert to_logits(one, "one_logit")[:, 0].tolist() == [0.0, 0.0, 0.0]
    assert to_logits(one, "one_logit")[:, 1].tolist() == [1.0, 0.0, 0.75]


# The threshold, in numbers.


KINDS = {
    "logits": (lambda: mlp(2), lambda out: out[:, 1] - out[:, 0]),
    "one logit": (lambda: mlp(1), lambda out: out[:, 0]),
    "probabilities": (lambda: mlp(2, nn.Softmax(1)), lambda out: (out[:, 1] / out[:, 0]).log()),
    "one probability": (lambda: mlp(1, nn.Sigmoid()), lambda out: out[:, 0].logit()),
}


@pytest.mark.parametrize("wrapped", [False, True], ids=["folded", "wrapped"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_threshold_is_subtracted_once_in_every_output(kind, wrapped):
    """A threshold of 0.3 lowers every margin by log(0.3 / 0.7) = -0.847: it is raised by that."""
    make, margin_of = KINDS[kind]
    module = make()
    if wrapped:
        # A bias would count three times: no offset can be folded into it.
        module.insert(5, Lambda(lambda z: 3 * z))
    wanted = (margin_of(outputs(module)) + 0.8472978604).numpy()
    editor = fit(module, **{**UNTOUCHED, "threshold": 0.3})
    assert editor.threshold_ == pytest.approx(0.3)
    assert editor.offset_ == pytest.approx(-0.8472978604)
    close = {"rtol": 0, "atol": 2e-5}
    np.testing.assert_allclose(editor.decision_function(ROWS.X), wanted, **close)
    shares = 1 / (1 + np.exp(-wanted))
    np.testing.assert_allclose(editor.predict_proba(ROWS.X)[:, 1], shares, **close)
    assert editor.predict(ROWS.X).tolist() == (wanted > 0).astype(int).tolist()
    logits = editor.set_params(output="logits").transform(ROWS.X)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], wanted, **close)
    found = editor.set_params(output="probabilities").transform(ROWS.X)
    np.testing.assert_allclose(found[:, 1], shares, **close)
    exported = editor.to_module()
    assert isinstance(exported, ShiftedNetwork) == wrapped
    np.testing.assert_allclose(margin_of(outputs(exported)), wanted, **close)
    net = editor.to_skorch()
    np.testing.assert_allclose(net.predict_proba(ROWS.X)[:, 1], shares, **close)
    # The module that the editor keeps is without it.
    np.testing.assert_allclose(margin_of(outputs(editor.module_)), wanted - 0.8472978604, **close)


def test_an_offset_that_the_bias_takes_up_only_nearly_is_put_around_the_network():
    """A factor of 1.01 after the output layer would make it 1 % too large."""
    module = mlp(2, Lambda(lambda z: 1.01 * z))
    X = torch.tensor(ROWS.X)
    folded = fold_offset(module, "logits", 2.0, X[:32])
    assert isinstance(folded, ShiftedNetwork)
    before, after = outputs(module), outputs(folded)
    torch.testing.assert_close(after[:, 0], before[:, 0])
    torch.testing.assert_close(after[:, 1], before[:, 1] - 2.0)


def test_a_small_offset_is_subtracted_too():
    module = mlp().double()
    X = torch.tensor(ROWS.X).double()
    with torch.no_grad():
        moved = fold_offset(module, "logits", 1e-3, X[:32])(X) - module(X)
    np.testing.assert_allclose(moved[:, 1] - moved[:, 0], -1e-3, rtol=1e-9)


class Auxiliary(nn.Module):
    """A second head of the same width runs last, and the scores do not depend on it."""

    def __init__(self):
        super().__init__()
        self.body, self.main, self.other = mlp(8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, X):
        h = self.body(X)
        logits = self.main(h)
        self.other(h.relu())
        return logits


def test_the_threshold_goes_into_the_bias_of_the_head_that_makes_the_scores():
    editor = fit(Auxiliary(), **{**UNTOUCHED, "threshold": 0.3})
    exported, own = editor.to_module(), editor.module_
    assert type(exported) is Auxiliary
    shift = exported.main.bias - own.main.bias
    assert shift.tolist() == pytest.approx([0.0, 0.8472978604], abs=1e-6)
    assert torch.equal(exported.other.bias, own.other.bias)


def test_looking_at_a_network_leaves_no_hook_on_it():
    """Neither on what came in nor on what comes out, whichever way it was looked at."""
    given = trained(mlp(1, nn.Sigmoid()), ROWS)
    editor = fit(given, **{**UNTOUCHED, "threshold": 0.3})
    editor.transform(ROWS.X)
    for module in (given, editor.module_, editor.to_module(), editor.to_skorch().module_):
        for part in module.modules():
            assert not part._forward_hooks
            assert not part._forward_pre_hooks


class Keyed(nn.Module):
    """Returns its scores under a name."""

    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, X):
        return {"scores": self.inner(X)}


@pytest.mark.parametrize("make", [mlp, Keyed])
def test_a_net_around_a_bare_module_is_in_evaluation_mode_and_trains_on_all_rows(make):
    editor = fit(make(), output_key="scores" if make is Keyed else None, **UNTOUCHED)
    net = editor.to_skorch()
    assert not any(part.training for part in net.module_.modules())
    assert net.train_split is None
    assert net.device == "cpu"
    assert net.classes_.tolist() == [0, 1]


def test_that_nothing_did_better_is_said_only_where_nothing_did():
    told = "The untouched network was chosen: no edit did better."
    assert told in fit(mlp(), **UNTOUCHED).report_.notes
    edited = quick(mlp(), LastWins).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    assert told not in edited.report_.notes


# Features


class Twice(nn.Module):
    """One layer of which the second run makes the logits."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, X):
        return self.layer(self.layer(X).relu())[:, :2]


def test_features_of_a_layer_that_runs_twice_are_those_of_its_last_run():
    module = Twice()
    with torch.no_grad():
        wanted = module.layer(torch.tensor(ROWS.X)).relu()
    editor = fit(module, layers="all", **UNTOUCHED)
    np.testing.assert_allclose(editor.transform(ROWS.X), wanted, atol=1e-6)


class Elsewhere(nn.Module):
    """Runs its head once more in another thread, on something else."""

    def __init__(self):
        super().__init__()
        self.body, self.head = mlp(8), nn.Linear(8, 2)

    def forward(self, X):
        h = self.body(X)
        logits = self.head(h)
        thread = threading.Thread(target=lambda: self.head(torch.zeros(64, 8)))
        thread.start()
        thread.join()
        return logits


def test_features_are_those_of_the_threads_own_pass():
    module = Elsewhere()
    with torch.no_grad():
        wanted = module.body(torch.tensor(ROWS.X))
    found = all_features(module, as_batches(ROWS.X), "head")
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert wanted.abs().min() > 0


def test_features_that_are_maps_are_laid_out_one_row_an_image():
    rows = images(20)
    module = nn.Sequential(*list(convolutions())[:3], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        wanted = module[:2](torch.tensor(rows.X)).flatten(1)
    found = all_features(module, as_batches(rows.X), "2")
    assert found.shape == (20, 8 * 3 * 3)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
