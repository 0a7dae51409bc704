"""Networks of the (label, group) cells: where they start, what moves, where they stop."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fairsvd import MLP, BlindPostProcessor, ConvNet
from fairsvd._rng import torch_generator
from fairsvd.arrays import LabelledRows, as_batches
from fairsvd.exceptions import NetworkError
from fairsvd.objective import make_judge
from fairsvd.phases import JOINTS, count_teachers, train_cells
from fairsvd.phases._cells import MAX_EPOCHS, PATIENCE, CellNetwork, CellTask, _build
from helpers import IGNORE_SMALL_DATA, fingerprint, global_state, mlp, table, trained
from tasks import CONSTRAINT, small_task

pytestmark = [pytest.mark.filterwarnings(each) for each in IGNORE_SMALL_DATA]


def task_of(net, *, n_editing=96, n_validation=60, kind="logits", layer="4"):
    """Noisy editing rows, and a judge of other validation rows and of some editing rows."""
    rng = np.random.default_rng(0)
    n = n_editing + n_validation
    y, groups = rng.integers(2, size=n), rng.integers(2, size=n)
    X = rng.normal(size=(n, 6)).astype(np.float32)
    X[:, :2] += np.stack([y, groups], axis=1)
    X, y, groups = torch.as_tensor(X), torch.as_tensor(y), torch.as_tensor(groups)
    judged = np.r_[n_editing:n, :30]
    parts = np.repeat([0, 1], [n_validation, 30])
    judge = make_judge(y[judged].numpy(), groups[judged].numpy(), parts, 2, 2, CONSTRAINT)
    editing = LabelledRows(as_batches(X[:n_editing]), y[:n_editing], groups[:n_editing])
    task = small_task(
        unlabelled=as_batches(X),
        editing=editing,
        judged=as_batches(X[judged]),
        judge=judge,
        untouched=torch.zeros(len(judged), 2),
        kind=kind,
        output_layer=layer,
    )
    return replace(task, module=(mlp() if net is None else net).requires_grad_(False))


def seed(number=0):
    return np.random.SeedSequence(number)


class Counted(nn.Sequential):
    """Counts the rows that it sees while gradients are on."""

    rows = 0

    def forward(self, X):
        Counted.rows += len(X) if torch.is_grad_enabled() else 0
        return super().forward(X)


def epochs_by_hand(task, joint, number, *, n_epochs=MAX_EPOCHS, batch_size=64, rate_at=None):
    """Train to the end with the same seeds: the state and validation loss before and after each.

    ``rate_at`` maps the share of the steps that were made to the learning rate.
    """
    first, second = (np.random.default_rng(each) for each in seed(number).spawn(2))
    network = _build(CellTask(task, joint, seed(number)), first)
    moving = network.network[4] if joint == "head" else network
    optimizer = torch.optim.Adam(moving.parameters(), lr=JOINTS[joint])
    generator, editing = torch_generator(second), task.data.editing
    judge, held = task.data.judge, task.data.judge.parts == 0
    X, codes = task.data.judged[np.flatnonzero(held)], (2 * judge.y + judge.groups)[held]

    def measure():
        with torch.no_grad():
            loss = nn.functional.cross_entropy(network(X).double(), torch.as_tensor(codes))
        return float(loss), {k: v.clone() for k, v in network.state_dict().items()}

    record, n_steps = [measure()], 0
    for _ in range(n_epochs):
        for rows in torch.randperm(len(editing), generator=generator).split(batch_size):
            if rate_at is not None:
                share = n_steps / (n_epochs * -(-len(editing) // batch_size))
                optimizer.param_groups[0]["lr"] = rate_at(share)
            n_steps += 1
            logits = network(editing.X[rows.numpy()])
            optimizer.zero_grad()
            cells = 2 * editing.y[rows] + editing.groups[rows]
            nn.functional.cross_entropy(logits, cells).backward()
            optimizer.step()
        record.append(measure())
    return record


@pytest.mark.parametrize(("joint", "rate"), [("refit", 0.01), ("finetune", 0.01), ("head", 0.03)])
def test_the_epoch_of_the_least_validation_loss_is_kept(monkeypatch, joint, rate):
    """Rates at which 40 epochs over-fit: the network of the last epoch would be a bad one."""
    monkeypatch.setitem(JOINTS, joint, rate)
    task = task_of(Counted(*trained(mlp(width=16), table(), 100)))
    losses, states = zip(*epochs_by_hand(task, joint, 0), strict=True)
    best = next(
        i
        for i in range(len(losses))
        if min(losses[: i + PATIENCE + 1]) == min(losses[: i + 1]) == losses[i]
    )
    assert 0 < best < MAX_EPOCHS - PATIENCE
    assert losses[-1] > losses[best] + 0.02
    Counted.rows = 0
    (network,) = train_cells(task, joint, [seed(0)])
    assert Counted.rows == 96 * (best + PATIENCE)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, states[best][name])


@pytest.mark.parametrize("joint", ["refit", "finetune"])
def test_many_rows_of_a_table_are_passed_over_eight_times_at_a_falling_rate(joint):
    task = task_of(None, n_editing=5000, n_validation=400)
    losses, states = zip(
        *epochs_by_hand(
            task,
            joint,
            0,
            n_epochs=8,
            batch_size=256,
            rate_at=lambda share: 3e-3 * (1 + np.cos(np.pi * share)) / 2,
        ),
        strict=True,
    )
    (network,) = train_cells(task, joint, [seed(0)])
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, states[int(np.argmin(losses))][name])


@pytest.mark.parametrize(
    ("asked", "n_rows", "expected"), [(None, 4999, 2), (None, 5000, 1), (3, 5000, 3)]
)
def test_many_rows_of_a_table_have_one_teacher(asked, n_rows, expected):
    assert count_teachers(asked, task_of(None, n_editing=n_rows).data) == expected


def test_a_start_that_no_epoch_improves_is_kept(monkeypatch):
    monkeypatch.setitem(JOINTS, "head", 100.0)
    task = task_of(None)
    (network,) = train_cells(task, "head", [seed(0)])
    start = _build(CellTask(task, "head", seed(0)), np.random.default_rng(seed(0).spawn(2)[0]))
    for name, value in start.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)


def weights(network, skip="network.4."):
    return {k: v for k, v in network.state_dict().items() if not k.startswith(skip)}


def given(task):
    return {f"network.{k}": v for k, v in task.module.state_dict().items()}


def test_a_head_leaves_every_other_weight_alone():
    task = task_of(None)
    (network,) = train_cells(task, "head", [seed(0)])
    assert network.network[4].weight.shape == (4, 8)
    for name, value in weights(network).items():
        assert torch.equal(value, given(task)[name])


def test_fine_tuning_starts_from_the_given_weights_and_refitting_does_not(monkeypatch):
    task, other = task_of(None), task_of(trained(mlp(), table()))
    for each in ("finetune", "refit"):
        monkeypatch.setitem(JOINTS, each, 0.0)
    (tuned,), (anew,) = (train_cells(task, joint, [seed(0)]) for joint in ("finetune", "refit"))
    for name, value in weights(tuned).items():
        assert torch.equal(value, given(task)[name])
        assert not torch.equal(value, anew.state_dict()[name])
    monkeypatch.undo()
    one, two = (train_cells(each, "refit", [seed(0)])[0] for each in (task, other))
    assert fingerprint(one) == fingerprint(two)
    (tuned,) = train_cells(task, "finetune", [seed(0)])
    assert all(not torch.equal(v, given(task)[k]) for k, v in weights(tuned).items())


@pytest.mark.parametrize("joint", JOINTS)
def test_seeds_give_networks_and_nothing_else_is_moved(joint):
    task = task_of(trained(mlp(), table()))
    module, state = fingerprint(task.module), global_state()
    one, same, other = train_cells(task, joint, [seed(0), seed(0), seed(1)])
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
    assert (fingerprint(task.module), global_state()) == (module, state)
    for network in (one, other):
        assert not any(part.training for part in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())


KINDS = {
    "logits": mlp(),
    "one_logit": mlp(1),
    "probabilities": mlp(2, nn.Softmax(1)),
    "one_probability": mlp(1, nn.Sigmoid()),
}


@pytest.mark.parametrize("joint", JOINTS)
@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_every_kind_learn_the_cells(kind, joint):
    task = task_of(copy.deepcopy(KINDS[kind]), n_editing=600, kind=kind)
    (network,) = train_cells(task, joint, [seed(0)])
    X, cells = task.data.editing.X[:], task.data.editing.cells(2)
    logits = network(X)
    assert logits.shape == (600, 4)
    assert float(nn.functional.cross_entropy(logits, cells)) < np.log(4) - 0.03


def test_a_cell_network_reads_probabilities_as_logits():
    X = torch.randn(9, 4)
    many = CellNetwork(nn.Softmax(1), "probabilities", None)(X)
    torch.testing.assert_close(many.softmax(dim=1), X.softmax(dim=1))
    torch.testing.assert_close(CellNetwork(nn.Sigmoid(), "one_probability", None)(X), X)
    torch.testing.assert_close(CellNetwork(nn.Identity(), "one_logit", None)(X), X)
    sure = torch.tensor([[0.0, 1.0]])
    for kind in ("probabilities", "one_probability"):
        assert CellNetwork(nn.Identity(), kind, None)(sure).isfinite().all()


class Scaled(nn.Module):
    """A layer with a parameter that it cannot initialise."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, X):
        return X * self.scale


def test_an_architecture_that_cannot_begin_anew_gives_way_to_the_packages():
    net = nn.Sequential(Scaled(), *mlp())
    task = task_of(net, layer="5")
    (anew,), (tuned,) = (train_cells(task, joint, [seed(0)]) for joint in ("refit", "finetune"))
    assert isinstance(anew.network, MLP)
    assert anew.network.output.out_features == 4
    assert isinstance(tuned.network[0], Scaled)
    X = torch.zeros(96, 3, 5, 5)
    shown = LabelledRows(as_batches(X), task.data.editing.y, task.data.editing.groups)
    images = replace(task, data=replace(task.data, editing=shown))
    network = _build(CellTask(images, "refit", seed(0)), np.random.default_rng(0))
    assert isinstance(network.network, ConvNet)
    assert network(X[:2]).shape == (2, 4)


def test_a_network_that_is_one_linear_layer_becomes_another():
    task = task_of(nn.Linear(6, 2), layer="")
    for joint in JOINTS:
        (network,) = train_cells(task, joint, [seed(0)])
        assert network.network.weight.shape == (4, 6)


def test_the_logits_must_come_from_a_linear_layer():
    with pytest.raises(NetworkError, match=r"'1'.*Conv1d"):
        train_cells(
            task_of(nn.Sequential(nn.ReLU(), nn.Conv1d(1, 1, 1)), layer="1"), "head", [seed()]
        )


def test_without_a_layer_for_the_cells_only_a_refit_has_a_network():
    """One logit as a vector: four outputs would become four times as many rows."""
    flat = task_of(mlp(1, nn.Flatten(0)), layer="4", kind="one_logit")
    (network,) = train_cells(flat, "refit", [seed()])
    assert isinstance(network.network, MLP)
    with pytest.raises(NetworkError, match=r"'4'.*a Linear, cannot be replaced"):
        train_cells(flat, "finetune", [seed()])


def test_the_packages_own_network_standardises_its_columns():
    task = task_of(nn.Sequential(nn.Linear(6, 2), nn.Flatten(0)), layer="0")
    (network,) = train_cells(task, "refit", [seed()])
    X = task.data.editing.X[:]
    assert torch.allclose(network.network.mean, X.mean(0), atol=1e-6)
    assert torch.allclose(network.network.scale, X.std(0, correction=0), atol=1e-6)


def test_a_folder_of_results_saves_the_training_and_changes_nothing(tmp_path):
    rows = table(200)
    net = Counted(*trained(mlp(), rows))

    def fit(**settings):
        Counted.rows = 0
        editor = BlindPostProcessor(net, random_state=0, **settings)
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
        return editor.predict_proba(rows.X), Counted.rows

    plain, unsaved = fit()
    first, trained_on = fit(memory=str(tmp_path))
    entries = sorted(tmp_path.rglob("*.entry"))
    again, passes = fit(memory=str(tmp_path))
    assert sorted(tmp_path.rglob("*.entry")) == entries
    assert trained_on == unsaved > 1000 > 100 > passes
    assert np.array_equal(plain, first)
    assert np.array_equal(first, again)
    # Two networks of another origin are two more entries.
    _, passes = fit(memory=str(tmp_path), joint="head")
    assert passes > 1000
    assert len(list(tmp_path.rglob("*.entry"))) == len(entries) + 2
