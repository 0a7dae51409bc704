"""Adversarial methods against plain loops: every number that a path leaves, computed again."""

from __future__ import annotations

from dataclasses import replace
from threading import Thread

import numpy as np
import pytest
import torch
from torch import nn

from edit_data import constraint, edit_data
from fairsvd.base import Task
from fairsvd.intraprocessing import AdversarialDebiasing, AdversarialFineTuner
from fairsvd.intraprocessing._adversarial import (
    Budget,
    Duel,
    Record,
    critic_loss,
    make_critic,
    run_duel,
)
from fairsvd.intraprocessing._adversary import Adversary
from fairsvd.intraprocessing._critic import SignedBias, forward_with_features
from fairsvd.intraprocessing._debiasing import HEAD_START, DebiasingPath, run_debiasing
from helpers import IGNORE_SMALL_DATA, Rows, mlp, table, trained

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]

ROWS = table()
NETWORK = trained(mlp(), ROWS).double().requires_grad_(False)
MARGIN = 0.3


def task_of(rows=ROWS, **changes):
    request = replace(constraint(), **changes)
    return Task(NETWORK, edit_data(rows, request=request, batch_size=16, margin=MARGIN), request)


def duel_of(task, *, epochs=2, critic_steps=3, actor_steps=2, rows=16):
    budget = Budget(epochs, critic_steps, actor_steps, rows, 1e-2, 3e-3, 6)
    seed = np.random.SeedSequence(4)
    return Duel.of(task, gap_weight=5.0, allowed=-0.1, budget=budget, attributes={}, seed=seed)


def copies():
    return {n: p.detach().clone().requires_grad_() for n, p in NETWORK.named_parameters()}


def run_plain(state, X):
    """Logits and what enters the last layer."""
    hidden = X
    for k in (0, 2):
        hidden = torch.relu(hidden @ state[f"{k}.weight"].T + state[f"{k}.bias"])
    return hidden @ state["4.weight"].T + state["4.bias"], hidden


def lowered(logits):
    return logits - torch.tensor([0.0, MARGIN], dtype=logits.dtype)


def entropy(logits, batch):
    losses = nn.functional.cross_entropy(lowered(logits), batch.y, reduction="none")
    return (losses * batch.loss_weights).mean()


def rate_gaps(logits, batch, gap="equalized_odds"):
    """Differences of the first group's rates and the second's: found, wrongly suspected."""
    scores, g, w = torch.softmax(4 * lowered(logits), dim=1)[:, 1], batch.groups, batch.gap_weights
    gaps = []
    counted = (batch.y == 1, batch.y == 0) if gap == "equalized_odds" else (batch.y >= 0,)
    for rows in counted:
        own, other = (w * (rows & (g == k)) for k in (0, 1))
        gaps.append((scores * own).sum() / own.sum() - (scores * other).sum() / other.sum())
    return torch.stack(gaps)


@pytest.mark.parametrize(
    ("gap", "balance"),
    [("equalized_odds", "classes"), ("equalized_odds", "cells"), ("demographic_parity", "cells")],
)
def test_a_duel_is_a_plain_loop_over_turns(gap, balance):
    path = duel_of(task_of(gap=gap, balance=balance))
    found = [candidate.owned() for candidate in run_duel(path)]
    assert len(found) == path.budget.epochs

    # The four seeds are for the critic's scale, its weights and dropout, its batches, and the
    # network's.
    seeds = np.random.SeedSequence(4).spawn(4)
    critic = make_critic(path, path.batches(seeds[0]), seeds[1])
    of_critic, of_actor = iter(path.batches(seeds[2])), iter(path.batches(seeds[3]))
    leaves = copies()
    slow = torch.optim.Adam(critic.parameters, lr=path.budget.critic_learning_rate)
    fast = torch.optim.Adam(list(leaves.values()), lr=path.budget.learning_rate)
    for epoch, candidate in enumerate(found, start=1):
        errors, targets, factors = [], [], []
        for _ in range(path.budget.critic_steps):
            batch = next(of_critic)
            with torch.no_grad():
                logits, features = run_plain(leaves, batch.X)
                target = rate_gaps(logits, batch, gap)
                errors.append((critic(features, training=False) - target).square())
                targets.append(target)
            slow.zero_grad()
            (critic(features, training=True) - target).square().mean().backward()
            slow.step()
        for _ in range(path.budget.actor_steps):
            batch = next(of_actor)
            assert len(batch.y) == 16
            logits, features = run_plain(leaves, batch.X)
            size = critic(features, training=False).abs().max()
            factor = (5.0 * (size - path.allowed) + 1).clamp(min=1)
            factors.append(float(factor.detach()))
            fast.zero_grad()
            (factor * entropy(logits, batch)).backward()
            fast.step()
        errors, targets = torch.stack(errors), torch.stack(targets)
        wanted = {
            "critic_loss": float(errors.mean()),
            "target_variance": float(targets.var(dim=0, correction=0).mean()),
            "multiplier": float(np.mean(factors)),
        }
        assert {name: candidate.params[name] for name in wanted} == pytest.approx(wanted)
        assert candidate.params["epoch"] == epoch
        for name, leaf in leaves.items():
            torch.testing.assert_close(candidate.state[name], leaf.detach())


def test_what_cannot_be_measured_is_no_error_of_the_critic():
    """No positives of the second group: their rate is left out, not taken for nought."""
    keep = ~((ROWS.y == 1) & (ROWS.group == 1))
    path = duel_of(task_of(Rows(*(part[keep] for part in ROWS))))
    batch = next(iter(path.batches(np.random.SeedSequence(1))))
    # Of equal seeds, so that both drop the same.
    critic, twin = (
        make_critic(path, path.batches(np.random.SeedSequence(2)), np.random.SeedSequence(3))
        for _ in range(2)
    )
    loss = critic_loss(path, critic, dict, Record())(batch)
    with torch.no_grad():
        logits, features = run_plain(copies(), batch.X)
        guess = twin(features, training=True)
    target = rate_gaps(logits, batch)[1]
    # The first of both rates has no rows; the second one's error alone counts.
    assert float(loss.detach()) == pytest.approx(float((guess[1] - target) ** 2))


def test_the_record_averages_what_was_measured_in_all_batches():
    record = Record()
    shape = (2, 1, 1)
    for predicted, target, known in [
        ((0.5, 0.1), (0.1, 0.9), (True, True)),
        ((0.3, 0.1), (0.5, 0.9), (True, False)),
    ]:
        record.add(*(torch.tensor(part).reshape(shape) for part in (predicted, target, known)))
    # Errors of the first: .16 and .04; its targets .1 and .5 lie .2 from their mean.
    assert record.summary() == pytest.approx({"critic_loss": 0.1, "target_variance": 0.04})
    nothing = Record()
    nothing.add(*(torch.tensor([v]).reshape(1, 1, 1) for v in (0.1, 0.2, False)))
    assert nothing.summary() == {}


def test_the_largest_bias_of_several_groups_counts_and_a_group_alone_has_none():
    bias = SignedBias(constraint("demographic_parity"), 2, 3)
    p = torch.tensor([0.9, 0.7, 0.2, 0.4, 0.6, 0.6], dtype=torch.float64)
    scores, g = torch.stack([1 - p, p], dim=1), torch.tensor([0, 0, 1, 1, 2, 2])
    y, w = torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.float64)
    values, known = bias(scores, y, g, w)
    # Rates .8, .3, .6 against .45, .7, .55 of the others.
    assert values.flatten().tolist() == pytest.approx([0.35, -0.4, 0.05])
    assert float(bias.size(values, known)) == pytest.approx(0.4)
    alone, known = bias(scores[:2], y[:2], g[:2], w[:2])
    assert not known.any()
    assert not alone.any()


def test_features_are_those_of_the_own_pass_though_another_thread_runs_the_network():
    class Echo(nn.Module):
        """Lets another thread run the last layer, on other features, before it returns."""

        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 2)

        def forward(self, X):
            logits = self.head(X)
            other = Thread(target=self.head, args=(X.detach() + 1,))
            other.start()
            other.join()
            return logits

    data, X = edit_data(ROWS, output_layer="head"), torch.tensor(ROWS.X).double()
    logits, features = forward_with_features(Echo().double(), data)({}, X)
    assert logits.shape == (len(X), 2)
    assert torch.equal(features, X)


def fitted(kind, rows=ROWS, **parameters):
    editor = kind(trained(mlp(), ROWS), random_state=0, **parameters)
    return editor.fit(rows.X, rows.y, sensitive_features=rows.group)


def first_multiplier(**parameters):
    steps = {"epochs": 1, "critic_steps": 1, "actor_steps": 1, "gap_weight": 20.0}
    return fitted(AdversarialFineTuner, **steps, **parameters).history_["multiplier"].iloc[1]


def test_the_multiplier_rises_from_the_tolerance_less_the_slack_on():
    first = first_multiplier(slack=0.5, tolerance=0.05)
    assert first > 1 + 20 * 0.45
    assert first_multiplier(slack=0.8, tolerance=0.05) - first == pytest.approx(20 * 0.3, abs=1e-4)
    assert first_multiplier(slack=0.5, tolerance=0.15) - first == pytest.approx(-20 * 0.1, abs=1e-4)


def test_neither_side_makes_more_steps_an_epoch_than_there_are_rows():
    rows = table(40)  # 30 of them to edit on
    few = {"epochs": 1, "critic_steps": 2, "actor_steps": 2, "gap_weight": 5.0, "critic_rows": 8}
    for side in ("critic_steps", "actor_steps"):
        all_rows, too_many, fewer = (
            fitted(AdversarialFineTuner, rows, **{**few, side: n}).history_ for n in (30, 70, 29)
        )
        assert all_rows.equals(too_many)
        assert not all_rows.equals(fewer)


@pytest.mark.parametrize("adversary_steps", [1, 3])
def test_debiasing_is_a_plain_loop_over_both_sides(adversary_steps):
    task = task_of()
    settings = {"n_steps": 4, "learning_rate": 1e-2, "adversary_learning_rate": 3e-2}
    path = DebiasingPath.of(
        task,
        alpha=0.7,
        adversary_steps=adversary_steps,
        attributes={},
        seed=np.random.SeedSequence(4),
        **settings,
    )
    found = [candidate.owned() for candidate in run_debiasing(path)]
    assert [candidate.params["step"] for candidate in found] == [1, 2, 3, 4]

    rival = Adversary(task.constraint, 2, 2, device=torch.device("cpu"), dtype=torch.float64)
    assert rival.parameters[2] == 3  # the logits are sharpened four times at first
    leaves, batches = copies(), iter(path.batches())
    theirs = torch.optim.Adam(rival.parameters, lr=3e-2)
    ours = torch.optim.Adam(list(leaves.values()), lr=1e-2)

    def learn(seen, batch):
        losses = []
        for _ in range(adversary_steps):
            theirs.zero_grad()
            loss = rival.loss(seen.detach(), batch, training=True)
            loss.backward()
            theirs.step()
            losses.append(float(loss.detach()))
        return losses

    for _ in range(HEAD_START):
        batch = next(batches)
        learn(lowered(run_plain(leaves, batch.X)[0]), batch)
    for candidate in found:
        batch = next(batches)
        logits, _ = run_plain(leaves, batch.X)
        losses = learn(lowered(logits), batch)
        away = rival.loss(lowered(logits), batch, training=False)
        values = list(leaves.values())
        own = torch.autograd.grad(entropy(logits, batch), values, retain_graph=True)
        other = torch.autograd.grad(away, values)
        for leaf, mine, their in zip(values, own, other, strict=True):
            leaf.grad = mine - (mine * their).sum() / their.square().sum() * their - 0.7 * their
        ours.step()
        assert candidate.params["adversary_loss"] == pytest.approx(np.mean(losses))
        for name, leaf in leaves.items():
            torch.testing.assert_close(candidate.state[name], leaf.detach())


def test_the_adversary_sees_rows_in_the_shares_that_cells_truly_have():
    """Batches hold every cell alike; the weights of its loss put that right."""
    keep = (ROWS.group == 0) | (np.arange(120) % 3 > 0)  # two groups of unequal size
    path = duel_of(task_of(Rows(*(part[keep] for part in ROWS)), balance="cells"))
    batch = next(iter(path.batches(np.random.SeedSequence(1))))
    logits = torch.randn(len(batch.y), 2, dtype=torch.float64)
    for gap, counted in (("demographic_parity", batch.y >= 0), ("equal_opportunity", batch.y == 1)):
        request = constraint(gap)
        rival = Adversary(request, 2, 2, device=torch.device("cpu"), dtype=torch.float64)
        with torch.no_grad():
            rival.parameters[1][:] = torch.tensor([0.2, -0.5])  # the same for every label
        chance = torch.log_softmax(torch.tensor([0.2, -0.5], dtype=torch.float64), dim=0)
        weights = batch.gap_weights * counted
        wanted = -(weights * chance[batch.groups]).sum() / weights.sum()
        assert batch.gap_weights.unique().numel() > 1
        assert float(rival.loss(logits, batch, training=False)) == pytest.approx(float(wanted))


def test_the_adversary_s_steps_and_rate_are_the_user_s():
    settings = {"max_steps": 1, "alpha": 1.0}
    losses = [
        fitted(AdversarialDebiasing, **settings, **own).history_["adversary_loss"].iloc[1]
        for own in ({}, {"adversary_steps": 9}, {"adversary_learning_rate": 1e-9})
    ]
    blind = fitted(AdversarialDebiasing, **settings).history_["blind_loss"].iloc[1]
    # More steps learn more; a rate of next to nothing learns nothing, and stays at two even halves.
    assert losses[1] != losses[0]
    assert losses[2] == pytest.approx(np.log(2), abs=1e-6)
    assert blind < np.log(2)


def test_an_alpha_of_the_user_is_the_only_one_and_several_are_tried_else():
    one = fitted(AdversarialDebiasing, max_steps=1, alpha=0.7).history_
    assert one["alpha"].dropna().unique().tolist() == [0.7]
    several = fitted(AdversarialDebiasing, max_steps=1).history_
    assert several["alpha"].dropna().unique().tolist() == [1.0, 3.0, 10.0]
