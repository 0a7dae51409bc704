"""Adversarial fine-tuning from within: the target, the critic, where gradients flow."""

from __future__ import annotations

import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from edit_data import constraint, edit_data
from fairsvd.base import Task
from fairsvd.datasets import make_biased_classification
from fairsvd.intraprocessing._adversarial import (
    Budget,
    Duel,
    Record,
    actor_loss,
    critic_loss,
    make_critic,
    multiplier,
    run_duel,
)
from fairsvd.intraprocessing._critic import Critic, SignedBias, forward_with_features
from fairsvd.objective import soft_gap
from fairsvd.training import tune
from helpers import Rows, convolutions, global_state, images, mlp, table, trained

# Many short fits: together they take long.
pytestmark = pytest.mark.slow

GAPS = (
    "demographic_parity",
    "equal_opportunity",
    "equalized_odds",
    "average_odds",
    "signed_average_odds",
    "accuracy_parity",
)


def path_of(module, rows, *, output_layer, gap="equalized_odds", n_groups=2, dtype=torch.float64):
    request, n_classes = constraint(gap), len(np.unique(rows.y))
    settings = {"request": request, "output_layer": output_layer, "batch_size": 32}
    data = edit_data(rows, n_groups, n_classes, dtype=dtype, **settings)
    task = Task(module.to(dtype).requires_grad_(False), data, request)
    budget = Budget(2, 3, 3, 32, 1e-3, 1e-3, 16)
    seed = np.random.SeedSequence(0)
    return Duel.of(task, gap_weight=5.0, allowed=0.03, budget=budget, attributes={}, seed=seed)


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
        other = replace(path, gap_weight=weight, allowed=0.0)
        actor_loss(other, critic, lambda made=leaves: made, lambda _: None)(batch).backward()
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
    kept = torch.cat([next(critic.dropout).flatten() for _ in range(10)])
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


def test_a_path_runs_elsewhere_as_it_runs_here():
    path = table_path()
    runs = [
        [c.owned() for c in run_duel(each)] for each in (path, pickle.loads(pickle.dumps(path)))
    ]
    assert [c.params for c in runs[0]] == [c.params for c in runs[1]]
    for one, other in zip(*runs, strict=True):
        assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)
