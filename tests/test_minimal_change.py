"""Minimal change: which rows are counter-examples, when it stops, what it penalises and gains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fairsvd import MinimalChangeTuner
from fairsvd.intraprocessing._counter_examples import choose_examples, leads
from fairsvd.intraprocessing._minimal_change import ChangePath, measure_change, run_change
from fairsvd.objective import shift_logits
from helpers import IGNORE_SMALL_DATA, last_wins, mlp, table, trained
from shortcuts import shortcut_network, shortcut_rows, worst_cell
from tasks import small_task

pytestmark = [
    # Networks are trained.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]


class LastWins(last_wins(MinimalChangeTuner)):
    """Chooses its last edit."""


def cells_and_errors(task):
    """Compute each editing row's cell and whether it is wrong at the operating threshold."""
    data = task.data
    logits = task.module(data.editing.X[:])
    predicted = (logits[:, 1] - logits[:, 0] > data.margin).long()
    return (data.editing.y * data.n_groups + data.editing.groups).numpy(), (
        predicted != data.editing.y
    ).numpy()


def test_the_examples_are_errors_of_each_class_s_worst_group():
    task = small_task(n_rows=400)
    logits = task.module(task.data.editing.X[:])
    margin = float((logits[:, 1] - logits[:, 0]).median())
    task = replace(task, data=replace(task.data, margin=margin))
    cells, wrong = cells_and_errors(task)
    shares = np.array([wrong[cells == k].mean() for k in range(4)]).reshape(2, 2)
    chosen = choose_examples(task, 10, "worst_cells", np.random.default_rng(0))
    assert wrong[chosen].all()
    expected = {2 * y + int(shares[y].argmax()) for y in (0, 1)}
    assert set(cells[chosen].tolist()) == expected
    assert len(set(chosen.tolist())) == len(chosen) == 10
    one = choose_examples(task, 1, "worst_cells", np.random.default_rng(0))
    assert cells[one].tolist() == [int(shares.argmax())]


def test_where_nothing_is_wrong_the_nearest_rows_stand_in():
    task = small_task(n_rows=60)
    # The threshold is beyond all margins: every row counts as class 0, so class 0 has no error.
    task = replace(task, data=replace(task.data, margin=50.0))
    chosen = choose_examples(task, 6, "worst_cells", np.random.default_rng(0))
    y = task.data.editing.y.numpy()
    assert np.bincount(y[chosen]).tolist() == [3, 3]
    logits = task.module(task.data.editing.X[:])
    margin = (logits[:, 1] - logits[:, 0]).numpy()
    # Both groups of class 0 are without errors, so the first stands for its worst.
    inside = (y == 0) & (task.data.editing.groups.numpy() == 0)
    nearest = np.sort(margin[inside])[-3:]
    np.testing.assert_array_equal(np.sort(margin[chosen[y[chosen] == 0]]), nearest)


def test_random_examples_are_rows_of_any_kind():
    task = small_task(n_rows=90)
    chosen = choose_examples(task, 40, "random", np.random.default_rng(0))
    assert len(np.unique(chosen)) == 40
    assert set(np.unique(cells_and_errors(task)[0][chosen])) == {0, 1, 2, 3}
    assert len(choose_examples(task, 400, "random", np.random.default_rng(0))) == 90


def test_leads_are_those_over_the_best_other_class():
    logits = torch.tensor([[1.0, 4.0, 2.0], [1.0, 4.0, 2.0]])
    assert leads(logits, torch.tensor([1, 2])).tolist() == [2, -2]


def test_norms_are_those_of_all_numbers_together_and_have_a_slope_at_zero():
    changes = {"a": torch.tensor([[3.0, -4.0]]), "b": torch.tensor([12.0])}
    assert float(measure_change(changes, "l1")) == 19
    assert float(measure_change(changes, "l2")) == 13
    assert float(measure_change(changes, "both")) == 32
    for norm in ("l1", "l2", "both"):
        leaf = torch.zeros(3, requires_grad=True)
        measure_change({"a": leaf}, norm).backward()
        assert torch.equal(leaf.grad, torch.zeros(3))


def path_of(task, examples, **settings):
    defaults = {"norm": "l2", "weight": 0.0, "delay": 5, "rate": 0.02, "n_steps": 300}
    return ChangePath.of(task, examples=examples, attributes={}, **{**defaults, **settings})


def test_the_loss_is_the_entropy_at_the_threshold_plus_the_weighted_norm():
    task, examples = small_task(), np.array([3, 8, 40])
    rng = np.random.default_rng(0)
    changes = {
        name: torch.as_tensor(0.1 * rng.normal(size=p.shape), dtype=torch.float32)
        for name, p in task.module.named_parameters()
    }
    value = path_of(task, examples, norm="both", weight=0.3).loss(changes, right := [])(None)
    net = task.module.double()
    flat = torch.cat([c.flatten() for c in changes.values()]).double()
    state = {n: p + changes[n].double() for n, p in net.named_parameters()}
    X, y = task.data.editing.X[:][examples].double(), task.data.editing.y[examples]
    logits = shift_logits(torch.func.functional_call(net, state, (X,)), task.data.margin)
    picked = torch.log_softmax(logits, dim=1)[torch.arange(3), y]
    expected = -picked.mean() + 0.3 * (flat.abs().sum() + flat.square().sum().sqrt())
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    assert right == [float((logits.argmax(dim=1) == y).double().mean())]


@pytest.mark.parametrize("delay", [0, 7])
def test_it_stops_a_delay_after_all_examples_are_right(delay):
    task = small_task(n_rows=200)
    examples = choose_examples(task, 4, "worst_cells", np.random.default_rng(0))
    path = path_of(task, examples, delay=delay)
    last = list(run_change(path))[-1]
    assert last.params["right"] == 1
    # Without a stop: not yet right one step earlier.
    first = last.params["step"] - delay
    for n_steps, all_right in ((first, True), (first - 1, False)):
        capped = list(run_change(path_of(task, examples, n_steps=n_steps, delay=300)))[-1]
        assert (capped.params["right"] == 1) == all_right
    X, y = task.data.editing.X[:][examples], task.data.editing.y[examples]
    logits = torch.func.functional_call(task.module, dict(last.state), (X,))
    assert bool((leads(shift_logits(logits, task.data.margin), y) > 0).all())


def test_a_larger_weight_changes_less_and_the_attribute_says_how_much():
    rows, changes = table(), []
    network = trained(mlp(), rows)
    before = network.state_dict()
    for weight in (0.0, 0.3):
        editor = LastWins(
            network, n_examples=8, change_weight=weight, delay=200, max_steps=60, random_state=0
        )
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
        after = editor.module_.state_dict()
        moved = torch.cat([(after[n] - v).flatten() for n, v in before.items()])
        assert editor.change_ == pytest.approx(float(moved.norm()), rel=1e-4)
        changes.append(editor.change_)
    assert 0 < changes[1] < 0.8 * changes[0]


def test_one_row_is_enough():
    rows = table()
    editor = LastWins(trained(mlp(), rows), n_examples=1, change_weight=0.01, random_state=0)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert editor.examples_.shape == (1,)
    assert editor.history_["right"].iloc[-1] == 1


def test_on_a_shortcut_the_worst_cell_gains_by_the_choice_of_the_examples():
    network, rows = shortcut_network(), shortcut_rows(1200, 0.95, seed=2)
    new = shortcut_rows(4000, 0.5, seed=3)
    found = {}
    for examples in ("worst_cells", "random"):
        editor = MinimalChangeTuner(
            network, examples=examples, change_weight=0.01, learning_rate=2e-3, random_state=0
        )
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
        found[examples] = worst_cell(editor, new)
    assert found["worst_cells"] >= found["random"] + 0.05
