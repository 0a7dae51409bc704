"""Networks that are wrapped, normalised, pruned or hard to copy, and those that cannot be edited."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from editors import EDITORS, make
from fairsvd.exceptions import NetworkError
from helpers import (
    IGNORE_SMALL_DATA,
    global_state,
    mlp,
    quick,
    skorch_net,
    table,
    trained,
)

pytestmark = [
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
    editor = fit(network, **UNTOUCHED)
    assert sorted(editor.to_module().state_dict()) == sorted(names)
    taken = any("taken out of its" in note for note in editor.report_.notes)
    assert taken == (name in ("parallel", "parallel twice", "compiled"))
    plain = Branches() if name == "parallel inside" else mlp()
    plain.load_state_dict(
        {
            k.replace("_orig_mod.", "").replace("module.", ""): v
            for k, v in network.state_dict().items()
        }
        if name != "parallel inside"
        else network.state_dict()
    )
    with torch.no_grad():
        wanted = plain.eval()(X).softmax(dim=1)
    np.testing.assert_allclose(editor.predict_proba(ROWS.X), wanted, atol=1e-6)


# Refusals


class NoGradient(nn.Module):
    def __init__(self, mode, whole):
        super().__init__()
        self.body, self.head, self.mode, self.whole = mlp(4), nn.Linear(4, 2), mode, whole

    def forward(self, X):
        with self.mode():
            h = self.body(X)
            if self.whole:
                return self.head(h)
        return self.head(h.clone())


class Apart(nn.Module):
    """Applies a function to its inner layers' output."""

    def __init__(self, function):
        super().__init__()
        self.body, self.head, self.function = mlp(4), nn.Linear(4, 2), function

    def forward(self, X):
        return self.head(self.function(self.body(X)))


class Bound(nn.Module):
    """Keeps a function that is bound to this very module."""

    def __init__(self):
        super().__init__()
        self.inner = mlp()
        self.run = lambda X: self.inner(X)

    def forward(self, X):
        return self.run(X)


class BuiltLate(nn.Module):
    """Makes its layers when it sees the first rows."""

    def __init__(self):
        super().__init__()
        self.first, self.last = None, nn.Linear(8, 2)

    def forward(self, X):
        if self.first is None:
            self.first = nn.Linear(X.shape[1], 8)
        return self.last(self.first(X).relu())


def with_attribute(value):
    module = mlp()
    module[2].extra = value
    return module


def sparse():
    module = mlp()
    module[0].weight = nn.Parameter(module[0].weight.detach().to_sparse())
    return module


def prepared_for_quantisation():
    module = mlp().train()
    module.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    return torch.ao.quantization.prepare_qat(module)


REFUSED = {
    "lazy layer": (
        lambda: nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2)),
        r"'0\.weight' has no shape yet.*never trained.*batch",
    ),
    "lazy normalisation": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.LazyBatchNorm1d(), nn.Linear(8, 2)),
        r"'1\.weight' has no shape yet",
    ),
    "built late": (BuiltLate, r"made its parameters \['first.weight'.*never trained"),
    "meta": (lambda: mlp().to("meta"), r"device 'meta'.*state_dict"),
    "partly meta": (
        lambda: nn.Sequential(mlp(8), nn.Linear(8, 2, device="meta")),
        r"'1\.weight' is on the device 'meta'",
    ),
    "scripted": (lambda: torch.jit.script(mlp()), r"torch\.jit.*scripted or traced from"),
    "traced": (lambda: torch.jit.trace(mlp(), X[:2]), r"torch\.jit.*scripted or traced from"),
    "scripted part": (
        lambda: nn.Sequential(torch.jit.script(mlp(8)), nn.Linear(8, 2)),
        r"part '0'.*torch\.jit",
    ),
    "exported": (
        lambda: torch.export.export(mlp().eval(), (X[:2],)).module(),
        r"torch\.export.*that was exported",
    ),
    "quantised": (
        lambda: torch.ao.quantization.quantize_dynamic(mlp(), {nn.Linear}),
        r"quantised network.*floating point",
    ),
    "to be quantised": (prepared_for_quantisation, r"quantised network.*floating point"),
    "sparse": (sparse, r"'0\.weight' is sparse.*to_dense"),
    "complex": (lambda: mlp().to(torch.complex64), r"'0\.weight' holds complex"),
    "no gradient": (lambda: NoGradient(torch.no_grad, True), r"no gradient.*'head'.*no_grad\(\)"),
    "inference mode": (lambda: NoGradient(torch.inference_mode, True), r"no gradient.*'head'"),
    "no gradient in the body": (
        lambda: NoGradient(torch.no_grad, False),
        r"no gradient.*layers \['body\.0', 'body\.2', 'body\.4'\].*no_grad",
    ),
    "detached": (lambda: Apart(torch.detach), r"no gradient.*'body\.4'.*detaches"),
    "through numpy": (
        lambda: Apart(lambda h: torch.from_numpy(h.detach().numpy())),
        r"no gradient.*'body\.0'.*numpy\(\)",
    ),
    "zero width": (
        lambda: nn.Sequential(nn.Linear(6, 0), nn.ReLU(), nn.Linear(0, 2)),
        r"no Linear or Conv2d.*empty \(of zero",
    ),
    "bound to itself": (Bound, r"still runs the parameters of the original.*lambda"),
    "a generator": (lambda: with_attribute(k for k in range(3)), r"cannot be copied.*'2\.extra'"),
    "no rows": (
        lambda: Apart(lambda h: h[:3]),
        r"scores of the shape \(3, 2\) for 32 rows",
    ),
    "rows repeated": (
        lambda: Apart(lambda h: torch.cat([h, h])),
        r"scores of the shape \(64, 2\) for 32 rows",
    ),
}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("frozen", [False, True], ids=["module", "frozen"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_edited_is_refused_before_any_work(name, frozen, monkeypatch):
    build, message = REFUSED[name]
    network = build()
    before = global_state()

    def work(*_args, **_kwargs):
        raise AssertionError("the edit began")

    editor = quick(FrozenEstimator(network) if frozen else network)
    monkeypatch.setattr(type(editor), "_edit", work)
    with pytest.raises(NetworkError, match=message):
        editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    assert global_state() == before
    assert not hasattr(editor, "module_")


class Empty(nn.Module):
    """An empty branch beside a full one, which runs last."""

    def __init__(self):
        super().__init__()
        self.full, self.none, self.head = mlp(), nn.Linear(6, 0), nn.Linear(2, 2)

    def forward(self, X):
        h = self.full(X)
        return self.head(torch.cat([h, self.none(X)], dim=1))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
@pytest.mark.parametrize("name", ["FairLRFTransformer", "GapFineTuner", "AdversarialDebiasing"])
def test_an_empty_layer_beside_others_is_left_alone(name):
    editor = make(name, Empty()).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    assert editor.to_module()(X).shape == (len(X), 2)


class Gate(nn.Module):
    """Chooses between two layers by the larger of two scores: no gradient reaches the choice."""

    def __init__(self):
        super().__init__()
        self.gate, self.one, self.two = nn.Linear(6, 2), nn.Linear(6, 8), nn.Linear(6, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, X):
        first = self.gate(X).argmax(dim=1, keepdim=True) == 0
        return self.head(torch.where(first, self.one(X), self.two(X)).relu())


def test_a_choice_among_parts_is_no_detached_layer():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        editor = fit(Gate())
    assert len(editor.predict(ROWS.X)) == len(ROWS.X)


# A lazy network in a skorch net is made and trained here.


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.LazyLinear(8), nn.LazyLinear(2)

    def forward(self, X):
        return self.last(self.first(X).relu())


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_a_lazy_skorch_net_is_trained_reproducibly(optimizer):
    before = global_state()
    proba = [
        fit(skorch_net(Lazy, optimizer=optimizer, lr=0.01)).predict_proba(ROWS.X) for _ in range(2)
    ]
    assert np.array_equal(*proba)
    assert global_state() == before


# Precision


@pytest.mark.parametrize("name", sorted(EDITORS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_editor_takes_every_precision(name, dtype):
    module = trained(mlp(), ROWS).to(dtype)
    before = everything(module)
    editor = make(name, module, output="features")
    editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    own = np.float64 if dtype == torch.float64 else np.float32
    assert editor.transform(ROWS.X).dtype == own
    proba = editor.predict_proba(ROWS.X)
    assert proba.dtype == np.float64
    assert editor.set_params(output="logits").transform(ROWS.X).dtype == np.float64
    assert editor.set_params(output="probabilities").transform(ROWS.X).dtype == np.float64
    exported = editor.to_skorch().predict_proba(ROWS.X)
    np.testing.assert_allclose(exported, proba, atol=1e-5)
    noted = any("edited, predicts and is exported in float32" in n for n in editor.report_.notes)
    assert noted == (dtype != torch.float64)
    same(before, everything(module))


def test_a_half_network_is_edited_in_single_precision_from_its_own_numbers():
    module = trained(mlp(), ROWS).half()
    wanted = copy.deepcopy(module).float()(X).softmax(dim=1).detach()
    editor = fit(module, **UNTOUCHED)
    np.testing.assert_allclose(editor.predict_proba(ROWS.X), wanted, atol=1e-6)


def test_rows_reach_a_double_network_in_double_precision():
    module = trained(mlp(), ROWS).double()
    rows = ROWS.X.astype(np.float64) + 1e-9
    with torch.no_grad():
        wanted = module(torch.tensor(rows))
    editor = quick(module, **UNTOUCHED, output="logits")
    editor.fit(rows, ROWS.y, sensitive_features=ROWS.group)
    np.testing.assert_allclose(editor.transform(rows), wanted, rtol=0, atol=1e-13)


def test_a_skorch_net_in_double_precision_is_trained_on_rows_like_it():
    editor = fit(skorch_net(mlp().double()))
    assert next(editor.module_.parameters()).dtype == torch.float64
    assert editor.transform(ROWS.X).dtype == np.float64


# One row


class Squeezed(nn.Module):
    """Squeezes away the dimension of the rows where there is one."""

    def __init__(self, n_outputs, inside=False):
        super().__init__()
        self.body, self.head, self.inside = mlp(8), nn.Linear(8, n_outputs), inside

    def forward(self, X):
        h = self.body(X).relu()
        return self.head(h.squeeze()) if self.inside else self.head(h).squeeze()


@pytest.mark.parametrize("inside", [False, True], ids=["at the end", "inside"])
@pytest.mark.parametrize("n_outputs", [1, 2])
@pytest.mark.parametrize("name", sorted(EDITORS))
def test_a_network_that_squeezes_works_on_one_row(name, n_outputs, inside):
    """65 rows: a last block and a last batch of one."""
    rows = table(87)
    editor = make(name, Squeezed(n_outputs, inside), batch_size=32)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    proba = editor.predict_proba(rows.X)
    assert np.array_equal(editor.predict_proba(rows.X[:1]), proba[:1])
    assert editor.transform(rows.X[:1]).shape[0] == 1


def test_a_single_row_is_read_by_the_kind_of_output():
    """At 1,025 rows the judge's last block has one."""
    rows = table(1401)
    for n_outputs in (1, 2):
        module = Squeezed(n_outputs)
        with torch.no_grad():
            wanted = module(torch.tensor(rows.X))
        editor = quick(module, **UNTOUCHED, output="logits")
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
        margin = wanted if n_outputs == 1 else wanted[:, 1] - wanted[:, 0]
        np.testing.assert_allclose(editor.decision_function(rows.X), margin, atol=1e-5)
        exported = editor.to_module()
        assert exported(torch.tensor(rows.X[:1])).numel() == n_outputs


def normalised():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def test_no_batch_of_a_refit_has_one_row_alone():
    """A normalisation cannot be trained on one row: 87 rows leave 65 = 64 + 1 to edit on."""
    rows = table(87)
    editor = make("BlindPostProcessor", normalised(), joint="refit")
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert editor.group_counts_.sum() == 87
    assert len(editor._probe) == 32
