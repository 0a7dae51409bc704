"""The teacher and its lessons, batches of all rows, and the loss that imitates."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from torch import nn

from fairsvd.arrays import LabelledRows, as_batches
from fairsvd.objective import FairRule, imitation_loss, margin_of_threshold
from fairsvd.objective._rule import ALPHAS
from fairsvd.phases import Teacher, cell_probabilities, find_teacher, judge_rules, make_lessons
from fairsvd.phases._teacher import MOST_OF_ANOTHER, STEEPNESS, Lessons
from fairsvd.training import RowBatches, tune
from helpers import global_state
from tasks import CONSTRAINT, small_task

CPU = torch.device("cpu")


def row_batches(n_rows=23, batch_size=5, seed=0, dtype=torch.float64):
    """Batches of rows whose value is their number, label and group its last two digits."""
    numbers = torch.arange(n_rows)
    rows = LabelledRows(as_batches(numbers[:, None].double()), numbers % 10, numbers // 10)
    generator = torch.Generator().manual_seed(seed)
    return RowBatches(rows, batch_size=batch_size, generator=generator, device=CPU, dtype=dtype)


@pytest.mark.parametrize(("n_rows", "batch_size", "sizes"), [(23, 5, [5, 5, 5, 5, 3]), (4, 9, [4])])
def test_every_pass_has_each_row_once_in_a_new_order(n_rows, batch_size, sizes):
    batches = row_batches(n_rows, batch_size)
    assert batches.per_epoch == len(sizes)
    drawn, epochs = iter(batches), []
    for _ in range(4):
        epoch = list(itertools.islice(drawn, len(sizes)))
        assert [len(batch.X) for batch in epoch] == sizes
        epochs.append(torch.cat([batch.X[:, 0] for batch in epoch]).long().tolist())
    assert all(sorted(epoch) == list(range(n_rows)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert list(range(n_rows)) not in epochs


def test_labels_and_groups_stay_with_their_rows_and_weights_are_1():
    for batch in itertools.islice(row_batches(dtype=torch.float32), 9):
        assert torch.equal(batch.groups * 10 + batch.y, batch.X[:, 0].long())
        assert batch.X.dtype == batch.loss_weights.dtype == torch.float32
        assert batch.loss_weights.tolist() == batch.gap_weights.tolist() == [1] * len(batch.X)
        assert batch.targets is None


def test_orders_come_from_the_generator_alone():
    before = global_state()
    orders = [
        torch.cat([batch.X for batch in itertools.islice(row_batches(seed=seed), 10)])
        for seed in (0, 0, 1)
    ]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert global_state() == before


GOALS = [np.array([1.0, -2.0]), np.array([0.5]), np.array([3.0, 0.1, -0.4])]


def tuned(n_steps=7, **options):
    """Pull three parameters to their goals; the values after every step."""
    leaves = [torch.zeros(len(goal), dtype=torch.float64, requires_grad=True) for goal in GOALS]

    def loss(_):
        parts = zip(leaves, GOALS, strict=True)
        return sum((leaf - torch.as_tensor(goal)).square().sum() for leaf, goal in parts)

    settings = {"n_steps": n_steps, "every": 1, **options}
    return [
        np.concatenate([leaf.detach().numpy() for leaf in leaves])
        for _ in tune(loss, leaves, itertools.repeat(None), **settings)
    ]


def adam(rates, n_steps=7, cosine=True):
    """The same in numpy: Adam with a rate for each value, falling along half a cosine wave."""
    goal, path = np.concatenate(GOALS), []
    value, first, second = (np.zeros_like(goal) for _ in range(3))
    for step in range(1, n_steps + 1):
        slope = 2 * (value - goal)
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope**2
        left = 0.5 + 0.5 * np.cos(np.pi * (step - 1) / n_steps) if cosine else 1.0
        unbiased = first / (1 - 0.9**step), second / (1 - 0.999**step)
        value = value - left * rates * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
        path.append(value)
    return path


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("rates", [0.1, [0.1, 0.02, 0.1], [0.3, 0.02, 0.05]], ids=str)
def test_rates_of_parameters_and_their_fall_are_those_of_adam_by_hand(schedule, rates):
    each = rates if isinstance(rates, list) else [rates] * 3
    by_value = np.repeat(each, [len(goal) for goal in GOALS])
    found = tuned(learning_rate=rates, schedule=schedule)
    wanted = adam(by_value, cosine=schedule == "cosine")
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_a_cosine_begins_at_the_whole_rate_and_nearly_ends_at_0():
    options = {"optimizer": "sgd", "momentum": 0.0, "n_steps": 4, "learning_rate": [0.1] * 3}
    path = np.array(tuned(schedule="cosine", **options))[:, 0]
    shares = [1.0, 0.5 + np.sqrt(0.125), 0.5, 0.5 - np.sqrt(0.125)]
    left = np.cumprod([1 - 0.2 * share for share in shares])  # of the way to the goal at 1
    np.testing.assert_allclose(1 - path, left)


def test_a_rate_is_needed_for_every_parameter():
    with pytest.raises(ValueError, match="zip"):
        tuned(learning_rate=[0.1, 0.2])


def test_the_loss_of_imitation_by_hand():
    """Leads of 2 and -1, less a margin of 1 and doubled: 2 and -4."""
    logits = torch.tensor([[1.0, 3.0], [0.5, -0.5]], dtype=torch.float64)
    targets = torch.tensor([[0.25, 0.75], [1.0, 0.0]], dtype=torch.float64)
    found = imitation_loss(logits, targets, margin=1.0, sharpness=2.0)
    first = 0.25 * np.log1p(np.exp(2)) + 0.75 * np.log1p(np.exp(-2))
    assert float(found) == pytest.approx((first + np.log1p(np.exp(-4))) / 2, abs=1e-14)


@given(st.integers(0, 99), st.integers(2, 4), st.floats(-2, 2), st.floats(0.1, 5))
def test_the_loss_of_imitation_equals_the_formula(seed, n_classes, margin, sharpness):
    rng = np.random.default_rng(seed)
    z, t = rng.normal(size=(2, 30, n_classes))
    t, margin = softmax(t, axis=1), margin if n_classes == 2 else 0.0
    found = imitation_loss(*map(torch.as_tensor, (z, t)), margin=margin, sharpness=sharpness)
    shifted = z - margin * (np.arange(n_classes) == 1)
    wanted = -(t * log_softmax(sharpness * shifted, axis=1)).sum(axis=1).mean()
    assert float(found) == pytest.approx(wanted, abs=1e-12)
    # A network that answers as the teacher does has the least loss: the targets' entropy.
    same = imitation_loss(torch.as_tensor(np.log(t)), torch.as_tensor(t), margin=0.0)
    assert float(same) == pytest.approx(-(t * np.log(t)).sum(axis=1).mean())


def teacher_of(n_features, n_classes=3, n_groups=2, n_networks=2, dtype=torch.float64):
    """A teacher of random linear networks and a random rule."""
    rng = np.random.default_rng(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = n_features, n_classes * n_groups
        networks = [
            nn.Sequential(nn.Flatten(), nn.Linear(*shape, dtype=dtype)) for _ in range(n_networks)
        ]
    return Teacher(networks, FairRule(rng.normal(size=(shape[1], n_classes)), 0.1))


@pytest.mark.parametrize("n_networks", [1, 3])
def test_a_teacher_answers_by_the_rule_on_the_mean_of_the_networks(n_networks):
    teacher = teacher_of(5, n_networks=n_networks)
    X = torch.randn(40, 5, dtype=torch.float64)
    layers = [network[1] for network in teacher.networks]
    cells = [softmax((X @ each.weight.T + each.bias).detach().numpy(), axis=1) for each in layers]
    scores = np.mean(cells, axis=0) @ teacher.rule.weights
    found = teacher.probabilities(X)
    np.testing.assert_allclose(found, softmax(8 * scores, axis=1), rtol=1e-9)
    assert STEEPNESS == 8
    assert not found.requires_grad
    assert np.array_equal(
        found.argmax(dim=1), teacher.rule.scores(np.mean(cells, axis=0)).argmax(1)
    )


def lessons_of(X, teacher, *, batch_size=4, ahead=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = {"batch_size": batch_size, "ahead": ahead}
    rows = as_batches(X).astype(torch.float64)
    return Lessons(rows, teacher, **sizes, generator=generator, device=CPU, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(30,), (1, 5, 6)], ids=["table", "images"])
def test_lessons_are_rows_drawn_at_most_half_way_to_another(shape):
    """Row i is 1 in column i alone, so that a mixture shows its origins and their shares."""
    lessons = iter(lessons_of(np.eye(30).reshape(30, *shape), teacher_of(30), ahead=3))
    shares = []
    for _ in range(20):
        epoch = list(itertools.islice(lessons, 8))
        assert [len(batch.X) for batch in epoch] == [4] * 7 + [2]
        X = torch.cat([batch.X for batch in epoch])
        assert X.shape == (30, *shape)
        flat = X.reshape(30, 30)
        assert int((flat > 0).sum(dim=1).max()) == 2
        torch.testing.assert_close(flat.sum(dim=1), torch.ones(30, dtype=torch.float64))
        assert float(flat.amax(dim=1).min()) >= 1 - MOST_OF_ANOTHER == 0.5
        own = flat.argmax(dim=1).tolist()
        assert sorted(own) == list(range(30))
        assert own != list(range(30))
        shares.extend((1 - flat.amax(dim=1)).tolist())
        assert len(set(shares[-30:])) > 15  # each row's own
    # A row that is mixed with itself stays whole; all others' shares are even in [0, .5].
    mixed = np.array([share for share in shares if share > 0])
    assert 0.7 * len(shares) < len(mixed) < len(shares)
    np.testing.assert_allclose(
        np.quantile(mixed, [0.25, 0.5, 0.75]), [0.125, 0.25, 0.375], atol=0.05
    )


def test_lessons_carry_the_teachers_answers_for_the_mixtures():
    teacher = teacher_of(5)
    X = np.random.default_rng(0).normal(size=(30, 5))
    before = global_state()
    for batch in itertools.islice(lessons_of(X, teacher), 12):
        torch.testing.assert_close(batch.targets, teacher.probabilities(batch.X))
        assert torch.equal(batch.y, batch.targets.argmax(dim=1))
        assert batch.groups.unique().tolist() == [-1]
        assert batch.loss_weights.tolist() == batch.gap_weights.tolist() == [1] * len(batch.X)
    one, same, other = (next(iter(lessons_of(X, teacher, seed=s))).X for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert global_state() == before


def task_with(constraint=CONSTRAINT, n_rows=300, **settings):
    task = small_task(n_rows=n_rows, constraint=constraint, unlabelled=None, **settings)
    return replace(task, data=replace(task.data, unlabelled=task.data.judged))


def cells_of(task):
    """Probabilities of the cells that know a good deal of label and group."""
    judge = task.data.judge
    noise = np.random.default_rng(0).normal(size=(len(judge.y), 4))
    return softmax(noise + 1.5 * np.eye(4)[judge.y * 2 + judge.groups], axis=1)


def test_each_rule_is_scaled_and_judged_by_its_own_scores():
    task = task_with()
    cells = cells_of(task)
    judged = list(judge_rules(task, cells))
    assert [rule.alpha for rule, _, _ in judged] == list(ALPHAS)
    for rule, scores, verdict in judged:
        np.testing.assert_allclose(scores, cells @ rule.weights, rtol=1e-5, atol=1e-6)
        assert float((scores[:, 1] - scores[:, 0]).std()) == pytest.approx(1, rel=1e-5)
        assert verdict == task.data.judge(scores)


def test_without_groups_there_is_one_rule():
    task = task_with(group_labels=())
    assert len(list(judge_rules(task, cells_of(task)))) == 1


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_a_fixed_threshold_moves_the_rule_so_that_it_decides_there(threshold):
    """The rule moves to the cut and not the cut to the rule: the decisions stay the same."""
    cells = cells_of(task_with())
    fixed = judge_rules(task_with(replace(CONSTRAINT, threshold=threshold)), cells)
    for (rule, scores, verdict), (free, _, best) in zip(
        fixed, judge_rules(task_with(), cells), strict=True
    ):
        assert verdict.margin == pytest.approx(margin_of_threshold(threshold))
        lead, free_lead = (np.diff(each.scores(cells), axis=1)[:, 0] for each in (rule, free))
        np.testing.assert_allclose(scores[:, 1] - scores[:, 0], lead, atol=1e-5)
        assert np.array_equal(lead > verdict.margin, free_lead > best.margin)
        assert (verdict.utility, verdict.gap) == pytest.approx((best.utility, best.gap))


@pytest.mark.parametrize("threshold", [None, 0.7])
def test_the_teacher_is_the_best_rule_moved_to_where_its_answers_change_over(threshold):
    task = task_with(replace(CONSTRAINT, threshold=threshold))
    teacher = find_teacher(task, "head", 2, np.random.SeedSequence(3))
    assert len(teacher.networks) == 2
    cells = cell_probabilities(teacher.networks, task.data)
    judged = list(judge_rules(task, cells))
    rule, scores, verdict = max(judged, key=lambda each: each[2].rank)
    assert teacher.rule.alpha == rule.alpha
    answers = teacher.probabilities(task.data.judged[:])
    lead = (scores[:, 1] - scores[:, 0]).double()
    clear = (lead - verdict.margin).abs() > 1e-5
    assert torch.equal(answers.argmax(dim=1)[clear], (lead > verdict.margin).long()[clear])
    untouched = task.data.untouched
    spread = float((untouched[:, 1] - untouched[:, 0]).double().std())
    assert teacher.sharpness == pytest.approx(8 / spread)


def test_lessons_of_an_edit_go_over_all_rows_without_labels():
    marks = torch.eye(40)[:, :40]
    net = nn.Linear(40, 4)
    data = replace(task_with().data, unlabelled=as_batches(marks), batch_size=7)
    teacher = Teacher([net], FairRule(np.ones((4, 2)), 0.1))
    drawn = itertools.islice(make_lessons(data, teacher, np.random.default_rng(0)), 6)
    X = torch.cat([batch.X for batch in drawn])
    assert sorted(X.argmax(dim=1).tolist()) == list(range(40))
