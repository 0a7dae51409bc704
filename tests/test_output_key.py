"""Networks that return more than a tensor: ``output_key`` says where the scores are."""

from __future__ import annotations

import re
from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from torch import Tensor, nn

from fairsvd import FairLRFTransformer, FairLRFTransformerCV
from fairsvd.exceptions import CacheWarning, NetworkError
from fairsvd.networks import ShiftedNetwork, raw_output, to_logits
from helpers import (
    IGNORE_SMALL_DATA,
    LastWins,
    fingerprint,
    mlp,
    quick,
    skorch_net,
    table,
    trained,
)

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]

Pair = namedtuple("Pair", ["hidden", "logits"])


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor


# What a forward pass may return, and where the scores are in it.
FORMS = {
    "dict": (lambda hidden, logits: {"hidden": hidden, "logits": logits}, "logits"),
    "dict of one": (lambda hidden, logits: {"scores": logits}, "scores"),
    "data class": (lambda hidden, logits: Output(None, logits), "logits"),
    "object": (lambda hidden, logits: SimpleNamespace(logits=logits), "logits"),
    "named tuple": (Pair, "logits"),
    "named tuple by position": (Pair, 1),
    "tuple": (lambda hidden, logits: (hidden, logits), 1),
    "list from its end": (lambda hidden, logits: [hidden, logits], -1),
}


class Packed(nn.Module):
    """A network whose scores are one part of what it returns."""

    def __init__(self, form, inner=None):
        super().__init__()
        self.inner, self.form = mlp() if inner is None else inner, form

    def forward(self, X):
        return FORMS[self.form][0](self.inner[:-1](X), self.inner(X))


def fit(editor, rows):
    return editor.fit(rows.X, rows.y, sensitive_features=rows.group)


@pytest.mark.parametrize("form", FORMS)
def test_any_form_is_edited_as_the_tensor_alone_is(form):
    rows = table()
    inner = trained(mlp(), rows)
    plain = fit(quick(inner, LastWins), rows)
    editor = fit(quick(Packed(form, inner), LastWins, output_key=FORMS[form][1]), rows)
    assert type(editor.module_) is Packed
    for name, value in plain.module_.state_dict().items():
        assert torch.equal(editor.module_.state_dict()[f"inner.{name}"], value)
    assert np.array_equal(editor.predict_proba(rows.X), plain.predict_proba(rows.X))
    assert np.array_equal(editor.transform(rows.X), plain.transform(rows.X))


@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_what_is_exported(form):
    rows, key = table(), FORMS[form][1]
    module = Packed(form, trained(mlp(), rows))
    before = fingerprint(module)
    editor = fit(quick(module, threshold=0.3, output_key=key), rows)
    assert fingerprint(module) == before
    exported = editor.to_module()
    assert type(exported) is Packed  # the network's own class, the threshold in its output bias
    with torch.no_grad():
        output = exported(torch.tensor(rows.X))
        scores = raw_output(exported, torch.tensor(rows.X), key)
    assert type(output) is (dict if form == "dict" else tuple)
    assert np.array_equal(editor.classes_[scores.argmax(1).numpy()], editor.predict(rows.X))
    net = editor.to_skorch()
    assert np.array_equal(net.predict(rows.X), editor.predict(rows.X))
    net.partial_fit(rows.X, rows.y)
    assert np.array_equal(editor.classes_[scores.argmax(1).numpy()], editor.predict(rows.X))


def test_a_wrapper_returns_the_scores():
    rows = table()

    class Tripled(Packed):
        def forward(self, X):
            return {"logits": 3 * self.inner(X)}

    editor = fit(quick(Tripled("dict"), threshold=0.3, output_key="logits"), rows)
    assert type(editor.module_) is Tripled
    exported = editor.to_module()
    assert type(exported) is ShiftedNetwork
    with torch.no_grad():
        codes = exported(torch.tensor(rows.X)).argmax(1).numpy()
    assert np.array_equal(codes, editor.predict(rows.X))
    assert np.array_equal(editor.to_skorch().predict(rows.X), editor.predict(rows.X))


def test_a_skorch_net_that_reads_its_own_output():
    rows = table()

    class Net(type(skorch_net(mlp()))):
        def get_loss(self, y_pred, y_true, *args, **kwargs):
            return super().get_loss(y_pred["logits"], y_true, *args, **kwargs)

    def net():
        settings = {"criterion": nn.CrossEntropyLoss, "train_split": None, "verbose": 0}
        return Net(Packed("dict"), max_epochs=1, **settings)

    for network in (FrozenEstimator(net().fit(rows.X, rows.y)), net()):
        editor = fit(quick(network, output_key="logits"), rows)
        assert type(editor.to_skorch()) is Net
        assert editor.predict(rows.X).shape == rows.y.shape


class TwoHeads(nn.Module):
    """An auxiliary head runs last, and the scores do not depend on it."""

    def __init__(self):
        super().__init__()
        self.body, self.main, self.other = mlp(8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, X):
        h = self.body(X)
        logits = self.main(h)
        return logits, self.other(h.relu())


@pytest.mark.parametrize(("key", "layer"), [(None, "main"), (0, "main"), (1, "other")])
def test_the_output_layer_is_the_one_that_the_scores_come_from(key, layer):
    rows = table()
    editor = fit(quick(TwoHeads(), layers="all", output_key=key, threshold=0.5), rows)
    assert editor._adopted.output_layer == layer
    with torch.no_grad():
        h = editor.module_.body(torch.tensor(rows.X))
    h = h.relu() if layer == "other" else h
    np.testing.assert_allclose(editor.transform(rows.X), h, atol=1e-5)
    hidden = fit(quick(TwoHeads(), output_key=key), rows)
    assert layer not in hidden.masks_
    assert set(hidden.masks_) | {layer} == set(editor.masks_)


@pytest.mark.parametrize(
    ("form", "key", "message"),
    [
        ("dict of one", None, r"returns a dict with the keys \['scores'\].*output_key=None"),
        ("dict", None, r"keys \['hidden', 'logits'\].*output_key=None.*its name"),
        ("dict", "scores", r"keys \['hidden', 'logits'\].*output_key='scores' finds no tensor"),
        ("dict", 1, r"keys .*output_key=1"),
        ("data class", None, r"Output with the attributes \['logits', 'loss'\]"),
        ("data class", "loss", r"output_key='loss' finds no tensor"),
        ("tuple", 2, r"tuple of \['Tensor', 'Tensor'\].*output_key=2"),
        ("tuple", "logits", r"tuple of .*output_key='logits'"),
    ],
)
def test_an_output_without_scores_is_refused_with_what_there_is(form, key, message):
    rows = table()
    with pytest.raises(NetworkError, match=message):
        fit(quick(Packed(form), output_key=key), rows)


@pytest.mark.parametrize("key", ["logits", 0])
def test_a_key_for_a_plain_tensor_is_refused(key):
    with pytest.raises(NetworkError, match=r"Tensor of the shape \(32, 2\).*Pass None"):
        fit(quick(mlp(), output_key=key), table())


def test_bad_keys_are_refused():
    for key in (1.5, ("logits",)):
        with pytest.raises(ValueError, match="output_key"):
            fit(quick(mlp(), output_key=key), table())


def test_reading_by_hand():
    X, module = torch.randn(3, 6), mlp(1)
    assert raw_output(lambda X: {"p": module(X)[:, 0]}, X, "p").shape == (3, 1)
    column = module(X)
    assert torch.equal(to_logits((column, 1), "one_logit"), to_logits(column, "one_logit"))
    assert torch.equal(to_logits({"p": column}, "logits", "p"), column)
    assert torch.equal(to_logits(column, "logits", "p"), column)  # read already


def test_a_search_over_folds():
    rows = table()
    module = Packed("dict", trained(mlp(), rows))
    search = FairLRFTransformerCV(
        module,
        ranks=[0.5, 1.0],
        sparsities=[0.1],
        gap_weights=[1.0],
        cv=2,
        max_steps=3,
        output_key="logits",
        random_state=0,
    )
    assert fit(search, rows).predict(rows.X).shape == rows.y.shape


def models():
    transformers = pytest.importorskip("transformers")
    sizes = {"num_channels": 3, "num_labels": 2}
    vit = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=16,
        patch_size=8,
        **sizes,
    )
    resnet = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **sizes
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {
            "ViT": transformers.ViTForImageClassification(vit).eval(),
            "ResNet": transformers.ResNetForImageClassification(resnet).eval(),
        }


def test_a_network_that_cannot_be_told_from_others_is_edited_without_a_cache(tmp_path):
    rows, module = table(), Packed("dict")
    module.config = range(3)  # what a compiled class holds cannot be seen
    settings = {"output_key": "logits", "memory": tmp_path, "random_state": 0}
    with pytest.warns(CacheWarning, match="memory= keeps nothing of what is computed on this"):
        editor = fit(quick(module, **settings), rows)
    wanted = fit(quick(module, output_key="logits"), rows)
    assert np.array_equal(editor.predict_proba(rows.X), wanted.predict_proba(rows.X))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT", "ResNet"])
def test_models_of_transformers(name, tmp_path):
    """Built from their configuration; nothing is downloaded."""
    model = models()[name]
    rng = np.random.default_rng(0)
    X = rng.normal(size=(48, 3, 16, 16)).astype(np.float32)
    y, group = np.arange(48) % 2, np.arange(48) // 2 % 2
    X[y == 1, 0] += 1
    with pytest.raises(NetworkError, match=r"ImageClassifier.* keys \['logits'\].*output_key="):
        quick(model).fit(X, y, sensitive_features=group)
    before = fingerprint(model)
    editor = quick(model, LastWins, output_key="logits", threshold=0.4)
    editor.fit(X, y, sensitive_features=group)
    assert fingerprint(model) == before
    assert type(editor.module_) is type(model)
    assert fingerprint(editor.module_) != before
    assert re.search("classifier", editor._adopted.output_layer)
    exported = editor.to_module()
    assert type(exported) is type(model)
    exported.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        codes = again(torch.tensor(X)).logits.argmax(1).numpy()
    assert np.array_equal(codes, editor.predict(X))
    assert editor.transform(X).shape == (48, 16)
    assert isinstance(editor, FairLRFTransformer)
