"""The direct effect of the group's columns: how they are found, the penalty, what it achieves."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import f_oneway
from torch import nn

from fairsvd import DirectEffectFineTuner
from fairsvd.arrays import LabelledRows, as_batches
from fairsvd.base import FitInputs
from fairsvd.intraprocessing._direct_effect import (
    DirectEffect,
    GroupColumns,
    find_columns,
    measure_columns,
    squared_effects,
)
from fairsvd.training import Batch
from helpers import IGNORE_SMALL_DATA, images, last_wins, mlp, table, trained
from shortcuts import shortcut_rows, worst_cell
from tasks import small_task

pytestmark = [
    # Networks are trained.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

GROUPS = np.array([0, 1, 2, 0, 1, 2, 2, 0])


def inputs_of(*columns, groups=GROUPS):
    X = np.column_stack([np.asarray(c, dtype=np.float64) for c in columns])
    rows = LabelledRows(
        as_batches(X, torch.float64), torch.zeros(len(X)).long(), torch.as_tensor(groups)
    )
    labels = tuple(np.unique(groups[groups >= 0]).tolist())
    return FitInputs(rows, np.array([0, 1]), labels, (), None, ())


# Its means in the three groups are nearly alike.
NOISE = np.array([1, 2, 3, 3, 2.5, 1, 2.5, 2.5])


def test_columns_are_found_that_are_constant_in_every_group_and_not_the_same_in_all():
    one_hot = np.eye(3)[GROUPS].T
    scaled = (one_hot[2] - 0.3) / 0.7
    found = find_columns(inputs_of(NOISE, *one_hot, scaled, np.ones(8)), None, None)
    assert found.places == found.names == [1, 2, 3, 4]
    assert sorted(found.values[:, :3].tolist()) == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    np.testing.assert_allclose(np.unique(found.values[:, 3]), [-0.3 / 0.7, 1], rtol=1e-6)


def test_a_column_that_tells_one_of_two_attributes_has_two_values():
    # Groups 0 and 1 share the first attribute.
    found = find_columns(inputs_of(NOISE, GROUPS == 2), None, ["noise", "sex"])
    assert found.names == ["sex"]
    assert found.values.tolist() == [[0], [1]]


def test_rows_without_a_group_do_not_count():
    groups = np.where(np.arange(8) == 7, -1, GROUPS)
    column = np.where(np.arange(8) == 7, 9.0, GROUPS)
    assert find_columns(inputs_of(NOISE, column, groups=groups), None, None).places == [1]
    assert find_columns(inputs_of(NOISE, column), None, None).places == []


def test_a_named_column_may_vary_within_a_group_whose_mean_it_then_takes():
    column = np.array([0, 5, 9, 0, 6, 9, 9, 0.0])
    found = find_columns(inputs_of(NOISE, column), "c", ["noise", "c"])
    assert found.values.tolist() == [[0], [5.5], [9]]
    assert find_columns(inputs_of(NOISE, column), -1, None).places == [1]


def test_f_statistics_are_those_of_an_analysis_of_variance():
    rng = np.random.default_rng(0)
    groups = rng.integers(3, size=60)
    X = rng.normal(size=(60, 2)) + [[0.4, 0.0]] * groups[:, None]
    moments = measure_columns(inputs_of(*X.T, groups=groups).rows, 3, 2)
    expected = [f_oneway(*(column[groups == g] for g in range(3))).statistic for column in X.T]
    np.testing.assert_allclose(moments.f_statistics(), expected, rtol=1e-10)


def test_wrong_columns_are_refused_by_name():
    inputs = inputs_of(NOISE, GROUPS, np.ones(8))
    with pytest.raises(ValueError, match=r"positions \[0\] do not vary with the group"):
        find_columns(inputs, ["noise", "sex"], ["noise", "sex", "one"])
    with pytest.raises(ValueError, match=r"positions \[2\] do not vary with the group"):
        find_columns(inputs, 2, None)
    with pytest.raises(ValueError, match=r"'sx', but X has the columns.*Did you mean 'sex'"):
        find_columns(inputs, "sx", ["noise", "sex", "one"])
    with pytest.raises(ValueError, match="has 3, but X has 3 columns"):
        find_columns(inputs, 3, None)
    with pytest.raises(ValueError, match="has True, but X has 3 columns"):
        find_columns(inputs, True, None)


def test_the_squared_effect_is_the_mean_over_pairs_of_half_the_squared_distance():
    shares = torch.softmax(torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(0)), dim=2)
    pairs = [
        (one - other).square().sum(dim=1) / 2 for one, other in combinations(shares.double(), 2)
    ]
    torch.testing.assert_close(squared_effects(shares.double()), torch.stack(pairs).mean(dim=0))
    two = torch.tensor([[[0.2, 0.8]], [[0.5, 0.5]]])
    torch.testing.assert_close(squared_effects(two), torch.tensor([0.09]))


def logistic_task(margin=0.4):
    """Make a task of a linear network in double precision; column 3 holds the group."""
    net = nn.Linear(5, 2).requires_grad_(False)
    task = small_task(net, output_layer="", margin=margin)
    net.double()
    return replace(task, data=replace(task.data, dtype=torch.float64))


COLUMNS = GroupColumns([3], [3], np.array([[-1.0], [0.5], [2.0]]))


def by_hand(weight, bias, X, margin):
    """Compute the mean squared effect and its gradient, row by row and pair by pair."""
    total, slope = 0.0, np.zeros_like(weight)
    pairs = list(combinations(COLUMNS.values[:, 0], 2))
    for row in X:
        for one, other in pairs:
            made = []
            for value in (one, other):
                x = row.copy()
                x[3] = value
                logit = (weight[1] - weight[0]) @ x + bias[1] - bias[0] - margin
                made.append((1 / (1 + np.exp(-logit)), x))
            (p, x), (q, z) = made
            total += (p - q) ** 2
            change = 2 * (p - q) * (p * (1 - p) * x - q * (1 - q) * z)
            slope += np.stack([-change, change])
    return total / len(X) / len(pairs), slope / len(X) / len(pairs)


def test_loss_gradient_and_measure_are_those_of_a_closed_form():
    task = logistic_task()
    X = task.data.editing.X[:].double()
    effect = DirectEffect(task, COLUMNS)
    leaves = {n: p.detach().clone().requires_grad_() for n, p in task.module.named_parameters()}
    ones = torch.ones(len(X), dtype=torch.float64)
    batch = Batch(X, task.data.editing.y, task.data.editing.groups, ones, ones)
    loss = effect.loss(leaves, torch.zeros(1).double(), batch, weight=3.0)
    loss.backward()
    value, slope = by_hand(*(p.detach().numpy() for p in leaves.values()), X.numpy(), 0.4)
    np.testing.assert_allclose(float(loss.detach()), 3 * value, rtol=1e-10)
    np.testing.assert_allclose(leaves["weight"].grad, 3 * slope, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(effect.measure({}), value**0.5, rtol=1e-6)
    assert torch.equal(X, task.data.editing.X[:].double())


def test_rows_count_by_their_true_shares():
    task = logistic_task()
    X, few = task.data.editing.X[:].double(), slice(0, 2)
    effect, ones = DirectEffect(task, COLUMNS), torch.ones(2, dtype=torch.float64)
    parts = X[few], task.data.editing.y[few], task.data.editing.groups[few], ones
    alone = [
        effect.loss(
            {}, ones, Batch(X[k : k + 1], *(p[k : k + 1] for p in parts[1:]), ones[:1]), weight=1.0
        )
        for k in (0, 1)
    ]
    both = effect.loss({}, ones, Batch(*parts, torch.tensor([0.5, 1.5]).double()), weight=1.0)
    torch.testing.assert_close(both, (0.5 * alone[0] + 1.5 * alone[1]) / 2)


class LastWins(last_wins(DirectEffectFineTuner)):
    """Chooses its last edit."""


def with_group(rows):
    """Put the group itself into the shortcut's column."""
    X = rows.X.copy()
    X[:, 2] = rows.group
    return rows._replace(X=X)


def test_the_effect_of_the_chosen_network_is_an_attribute_and_proxies_are_named():
    rows = with_group(table())
    frame = pd.DataFrame(rows.X, columns=["a", "b", "sex", "d", "e", "f"])
    network = trained(mlp(), rows)
    editor = LastWins(network, max_steps=40, effect_weight=30.0, learning_rate=0.01, random_state=0)
    editor.fit(frame, rows.y, sensitive_features=rows.group)
    assert editor.group_columns_ == ["sex"]
    history = editor.history_
    assert editor.direct_effect_ == history.loc[history["chosen"], "direct_effect"].item()
    assert editor.direct_effect_ < 0.5 * history["direct_effect"].iloc[0]
    assert any("['sex']" in note and "proxies" in note for note in editor.report_.notes)
    named = LastWins(network, max_steps=3, group_columns="sex", random_state=0)
    assert named.fit(frame, rows.y, sensitive_features=rows.group).group_columns_ == ["sex"]


@pytest.mark.parametrize("rows", [table(), images()], ids=["table", "images"])
def test_without_such_a_column_it_is_a_plain_tuning_and_a_note_says_so(rows):
    network = trained(
        mlp() if rows.X.ndim == 2 else nn.Sequential(nn.Flatten(), nn.Linear(144, 2)), rows
    )
    editors = [
        LastWins(network, max_steps=3, effect_weight=weight, random_state=0).fit(
            rows.X, rows.y, sensitive_features=rows.group
        )
        for weight in (None, 100.0)
    ]
    for editor in editors:
        assert editor.group_columns_ == []
        assert editor.direct_effect_ == 0
        assert any("No column of X tells the group" in note for note in editor.report_.notes)
    states = [editor.module_.state_dict() for editor in editors]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_named_columns_of_images_are_refused():
    rows = images()
    editor = DirectEffectFineTuner(group_columns=0, max_steps=3)
    with pytest.raises(ValueError, match=r"X are images of the shape \(4, 6, 6\)"):
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)


def test_a_teacher_is_imitated_if_asked_for():
    rows = with_group(table())
    editor = LastWins(
        trained(mlp(), rows), objective="teacher", n_teachers=1, max_steps=3, random_state=0
    )
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert editor.objective_ == "teacher"
    assert "alpha" in editor.history_
    with pytest.raises(ValueError, match=r"gap_weight=1\.0 is the weight of the soft gap"):
        editor.set_params(gap_weight=1.0).fit(rows.X, rows.y, sensitive_features=rows.group)


def test_on_a_shortcut_by_the_group_s_column_the_worst_cell_gains_by_the_penalty():
    network = trained(mlp(), with_group(shortcut_rows(1500, 0.95, seed=1)), n_steps=150)
    rows = with_group(shortcut_rows(1200, 0.95, seed=2))
    new = with_group(shortcut_rows(4000, 0.5, seed=3))
    found = {}
    for weight in (0.0, 10.0):
        editor = DirectEffectFineTuner(
            network, effect_weight=weight, learning_rate=0.01, max_steps=120, random_state=0
        )
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
        found[weight] = worst_cell(editor, new)
    assert found[10.0] >= found[0.0] + 0.05
