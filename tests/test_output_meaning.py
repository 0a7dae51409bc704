"""Logits or probabilities: what is taken for which, how that is said, and what the user may say."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from torch import nn

from fairsvd import BlindPostProcessor, GapFineTuner
from fairsvd.exceptions import NetworkError, OutputKindWarning
from helpers import IGNORE_SMALL_DATA, binary_net, mlp, quick, skorch_net, table, trained

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]

ROWS = table()
UNTOUCHED = {"sparsity": 0, "refine": None, "threshold": 0.5}


class Then(nn.Module):
    """A function of what a network returns, written in its forward."""

    def __init__(self, function, n_outputs=1):
        super().__init__()
        self.inner = trained(mlp(n_outputs), ROWS)
        self.function = function

    def forward(self, X):
        return self.function(self.inner(X))


def fit(network, rows=ROWS, **settings):
    settings = {**UNTOUCHED, **settings}
    return quick(network, **settings).fit(rows.X, rows.y, sensitive_features=rows.group)


def outputs(module, X=ROWS.X):
    with torch.no_grad():
        return module.eval()(torch.tensor(X)).double()


def squeezed(function):
    return lambda z: function(z).squeeze(1)


ONE_PROBABILITY = {
    "sigmoid": torch.sigmoid,
    "sigmoid of a vector": squeezed(torch.sigmoid),
    "one minus a sigmoid": lambda z: 1 - torch.sigmoid(-z),
    "second column of a softmax": lambda z: torch.cat([-z, z], dim=1).softmax(dim=1)[:, 1],
    "clamped": lambda z: torch.sigmoid(z).clamp(1e-6, 1 - 1e-6),
    "of another precision": lambda z: torch.sigmoid(z.double()).float(),
    "mean of two sigmoids": lambda z: torch.stack([z, z + 1]).sigmoid().mean(dim=0),
}


@pytest.mark.parametrize("name", ONE_PROBABILITY)
def test_a_probability_made_in_the_forward_is_one(name):
    """The reading keeps the network's accuracy, and nothing is in doubt."""
    module = Then(ONE_PROBABILITY[name])
    shares = outputs(module).reshape(-1)
    editor = fit(module)
    np.testing.assert_allclose(editor.predict_proba(ROWS.X)[:, 1], shares, atol=1e-6)
    assert editor.predict(ROWS.X).tolist() == (shares > 0.5).int().tolist()
    assert any("returns probabilities" in note for note in editor.report_.notes)


LOGITS = {
    "a linear layer": lambda z: z,
    "a linear layer with all values in [0, 1]": lambda z: z * 0.01 + 0.5,
    "a temperature": lambda z: z / 2.5,
    "clamped": lambda z: z.clamp(-3, 3),
    "the logarithm of a softmax": lambda z: torch.log_softmax(torch.cat([0 * z, z], 1), dim=1),
}


@pytest.mark.parametrize("name", LOGITS)
def test_logits_stay_logits(name):
    module = Then(LOGITS[name])
    scores = outputs(module)
    margin = scores[:, 0] if scores.shape[1] == 1 else scores[:, 1] - scores[:, 0]
    editor = fit(module)
    np.testing.assert_allclose(editor.decision_function(ROWS.X), margin, atol=1e-5)
    assert any("returns logits" in note for note in editor.report_.notes)


def own_sigmoid(z):
    return 1 / (1 + torch.exp(-z))


def test_values_in_range_that_nothing_explains_are_doubtful():
    module = Then(lambda z: own_sigmoid(0.01 * z))
    with pytest.warns(OutputKindWarning, match=r"in \[0, 1\].*could be logits.*output_kind="):
        editor = fit(module)
    notes = editor.report_.notes
    assert any("could be logits" in note for note in notes)
    np.testing.assert_allclose(editor.predict_proba(ROWS.X)[:, 1], outputs(module)[:, 0], atol=1e-6)


def test_a_layer_clamped_to_probabilities_is_doubtful():
    with pytest.warns(OutputKindWarning, match="taken for probabilities"):
        editor = fit(Then(lambda z: (z * 0.1 + 0.5).clamp(0, 1)))
    assert editor.predict_proba(ROWS.X).max() <= 1


def test_many_values_of_a_wide_spread_leave_no_doubt():
    rows = table(400)
    module = Then(lambda z: own_sigmoid(4 * z))
    with warnings.catch_warnings():
        warnings.simplefilter("error", OutputKindWarning)
        editor = fit(module, rows)
    shares = outputs(module, rows.X)[:, 0]
    assert shares.max() - shares.min() > 0.5
    np.testing.assert_allclose(editor.predict_proba(rows.X)[:, 1], shares, atol=1e-6)


def test_what_the_user_says_counts():
    module = Then(lambda z: own_sigmoid(0.01 * z))
    scores = outputs(module)[:, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", OutputKindWarning)
        as_logit = fit(module, output_kind="logits")
        as_share = fit(module, output_kind="probabilities")
    np.testing.assert_allclose(as_logit.decision_function(ROWS.X), scores, atol=1e-6)
    np.testing.assert_allclose(as_share.predict_proba(ROWS.X)[:, 1], scores, atol=1e-6)
    for editor in (as_logit, as_share):
        assert any("as output_kind says" in note for note in editor.report_.notes)


WRONG = {
    "logits called probabilities": (lambda: mlp(2), "probabilities", r"values from -.*\[0, 1\]"),
    "the default network": (lambda: None, "probabilities", r"output_kind='probabilities'.*values"),
    "a net of binary logits": (
        lambda: FrozenEstimator(binary_net(mlp(1)).initialize()),
        "probabilities",
        r"output_kind='probabilities'.*criterion.*logits",
    ),
    "a net of probabilities": (
        lambda: FrozenEstimator(
            skorch_net(mlp(2, nn.Softmax(dim=1)), criterion=nn.NLLLoss).initialize()
        ),
        "logits",
        r"output_kind='logits'.*criterion.*probabilities",
    ),
    "a net of log-probabilities": (
        lambda: FrozenEstimator(
            skorch_net(mlp(2, nn.LogSoftmax(dim=1)), criterion=nn.NLLLoss).initialize()
        ),
        "auto",
        r"criterion.*NLLLoss.*values from -.*End it with a softmax",
    ),
    "no kind": (lambda: mlp(2), "softmax", r"'output_kind' parameter.*'softmax'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_the_user_says_must_agree(name):
    make, kind, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        fit(make(), output_kind=kind)


class Leaves(nn.Module):
    """In [0, 1] on the rows that are looked at first, and 2 on one of the others."""

    def __init__(self):
        super().__init__()
        self.inner = trained(mlp(1), ROWS)

    def forward(self, X):
        return torch.where(X[:, :1] > 50, 2.0, own_sigmoid(self.inner(X)))


def test_a_probability_above_one_is_refused_wherever_it_turns_up():
    X = ROWS.X.copy()
    X[100, 0] = 99
    editor = fit(Leaves(), output_kind="probabilities")
    with pytest.raises(NetworkError, match=r"read as probabilities.* to 2.*output_kind='logits'"):
        editor.predict(X)
    with pytest.raises(NetworkError, match="read as probabilities"):
        fit(Leaves(), ROWS._replace(X=X), output_kind="probabilities")


@pytest.mark.parametrize("kind", [GapFineTuner, BlindPostProcessor])
def test_every_editor_has_the_parameter(kind):
    editor = kind(Then(torch.sigmoid), output_kind="probabilities", random_state=0)
    editor.set_params(n_teachers=1, joint="head")
    assert clone(editor).output_kind == "probabilities"
    if kind is GapFineTuner:
        editor.set_params(max_steps=2)
    editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    assert any("as output_kind says" in note for note in editor.report_.notes)
    assert (editor.predict(ROWS.X) == ROWS.y).mean() > 0.6


def test_a_threshold_is_folded_into_a_sigmoid_of_the_forward():
    editor = fit(Then(torch.sigmoid), threshold=0.3)
    shares = editor.predict_proba(ROWS.X)[:, 1]
    np.testing.assert_allclose(outputs(editor.to_module())[:, 0], shares, atol=1e-5)
    net = editor.to_skorch()
    assert isinstance(net.criterion_, nn.BCELoss)
    np.testing.assert_allclose(net.predict_proba(ROWS.X)[:, 1], shares, atol=1e-5)
    assert net.predict(ROWS.X).tolist() == editor.predict(ROWS.X).tolist()


def test_three_sigmoids_count_by_their_share_wherever_they_go():
    rows = table(n_classes=3)
    module = Then(torch.sigmoid, n_outputs=3)
    scores = outputs(module, rows.X)
    wanted = scores / scores.sum(dim=1, keepdim=True)
    editor = fit(module, rows)
    np.testing.assert_allclose(editor.predict_proba(rows.X), wanted, atol=1e-6)
    np.testing.assert_allclose(editor.to_skorch().predict_proba(rows.X), wanted, atol=1e-6)
    assert outputs(editor.to_module(), rows.X).argmax(1).tolist() == wanted.argmax(1).tolist()
