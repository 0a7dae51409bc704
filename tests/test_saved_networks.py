"""Saved networks of every origin: from the file, by trust, or around the caller's own."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.base import clone
from skorch import NeuralNetClassifier
from torch import nn

import fairsvd
from attending import NEED_ATTENTION, Attending
from fairsvd import MLP, BlindPostProcessor, ConvNet, GapFineTuner, LowRankLinear
from fairsvd.base import EDITORS, QUICK
from fairsvd.comparison import compare  # noqa: F401 (registers every editor)
from fairsvd.exceptions import ModelFileError, NetworkError, UntrustedError
from saved_files import rewrite, text_of, toy_network, toy_rows
from saved_users import Block, Listed, Net, Sequence, Tied, WithLambda, check, fitted

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.FairsvdWarning"),
]


@cache
def fitted_to(name):
    """A network of USERS, fitted once for all tests, which change nothing of it."""
    return fitted(USERS[name]())


@cache
def rule_around_net():
    return fitted(Net(24), BlindPostProcessor, joint="head", n_teachers=1)


@pytest.mark.parametrize("kind", EDITORS.values(), ids=EDITORS)
def test_every_editor(kind, tmp_path):
    quick = dict(QUICK[kind.__name__])
    if "max_steps" in kind._parameter_constraints:
        quick["max_steps"] = 2
    network, how = toy_network(6), {}
    if kind.__name__ in NEED_ATTENTION:
        network, how = Attending(network), {"trusted": ["attending.Attending"]}
    editor = fitted(network, kind, **quick)
    again = check(editor, tmp_path, **how)
    own = {name for name in vars(editor) if name.endswith("_")}
    assert all(repr(getattr(again, n)) == repr(getattr(editor, n)) for n in own - {"module_"})
    X, y, _ = toy_rows()
    assert again.score(X, y) == editor.score(X, y)


def test_the_default_network_and_its_training_history(tmp_path):
    X, y, groups = toy_rows()
    editor = fitted(None)
    again = check(editor, tmp_path)
    nets = [each.to_skorch() for each in (editor, again)]
    assert len(nets[1].history) == len(nets[0].history) > 0
    for net in nets:
        net.partial_fit(X, y)
    assert nets[0].history[-1]["train_loss"] == nets[1].history[-1]["train_loss"]
    again.fit(X, y, sensitive_features=groups)


def test_images_on_the_default_network(tmp_path):
    X = np.random.default_rng(0).normal(size=(40, 1, 6, 6)).astype(np.float32)
    _, y, groups = toy_rows()
    network = ConvNet(1, 2, (3,), 4, generator=torch.Generator().manual_seed(0))
    editor = GapFineTuner(network, max_steps=1, random_state=0)
    check(editor.fit(X, y, sensitive_features=groups), tmp_path, X)


OWN_LAYERS = {
    "batch norm": lambda: nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Linear(2, 4), nn.GELU()), nn.Linear(4, 2)),
    "dropout": lambda: nn.Sequential(
        nn.Linear(2, 4), nn.Dropout(0.5), nn.ELU(2.0), nn.Linear(4, 2)
    ),
    "shared layer": lambda: (lambda a: nn.Sequential(a, nn.ReLU(), a, nn.Linear(2, 2)))(
        nn.Linear(2, 2)
    ),
    "one logit": lambda: nn.Sequential(nn.Linear(2, 1)),
    "softmax": lambda: nn.Sequential(nn.Linear(2, 2), nn.Softmax(dim=1)),
    "no bias": lambda: nn.Sequential(nn.Linear(2, 2, bias=False)),
    "double": lambda: nn.Linear(2, 2).double(),
    "layer norm": lambda: nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.Linear(4, 2)),
    "mlp": lambda: MLP(2, 2, hidden=(3,)),
}


@pytest.mark.parametrize("make", OWN_LAYERS.values(), ids=OWN_LAYERS)
def test_networks_of_torchs_own_layers_need_nothing(make, tmp_path):
    X, y, groups = toy_rows()
    editor = fitted(make())
    fairsvd.save(editor, tmp_path / "model")
    again = fairsvd.load(tmp_path / "model")
    assert np.array_equal(again.predict_proba(X), editor.predict_proba(X))
    assert str(again.module_) == str(editor.module_)
    clone(again).fit(X, y, sensitive_features=groups)


READERS = {
    "lstm": lambda: nn.LSTM(4, 4, 2, batch_first=True),
    "gru": lambda: nn.GRU(4, 2, batch_first=True, bidirectional=True),
    "attention": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 8, activation="gelu", batch_first=True), 1
    ),
}
USERS = {
    "net": Net,
    "lambda": WithLambda,
    "tied": Tied,
    "listed": Listed,
    **{key: lambda make=make: Sequence(make(), 4) for key, make in READERS.items()},
}


@pytest.mark.parametrize("name", USERS)
def test_a_users_network_comes_back_around_a_network_of_the_caller(name, tmp_path):
    editor, given = fitted_to(name), USERS[name]()
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    again = check(editor, tmp_path, network=given)
    assert given.state_dict().keys() == before.keys()
    assert all(torch.equal(given.state_dict()[name], before[name]) for name in before)
    if name == "net":
        X, y, groups = toy_rows()
        refitted = clone(again).fit(X, y, sensitive_features=groups)
        assert np.array_equal(refitted.predict_proba(X), editor.predict_proba(X))


@pytest.mark.parametrize("name", [name for name in USERS if name != "lambda"])
def test_a_users_network_comes_back_by_trust(name, tmp_path):
    editor = fitted_to(name)
    kinds = {type(m) for m in editor.module_.modules() if type(m).__module__ == Net.__module__}
    again = check(editor, tmp_path, trusted=kinds)
    check(editor, tmp_path, trusted=[f"{Net.__module__}.{kind.__name__}" for kind in kinds])
    if name == "tied":
        assert again.module_.b.weight is again.module_.a.weight
    if name == "net":
        assert again.module_.settings == {"names": ("a", "b"), 3: None}
        assert again.module_._non_persistent_buffers_set == {"temporary"}


def test_without_either_the_error_names_all_that_is_needed(tmp_path):
    fairsvd.save(fitted_to("net"), tmp_path / "model")
    place = Net.__module__
    with pytest.raises(UntrustedError, match=f"'{place}.Block', '{place}.Net'.*network="):
        fairsvd.load(tmp_path / "model")
    with pytest.raises(UntrustedError, match=r"trusted=\('[\w.]*Block',\)"):
        fairsvd.load(tmp_path / "model", trusted=[Net])


def test_what_could_not_be_saved_of_a_network_is_named(tmp_path):
    fairsvd.save(fitted(WithLambda()), tmp_path / "model")
    with pytest.raises(ModelFileError, match=r"'before' \(.*lambda.*pass network="):
        fairsvd.load(tmp_path / "model", trusted=[WithLambda])


def test_a_parameter_whose_weights_are_parametrised_comes_from_the_caller(tmp_path):
    def normed():
        network = toy_network()
        nn.utils.parametrizations.weight_norm(network[0])
        return network

    editor = fitted(toy_network()).set_params(network=normed())
    fairsvd.save(editor, tmp_path / "model")
    with pytest.raises(ValueError, match=r"Parametri[sz]"):
        fairsvd.load(tmp_path / "model")
    again = fairsvd.load(tmp_path / "model", network=normed())
    assert again.network.state_dict().keys() == editor.network.state_dict().keys()
    X = toy_rows()[0]
    assert np.array_equal(again.predict_proba(X), editor.predict_proba(X))
    assert torch.equal(again.network(torch.from_numpy(X)), editor.network(torch.from_numpy(X)))


class Other(Net):
    def forward(self, X):
        return super().forward(torch.tanh(X))


WRONG = {
    "wider": (lambda: Net(7), "shapes"),
    "other parts": (lambda: nn.Sequential(nn.Linear(2, 2)), "architecture"),
    "other forward": (Other, "other outputs"),
    "other setting": (lambda: Net(slope=-3.0), "other outputs"),
}


@pytest.mark.parametrize(("make", "words"), WRONG.values(), ids=WRONG)
def test_a_network_of_another_architecture_is_refused(make, words, tmp_path):
    fairsvd.save(fitted_to("net"), tmp_path / "model")
    with pytest.raises(ModelFileError, match=words):
        fairsvd.load(tmp_path / "model", network=make())


@pytest.mark.parametrize("network", [MLP(2, 2), 3, "Net", Net, NeuralNetClassifier(Net)])
def test_a_network_that_is_not_needed_or_none_is_refused(network, tmp_path):
    fairsvd.save(fitted(toy_network()), tmp_path / "model")
    with pytest.raises(ValueError, match="network"):
        fairsvd.load(tmp_path / "model", network=network)


def test_a_class_that_was_moved_is_found_by_its_place(tmp_path):
    editor = fitted(Tied())
    fairsvd.save(editor, tmp_path / "model")

    def move(node):
        if isinstance(node, dict):
            if str(node.get("path")).endswith(".Tied"):
                node["path"] = "long.gone.Tied"
            node = list(node.values())
        if isinstance(node, list):
            for each in node:
                move(each)

    rewrite(tmp_path / "model", move)
    assert "long.gone.Tied" in str(text_of(tmp_path / "model"))
    again = fairsvd.load(tmp_path / "model", network=Tied())
    X = toy_rows()[0]
    assert np.array_equal(again.predict_proba(X), editor.predict_proba(X))


def test_hooks_have_to_come_from_the_callers_network(tmp_path):
    def hooked():
        network = toy_network()
        network[0].register_forward_hook(lambda module, args, output: output * 2)
        return network

    editor = fitted(hooked())
    check(editor, tmp_path, network=hooked())
    with pytest.raises(ModelFileError, match="hooks"):
        fairsvd.load(tmp_path / "model")
    with pytest.raises(ModelFileError, match="other outputs"):
        fairsvd.load(tmp_path / "model", network=toy_network())


@pytest.mark.parametrize("how", ["network", "trusted"])
def test_thin_layers_and_rules_around_a_users_network(how, tmp_path):
    kinds = {"trusted": [Net, Block]} if how == "trusted" else {"network": Net(24)}
    thin = Net(24)
    thin.blocks[0].linear = LowRankLinear(torch.randn(24, 3), torch.randn(3, 24), torch.zeros(24))
    again = check(fitted(thin), tmp_path, **kinds)
    assert type(again.module_.blocks[0].linear) is LowRankLinear
    check(rule_around_net(), tmp_path, **kinds)


def test_equal_weights_are_kept_once(tmp_path):
    network = nn.Sequential(nn.Linear(2, 500), nn.ReLU(), nn.Linear(500, 2))
    editor = fitted(network)
    editor.module_.load_state_dict(network.state_dict())
    fairsvd.save(editor, tmp_path / "model")
    weights = sum(p.numel() * 4 for p in network.parameters())
    text = len(str(text_of(tmp_path / "model")))
    assert (tmp_path / "model").stat().st_size < text + 1.7 * weights + 4000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_a_graph_predicts_without_the_networks_code(tmp_path):
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    X, y, groups = toy_rows()
    editor = fitted(Net(), threshold=0.3)
    fairsvd.save(editor, tmp_path / "model", onnx=True)
    again = fairsvd.load(tmp_path / "model", network="onnx")
    np.testing.assert_allclose(again.predict_proba(X), editor.predict_proba(X), atol=1e-5)
    assert np.array_equal(again.predict(X[:1]), editor.predict(X[:1]))
    assert again.report_.gaps.equals(editor.report_.gaps)
    codes = again.to_module()(torch.from_numpy(X)).argmax(dim=1)
    assert np.array_equal(again.classes_[codes], again.predict(X))
    with pytest.raises(NetworkError, match="it predicts only"):
        again.transform(X)
    with pytest.raises(NetworkError, match="nothing to edit"):
        clone(again).fit(X, y, sensitive_features=groups)
    fairsvd.save(again, tmp_path / "second")
    second = fairsvd.load(tmp_path / "second")
    assert np.array_equal(second.predict_proba(X), again.predict_proba(X))
    check(editor, tmp_path, trusted=[Net, Block])  # the file is whole in every other way


def test_a_graph_has_to_be_in_the_file(tmp_path):
    fairsvd.save(fitted_to("net"), tmp_path / "model")
    with pytest.raises(ModelFileError, match="onnx=True"):
        fairsvd.load(tmp_path / "model", network="onnx")
