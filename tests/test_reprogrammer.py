"""FairReprogrammer: where the trigger stands, that the network stays, what it achieves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from torch import nn

import fairsvd
from fairsvd import FairReprogrammer
from fairsvd.exceptions import NetworkError
from fairsvd.intraprocessing._make_trigger import make_trigger
from fairsvd.intraprocessing._reprogrammer import ProjectedOpponent, TriggerPath
from fairsvd.intraprocessing._trigger import RowTrigger, Triggered
from fairsvd.objective import shift_logits
from fairsvd.training import Batch
from helpers import (
    IGNORE_SMALL_DATA,
    convolutions,
    images,
    last_wins,
    mlp,
    skorch_net,
    table,
    trained,
)
from sentences import frame, reader, sentences, tokenise
from shortcuts import shortcut_network, shortcut_rows, worst_cell
from tasks import small_task

pytestmark = [
    # Networks are trained.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]


class LastWins(last_wins(FairReprogrammer)):
    """Chooses its last edit."""


def fit(rows, network=None, kind=LastWins, **parameters):
    make = mlp() if rows.X.ndim == 2 else convolutions()
    network = trained(make, rows) if network is None else network
    defaults = {"max_steps": 6, "objective": "soft_gap", "gap_weight": 1.0, "random_state": 0}
    editor = kind(network, **{**defaults, **parameters})
    return network, editor.fit(rows.X, rows.y, sensitive_features=rows.group)


def scores(module, X):
    with torch.no_grad():
        return module(torch.as_tensor(X)).numpy()


def expected_rows(X, editor, kind):
    """Put the fitted trigger into rows, by numpy alone but for the resizing."""
    X, trigger = X.copy(), editor.trigger_
    if kind == "additive":
        return X + trigger
    if kind == "columns":
        X[:, [1, 4]] = trigger[[1, 4]]
    elif kind == "patch":
        X[:, :, :2, :2] = trigger[:, :2, :2]
    else:
        inner = nn.functional.interpolate(torch.tensor(X), [4, 4], mode="bilinear").numpy()
        X[:] = trigger
        X[:, :, 1:-1, 1:-1] = inner
    return X


KINDS = {
    "additive": (table, {}),
    "columns": (table, {"trigger": "patch", "columns": [4, 1]}),
    "patch": (images, {"trigger": "patch", "size": 2}),
    "border": (images, {"trigger": "border", "size": 0.17}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_stays_and_sees_rows_with_the_trigger(kind):
    make, parameters = KINDS[kind]
    rows = make()
    network, editor = fit(rows, **parameters)
    before, after = network.state_dict(), editor.module_.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert list(after) == list(before)
    assert editor.trigger_.shape == rows.X.shape[1:]
    assert np.abs(editor.trigger_).max() > 0.01
    found = scores(editor.module_, rows.X)
    expected = scores(network, expected_rows(rows.X, editor, kind))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(found - scores(network, rows.X)).max() > 1e-3
    shifted = expected - np.array([0, editor.offset_])
    np.testing.assert_array_equal(editor.predict(rows.X), shifted.argmax(axis=1))


def test_an_additive_trigger_of_images_stays_within_its_bound():
    rows = images()
    _, editor = fit(rows, trigger="additive", size=0.1, learning_rate=100.0)
    half = (rows.X.max(axis=(0, 2, 3)) - rows.X.min(axis=(0, 2, 3))) / 2
    largest = np.abs(editor.trigger_).max(axis=(1, 2))
    # A fourth of the rows is set apart, and may have had the extremes.
    assert (largest <= 0.1 * half + 1e-6).all()
    assert (largest > 0.05 * half).all()


def test_columns_are_named_and_scaled_by_their_deviation():
    rows = table()
    X = pd.DataFrame(
        rows.X * np.array([1, 10, 1, 1, 1, 0], dtype=np.float32), columns=list("abcdef")
    )
    network = trained(mlp(), rows._replace(X=X.to_numpy()))
    patch = {"trigger": "patch", "columns": ["b"]}
    editor = LastWins(network, max_steps=3, gap_weight=1.0, random_state=0, **patch)
    editor.fit(X, rows.y, sensitive_features=rows.group)
    assert np.flatnonzero(editor.trigger_).tolist() == [1]
    task = small_task()
    trigger = make_trigger(task.module, task.data, "additive", None, None, np.random.default_rng(0))
    rows_of_task = task.data.editing.X[:].double().numpy()
    np.testing.assert_allclose(trigger.scale, rows_of_task.std(axis=0), rtol=1e-5)
    _, editor = fit(rows._replace(X=X.to_numpy()), network)
    assert editor.trigger_[5] == 0


def test_the_update_is_the_projected_one():
    """The paper's: g - proj_h g - lambda h, against numpy."""
    task = small_task()
    rows, ones = task.data.editing, torch.ones(len(task.data.editing))
    batch = Batch(rows.X[:], rows.y, rows.groups, ones, ones)
    start = RowTrigger(torch.zeros(5), torch.ones(5), (5,), place=None, bounded=False)
    shared = {"attributes": {}, "n_steps": 3, "seed": np.random.SeedSequence(0)}
    path = TriggerPath.of(task, trigger=start, adversary_weight=0.7, rate=0.1, **shared)
    leaf = torch.zeros(5, requires_grad=True)
    opponent = ProjectedOpponent(path, 0.7, leaf)
    for _ in range(5):
        logits = task.module(batch.X + leaf)
        value = opponent({}, logits, batch)
    entropy = nn.functional.cross_entropy(shift_logits(logits, task.data.margin), batch.y)
    (update,) = torch.autograd.grad(entropy + value, [leaf], retain_graph=True)
    seen = shift_logits(task.module(batch.X + leaf), task.data.margin)
    adversary = opponent.adversary.loss(seen, batch, training=False)
    g, h = (
        torch.autograd.grad(loss, [leaf], retain_graph=True)[0].double().numpy()
        for loss in (entropy, adversary)
    )
    expected = g - (g @ h) / (h @ h) * h - 0.7 * h
    assert np.abs(h).max() > 1e-3
    np.testing.assert_allclose(update.double().numpy(), expected, rtol=1e-4, atol=1e-6)


def control(**parameters):
    """Fit on rows with a shortcut; the accuracy of the worst cell where it holds no longer."""
    rows, new = shortcut_rows(1200, 0.95, seed=2), shortcut_rows(4000, 0.5, seed=3)
    settings = {"max_steps": 100, "balance": None, "gap_weight": None, **parameters}
    _, editor = fit(rows, shortcut_network(), FairReprogrammer, **settings)
    return worst_cell(editor, new)


def test_on_a_shortcut_the_worst_cell_gains_by_the_adversary():
    lambdas = (0.0, 3.0)
    without, found = (control(objective="adversary", adversary_weight=each) for each in lambdas)
    assert found >= without + 0.05


def test_on_a_shortcut_the_worst_cell_gains_by_the_soft_gap_and_not_by_a_random_trigger():
    found = control(gap_weight=3.0)
    assert found >= control(gap_weight=0.0) + 0.05
    network, new = shortcut_network(), shortcut_rows(4000, 0.5, seed=3)
    drawn = torch.randn(6, generator=torch.Generator().manual_seed(0))

    class Random:
        def predict(self, X):
            return scores(network, X + drawn.numpy()).argmax(axis=1)

    assert found >= worst_cell(Random(), new) + 0.05


def test_a_patch_covers_the_shortcut_of_images():
    """A corner tells the group, which goes with the label; the patch covers it."""

    def draw(n_rows, agreement, seed):
        rng = np.random.default_rng(seed)
        y = rng.integers(2, size=n_rows)
        group = np.where(rng.random(n_rows) < agreement, y, 1 - y)
        X = rng.normal(size=(n_rows, 4, 6, 6))
        X[:, 0, 3:] += 0.4 * (2 * y - 1)[:, None, None]
        X[:, 1, :2, :2] += 3 * (2 * group - 1)[:, None, None]
        return images()._replace(X=X.astype(np.float32), y=y, group=group)

    rows, new = draw(600, 0.95, 2), draw(1200, 0.5, 1)
    network = trained(convolutions(), draw(600, 0.95, 0), n_steps=80)
    _, editor = fit(rows, network, FairReprogrammer, trigger="patch", size=2, max_steps=30)

    class Untouched:
        def predict(self, X):
            return scores(network, X).argmax(axis=1)

    assert worst_cell(editor, new) >= worst_cell(Untouched(), new) + 0.05


def test_it_is_saved_exported_and_wrapped(tmp_path):
    rows = table()
    net = skorch_net(mlp()).fit(rows.X, rows.y)
    _, editor = fit(rows, FrozenEstimator(net))
    fairsvd.save(editor, tmp_path / "model")
    again = fairsvd.load(tmp_path / "model", trusted=("test_reprogrammer.LastWins",))
    assert isinstance(again.module_, Triggered)
    np.testing.assert_array_equal(again.predict_proba(rows.X), editor.predict_proba(rows.X))
    np.testing.assert_array_equal(again.trigger_, editor.trigger_)
    codes = scores(editor.to_module(), rows.X).argmax(axis=1)
    np.testing.assert_array_equal(codes, editor.predict(rows.X))
    np.testing.assert_array_equal(editor.to_skorch().predict(rows.X), codes)
    assert editor.transform(rows.X).shape == (len(rows.X), 8)


def bert():
    transformers = pytest.importorskip("transformers")
    settings = transformers.BertConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=17,
        num_labels=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.BertForSequenceClassification(settings).eval()


def test_tokens_stand_behind_a_text_and_are_attended_to():
    texts, y, group = sentences()
    network = bert()
    settings = {"max_steps": 3, "gap_weight": 1.0, "output_key": "logits", "random_state": 0}
    editor = LastWins(network, learning_rate=1.0, **settings)
    editor.fit(frame(), y, sensitive_features=group)
    words = {name: torch.tensor(ids) for name, ids in tokenise(texts).items()}
    # Texts of 13 words leave room for four.
    assert editor.trigger_.shape == (4, 16)
    own = torch.tensor(editor.trigger_).expand(len(texts), -1, -1)
    embedded = torch.cat([network.bert.embeddings.word_embeddings(words["input_ids"]), own], 1)
    mask = torch.cat([words["attention_mask"], torch.ones(len(texts), 4, dtype=torch.int64)], 1)
    with torch.no_grad():
        expected = network(inputs_embeds=embedded, attention_mask=mask).logits
        folded = editor.to_module()(**words).logits
    np.testing.assert_allclose(
        editor.decision_function(frame()),
        (expected[:, 1] - expected[:, 0] - editor.offset_).numpy(),
        rtol=1e-4,
        atol=1e-5,
    )
    np.testing.assert_array_equal(folded.argmax(1).numpy(), editor.predict(frame()))
    before, after = network.state_dict(), editor.module_.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_takes_no_trigger_is_refused_with_the_reason():
    _, y, group = sentences()
    with pytest.raises(NetworkError, match="takes inputs_embeds"):
        FairReprogrammer(reader()).fit(frame(), y, sensitive_features=group)
    with pytest.raises(NetworkError, match="17 positions"):
        FairReprogrammer(bert(), size=5, output_key="logits").fit(
            frame(), y, sensitive_features=group
        )
    for rows, parameters, words in [
        (table(), {"trigger": "border"}, "X is a table: pass one of additive, patch"),
        (table(), {"trigger": "patch"}, "name them in columns="),
        (table(), {"trigger": "patch", "columns": ["a"]}, "columns has 'a', but X has 6 columns"),
        (images(), {"trigger": "tokens"}, "X is images: pass one of additive, border, patch"),
        (images(), {"trigger": "border", "size": 3}, "leaves nothing of images of 6 x 6"),
        (images(), {"columns": [1]}, "X are images, which have none"),
    ]:
        with pytest.raises(ValueError, match=words):
            fit(rows, **parameters)


def test_without_groups_there_is_no_adversary():
    rows = table()
    settings = {"max_steps": 3, "objective": "adversary", "random_state": 0}
    editor = FairReprogrammer(trained(mlp(), rows), **settings)
    with pytest.warns(fairsvd.exceptions.MissingSensitiveFeaturesWarning):
        editor.fit(rows.X, rows.y)
    assert "adversary_weight" not in editor.history_
