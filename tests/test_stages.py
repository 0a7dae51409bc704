"""The stages of an edit, and what they are given: weights of the gap, steps, rows, leaves."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fairsvd.arrays import as_batches
from fairsvd.masking._pruner import keep_all
from fairsvd.phases import (
    count_step_rows,
    count_steps,
    find_privileged,
    list_gap_weights,
    make_batches,
    mask_and_tune,
)
from fairsvd.phases._leaves import copy_biases, copy_head_and_biases
from tasks import small_task


def stages(**options):
    task = small_task()
    settings = {
        "whole": keep_all(task.module, ["0", "2"], units=False),
        "removal": None,
        "stage": "scale",
        "teacher": None,
        "gap_weight": None,
        "max_removed": None,
        "max_steps": 30,
        "attributes": {"balance_": "classes"},
        "rng": np.random.default_rng(0),
        "n_jobs": None,
    }
    return list(mask_and_tune(task, **{**settings, **options}))


class OneRemoval(SimpleNamespace):
    """A removal by scores that makes one edit."""

    def __init__(self, edit, task):
        parts = {"data": task.data, "module": task.module, "constraint": task.constraint}
        super().__init__(edit=edit, attributes={}, **parts)

    def edits(self):
        yield {}, self.edit


def test_masks_are_learned_and_the_rest_tuned_for_three_weights():
    found = stages(max_steps=2)
    labels = [(c.params["gap_weight"], c.params["stage"], c.params["step"]) for c in found]
    names = ("masks", "scale", "nothing removed")
    # Every weight is tried for a third of the steps, and that of the best candidate runs on.
    tried, rest = labels[:3], labels[3:]
    assert tried == [(w, "masks", 1) for w in (0.3, 1.0, 3.0)]
    ranks = [candidate.verdict.rank for candidate in found[:3]]
    best = tried[ranks.index(max(ranks))][0]
    assert rest == [(best, n, k) for n in names for k in (1, 2)]
    assert all(c.attributes["balance_"] == "classes" for c in found if c.state)
    single = stages(max_steps=2, gap_weight=0.3)
    assert [c.params["stage"] for c in single] == [n for n in names for _ in (1, 2)]


def test_a_removal_is_tuned_in_the_place_of_masks_and_no_stage_tunes_nothing():
    task = small_task()
    whole = keep_all(task.module, ["0", "2"], units=False)
    gone = {n: torch.zeros_like(m) for n, m in whole.masks.items()}
    gone["0.weight"][0, 0] = True
    removal = OneRemoval(whole.remove(gone), task)
    found = stages(removal=removal, gap_weight=1.0)
    assert [c.params["stage"] for c in found] == ["removal"] + ["scale"] * 10
    assert {c.params["removed_fraction"] for c in found} == {53 / 54}
    alone = stages(removal=removal, stage=None)
    assert [c.params["stage"] for c in alone] == ["removal"]
    masks = stages(stage=None, gap_weight=1.0, max_steps=40, max_removed=0.05)
    assert {c.params["stage"] for c in masks} == {"masks"}
    # Of 54 weights a twentieth is two, where more of them had fallen.
    assert max(c.params["removed_fraction"] for c in masks) == 2 / 54


@pytest.mark.parametrize(
    ("asked", "wanted"), [(None, (0.3, 1.0, 3.0)), (0.5, (0.5,)), (0, (0.0,))], ids=str
)
def test_the_weights_of_the_gap(asked, wanted):
    data = small_task().data
    assert list_gap_weights(data, asked) == wanted
    assert list_gap_weights(replace(data, group_labels=()), asked) == (0.0,)


def test_steps_and_rows_of_a_step():
    def of(n_rows, batch_size):
        return small_task(n_rows=n_rows, batch_size=batch_size).data

    assert [count_steps(300, of(n, 16)) for n in (20, 30, 31, 290, 400)] == [30, 30, 31, 290, 300]
    assert count_steps(7, of(50, 16)) == 7
    # Four batches' rows at most, and all rows at most.
    rows = [count_step_rows(of(*each)) for each in ((90, 16), (50, 16), (90, 64), (40, 64))]
    assert rows == [64, 50, 90, 40]
    X = np.zeros((90, 1, 2, 2), dtype=np.float32)
    data = of(90, 16)
    images = replace(data, editing=replace(data.editing, X=as_batches(X)))
    assert count_step_rows(images) == 16
    batch = next(iter(make_batches(data, None, np.random.default_rng(0), size=12)))
    assert len(batch.y) == 12
    assert len(next(iter(make_batches(data, None, np.random.default_rng(0)))).y) == 64


def test_batches_weigh_rows_as_they_are_asked_to():
    task = small_task()
    y, groups = (part.numpy() for part in (task.data.editing.y, task.data.editing.groups))
    for balance in ("cells", "classes", None):
        batch = next(iter(make_batches(task.data, balance, np.random.default_rng(0))))
        for k in (0, 1):
            for g in (0, 1):
                rows, share = (
                    (batch.y == k) & (batch.groups == g),
                    np.mean((y == k) & (groups == g)),
                )
                assert int(rows.sum()) == 16  # a quarter of 64, whatever the cell holds
                within = share / np.mean(y == k) / 2
                wanted = {"cells": 0.25, "classes": within, None: share}[balance]
                assert float(batch.loss_weights[rows].sum()) / 64 == pytest.approx(wanted)
                assert float(batch.gap_weights[rows].sum()) / 64 == pytest.approx(share)


def test_the_privileged_group_is_found_at_the_operating_threshold():
    """At margin 0 everyone is selected and both groups are equal; at 2 one of them leads."""
    data = small_task(n_rows=40).data
    y, groups = data.judge.y, data.judge.groups
    margins = np.where(groups == 1, np.where(y == 1, 3.0, 1.0), 1.0)
    untouched = torch.tensor(np.stack([np.zeros(40), margins], axis=1))
    assert find_privileged(replace(data, untouched=untouched, margin=2.0)) == 1
    assert find_privileged(replace(data, untouched=untouched, margin=0.0)) == 0
    assert find_privileged(replace(data, untouched=untouched, group_labels=())) is None


class Normed(nn.Module):
    """Has biases of every kind, one of them a normalisation's."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)
        self.attn, self.head = nn.MultiheadAttention(2, 1), nn.Linear(2, 2)


def test_biases_of_normalisations_are_spared_and_leaves_are_copies():
    module = Normed().requires_grad_(False)
    biases = copy_biases(module)
    own = dict(module.named_parameters())
    named = {"conv.bias", "attn.in_proj_bias", "attn.out_proj.bias", "head.bias"}
    assert set(biases) == named
    assert set(copy_head_and_biases(module, "head", set())) == {*named, "head.weight"}
    assert set(copy_head_and_biases(module, "head", {"head.weight"})) == named
    for name, leaf in biases.items():
        assert leaf.is_leaf
        assert leaf.requires_grad
        assert leaf.data_ptr() != own[name].data_ptr()
        assert torch.equal(leaf.detach(), own[name])
