"""AttentionTemper: which scores are scaled, what is refused, what it achieves."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import fairsvd
from fairsvd import AttentionNet, AttentionTemper, JointStratifiedKFold
from fairsvd.exceptions import NetworkError
from fairsvd.intraprocessing._attention import find_attention, reached, scaled
from helpers import IGNORE_SMALL_DATA, Rows, fingerprint, images, last_wins, mlp, skorch_net, table
from sentences import frame, reader, sentences, taught, tokenise
from shortcuts import shortcut_rows, worst_cell
from tasks import small_task
from zoo import OwnTransformer, VisionTransformer

pytestmark = [
    # Networks are trained.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]


class Columns(nn.Module):
    """Attention by hand over the columns of a table, whose scores can be scaled from outside."""

    def __init__(self, width=8, heads=2):
        super().__init__()
        self.embed = nn.Linear(1, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.heads, self.head = heads, nn.Linear(width, 2)

    def forward(self, X, factors=(1.0, 1.0)):
        Z = torch.tanh(self.embed(X.unsqueeze(2)) + torch.arange(X.shape[1]).reshape(-1, 1) / 3)
        shape = (*Z.shape[:2], self.heads, -1)
        q, k, v = (
            part(Z).reshape(shape).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        scores = q @ k.mT / q.shape[-1] ** 0.5
        shares = torch.softmax(torch.tensor(factors).reshape(-1, 1, 1) * scores, dim=-1)
        return self.head((shares @ v).transpose(1, 2).flatten(2).mean(1))


class Packed(nn.Module):
    """The same by torch's own layer; keys and values may have a width of their own."""

    def __init__(self, key_width=None):
        super().__init__()
        self.embed = nn.Linear(1, 8)
        self.keys = nn.Linear(8, key_width or 8)
        widths = {} if key_width is None else {"kdim": key_width, "vdim": key_width}
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **widths)
        self.head = nn.Linear(8, 2)

    def forward(self, X):
        Z = self.embed(X.unsqueeze(2))
        K = self.keys(Z)
        return self.head(self.attention(Z, K, K)[0].mean(1))


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


class LastWins(last_wins(AttentionTemper)):
    """Chooses its last edit."""


def test_scaled_queries_are_scaled_scores():
    network, X = seeded(Columns), torch.tensor(table().X)
    layers = find_attention(network)
    assert [(layer.name, layer.n_heads) for layer in layers] == [("", 2)]
    state = scaled(layers, np.log([0.3, 4.0]))
    with torch.no_grad():
        found = torch.func.functional_call(network, state, (X,))
        expected, before = network(X, (0.3, 4.0)), network(X)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert float((expected - before).abs().max()) > 1e-3


@pytest.mark.parametrize("key_width", [None, 5])
def test_torchs_own_layer_is_scaled_head_by_head(key_width):
    """Against the scores that the layer itself returns."""
    network, X = seeded(lambda: Packed(key_width)), torch.tensor(table().X)
    (layer,) = find_attention(network)
    assert (layer.name, layer.n_heads) == ("attention", 2)
    state = scaled([layer], np.log([0.2, 3.0]))
    edited = copy.deepcopy(network)
    edited.load_state_dict({**network.state_dict(), **state})
    Z = network.embed(X.unsqueeze(2))
    K = network.keys(Z)
    shares = [
        n.attention(Z, K, K, average_attn_weights=False)[1].double() for n in (network, edited)
    ]
    # The softmax of scaled scores is that of scaled logarithms of the shares.
    factors = torch.tensor([0.2, 3.0]).reshape(-1, 1, 1)
    expected = torch.softmax(factors * shares[0].log(), dim=-1)
    torch.testing.assert_close(shares[1], expected, rtol=1e-4, atol=1e-5)


class Normed(Columns):
    """Keys have a say beside the queries."""

    def forward(self, X):
        return super().forward(X) + self.key(self.embed(X.unsqueeze(2))).mean((1, 2))[:, None] * (
            torch.tensor([0.0, 1.0])
        )


def test_layers_whose_keys_have_another_say_are_left_out():
    class Wide(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, X):
            return self.inner(X)

    for make, n_kept in ((Columns, 1), (Normed, 0)):
        task = small_task(Wide(seeded(make)).requires_grad_(False), output_layer="inner.head")
        layers = find_attention(task.module)
        assert len(layers) == 1
        assert len(reached(task, layers, np.random.default_rng(0))) == n_kept


def bert():
    transformers = pytest.importorskip("transformers")
    settings = transformers.BertConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        num_labels=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return taught(transformers.BertForSequenceClassification(settings), 20, 3e-3)


def test_a_text_model_is_tempered_and_leaves_as_it_came():
    network = bert()
    _, y, group = sentences()
    before = fingerprint(network)
    editor = LastWins(network, output_key="logits", granularity="head", n_trials=3, random_state=0)
    editor.fit(frame(), y, sensitive_features=group)
    assert fingerprint(network) == before
    assert [len(each) for each in editor.factors_.values()] == [2, 2]
    state, edited = network.state_dict(), editor.module_.state_dict()
    changed = {name for name in state if not torch.equal(state[name], edited[name])}
    assert changed and all(".query." in name for name in changed)
    words = {name: torch.tensor(ids) for name, ids in tokenise(sentences()[0]).items()}
    exported = editor.to_module()
    assert type(exported) is type(network)
    with torch.no_grad():
        codes = exported(**words).logits.argmax(1).numpy()
    np.testing.assert_array_equal(codes, editor.predict(frame()))


def pictures():
    rng = np.random.default_rng(0)
    y, group = np.arange(80) % 2, np.arange(80) // 2 % 2
    X = rng.normal(size=(80, 3, 16, 16)) + 0.2 * y[:, None, None, None]
    X[:, 0, :8] += 0.5 * group[:, None, None]
    return Rows(X.astype(np.float32), y, group)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (VisionTransformer, ["encoder.layers.0.self_attn", "encoder.layers.1.self_attn"]),
        (OwnTransformer, ["blocks.0.attn", "blocks.1.attn"]),
    ],
)
def test_a_small_vit_is_tempered(make, names):
    rows, network = pictures(), seeded(make)
    editor = LastWins(network, granularity="layer", n_trials=2, factors=[0.5], random_state=0)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert list(editor.factors_) == names
    assert all(np.ptp(each) == 0 for each in editor.factors_.values())
    assert len(editor.history_) == 1 + 1 + 2
    assert editor.history_["stage"].tolist() == ["untouched", "model", "layer", "layer"]


def test_the_whole_network_has_one_factor_and_grids_are_checked():
    rows = table()
    settings = {"granularity": "model", "factors": [0.5, 3.0], "random_state": 0}
    editor = LastWins(seeded(Columns), **settings)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    np.testing.assert_allclose(editor.factors_[""], [3.0, 3.0])
    assert len(editor.history_) == 3
    for wrong in (0.0, -1.0, np.inf):
        with pytest.raises(ValueError, match="wanted positive numbers"):
            clone(editor).set_params(factors=[wrong]).fit(
                rows.X, rows.y, sensitive_features=rows.group
            )


def test_what_has_no_attention_is_refused():
    for rows, network, found in (
        (table(), mlp(), "Sequential has no attention layer"),
        (images(), None, "the default network of images has no attention layer"),
    ):
        with pytest.raises(NetworkError, match=f"^AttentionTemper .* scores, and {found}"):
            AttentionTemper(network).fit(rows.X, rows.y, sensitive_features=rows.group)
    _, y, group = sentences()
    with pytest.raises(NetworkError, match="Reader has no attention layer"):
        AttentionTemper(reader()).fit(frame(), y, sensitive_features=group)


def test_without_a_network_one_with_attention_is_trained_and_tempered():
    rows = table()
    editor = LastWins(factors=[3.0], granularity="model", random_state=0)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert {name: each.tolist() for name, each in editor.factors_.items()} == {
        "attention": pytest.approx([3.0])
    }
    assert type(editor.module_) is AttentionNet
    untouched = clone(editor).set_params(factors=[1.0])
    untouched.fit(rows.X, rows.y, sensitive_features=rows.group)
    state, before = editor.module_.state_dict(), untouched.module_.state_dict()
    for name, value in before.items():
        factor = 3.0 if ".query." in name else 1.0
        torch.testing.assert_close(state[name], factor * value)


def test_the_attention_of_the_default_network():
    """Against torch's own layer with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = AttentionNet(6, 3, width=4, n_heads=2, mean=torch.arange(6.0)).eval()
        own = nn.MultiheadAttention(4, 2, batch_first=True).eval()
    parts = network.attention.query, network.attention.key, network.attention.value
    with torch.no_grad():
        own.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        own.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        own.out_proj.weight.copy_(torch.eye(4))
        own.out_proj.bias.zero_()
        X = torch.tensor(table().X)
        Z = (X - torch.arange(6.0))[:, :, None] * network.directions + network.offsets
        wanted = network.output(network.hidden(Z + own(Z, Z, Z)[0]))
        torch.testing.assert_close(network(X), wanted)
    with pytest.raises(ValueError, match="width=4 is no multiple of n_heads=3"):
        AttentionNet(6, 2, width=4, n_heads=3)


def test_it_is_searched_saved_and_compared(tmp_path):
    rows = table()
    settings = {"n_trials": 2, "factors": [0.5], "random_state": 0}
    editor = AttentionTemper(seeded(Packed), **settings)
    by = {"sensitive_columns": "group"}
    pipe = Pipeline([("scale", StandardScaler()), ("editor", clone(editor).set_params(**by))])
    grid, cv = {"editor__granularity": ["model", "head"]}, JointStratifiedKFold(2, **by)
    labels = pd.Series(rows.y, index=pd.Index(rows.group, name="group"))
    search = GridSearchCV(pipe, grid, cv=cv, error_score="raise").fit(rows.X, labels)
    assert search.best_estimator_["editor"].factors_["attention"].shape == (2,)
    kept = LastWins(seeded(Packed), **settings)
    kept.fit(rows.X, rows.y, sensitive_features=rows.group)
    fairsvd.save(kept, tmp_path / "model")
    trusted = ("test_temper.LastWins", "test_temper.Packed")
    again = fairsvd.load(tmp_path / "model", trusted=trusted)
    np.testing.assert_array_equal(again.predict_proba(rows.X), kept.predict_proba(rows.X))
    np.testing.assert_array_equal(again.factors_["attention"], kept.factors_["attention"])
    found = fairsvd.compare([editor], rows.X, rows.y, rows.group, cv=2, base=skorch_net(Packed))
    assert found.set_index("method").loc["AttentionTemper", "error"].tolist() == ["", ""]


class Planted(nn.Module):
    """Attends to the columns of the label, and less to that of the group, which counts for more."""

    num_heads = 1

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(7, 7) for _ in range(3))
        self.head = nn.Linear(7, 2)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        with torch.no_grad():
            self.query.bias[0] = 1
            self.key.weight[0, 1:] = torch.tensor([1.0, 1.0, 0.5, -2, -2, -2]) * 7**0.5
            self.value.weight[0, 0] = self.head.weight[1, 0] = 1

    def forward(self, X):
        X = X * torch.tensor([1.0, 1.0, 4.0, 1.0, 1.0, 1.0])
        Z = torch.cat([X.unsqueeze(2), torch.eye(6).expand(len(X), -1, -1)], dim=2)
        scores = self.query(Z) @ self.key(Z).mT / 7**0.5
        return self.head((torch.softmax(scores, dim=-1) @ self.value(Z)).mean(1))


def test_where_attention_is_too_wide_the_worst_cell_gains_by_the_factor():
    rows, new = shortcut_rows(1200, 0.95, seed=2), shortcut_rows(4000, 0.5, seed=3)
    found = {}
    for name, factors in {"tempered": None, "control": [1.0]}.items():
        settings = {"granularity": "model", "factors": factors, "random_state": 0}
        editor = AttentionTemper(Planted().eval(), **settings)
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
        found[name] = worst_cell(editor, new)
    assert editor.factors_[""].tolist() == [1.0]
    assert found["tempered"] >= found["control"] + 0.05
