"""Networks that cannot be edited are refused before any work; empty parts and gates are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from torch import nn
from torch.utils.checkpoint import checkpoint

from editors import make
from fairsvd import GapFineTuner
from fairsvd.exceptions import NetworkError
from helpers import IGNORE_SMALL_DATA, global_state, mlp, quick, skorch_net, table

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
    # What torch says when such networks are made.
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning"),
    pytest.mark.filterwarnings("ignore:Complex modules are a new feature:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max:UserWarning"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

ROWS = table()
X = torch.tensor(ROWS.X)


def fit(network, **settings):
    return quick(network, **settings).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


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


class Ends(nn.Module):
    """Applies a function to its scores."""

    def __init__(self, function):
        super().__init__()
        self.inner, self.function = mlp(), function

    def forward(self, X):
        return self.function(self.inner(X))


class Checkpointed(nn.Module):
    """Computes the activations of its layers again in the backward pass."""

    def __init__(self, use_reentrant):
        super().__init__()
        self.inner, self.use_reentrant = mlp(), use_reentrant

    def forward(self, X):
        return checkpoint(self.inner, X, use_reentrant=self.use_reentrant)


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
    "computed again": (
        lambda: Checkpointed(use_reentrant=True),
        r"no gradient.*computes activations again.*checkpoint",
    ),
    "zero width": (
        lambda: nn.Sequential(nn.Linear(6, 0), nn.ReLU(), nn.Linear(0, 2)),
        r"no Linear or Conv2d.*empty \(of zero",
    ),
    "bound to itself": (Bound, r"still runs the parameters of the original.*lambda"),
    "a generator": (lambda: with_attribute(k for k in range(3)), r"cannot be copied.*'2\.extra'"),
    "complex scores": (
        lambda: Ends(lambda z: torch.complex(z, z)),
        r"torch\.complex64.*real numbers",
    ),
    "sparse scores": (lambda: Ends(lambda z: z.to_sparse()), r"layout torch\.sparse_coo.*dense"),
    "classes for scores": (
        lambda: Ends(lambda z: z.argmax(dim=1)),
        r"no gradient.*output",
    ),
    "maps for scores": (lambda: Ends(lambda z: z[:, :, None, None]), r"shape \(32, 2, 1, 1\)"),
    "no rows": (
        lambda: Apart(lambda h: h[:3]),
        r"scores of the shape \(3, 2\) for 32 rows",
    ),
    "rows repeated": (
        lambda: Apart(lambda h: torch.cat([h, h])),
        r"scores of the shape \(64, 2\) for 32 rows",
    ),
}


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


def test_checkpointing_that_fails_in_an_edit_is_named_with_its_cure():
    editor = GapFineTuner(
        Checkpointed(use_reentrant=False), objective="soft_gap", max_steps=2, random_state=0
    )
    with pytest.raises(NetworkError, match=r"activations again.*Turn checkpointing off"):
        editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


class Empty(nn.Module):
    """An empty branch beside a full one, which runs last."""

    def __init__(self):
        super().__init__()
        self.full, self.none, self.head = mlp(), nn.Linear(6, 0), nn.Linear(2, 2)

    def forward(self, X):
        h = self.full(X)
        return self.head(torch.cat([h, self.none(X)], dim=1))


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


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_a_lazy_skorch_net_is_trained_reproducibly(optimizer):
    before = global_state()
    proba = [
        fit(skorch_net(Lazy, optimizer=optimizer, lr=0.01)).predict_proba(ROWS.X) for _ in range(2)
    ]
    assert np.array_equal(*proba)
    assert global_state() == before


def test_a_skorch_net_is_looked_at_before_it_is_trained():
    net = skorch_net(torch.jit.script(mlp()))
    with pytest.raises(NetworkError, match=r"torch\.jit"):
        fit(net)
    kept = mlp()
    kept.last = kept(X)
    with pytest.raises(NetworkError, match=r"cannot be cloned to be trained.*module__width"):
        fit(skorch_net(kept))


def test_a_programme_of_torch_export_is_no_module():
    with pytest.raises(NetworkError, match=r"ExportedProgram.*the module that was exported"):
        fit(torch.export.export(mlp().eval(), (X[:2],)))
