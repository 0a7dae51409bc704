"""Influence of rows on the gap: dense references, retraining without rows, what it achieves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import spearmanr
from torch import nn

from fairsvd import InfluenceTuner
from fairsvd.intraprocessing import _conjugate_gradients, _influence
from fairsvd.intraprocessing._conjugate_gradients import solve
from fairsvd.intraprocessing._influence import (
    choose_leaves,
    find_weights,
    make_model,
    measure_influence,
)
from fairsvd.objective import SHARPNESS
from helpers import IGNORE_SMALL_DATA, last_wins, mlp, table, trained
from shortcuts import shortcut_network, shortcut_rows, worst_cell
from tasks import small_task, smooth_net

pytestmark = [
    # Networks are trained anew without some rows.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]


def task_of(net, **settings):
    """Make a task in double precision, and its rows."""
    task = small_task(net.float().requires_grad_(False), **settings)
    X = task.data.editing.X[:].double()
    scores = net.double()(X)
    untouched = scores.log() if settings.get("kind") == "probabilities" else scores
    data = replace(task.data, dtype=torch.float64, untouched=untouched)
    return replace(task, data=data), X


def odds(probabilities, y, groups):
    """Compute the signed differences of both rates between two groups, on probabilities."""
    gaps = []
    for label in (1, 0):
        means = [probabilities[(y == label) & (groups == g)].mean() for g in (0, 1)]
        gaps.append(means[0] - means[1])
    return torch.stack(gaps)


def differences(run, theta, X, y, groups, margin):
    logits = run(theta, X)
    return odds(torch.sigmoid(SHARPNESS * (logits[:, 1] - logits[:, 0] - margin)), y, groups)


def dense_influence(net, names, task, X, damping):
    """Compute the influences from single rows' gradients and the whole curvature matrix."""
    data = task.data
    y, groups = data.editing.y, data.editing.groups
    parameters = {n: p.detach() for n, p in net.named_parameters() if n in names}
    shapes = {n: p.shape for n, p in parameters.items()}
    theta = torch.cat([p.flatten() for p in parameters.values()])

    def run(flat, rows):
        parts = flat.split([s.numel() for s in shapes.values()])
        state = {n: p.reshape(s) for (n, s), p in zip(shapes.items(), parts, strict=True)}
        return torch.func.functional_call(net, state, (rows,))

    inner = torch.func.jacrev(lambda flat: run(flat, X))(theta)
    shares = torch.softmax(run(theta, X), dim=1)
    middle = torch.diag_embed(shares) - shares[:, :, None] * shares[:, None]
    curvature = torch.einsum("ncp,ncd,ndq->pq", inner, middle, inner) / len(X)
    curvature += damping * torch.eye(len(theta))
    rows = [
        torch.func.grad(
            lambda f, i=i: nn.functional.cross_entropy(run(f, X[i : i + 1]), y[i, None])
        )(theta)
        for i in range(len(X))
    ]
    slopes = torch.func.jacrev(lambda f: differences(run, f, X, y, groups, data.margin))(theta)
    gaps = differences(run, theta, X, y, groups, data.margin)
    return -slopes @ torch.linalg.solve(curvature, torch.stack(rows).T) / len(X), gaps


@pytest.mark.parametrize("layers", ["output", "all"])
def test_influences_equal_those_of_dense_matrices(layers, monkeypatch):
    # Several blocks, and systems solved to the end.
    monkeypatch.setattr(_influence, "BLOCK", 17)
    monkeypatch.setattr(_conjugate_gradients, "CG_TOLERANCE", 1e-12)
    monkeypatch.setattr(_influence, "CG_STEPS", 300)
    net = smooth_net()
    task, X = task_of(net)
    leaves = choose_leaves(task, layers)
    assert set(leaves) == ({"4.weight", "4.bias"} if layers == "output" else set(net.state_dict()))
    effects, gaps = measure_influence(task, leaves, 0.05)
    expected, values = dense_influence(net, set(leaves), task, X, 0.05)
    np.testing.assert_allclose(gaps, values, rtol=1e-9)
    # Features are kept in single precision.
    rtol = 1e-4 if layers == "output" else 1e-7
    np.testing.assert_allclose(
        effects, expected, rtol=rtol, atol=rtol * float(expected.abs().max())
    )


def test_a_softmax_behind_the_layer_changes_nothing():
    net = smooth_net()
    behind = nn.Sequential(*net, nn.Softmax(dim=1))
    found = []
    for each, kind in ((net, "logits"), (behind, "probabilities")):
        task, _ = task_of(each, kind=kind)
        leaves = choose_leaves(task, "output")
        assert make_model(task, leaves).editing.item_shape == (4,)
        found.append(measure_influence(task, leaves, 0.05)[0])
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-6)


class Twice(nn.Module):
    def forward(self, logits):
        return 2 * logits


def test_what_follows_the_layer_is_passed_through_with_it():
    task, _ = task_of(nn.Sequential(*smooth_net(), Twice()))
    assert make_model(task, choose_leaves(task, "output")).editing is task.data.editing.X


def test_a_solution_may_end_early():
    matrix = torch.diag(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64))
    right = torch.ones(1, 3, dtype=torch.float64)
    # One step goes along the residual: |r|^2 / r'Ar = 3 / 8 of it.
    torch.testing.assert_close(solve(lambda v: v @ matrix, right, 1), 0.375 * right)


def retrained(X, y, weights, damping):
    """Minimise the ridge logistic loss to the end."""
    theta = torch.zeros(2 * X.shape[1] + 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=200, tolerance_grad=1e-12, tolerance_change=0)

    def closure():
        optimizer.zero_grad()
        losses = nn.functional.cross_entropy(logits_of(theta, X), y, reduction="none")
        loss = (weights * losses).mean() + damping / 2 * theta.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return theta.detach()


def logits_of(theta, X):
    weight, bias = theta[:-2].reshape(2, -1), theta[-2:]
    return X @ weight.T + bias


def test_what_leaving_rows_out_and_training_anew_does_is_what_was_predicted():
    damping, rng = 0.02, np.random.default_rng(0)
    net = nn.Linear(5, 2)
    task, X = task_of(net, output_layer="")
    y, groups = task.data.editing.y, task.data.editing.groups
    theta = retrained(X, y, torch.ones(len(X)), damping)
    net.load_state_dict({"weight": theta[:-2].reshape(2, -1), "bias": theta[-2:]})
    task, _ = task_of(net, output_layer="")
    effects, before = measure_influence(task, choose_leaves(task, "output"), damping)
    predicted, seen = [], []
    for _ in range(40):
        out = rng.choice(len(X), size=9, replace=False)
        weights = torch.ones(len(X))
        weights[out] = 0
        after = differences(
            logits_of, retrained(X, y, weights, damping), X, y, groups, task.data.margin
        )
        predicted.append(-effects[:, out].sum(axis=1))
        seen.append(after.numpy() - before)
    for one, other in zip(np.transpose(predicted), np.transpose(seen), strict=True):
        assert spearmanr(one, other).statistic >= 0.9
        assert 0.7 < (one @ other) / (one @ one) < 1.4


def test_conjugate_gradients_solve_every_system():
    rng = np.random.default_rng(0)
    half = torch.as_tensor(rng.normal(size=(12, 12)))
    matrix, right = half @ half.T + torch.eye(12), torch.as_tensor(rng.normal(size=(3, 12)))
    right[1] = 0
    found = solve(lambda v: v @ matrix, right)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, right.T).T, rtol=1e-3, atol=1e-4)
    assert not found[1].any()


def test_least_weights_without_a_bound_are_those_of_the_pseudoinverse():
    rng = np.random.default_rng(0)
    effects, wanted = rng.normal(size=(2, 30)), np.array([0.5, -0.3])
    found = find_weights(effects, wanted)
    np.testing.assert_allclose(found, np.linalg.pinv(effects) @ wanted, atol=1e-5)


def test_weights_do_not_fall_below_0_and_stay_the_least():
    rng = np.random.default_rng(0)
    effects, wanted = rng.normal(size=(2, 30)), np.array([9.0, -14.0])
    found = find_weights(effects, wanted)
    assert found.min() == -1
    np.testing.assert_allclose(effects @ found, wanted, atol=1e-3)
    reference = minimize(
        lambda e: e @ e,
        np.zeros(30),
        jac=lambda e: 2 * e,
        method="SLSQP",
        bounds=[(-1, None)] * 30,
        constraints={"type": "eq", "fun": lambda e: effects @ e - wanted, "jac": lambda e: effects},
    )
    np.testing.assert_allclose(found, reference.x, atol=1e-3)


def test_what_no_weights_can_reach_and_rows_without_effect():
    effects = np.vstack([np.full(5, 1.0), np.zeros(5)])
    # With weights of at least 0 the sum of the changes is at least -5.
    found = find_weights(effects, np.array([-8.0, 1.0]))
    np.testing.assert_allclose(found, -1)
    assert not find_weights(np.zeros((1, 5)), np.array([1.0])).any()
    assert not find_weights(effects, np.zeros(2)).any()
    assert find_weights(np.zeros((0, 5)), np.zeros(0)).tolist() == [0] * 5


class LastWins(last_wins(InfluenceTuner)):
    """Chooses its last edit."""


def test_the_weights_are_a_fitted_attribute_and_the_output_layer_alone_moves():
    rows = table()
    network = trained(mlp(), rows)
    editor = LastWins(network, strength=1.0, max_steps=4, random_state=0)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    after = editor.module_.state_dict()
    changed = {n for n, v in network.state_dict().items() if not torch.equal(v, after[n])}
    assert changed == {"4.weight", "4.bias"}
    assert editor.weights_.shape == (90,)
    assert editor.weights_.min() >= 0
    assert editor.history_["largest_weight"].iloc[-1] == editor.weights_.max() > 1
    plain = LastWins(network, strength=0.0, max_steps=4, random_state=0)
    plain.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert plain.weights_.tolist() == [1] * 90


def test_weights_ask_the_groups_of_validation_rows_alone():
    task = small_task()
    leaves = choose_leaves(task, "output")
    effects, _ = measure_influence(task, leaves, 0.05)
    rows = task.data.editing
    rows = replace(rows, groups=torch.zeros_like(rows.groups))
    again, _ = measure_influence(replace(task, data=replace(task.data, editing=rows)), leaves, 0.05)
    assert np.array_equal(effects, again)


def test_without_rows_to_compare_there_are_no_gaps():
    task = small_task()
    judge = replace(task.data.judge, groups=np.zeros_like(task.data.judge.groups))
    alone = replace(task, data=replace(task.data, judge=judge))
    effects, gaps = measure_influence(alone, choose_leaves(alone, "output"), 0.05)
    assert (effects.shape, gaps.shape) == ((0, 90), (0,))


@pytest.mark.parametrize("layers", ["output", "all"])
def test_on_a_shortcut_the_worst_cell_gains_by_the_weights(layers):
    network, rows = shortcut_network(), shortcut_rows(1200, 0.95, seed=2)
    new = shortcut_rows(4000, 0.5, seed=3)
    found = {}
    for strength in (0.0, 1.0):
        editor = InfluenceTuner(
            network, layers=layers, strength=strength, max_steps=100, random_state=0
        )
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
        found[strength] = worst_cell(editor, new)
    assert found[1.0] >= found[0.0] + 0.05
