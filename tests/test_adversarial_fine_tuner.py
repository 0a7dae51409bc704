"""Adversarial fine-tuning: the target, the critic, where gradients flow, what it achieves."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairsvd.intraprocessing._adversarial_path import (
    Budget,
    DuelPath,
    Record,
    actor_loss,
    critic_loss,
    make_critic,
    multiplier,
    run_duel,
)
from fairsvd.intraprocessing._critic_target import SignedBias
from joblib import parallel_config
from sklearn.base import clone
from torch import nn

from fairsvd import fairness_scorer
from fairsvd.arrays import LabelledRows, as_batches
from fairsvd.base import EditData
from fairsvd.datasets import make_biased_classification
from fairsvd.intraprocessing import AdversarialFineTuner
from fairsvd.intraprocessing._critic import Critic, forward_with_features
from fairsvd.objective import Constraint, Judge, soft_gap
from fairsvd.training import tune
from helpers import (
    IGNORE_SMALL_DATA,
    Rows,
    convolutions,
    fingerprint,
    global_state,
    images,
    last_wins,
    mlp,
    table,
    trained,
)

pytestmark = [
    # Many short fits: together they take long.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

GAPS = (
    "demographic_parity",
    "equal_opportunity",
    "equalized_odds",
    "average_odds",
    "signed_average_odds",
    "accuracy_parity",
)
CPU = torch.device("cpu")


def quick(network=None, kind=AdversarialFineTuner, **parameters):
    """Make an editor of a few updates and one weight."""
    steps = {"epochs": 2, "critic_steps": 3, "actor_steps": 3, "critic_rows": 16}
    return kind(network, **{**steps, "gap_weight": 5.0, "random_state": 0, **parameters})


class LastWins(last_wins(AdversarialFineTuner)):
    """Chooses its last edit."""


def constraint(gap="equalized_odds", pos=1):
    return Constraint(gap, 0.05, 0.4, "balanced_accuracy", None, pos, "classes")


def path_of(module, rows, *, output_layer, gap="equalized_odds", n_groups=2, dtype=torch.float64):
    n_classes = len(np.unique(rows.y))
    X = as_batches(rows.X.astype(np.float64))
    parts, request = np.zeros(len(rows.y), dtype=int), constraint(gap)
    data = EditData(
        editing=LabelledRows(X, torch.tensor(rows.y), torch.tensor(rows.group)),
        judged=X,
        judge=Judge(rows.y, rows.group, parts, n_classes, n_groups, request),
        untouched=torch.zeros(len(rows.y), n_classes),
        kind="logits",
        output_layer=output_layer,
        n_classes=n_classes,
        n_groups=n_groups,
        group_labels=tuple(range(n_groups)),
        margin=0.3 if n_classes == 2 else 0.0,
        batch_size=32,
        device=CPU,
        dtype=dtype,
    )
    return DuelPath(
        module=module.to(dtype).requires_grad_(False),
        data=data,
        constraint=request,
        gap_weight=5.0,
        allowed=0.03,
        budget=Budget(2, 3, 3, 32, 1e-3, 1e-3, 16),
        attributes={},
        seed=np.random.SeedSequence(0),
    )


def leaves_of(module):
    return {n: p.detach().clone().requires_grad_() for n, p in module.named_parameters()}


def signed_by_hand(p, y, g, w, gap, pos, n_groups):
    """Loop over every rate, class and group."""
    rates = {
        "demographic_parity": ["selection"],
        "equal_opportunity": ["tpr"],
        "accuracy_parity": ["accuracy"],
    }.get(gap, ["tpr", "fpr"])
    n_classes = p.shape[1]
    columns = [pos] if n_classes == 2 else range(n_classes)
    if rates == ["accuracy"]:
        columns = [0]
    found = np.zeros((len(rates), len(columns), 1 if n_groups == 2 else n_groups))
    known = np.ones_like(found, dtype=bool)
    for i, rate in enumerate(rates):
        for j, k in enumerate(columns):
            scores = p[np.arange(len(y)), y] if rate == "accuracy" else p[:, k]
            rows = {"tpr": y == k, "fpr": y != k}.get(rate, np.ones(len(y), bool))
            for group in range(found.shape[2]):
                own, rest = rows & (g == group), rows & (g != group)
                known[i, j, group] = own.any() and rest.any()
                if known[i, j, group]:
                    found[i, j, group] = np.average(scores[own], weights=w[own]) - np.average(
                        scores[rest], weights=w[rest]
                    )
    return found, known


@pytest.mark.parametrize(("n_classes", "n_groups"), [(2, 2), (2, 3), (4, 2), (3, 3)])
@pytest.mark.parametrize("gap", GAPS)
def test_the_target_equals_a_loop_over_rates_classes_and_groups(gap, n_classes, n_groups):
    rng = np.random.default_rng(0)
    y, g = rng.integers(n_classes, size=60), rng.integers(n_groups, size=60)
    y[(g == 0) & (y == 1)] = 0  # a cell that is empty
    p, w = rng.dirichlet(np.ones(n_classes), size=60), rng.random(60) + 0.1
    bias = SignedBias(constraint(gap), n_classes, n_groups)
    values, known = bias(*(torch.tensor(each) for each in (p, y, g, w)))
    wanted, measured = signed_by_hand(p, y, g, w, gap, 1, n_groups)
    assert values.shape == bias.shape == wanted.shape
    np.testing.assert_allclose(values.numpy(), wanted, atol=1e-12)
    assert np.array_equal(known.numpy(), measured)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("gap", ["demographic_parity", "equal_opportunity", "accuracy_parity"])
def test_the_size_of_the_bias_of_two_groups_is_the_soft_gap(gap, n_classes):
    rng = np.random.default_rng(1)
    y, g = rng.integers(n_classes, size=60), rng.integers(2, size=60)
    given = [torch.tensor(v) for v in (rng.dirichlet(np.ones(n_classes), size=60), y, g)]
    weights = torch.ones(60, dtype=torch.float64)
    bias = SignedBias(constraint(gap), n_classes, 2)
    size = bias.size(*bias(*given, weights))
    torch.testing.assert_close(size, soft_gap(*given, weights, gap, 1, 2))


def test_odds_are_the_larger_and_the_mean_of_both():
    values = torch.tensor([[[0.2]], [[-0.4]]])
    known = torch.ones_like(values, dtype=torch.bool)
    sizes = {gap: SignedBias(constraint(gap), 2, 2).size(values, known) for gap in GAPS[2:5]}
    assert float(sizes["equalized_odds"]) == pytest.approx(0.4)
    assert float(sizes["average_odds"]) == pytest.approx(0.3)
    assert float(sizes["signed_average_odds"]) == pytest.approx(0.1)
    half = torch.tensor([[[True]], [[False]]])
    assert float(SignedBias(constraint("average_odds"), 2, 2).size(values, half)) == (
        pytest.approx(0.2)
    )
    assert float(SignedBias(constraint(), 2, 2).size(values, ~known)) == 0


@pytest.mark.parametrize("size", [0.0, 0.03, 0.05, 0.4])
@pytest.mark.parametrize("weight", [0.0, 0.75, 20.0])
def test_the_multiplier_is_the_papers(size, weight):
    epsilon, delta = 0.05, 0.02
    found = multiplier(torch.tensor(size, dtype=torch.float64), weight, epsilon - delta)
    assert float(found) == pytest.approx(max(1.0, weight * (size - epsilon + delta) + 1))


def test_the_loss_is_the_multiplier_times_the_cross_entropy():
    rows = table()
    path = path_of(trained(mlp(), rows), rows, output_layer="4")
    critic, batch = critic_of(path), next(iter(path.batches(np.random.SeedSequence(1))))
    leaves, noted = leaves_of(path.module), []
    loss = actor_loss(path, critic, lambda: leaves, noted.append)(batch)
    logits, features = forward_with_features(path.module, path.data)(leaves, batch.X)
    guess = critic(features, training=False).detach().abs().max()
    factor = max(1.0, 5 * (float(guess) - 0.03) + 1)
    shifted = logits - torch.tensor([0.0, path.data.margin], dtype=logits.dtype)
    losses = nn.functional.cross_entropy(shifted, batch.y, reduction="none")
    assert noted == [pytest.approx(factor)]
    assert float(loss.detach()) == pytest.approx(
        factor * float((losses * batch.loss_weights).mean().detach())
    )


def critic_of(path, seed=0):
    return make_critic(path, path.batches(np.random.SeedSequence(7)), np.random.SeedSequence(seed))


def images_path():
    rows = images()
    return path_of(trained(convolutions(), rows), rows, output_layer="6")


def table_path(n_classes=2, n_groups=2):
    rows = table(150, n_classes=n_classes, n_groups=n_groups)
    module = trained(mlp(n_classes), rows)
    return path_of(module, rows, output_layer="4", n_groups=n_groups)


PATHS = {
    "table": table_path,
    "three groups": lambda: table_path(n_groups=3),
    "three classes": lambda: table_path(n_classes=3),
    "images": images_path,
}


@pytest.mark.parametrize("name", PATHS)
def test_the_critics_gradient_reaches_every_hidden_parameter(name):
    path = PATHS[name]()
    critic, batch = critic_of(path), next(iter(path.batches(np.random.SeedSequence(1))))
    leaves = leaves_of(path.module)
    logits, features = forward_with_features(path.module, path.data)(leaves, batch.X)
    predicted = critic(features, training=False)
    predicted.square().sum().backward()
    output = path.data.output_layer
    hidden = {n: leaf for n, leaf in leaves.items() if not n.startswith(output)}
    assert len(hidden) == len(leaves) - 2
    assert all(leaf.grad is not None and leaf.grad.abs().max() > 0 for leaf in hidden.values())
    # Features are what enters the output layer: its own parameters have no part in them.
    assert all(leaves[f"{output}.{part}"].grad is None for part in ("weight", "bias"))
    assert all(parameter.grad is None for parameter in critic.parameters)
    assert logits.shape == (len(batch.y), path.data.n_classes)


def test_the_bias_changes_the_networks_gradient_of_every_hidden_parameter():
    path = table_path()
    critic, batch = critic_of(path), next(iter(path.batches(np.random.SeedSequence(1))))
    gradients = []
    for weight in (0.0, 50.0):
        leaves = leaves_of(path.module)
        settings = {**vars(path), "gap_weight": weight, "allowed": 0.0}
        actor_loss(DuelPath(**settings), critic, lambda made=leaves: made, lambda _: None)(
            batch
        ).backward()
        gradients.append({n: leaf.grad for n, leaf in leaves.items()})
    for name, plain in gradients[0].items():
        other = gradients[1][name]
        parallel = torch.nn.functional.cosine_similarity(plain.flatten(), other.flatten(), dim=0)
        if name.startswith("4."):
            assert float(parallel) == pytest.approx(1)
        else:
            assert float(parallel) < 1 - 1e-6


def test_features_are_what_enters_the_output_layer():
    path = images_path()
    X = path.data.editing.X[:10].double()
    logits, features = forward_with_features(path.module, path.data)({}, X)
    with torch.no_grad():
        torch.testing.assert_close(logits, path.module(X))
        torch.testing.assert_close(features, path.module[:-1](X))


def test_the_critic_as_plain_layers():
    sample = torch.randn(50, 3, dtype=torch.float64)
    critic = Critic(sample, 4, 5, 2, generator=torch.Generator().manual_seed(0))
    assert [tuple(p.shape) for p in critic.parameters[::2]] == [(5, 12), *[(5, 5)] * 3, (2, 5)]
    x = sample[:4]
    flat = ((x - sample.mean(0)) / (sample - sample.mean(0)).square().mean().sqrt()).reshape(-1)
    W, b = critic.parameters[::2], critic.parameters[1::2]
    h = W[0] @ flat + b[0]
    for i in (1, 2, 3):
        h = torch.relu(W[i] @ h + b[i])
    torch.testing.assert_close(critic(x, training=False), W[4] @ h + b[4])


def test_dropout_has_its_own_generator_and_the_papers_share():
    sample, state = torch.randn(9, 2), global_state()
    critic = Critic(sample, 9, 2000, 1, generator=torch.Generator().manual_seed(0))
    once, again = (critic(sample, training=True) for _ in range(2))
    assert float(once.detach()) != float(again.detach())
    kept = critic._dropout(torch.ones(20000))
    assert kept.unique().tolist() == pytest.approx([0, 1.25])
    assert float(kept.mean()) == pytest.approx(1, abs=0.02)
    assert critic(sample, training=False).item() == critic(sample, training=False).item()
    assert global_state() == state


def test_constant_features_do_no_harm():
    critic = Critic(torch.ones(9, 2), 9, 4, 1, generator=torch.Generator().manual_seed(0))
    assert bool(critic(torch.ones(9, 2), training=False).isfinite().all())


def planted(seed):
    """Rows whose label goes with the group, and a network that shows it."""
    data = make_biased_classification(2000, base_rate_gap=0.6, random_state=seed)
    rows = Rows(data.data.astype(np.float32), data.target, data.groups)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 2))
    return trained(network, rows, 60), rows


@pytest.mark.parametrize("gap", ["demographic_parity", "equalized_odds"])
def test_the_critic_learns_more_than_a_constant_could_tell(gap):
    network, rows = planted(0)
    path = path_of(network, rows, output_layer="2", gap=gap, dtype=torch.float32)
    critic, record = critic_of(path), Record()
    steps = tune(
        critic_loss(path, critic, dict, record),
        critic.parameters,
        path.batches(np.random.SeedSequence(3)),
        n_steps=1000,
        learning_rate=1e-3,
        every=500,
    )
    found = []
    for _ in steps:
        found.append(SimpleNamespace(**record.summary()))
        for column in vars(record).values():
            column.clear()
    assert found[-1].critic_loss < found[0].critic_loss
    assert found[-1].critic_loss < 0.95 * found[-1].target_variance


def test_the_critic_is_not_moved_by_the_networks_steps(monkeypatch):
    rows = table()
    seen = []
    original = Critic.__call__

    def spy(critic, features, *, training):
        seen.append((training, [p.detach().clone() for p in critic.parameters], critic))
        return original(critic, features, training=training)

    monkeypatch.setattr(Critic, "__call__", spy)
    editor = quick(trained(mlp(), rows), epochs=2)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    # An epoch: three steps of the critic, each a prediction and a training pass, then three of
    # the network, one prediction each.
    assert [training for training, *_ in seen] == [*[False, True] * 3, *[False] * 3] * 2
    first, last = seen[6][1], seen[9][1]
    assert all(torch.equal(a, b) for a, b in zip(first, last, strict=True))
    assert all(p.grad is None for p in seen[-1][2].parameters)


CONFIGURATIONS = {
    "default": {"gap_weight": None},
    "no weight": {"gap_weight": 0.0},
    "no margin": {"margin": 0.0},
    "margin above the tolerance": {"margin": 0.2},
    "fewer rows than cells": {"critic_rows": 3},
    "demographic parity": {"constraint": "demographic_parity"},
    "equal opportunity": {"constraint": "equal_opportunity"},
    "average odds": {"constraint": "average_odds"},
    "accuracy parity": {"constraint": "accuracy_parity"},
    "first class positive": {"constraint": "equal_opportunity", "pos_label": 0},
    "fixed threshold": {"threshold": 0.3},
    "cells": {"balance": "cells"},
    "rows alike": {"balance": None},
    "mixed precision": {"precision": "mixed"},
}
DATA = {
    "plain": table,
    "three groups": lambda: table(150, n_groups=3),
    "five classes": lambda: table(150, n_classes=5),
    "images": images,
    "images, five classes": lambda: images(100, n_classes=5),
}


def check_promises(parameters, rows, n_outputs=None):
    n_outputs = n_outputs or len(np.unique(rows.y))
    make = mlp(n_outputs) if rows.X.ndim == 2 else convolutions(n_outputs)
    network = trained(make, rows)
    before, state = fingerprint(network), global_state()
    editor = quick(network, LastWins, **parameters)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert (fingerprint(network), global_state()) == (before, state)
    assert fingerprint(editor.module_) != before
    predicted, shares = editor.predict(rows.X), editor.predict_proba(rows.X)
    assert np.array_equal(editor.classes_[shares.argmax(axis=1)], predicted)
    exported = editor.to_skorch().predict(rows.X)
    assert np.array_equal(editor.classes_[exported], predicted)
    again = pickle.loads(pickle.dumps(editor))
    assert np.array_equal(again.predict_proba(rows.X), shares)
    assert not hasattr(clone(editor), "module_")
    history = editor.history_
    assert history["stage"].iloc[0] == "untouched"
    assert (history["multiplier"].iloc[1:] >= 1).all()
    return editor


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_keeps_the_promises(name):
    check_promises(CONFIGURATIONS[name], table())


@pytest.mark.parametrize("name", DATA)
def test_every_kind_of_data_is_taken(name):
    history = check_promises({}, DATA[name]()).history_
    assert (history[["critic_loss", "target_variance"]].iloc[1:] >= 0).all(axis=None)


def test_one_logit():
    check_promises({}, table(), n_outputs=1)


def test_a_network_of_one_layer_is_tuned_by_its_cross_entropy():
    rows = table()
    network = trained(nn.Sequential(nn.Linear(6, 2)), rows)
    editor = quick(network, LastWins).fit(rows.X, rows.y, sensitive_features=rows.group)
    assert not torch.equal(network[0].weight, editor.module_[0].weight)


def test_equal_seeds_give_equal_bits_whatever_the_jobs():
    rows = table()
    network = trained(mlp(), rows)
    editors = [quick(network, gap_weight=None, n_jobs=jobs) for jobs in (None, 2)]
    with parallel_config(backend="threading"):
        for editor in editors:
            editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert fingerprint(editors[0].module_) == fingerprint(editors[1].module_)
    assert editors[0].history_.equals(editors[1].history_)


def test_a_path_runs_elsewhere_as_it_runs_here():
    path = table_path()
    runs = [list(run_duel(each)) for each in (path, pickle.loads(pickle.dumps(path)))]
    assert [c.params for c in runs[0]] == [c.params for c in runs[1]]
    for one, other in zip(*runs, strict=True):
        assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)


def test_dropout_and_normalisation_of_the_network_stay_in_evaluation_mode():
    rows = table()
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.9), *mlp()[1:])
    network[4] = nn.Linear(8, 8)
    network = trained(network, rows)
    editor = quick(network, LastWins).fit(rows.X, rows.y, sensitive_features=rows.group)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(network[1], name), getattr(editor.module_[1], name))
    assert not any(part.training for part in editor.module_.modules())


def test_without_sensitive_features_plain_fine_tuning():
    rows = table()
    editor = quick(trained(mlp(), rows), LastWins, gap_weight=None)
    with pytest.warns(match="sensitive"):
        editor.fit(rows.X, rows.y)
    assert set(editor.history_["gap_weight"].dropna()) == {0.0}
    assert "critic_loss" not in editor.history_


def test_the_preset_has_the_papers_values():
    found = AdversarialFineTuner.paper(random_state=3, margin=0.01).get_params()
    wanted = {
        "epochs": 32,
        "critic_steps": 201,
        "actor_steps": 301,
        "critic_rows": 64,
        "gap_weight": 0.75,
        "margin": 0.01,
        "tolerance": 0.05,
        "learning_rate": 1e-4,
        "critic_learning_rate": 1e-3,
        "critic_width": 32,
        "random_state": 3,
    }
    assert {name: found[name] for name in wanted} == wanted
    assert AdversarialFineTuner.paper().margin == 0.02


@pytest.mark.parametrize("gap", ["equalized_odds", "demographic_parity"])
def test_it_lowers_the_gap(gap):
    data = make_biased_classification(3000, base_rate_gap=0.4, random_state=0)
    noise = np.random.default_rng(0).normal(0, 0.3, len(data.groups))
    # The last column tells the group.
    X = np.column_stack([data.data, 2 * data.groups - 1 + noise]).astype(np.float32)
    y, g = data.target, data.groups
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(11, 24), nn.ReLU(), nn.Linear(24, 2))
    network = trained(network, Rows(X[:1000], y[:1000], g[:1000]), 60)
    settings = {"gap_weight": 20.0, "balance": "classes"}
    settings |= {"utility": "balanced_accuracy", "random_state": 0}
    editor = AdversarialFineTuner(network, constraint=gap, **settings)
    editor.fit(X[1000:2000], y[1000:2000], sensitive_features=g[1000:2000])
    before = editor.report_.gaps.loc[gap, "before"]
    scorer = fairness_scorer(f"{gap}_difference")
    assert before > 0.15
    assert -scorer(editor, X[2000:], y[2000:], sensitive_features=g[2000:]) < 0.5 * before
    assert editor.score(X[2000:], y[2000:]) > 0.6
