"""Fingerprints: equal for what is equal, in every process, and different for all else."""

from __future__ import annotations

import copy
import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skorch import NeuralNetClassifier
from skorch.callbacks import EarlyStopping
from torch import nn

from fairsvd.arrays import as_batches
from fairsvd.caching import NotStableError, fingerprint
from helpers import convolutions, mlp, skorch_net

pytestmark = pytest.mark.slow

THINGS = [
    None,
    0,
    False,
    0.0,
    "",
    "0",
    b"0",
    [],
    (),
    {},
    [1, 2],
    (1, 2),
    [[1], 2],
    [1, [2]],
    {"a": 1},
    {"a": 2},
    {"a": 1, "b": 2},
    {"b": 2, "a": 1},
    {1, 2},
    np.float32(1),
    np.float64(1),
    np.zeros(2, np.float32),
    np.zeros(2, np.float64),
    np.zeros((1, 2), np.float32),
    np.array(["a", None], dtype=object),
    torch.zeros(2),
    torch.zeros(2, dtype=torch.bfloat16),
    torch.zeros(1, 2),
    torch.float32,
    torch.device("cpu"),
    nn.ReLU,
    nn.ReLU(),
    nn.Tanh(),
    mlp(),
    mlp(width=12),
    torch.relu,
    functools.partial(max, 1),
    functools.partial(max, 2),
    np.random.default_rng(0),
    np.random.default_rng(1),
    np.random.RandomState(0),
    torch.Generator().manual_seed(3),
]


def test_different_things_have_different_fingerprints():
    keys = [fingerprint(thing) for thing in THINGS]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 for key in keys)


@pytest.mark.parametrize("thing", THINGS, ids=range(len(THINGS)))
def test_a_copy_has_the_same_fingerprint(thing):
    twin = thing if isinstance(thing, torch.Generator) else copy.deepcopy(thing)
    assert fingerprint(twin) == fingerprint(thing)


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3), elements=st.floats(-1, 1, width=32)))
def test_an_array_is_its_numbers_whatever_its_layout(array):
    key = fingerprint(array)
    assert fingerprint(np.asfortranarray(array)) == key
    assert fingerprint(np.repeat(array, 2, axis=0)[::2]) == key
    changed = array.copy()
    changed.flat[-1] = 2
    assert fingerprint(changed) != key


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_rows_are_their_numbers_wherever_they_are_read_from(n, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    order = rng.permutation(n)
    key = fingerprint(as_batches(X[order]))
    assert fingerprint(as_batches(X).subset(order)) == key
    assert fingerprint(as_batches(torch.tensor(X[order]))) == key
    assert fingerprint(as_batches(X[order].astype(np.float32))) != key
    if n > 1:
        assert fingerprint(as_batches(X[order[::-1]])) != key


def test_a_network_is_its_state_and_what_it_computes():
    net = mlp()
    key = fingerprint(net)
    assert fingerprint(mlp()) == key
    changed = mlp()
    with torch.no_grad():
        changed[0].weight[0, 0] += 1e-6
    tanh = mlp()
    tanh[1] = nn.Tanh()
    hooked = mlp()
    hooked[0].register_forward_hook(lambda layer, inputs, output: output * 2)
    strided = convolutions()
    strided[0].stride = (1, 1)
    others = [
        changed,
        tanh,
        hooked,
        mlp().double(),
        convolutions(),
        convolutions(groups=2),
        strided,
    ]
    keys = {fingerprint(other) for other in others}
    assert len(keys) == len(others)
    assert key not in keys


def test_a_networks_gradients_and_modes_do_not_count_and_its_own_settings_do():
    class Scaled(nn.Module):
        def __init__(self, factor, act=torch.relu):
            super().__init__()
            self.factor, self.act = factor, act
            self.layer = nn.Linear(2, 2).requires_grad_(False)
            self.layer.weight.fill_(1)
            self.layer.bias.fill_(0)

        def forward(self, X):
            return self.act(self.layer(X)) * self.factor

    key = fingerprint(Scaled(1.0))
    trained = Scaled(1.0).train().requires_grad_()
    trained(torch.ones(1, 2)).sum().backward()
    assert fingerprint(trained) == key == fingerprint(Scaled(1.0).eval())
    assert fingerprint(Scaled(2.0)) != key
    assert fingerprint(Scaled(1.0, torch.tanh)) != key


def test_two_classes_of_one_name_differ_by_their_code():
    def make():
        class Net(nn.Module):
            def forward(self, X):
                return X

        return Net

    first = make()

    class Net(nn.Module):
        def forward(self, X):
            return -X

    second, second.__qualname__ = Net, first.__qualname__
    assert fingerprint(first) == fingerprint(make())
    assert fingerprint(first) != fingerprint(second)


def test_functions_differ_by_code_defaults_and_what_they_close_over():
    def make(number):
        def f(x, y=1):
            return x + number

        return f

    assert fingerprint(make(1)) == fingerprint(make(1)) != fingerprint(make(2))
    assert fingerprint(lambda x: x) != fingerprint(lambda x: x + 1)


def test_a_skorch_net_is_its_settings():
    key = fingerprint(skorch_net(mlp()))
    assert fingerprint(skorch_net(mlp())) == key
    for settings in ({"lr": 0.5}, {"callbacks": [EarlyStopping()]}, {"max_epochs": 3}):
        assert fingerprint(skorch_net(mlp(), **settings)) != key
    # Its own default splitter is no estimator, yet has a meaning.
    assert fingerprint(NeuralNetClassifier(mlp())) == fingerprint(NeuralNetClassifier(mlp()))


def test_what_cannot_be_told_is_refused():
    loop = []
    loop.append(loop)
    for thing in (iter([1]), loop, torch.eye(2).to_sparse(), open):
        if thing is open:
            assert fingerprint(thing)  # a builtin has a name
            continue
        with pytest.raises(NotStableError):
            fingerprint(thing)


WORDS = frozenset(f"word {k}" for k in range(9))


def test_another_process_finds_the_same():
    thing = f"{{'b': 1, 'a': {WORDS!r}}}"
    code = (
        "import numpy as np, torch\nfrom torch import nn\n"
        "from fairsvd.caching import fingerprint\n"
        f"print(fingerprint({thing}, np.arange(4), nn.Linear, torch.ones(2), 'x'))"
    )
    # Other hashes of texts than here, so another order of sets and dictionaries.
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    wanted = fingerprint({"b": 1, "a": WORDS}, np.arange(4), nn.Linear, torch.ones(2), "x")
    assert done.stdout.strip() == wanted
