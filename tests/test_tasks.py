"""Tasks and candidates of an edit: seeds, copies, the state that is kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fairsvd.base import Candidate, Task, apply_to_copy
from fairsvd.base._apply import apply_candidate
from fairsvd.base._task import without_gradients
from fairsvd.phases import judge_state
from helpers import fingerprint
from tasks import small_task, smooth_net


def streams(dealt):
    return [np.random.default_rng(seed).integers(2**40) for _, _, seed in dealt]


def test_every_value_has_a_seed_of_its_own_and_a_generator_moves_by_one_draw():
    task, rng = small_task(), np.random.default_rng(3)
    dealt = list(task.spread("abc", rng, None))
    drawn = np.random.default_rng(3)
    parent = np.random.SeedSequence(int(drawn.integers(2**63 - 1)))
    assert [value for value, _, _ in dealt] == ["a", "b", "c"]
    assert streams(dealt) == [np.random.default_rng(s).integers(2**40) for s in parent.spawn(3)]
    assert len(set(streams(dealt))) == 3
    assert rng.integers(2**40) == drawn.integers(2**40)
    again = list(task.spread("abc", np.random.SeedSequence(5), None))
    assert streams(again) == streams(task.spread("abc", np.random.SeedSequence(5), 2))


def test_tasks_that_run_side_by_side_have_a_module_each_and_others_share_it():
    task = small_task()
    assert all(own.module is task.module for _, own in task.deal("ab", None))
    assert all(
        own.module is task.module for _, own, _ in task.spread("ab", np.random.SeedSequence(0), 1)
    )
    own = [each for _, each in task.deal("ab", 2)]
    assert len({id(each.module) for each in own} | {id(task.module)}) == 3
    for each in own:
        assert fingerprint(each.module) == fingerprint(task.module)
        assert (each.data, each.constraint) == (task.data, task.constraint)
    # The modules are apart, so that each can run with other entries; the weights are shared.
    parameters = [p for each in (*own, task) for p in each.module.parameters()]
    assert len({id(p) for p in parameters}) == 3 * 6
    assert len({p.data_ptr() for p in parameters}) == 6


def test_gradients_are_off_in_a_block_and_as_they_were_afterwards():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).requires_grad_(True)
    net[0].bias.requires_grad_(False)
    flags = [True, False, True, True]
    with pytest.raises(KeyError), without_gradients(net):
        assert not any(p.requires_grad for p in net.parameters())
        raise KeyError
    assert [p.requires_grad for p in net.parameters()] == flags


@pytest.mark.parametrize("finish", [None, lambda module: nn.Sequential(module, nn.Dropout())])
def test_the_chosen_edit_is_written_into_a_copy(finish):
    net = smooth_net().requires_grad_(True).train()
    net(torch.ones(3, 5)).sum().backward()
    before = fingerprint(net)
    bias = torch.tensor([3.0, -1.0])
    found = apply_to_copy(net, Candidate({"4.bias": bias}, finish=finish))
    assert fingerprint(net) == before
    assert (len(found) == 2) == (finish is not None)
    inner = found[0] if finish else found
    assert torch.equal(inner[4].bias, bias)
    assert inner[4].bias.data_ptr() != bias.data_ptr()
    assert torch.equal(inner[0].weight, net[0].weight)
    assert all(p.grad is None for p in found.parameters())
    assert not any(part.training for part in found.modules())
    assert net[0].weight.grad is not None
    assert apply_candidate(net, Candidate({})) is net
    assert all(p.grad is None for p in net.parameters())
    assert not net.training


def test_logits_of_a_state_are_those_of_the_network_with_it():
    task = small_task()
    X, bias = task.data.judged[:], torch.tensor([0.5, -2.0])
    other = apply_to_copy(task.module, Candidate({"4.bias": bias}))
    with torch.no_grad():
        plain, wanted = task.module(X), other(X)
    assert torch.equal(task.data.logits(task.module, {}), plain)
    assert torch.equal(task.data.logits(task.module, {"4.bias": bias}), wanted)
    leaf = bias.clone().requires_grad_()
    task.data.forward(task.module, {"4.bias": leaf}, X).sum().backward()
    assert leaf.grad.tolist() == [len(X), len(X)]
    judged = judge_state(task, {"4.bias": bias}, {"step": 1}, {"own": 2})
    assert torch.equal(judged.logits, wanted)
    assert judged.verdict == task.data.judge(wanted)
    assert (judged.params, judged.attributes) == ({"step": 1}, {"own": 2})


def test_mixed_precision_runs_in_it_and_returns_the_networks_own_type():
    task = small_task()
    mixed = replace(task.data, autocast=torch.bfloat16)
    X = task.data.judged[:]
    full, half = (data.forward(task.module, {}, X) for data in (task.data, mixed))
    assert full.dtype == half.dtype == torch.float32
    assert torch.equal(full, task.module(X))
    assert 0 < float((full - half).abs().max()) < 0.1
    assert torch.equal(mixed.logits(task.module, {}), full)


def test_passes_see_the_editing_rows_in_order_in_the_networks_type():
    task = small_task()
    blocks = list(replace(task.data, dtype=torch.float64).editing_batches(40))
    assert [len(y) for _, y, _ in blocks] == [40, 40, 10]
    assert {X.dtype for X, _, _ in blocks} == {torch.float64}
    X, y, groups = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    assert torch.equal(X.float(), task.data.editing.X[:])
    assert torch.equal(y, task.data.editing.y)
    assert torch.equal(groups, task.data.editing.groups)


def test_a_task_is_extended_by_what_a_subclass_needs():
    class More(Task):
        pass

    task = small_task()
    more = More.of(task, settled="here")
    assert type(more) is More
    assert (more.module, more.data, more.constraint) == (task.module, task.data, task.constraint)
    assert (more.settled, task.settled) == ("here", None)
