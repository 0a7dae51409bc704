"""A forward that fails is explained, whatever it raises and wherever it runs."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.frozen import FrozenEstimator
from torch import nn

from fairsvd import BlindPostProcessor, GapFineTuner, HyperGenerator, RandomPerturbation
from fairsvd.exceptions import NetworkError
from helpers import IGNORE_SMALL_DATA, mlp, quick, skorch_net, table

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

ROWS = table()


class OwnError(Exception):
    """A class of the user's own."""


class Fails(nn.Module):
    """Raises where a condition on the rows holds."""

    def __init__(self, error, when):
        super().__init__()
        self.inner, self.error, self.when = mlp(), error, when

    def forward(self, X):
        if self.when(self, X):
            raise self.error
        return self.inner(X)


def always(_module, _X):
    return True


def far(_module, X):
    return bool((X > 90).any())


def in_gradient(_module, X):
    """On the batches of a step, of fewer rows than the first look and than inference has."""
    return torch.is_grad_enabled() and len(X) not in (32, 1)


def training(module, _X):
    return module.training


ERRORS = [
    AssertionError("too far"),
    KeyError("unseen"),
    OwnError("mine"),
    RuntimeError("torch says"),
    ValueError("a value"),
    TypeError("a type"),
    NotImplementedError(),
    ZeroDivisionError("division"),
    AttributeError("none"),
    StopIteration("over"),
]


def explains(caught, error, shape, dtype="float32"):
    text = str(caught.value)
    assert isinstance(caught.value, NetworkError)
    assert type(error).__name__ in text
    assert str(error) in text
    assert re.search(rf"{re.escape(str(shape))[:-2]}.*{dtype}", text), text
    cause = caught.value.__cause__
    assert type(cause) is type(error)
    assert cause is error or cause.args == error.args


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_any_error_of_the_forward_is_explained_in_fit(error):
    editor = quick(Fails(error, always))
    with pytest.raises(NetworkError, match=r"rows of X of shape \(6,\) each") as caught:
        editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    explains(caught, error, (32, 6))
    assert not hasattr(editor, "module_")


@pytest.mark.parametrize("error", [KeyError("unseen"), AssertionError("too far"), OwnError("mine")])
@pytest.mark.parametrize("method", ["predict", "predict_proba", "transform", "decision_function"])
def test_any_error_of_the_forward_is_explained_at_prediction(error, method):
    editor = quick(Fails(error, far), criterion="magnitude", sparsity=0.1, refine=None)
    editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    X = ROWS.X.copy()
    X[5, 1] = 99
    with pytest.raises(NetworkError) as caught:
        getattr(editor, method)(X)
    explains(caught, error, (512, 6))


EDITORS = {
    "masks": lambda network: quick(network),
    "tuning": lambda network: GapFineTuner(network, max_steps=2, objective="soft_gap"),
    "cells": lambda network: BlindPostProcessor(network, n_teachers=1, joint="finetune"),
}


@pytest.mark.parametrize("name", EDITORS)
def test_an_error_in_a_step_of_an_edit_is_explained(name):
    error = KeyError("in a step")
    editor = EDITORS[name](Fails(error, in_gradient)).set_params(random_state=0)
    with pytest.raises(NetworkError) as caught:
        editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    assert "KeyError: 'in a step'" in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_error_in_another_thread_is_explained_too():
    error = KeyError("in a step")
    editor = GapFineTuner(Fails(error, in_gradient), max_steps=2, objective="soft_gap", n_jobs=2)
    with parallel_config(backend="threading"), pytest.raises(NetworkError, match="'in a step'"):
        editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


def test_an_error_in_the_training_of_a_skorch_net_is_explained():
    net = skorch_net(Fails(OwnError("mine"), training))
    with pytest.raises(NetworkError, match=r"Fails failed on rows of X.*OwnError: mine"):
        quick(net).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


def test_the_criterion_of_a_skorch_net_is_told_from_its_network():
    net = skorch_net(mlp(2), criterion=nn.BCEWithLogitsLoss)
    with pytest.raises(NetworkError, match=r"criterion BCEWithLogitsLoss failed on \(90, 2\)"):
        quick(net).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


def test_the_part_that_failed_is_named_with_its_input():
    """A layer for 6 inputs gets 7."""
    X = np.hstack([ROWS.X, ROWS.X[:, :1]])
    with pytest.raises(NetworkError, match=r"in Linear\(in_features=6.*which got \(32, 7\)"):
        quick(mlp()).fit(X, ROWS.y, sensitive_features=ROWS.group)


def test_a_precision_that_the_rows_do_not_have_is_told():
    net = skorch_net(mlp().bfloat16())
    with pytest.raises(NetworkError, match=r"dtype bfloat16 \(convert the network by module.float"):
        quick(net).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


class InPlace(nn.Module):
    """Changes what its sigmoid needs for its gradient."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, X):
        h = torch.sigmoid(self.first(X))
        h *= 2
        return self.last(h)


def test_a_gradient_that_fails_is_explained():
    with pytest.raises(NetworkError, match=r"no gradient.*in place.*x = x \+ y") as caught:
        quick(InPlace()).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_interrupts_pass(interrupt):
    with pytest.raises(interrupt):
        quick(Fails(interrupt(), always)).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    editor = quick(Fails(interrupt(), far), criterion="magnitude", sparsity=0.1, refine=None)
    editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    with pytest.raises(interrupt):
        editor.predict(ROWS.X + 99)


def test_our_own_errors_and_warnings_pass():
    error = NetworkError("as it is")
    with pytest.raises(NetworkError) as caught:
        quick(Fails(error, always)).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    assert str(caught.value) == "as it is"
    assert caught.value.__cause__ is None
    with pytest.raises(UserWarning, match="made an error"):
        quick(Fails(UserWarning("made an error"), always)).fit(
            ROWS.X, ROWS.y, sensitive_features=ROWS.group
        )


def test_a_frozen_net_is_explained_as_its_module_is():
    net = skorch_net(Fails(KeyError("unseen"), far)).initialize()
    editor = RandomPerturbation(FrozenEstimator(net), n_trials=2, random_state=0)
    editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    with pytest.raises(NetworkError, match="KeyError: 'unseen'"):
        editor.predict(ROWS.X + 99)


class Generator(nn.Module):
    """A generator whose density fails."""

    noise_size = 6

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(6))

    def nll(self, X, noise):
        raise KeyError("no density")

    def draw(self, noise):
        return self.mean + noise


def test_the_error_of_a_users_generator_is_explained():
    generator = HyperGenerator(generator=Generator(), n_steps=2, random_state=0)
    with pytest.raises(NetworkError, match="KeyError: 'no density'"):
        generator.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


class Short(Generator):
    """A generator of rows that are too short."""

    def nll(self, X, noise):
        return (X - self.mean).square().sum(dim=1)

    def draw(self, noise):
        return self.mean[:3] + noise[:, :3]


def test_a_generator_of_other_rows_is_refused():
    generator = HyperGenerator(generator=Short(), n_steps=2, random_state=0)
    with pytest.raises(ValueError, match=r"draws rows of the shape \(3,\).*has \(6,\)"):
        generator.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
