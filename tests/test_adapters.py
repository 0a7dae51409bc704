"""Low-rank adapters: what moves, what each variant adds, what it achieves."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from torch import nn

from fairsvd import AdapterFineTuner, load, save
from fairsvd.exceptions import MissingSensitiveFeaturesWarning, NetworkError
from fairsvd.intraprocessing._adapted import Adapted, learn_group
from fairsvd.intraprocessing._adapters import Opponent, Overlap
from fairsvd.intraprocessing._adversary import Adversary
from fairsvd.objective import shift_logits
from fairsvd.training import Batch
from helpers import (
    IGNORE_SMALL_DATA,
    convolutions,
    fingerprint,
    images,
    last_wins,
    mlp,
    table,
    trained,
)
from shortcuts import shortcut_network, shortcut_rows, worst_cell
from tasks import CONSTRAINT, small_task

pytestmark = [
    # Networks are trained.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]


class LastWins(last_wins(AdapterFineTuner)):
    """Chooses its last edit."""


def fit(rows, network=None, kind=LastWins, **parameters):
    make = mlp() if rows.X.ndim == 2 else convolutions()
    network = trained(make, rows) if network is None else network
    defaults = {"variant": "plain", "max_steps": 6, "rank": 2, "random_state": 0}
    editor = kind(network, **{**defaults, **parameters})
    return network, editor.fit(rows.X, rows.y, sensitive_features=rows.group)


@pytest.mark.parametrize("variant", ["plain", "orthogonal", "adversarial"])
@pytest.mark.parametrize("rows", [table(), images()], ids=["table", "images"])
def test_the_change_of_a_weight_is_the_product_of_its_adapters(variant, rows):
    network, editor = fit(rows, variant=variant, strength=1.0)
    before, after = network.state_dict(), editor.module_.state_dict()
    hidden = {"0.weight", "2.weight"}
    assert {n for n, v in before.items() if not torch.equal(v, after[n])} == hidden
    assert set(editor.adapters_) == hidden
    for name, (up, down) in editor.adapters_.items():
        change = (after[name] - before[name]).flatten(1)
        torch.testing.assert_close(up @ down, change, rtol=1e-4, atol=1e-6)
        assert up.shape[1] == down.shape[0] == 2
        assert int(torch.linalg.matrix_rank(change, rtol=1e-3)) == 2


def test_layers_and_rank_are_chosen():
    _, editor = fit(table(), layers=["4"], rank=50)
    up, down = editor.adapters_["4.weight"]
    assert (up.shape, down.shape) == ((2, 2), (2, 8))
    _, editor = fit(table(), layers=re.compile("^[24]$"))
    assert set(editor.adapters_) == {"2.weight", "4.weight"}
    rows = images()
    network = nn.Sequential(nn.Flatten(), nn.Linear(144, 2))
    with pytest.raises(NetworkError, match="Use layers='all'"):
        fit(rows, trained(network, rows))


def test_a_teacher_is_imitated_by_all_but_an_adversary_s_opponent():
    for variant in ("plain", "orthogonal", "unlearning"):
        _, editor = fit(table(), variant=variant, objective="teacher", n_teachers=1, strength=1.0)
        assert editor.objective_ == "teacher"
        assert editor.history_["alpha"].notna().any()
    with pytest.raises(ValueError, match="variant='adversarial' needs the groups"):
        fit(table(), variant="adversarial", objective="teacher", n_teachers=1)


def test_unlearning_starts_from_the_weights_without_the_groups_adapters():
    weights = {"w": torch.arange(6.0).reshape(2, 3)}
    generator = torch.Generator().manual_seed(0)
    adapted = Adapted.start(weights, 1, generator)
    assert torch.equal(adapted.state()["w"], weights["w"])
    moved = Adapted(
        weights, {"w": torch.tensor([[1.0], [2.0]])}, {"w": torch.tensor([[1.0, 0, 1]])}
    )
    product = torch.tensor([[1.0, 0, 1], [2, 0, 2]])
    torch.testing.assert_close(moved.without(0.5)["w"], weights["w"] - 0.5 * product)
    torch.testing.assert_close(moved.state()["w"], weights["w"] + product)


def test_the_overlap_is_the_squared_norm_of_the_products():
    rng = np.random.default_rng(0)
    down = [{n: rng.normal(size=(2, 5)) for n in "ab"} for _ in range(2)]
    sets = [
        Adapted({}, {}, {n: torch.as_tensor(value) for n, value in part.items()}) for part in down
    ]
    expected = sum((one @ other) ** 2 for n in "ab" for one in down[0][n] for other in down[1][n])
    value = Overlap(*sets, weight=0.7)({}, torch.zeros(1), None)
    assert float(value) == pytest.approx(0.7 * expected, rel=1e-12)


def batch_of(task):
    rows, ones = task.data.editing, torch.ones(len(task.data.editing))
    return Batch(rows.X[:], rows.y, rows.groups, ones, ones)


def test_the_opponent_learns_and_its_loss_is_opposed():
    task = small_task()
    batch = batch_of(task)
    logits = task.module(batch.X).requires_grad_()
    opponent = Opponent(task, 2.0)
    values = [opponent({}, logits, batch) for _ in range(30)]
    # It predicts the group better and better.
    assert float(values[-1].detach()) > float(values[0].detach()) + 0.02
    own = Adversary(CONSTRAINT, 2, 2, device=logits.device, dtype=logits.dtype)
    own.parameters = opponent.adversary.parameters
    loss = own.loss(shift_logits(logits, task.data.margin), batch, training=False)
    assert float(values[-1].detach()) == pytest.approx(-2 * float(loss.detach()), rel=1e-6)
    values[-1].backward()
    assert bool(logits.grad.any())


def test_adapters_of_the_group_predict_it():
    task = small_task(n_rows=400)
    weights = {n: p for n, p in task.module.named_parameters() if n in ("0.weight", "2.weight")}
    rng = np.random.default_rng(0)
    adapted = learn_group(task, weights, 2, 150, 0.02, rng)
    assert rng.random() == np.random.default_rng(0).random()
    X, groups = task.data.editing.X[:], task.data.editing.groups.numpy()

    def separation(state):
        features = torch.func.functional_call(task.module[:4], state, (X,)).double().numpy()
        centred = features - features.mean(axis=0)
        target = groups - groups.mean()
        slope = np.linalg.lstsq(centred, target, rcond=None)[0]
        return 1 - np.square(target - centred @ slope).sum() / np.square(target).sum()

    before = separation(dict(task.module[:4].named_parameters()))
    state = {**dict(task.module[:4].named_parameters()), **adapted.state()}
    assert separation(state) > before + 0.02


@pytest.mark.parametrize("variant", ["adversarial", "unlearning"])
def test_on_a_shortcut_the_worst_cell_gains_by_the_variant(variant):
    network, rows = shortcut_network(), shortcut_rows(1200, 0.95, seed=2)
    new, found = shortcut_rows(4000, 0.5, seed=3), {}
    for each in ("plain", variant):
        settings = {"variant": each, "strength": 3.0 if each == "adversarial" else 1.0, "rank": 4}
        _, editor = fit(rows, network, AdapterFineTuner, balance=None, max_steps=120, **settings)
        found[each] = worst_cell(editor, new)
    assert found[variant] >= found["plain"] + 0.05


def test_on_a_shortcut_the_worst_cell_gains_by_the_soft_gap_of_plain_adapters():
    network, rows = shortcut_network(), shortcut_rows(1200, 0.95, seed=2)
    new, found = shortcut_rows(4000, 0.5, seed=3), {}
    for weight in (0.0, 3.0):
        settings = {"rank": 4, "gap_weight": weight, "balance": None, "max_steps": 120}
        _, editor = fit(rows, network, AdapterFineTuner, **settings)
        found[weight] = worst_cell(editor, new)
    assert found[3.0] >= found[0.0] + 0.05


def test_orthogonal_adapters_do_not_take_up_a_shortcut_that_the_network_did_not_use():
    """Both tune on rows with the shortcut, from a network that was trained without it."""
    network = shortcut_network(agreement=0.5)
    rows, new = shortcut_rows(1200, 0.95, seed=2), shortcut_rows(4000, 0.5, seed=3)
    found = {}
    for variant in ("plain", "orthogonal"):
        settings = {"variant": variant, "strength": 100.0, "rank": 2, "max_steps": 200}
        _, editor = fit(rows, network, balance=None, threshold=0.5, learning_rate=0.01, **settings)
        found[variant] = worst_cell(editor, new)
    assert found["orthogonal"] >= found["plain"] + 0.05


def of_group(network, rows, **parameters):
    """Learn the group without labels; return the editor and its adapters."""
    auditor = AdapterFineTuner(network, random_state=0, rank=2, **parameters)
    return auditor, auditor.learn_group(rows.X, rows.group)


def test_an_auditor_s_adapters_predict_the_group_and_need_no_labels():
    rows = shortcut_rows(1200, 0.5, seed=2)
    network = shortcut_network(agreement=0.5)
    before = fingerprint(network)
    auditor, adapters = of_group(network, rows, max_steps=100, learning_rate=0.02)
    assert fingerprint(network) == before
    assert not hasattr(auditor, "module_") and not hasattr(auditor, "n_features_in_")
    weights = dict(network.named_parameters())
    assert set(adapters) == {name for name in weights if name.endswith("weight")} - {"4.weight"}
    adapted = Adapted.received(adapters, {name: weights[name].detach() for name in adapters})

    def told(state):
        """Accuracy of the best linear rule for the group on what enters the output layer."""
        features = torch.func.functional_call(network[:-1], state, (torch.as_tensor(rows.X),))
        model = LogisticRegression(C=1e6, max_iter=500).fit(features.detach().numpy(), rows.group)
        return model.score(features.detach().numpy(), rows.group)

    assert told(adapted.state()) > told({}) + 0.05


def test_a_developer_without_groups_gains_by_an_auditor_s_adapters():
    """The developer's rows have a shortcut by the group, which the network did not use so far."""
    network = shortcut_network(agreement=0.5)
    rows, new = shortcut_rows(1200, 0.95, seed=2), shortcut_rows(4000, 0.5, seed=3)
    elsewhere = shortcut_rows(1200, 0.5, seed=4)
    _, adapters = of_group(network, elsewhere, max_steps=200, learning_rate=0.1)
    found = {}
    for given in (None, adapters):
        editor = LastWins(
            network,
            variant="plain" if given is None else "orthogonal",
            group_adapters=given,
            strength=100.0,
            rank=2,
            max_steps=200,
            balance=None,
            threshold=0.5,
            learning_rate=0.01,
            random_state=0,
        )
        with warnings.catch_warnings():
            if given is None:
                warnings.simplefilter("ignore", MissingSensitiveFeaturesWarning)
            editor.fit(rows.X, rows.y)
        found[given is None] = worst_cell(editor, new)
    assert found[False] >= found[True] + 0.05


def test_unlearning_subtracts_an_auditor_s_adapters_and_is_saved_with_them(tmp_path):
    rows = table()
    network = trained(mlp(), rows)
    _, adapters = of_group(network, rows, max_steps=5)
    settings = {"variant": "unlearning", "group_adapters": adapters, "strength": 0.5}
    editor = LastWins(network, max_steps=4, random_state=0, **settings).fit(rows.X, rows.y)
    before, after = network.state_dict(), editor.module_.state_dict()
    for name, (up, down) in editor.adapters_.items():
        expected = before[name] - 0.5 * torch.mm(*adapters[name]) + up @ down
        torch.testing.assert_close(after[name], expected, rtol=1e-4, atol=1e-6)
    editor = clone(AdapterFineTuner(network, max_steps=4, **settings)).fit(rows.X, rows.y)
    save(editor, tmp_path / "adapters.safetensors")
    again = load(tmp_path / "adapters.safetensors")
    assert np.array_equal(again.predict_proba(rows.X), editor.predict_proba(rows.X))
    for name, pair in adapters.items():
        assert all(map(torch.equal, again.group_adapters[name], pair))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"variant": "plain"}, "variant='plain' does not use group_adapters"),
        ({"layers": ["2"]}, "both sides need the same network and the same layers"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(parameters, message):
    rows = table()
    network = trained(mlp(), rows)
    _, adapters = of_group(network, rows, max_steps=2)
    editor = AdapterFineTuner(
        network, **{"variant": "orthogonal", "group_adapters": adapters, **parameters}
    )
    with pytest.raises(ValueError, match=message):
        editor.fit(rows.X, rows.y)


def test_adapters_of_another_shape_or_of_no_network_are_refused():
    weights = {"w": torch.zeros(3, 4)}
    with pytest.raises(ValueError, match=r"wanted \(3, rank\) and \(rank, 4\)"):
        Adapted.received({"w": (torch.zeros(3, 2), torch.zeros(1, 4))}, weights)
    rows = table()
    with pytest.raises(NetworkError, match="belong to one trained network"):
        AdapterFineTuner().learn_group(rows.X, rows.group)
