"""Training on many rows ends once rows that it does not learn from are predicted no better."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fairsvd.arrays import LabelledRows, as_batches
from fairsvd.networks import adopt
from helpers import fingerprint, global_state, table

ROWS = table(240)


@pytest.fixture
def few_are_many(monkeypatch):
    """Let 100 rows count as many, 60 of them be held out, and 5 steps lie between two looks."""
    monkeypatch.setattr("fairsvd.networks._default.MANY_ROWS", 100)
    for name, value in {"HELD_ROWS": 60, "STEPS_A_LOOK": 5, "PATIENCE": 2}.items():
        monkeypatch.setattr(f"fairsvd.networks._settled.{name}", value)


def train(rows=ROWS, batch_size=16, seed=0):
    zeros = torch.zeros(len(rows.y), dtype=torch.int64)
    labelled = LabelledRows(as_batches(rows.X), torch.as_tensor(rows.y), zeros)
    rng = np.random.default_rng(seed)
    return adopt(None, labelled, np.arange(2), batch_size=batch_size, rng=rng)


def looks(net):
    return [epoch["held_loss"] for epoch in net.history if "held_loss" in epoch]


def n_steps(net):
    return sum(len(epoch["batches"]) for epoch in net.history)


def held_rows(seed=0):
    """The rows that are held out: the first draw after those of the network's own two seeds."""
    rng = np.random.default_rng(seed)
    for _ in range(3):
        rng.integers(2**63 - 1)
    return rng.permutation(len(ROWS.y))[:60]


def test_it_ends_when_held_out_rows_were_predicted_no_better_twice(few_are_many):
    net = train().net
    losses = looks(net)
    assert len(losses) > 2
    assert min(losses[:-2]) == min(losses)
    assert int(np.argmin(losses)) == len(losses) - 3
    assert n_steps(net) < 20 * -(-180 // 16)


def test_the_best_weights_are_kept(few_are_many):
    adopted = train()
    held = held_rows()
    with torch.no_grad():
        logits = adopted.module(torch.as_tensor(ROWS.X[held])).double()
    loss = F.cross_entropy(logits, torch.as_tensor(ROWS.y[held]))
    assert float(loss) == pytest.approx(min(looks(adopted.net)), rel=1e-5)


def test_no_held_out_row_is_learned_from(few_are_many):
    """Another label of a held-out row changes when the training ends, and no step before."""
    held, learned = held_rows()[0], np.setdiff1d(np.arange(240), held_rows())[0]

    def first_losses(row):
        y = ROWS.y.copy()
        y[row] = 1 - y[row]
        net = train(ROWS._replace(y=y)).net
        return [b["train_loss"] for epoch in net.history[:6] for b in epoch["batches"]]

    plain = [b["train_loss"] for epoch in train().net.history[:6] for b in epoch["batches"]]
    assert first_losses(held) == plain
    assert first_losses(learned) != plain


@pytest.mark.parametrize(("batch_size", "steps_a_look"), [(16, 5), (100, 5), (10**18, 5)])
def test_steps_between_two_looks(few_are_many, batch_size, steps_a_look):
    net = train(batch_size=batch_size).net
    steps = np.cumsum([len(epoch["batches"]) for epoch in net.history])
    at = [int(n) for n, e in zip(steps, net.history, strict=True) if "held_loss" in e]
    # The last part of a pass may be shorter.
    assert all(1 <= gap <= steps_a_look for gap in np.diff([0, *at]))
    assert at[0] in (4, 5)


def test_the_rows_before_that_are_all_learned_from():
    net = train().net
    assert not looks(net)
    assert n_steps(net) == 20 * 15


def test_equal_seeds_give_equal_bits_and_touch_no_global_generator(few_are_many):
    before = global_state()
    found = [fingerprint(train(seed=seed).module) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
    assert global_state() == before
