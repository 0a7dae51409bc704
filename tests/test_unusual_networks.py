"""Networks that are wrapped, normalised, pruned or hard to copy: copied, and their owner's kept."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from editors import EDITORS, make
from fairsvd import GapFineTuner
from helpers import (
    IGNORE_SMALL_DATA,
    mlp,
    quick,
    skorch_net,
    table,
    trained,
)

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
    # The older forms, which users' networks still have.
    pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.ao.quantization.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]

ROWS = table()
X = torch.tensor(ROWS.X)
UNTOUCHED = {"sparsity": 0, "refine": None, "threshold": 0.5}


def fit(network, **settings):
    return quick(network, **settings).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


def changed(change):
    """Make a network, change it, and run it, as after training."""
    module = trained(mlp(), ROWS)
    change(module)
    module.eval()(X)
    return module


class Symmetric(nn.Module):
    """A parametrisation of the user's own."""

    def forward(self, weight):
        return weight.triu() + weight.triu(1).T


def prune_twice(module):
    prune.l1_unstructured(module[0], "weight", 0.3)
    prune.random_structured(module[0], "weight", 0.2, dim=0)
    prune.l1_unstructured(module[2], "bias", 0.5)


COMPUTED = {
    "weight norm": lambda m: nn.utils.weight_norm(m[0]),
    "weight norm of the output": lambda m: nn.utils.weight_norm(m[4]),
    "weight norm, parametrised": lambda m: parametrizations.weight_norm(m[2]),
    "spectral norm": lambda m: nn.utils.spectral_norm(m[0]),
    "spectral norm, parametrised": lambda m: parametrizations.spectral_norm(m[2]),
    "orthogonal": lambda m: parametrizations.orthogonal(m[2]),
    "own": lambda m: parametrize.register_parametrization(m[2], "weight", Symmetric()),
    "pruned": prune_twice,
}


def everything(module):
    """Everything of a network that a fit could change, by name."""
    state = {name: value.clone() for name, value in module.state_dict().items()}
    hooks = [
        (name, type(part), list(part._forward_pre_hooks), list(part._forward_hooks), part.training)
        for name, part in module.named_modules()
    ]
    return state, hooks


def same(before, after):
    assert before[1] == after[1]
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())


@pytest.mark.parametrize("frozen", [False, True], ids=["module", "frozen net"])
@pytest.mark.parametrize("name", COMPUTED)
def test_a_computed_weight_becomes_plain_in_the_copy_alone(name, frozen):
    module = changed(COMPUTED[name])
    before, wanted = everything(module), module(X).detach().softmax(dim=1)
    network = FrozenEstimator(skorch_net(module).initialize()) if frozen else module
    editor = fit(network, **UNTOUCHED)
    np.testing.assert_allclose(editor.predict_proba(ROWS.X), wanted, atol=1e-6)
    assert any("were made permanent" in note for note in editor.report_.notes)
    edited = editor.to_module()
    assert sorted(edited.state_dict()) == sorted(mlp().state_dict())
    assert not any(part._forward_pre_hooks for part in edited.modules())
    editor.to_skorch().partial_fit(ROWS.X, ROWS.y)
    same(before, everything(module))
    np.testing.assert_allclose(module(X).detach().softmax(dim=1), wanted, atol=1e-6)


def test_weights_made_in_inference_mode_become_ordinary_ones_in_the_copy():
    with torch.inference_mode():
        module = mlp()
    before = everything(module)
    settings = {"objective": "soft_gap", "gap_weight": 1.0, "max_steps": 2, "random_state": 0}
    editor = GapFineTuner(module, **settings).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    assert all(p.requires_grad and not p.is_inference() for p in editor.module_.parameters())
    same(before, everything(module))


@pytest.mark.parametrize("name", sorted(EDITORS))
def test_every_editor_takes_computed_weights_and_kept_tensors(name):
    module = changed(COMPUTED["weight norm"])
    module.lock, module.seen = threading.Lock(), [module[0](X)]
    before = everything(module)
    editor = make(name, module).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    assert len(editor.predict(ROWS.X)) == len(ROWS.X)
    assert all(value.is_leaf for value in editor.to_module().parameters())
    same(before, everything(module))


class Keeps(nn.Module):
    """Keeps what it saw last, behind a lock."""

    def __init__(self):
        super().__init__()
        self.inner, self.lock, self.last = mlp(), threading.RLock(), {}

    def forward(self, X):
        with self.lock:
            self.last = {"hidden": [self.inner[0](X)]}
            return self.inner(X)


def test_a_network_that_keeps_tensors_and_a_lock_is_copied_whenever_that_is_needed():
    module = Keeps()
    module(X)
    editor = fit(module, criterion="curvature")
    wanted = editor.predict_proba(ROWS.X)
    np.testing.assert_allclose(editor.to_skorch().predict_proba(ROWS.X), wanted, atol=1e-6)
    again = clone(editor).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    assert np.array_equal(again.predict_proba(ROWS.X), wanted)
    assert len(module.last["hidden"][0]) == len(X)  # the original ran once


def test_a_network_that_no_other_process_can_get_runs_in_threads():
    editor = GapFineTuner(Keeps(), max_steps=2, objective="soft_gap", n_jobs=2, random_state=0)
    with pytest.raises(ValueError, match=r"n_jobs=2.*pickle.*RLock.*n_jobs=1.*threading"):
        editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    with parallel_config(backend="threading"):
        threads = editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group).predict_proba(ROWS.X)
    alone = editor.set_params(n_jobs=1).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    assert np.array_equal(alone.predict_proba(ROWS.X), threads)


@pytest.mark.parametrize("name", ["weight norm", "pruned", "spectral norm, parametrised"])
def test_an_editor_is_cloned_with_a_network_that_deepcopy_refuses(name):
    module = changed(COMPUTED[name])
    copied = clone(quick(module)).network
    assert copied is not module
    same(everything(module), everything(copied))
    torch.testing.assert_close(copied(X), module(X))


# Wrappers


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.DataParallel(mlp(4))
        self.head = nn.Linear(4, 2)

    def forward(self, X):
        return self.head(self.body(X).relu())


WRAPPED = {
    "parallel": (lambda: nn.DataParallel(mlp()), list(mlp().state_dict())),
    "parallel twice": (lambda: nn.DataParallel(nn.DataParallel(mlp())), list(mlp().state_dict())),
    "compiled": (lambda: torch.compile(mlp()), list(mlp().state_dict())),
    "compiled in place": (lambda: compiled_in_place(), list(mlp().state_dict())),
    "parallel inside": (
        Branches,
        [*(f"body.{name}" for name in mlp().state_dict()), "head.weight", "head.bias"],
    ),
}


def compiled_in_place():
    module = mlp()
    module.compile()
    return module


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_are_taken_off(name):
    build, names = WRAPPED[name]
    network = build()
    state = network.state_dict()
    editor = fit(network, **UNTOUCHED)
    assert sorted(editor.to_module().state_dict()) == sorted(names)
    taken = any("taken out of its" in note for note in editor.report_.notes)
    assert taken == (name in ("parallel", "parallel twice", "compiled"))
    plain = Branches() if name == "parallel inside" else mlp()
    wrappers = "" if name == "parallel inside" else "module.|_orig_mod."
    for word in filter(None, wrappers.split("|")):
        state = {key.replace(word, ""): value for key, value in state.items()}
    plain.load_state_dict(state)
    with torch.no_grad():
        wanted = plain.eval()(X).softmax(dim=1)
    np.testing.assert_allclose(editor.predict_proba(ROWS.X), wanted, atol=1e-6)
