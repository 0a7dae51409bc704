"""Straight-through masks: values, gradients, hardening."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairsvd.masks import (
    START,
    clamp_masks,
    harden,
    mask_variables,
    removed_fraction,
    share_of,
    straight_through,
)

# Few distinct values: ties are the rule.
TENSORS = st.lists(
    st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), min_size=1, max_size=12),
    min_size=1,
    max_size=3,
)


def named(lists):
    return {f"t{i}": torch.tensor(values).reshape(1, -1) for i, values in enumerate(lists)}


def test_variables_start_as_if_everything_were_kept():
    values = {"a": torch.randn(1, 3, 2, dtype=torch.float64), "b": torch.zeros(2, 4)}
    variables = mask_variables(values)
    for name, variable in variables.items():
        assert variable.shape == values[name].shape
        assert variable.dtype == values[name].dtype
        assert variable.requires_grad
        assert variable.is_leaf
        assert bool((variable == START).all())
        assert bool((straight_through(variable) == 1).all())
    assert removed_fraction(harden(variables)) == 0


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20))
def test_straight_through_values_are_0_and_1(values):
    variable = torch.tensor(values, requires_grad=True)
    hard = [1.0 if value > 0 else 0.0 for value in values]
    assert straight_through(variable).tolist() == hard
    assert harden({"a": variable})["a"].tolist() == [bool(h) for h in hard]


@given(st.integers(1, 20), st.integers(0, 99))
def test_the_gradient_passes_as_if_the_mask_were_the_variable(n, seed):
    generator = torch.Generator().manual_seed(seed)
    variable = torch.randn(n, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(n, generator=generator, dtype=torch.float64)
    hard = (variable.detach() > 0).double().requires_grad_()

    def loss(mask):
        return (weights * (mask + 1).square()).sum() + mask.prod()

    loss(straight_through(variable)).backward()
    loss(hard).backward()
    assert torch.equal(variable.grad, hard.grad)
    assert bool(variable.grad.abs().sum() > 0)


def test_a_removed_entry_gets_a_gradient_and_can_come_back():
    variable = torch.tensor([-0.1, 0.1], requires_grad=True)
    optimizer = torch.optim.SGD([variable], lr=0.3)
    (-straight_through(variable)[0]).backward()
    optimizer.step()
    assert straight_through(variable).tolist() == [1.0, 1.0]


def test_clamp_keeps_variables_in_range_in_place():
    variable = torch.tensor([-3.0, -1.0, 0.3, 7.0], requires_grad=True)
    clamp_masks({"a": variable})
    assert variable.tolist() == pytest.approx([-1.0, -1.0, 0.3, 1.0])
    assert variable.is_leaf
    assert variable.requires_grad


@given(TENSORS)
def test_without_a_cap_an_entry_is_kept_while_its_variable_is_positive(lists):
    variables = named(lists)
    masks = harden(variables)
    flat = [value > 0 for values in lists for value in values]
    assert torch.cat([m.flatten() for m in masks.values()]).tolist() == flat
    assert removed_fraction(masks) == pytest.approx(1 - np.mean(flat))
    assert all(masks[name].shape == v.shape for name, v in variables.items())
    assert all(mask.dtype == torch.bool for mask in masks.values())


@given(TENSORS, st.floats(0, 1))
def test_a_cap_holds_over_all_tensors_together(lists, cap):
    variables = named(lists)
    flat = torch.cat([v.flatten() for v in variables.values()])
    kept = torch.cat([mask.flatten() for mask in harden(variables, cap).values()])
    wanted = int((flat <= 0).sum())
    assert int((~kept).sum()) == min(wanted, share_of(cap, len(flat)))
    # Whatever went fell at least as far as everything that stayed, and would have gone anyway.
    if bool((~kept).any()) and bool(kept.any()):
        assert flat[~kept].max() <= flat[kept].min()
    assert bool((flat[~kept] <= 0).all())


@given(TENSORS, st.floats(0, 1), st.floats(0, 1))
def test_caps_are_nested(lists, one, other):
    small, large = (harden(named(lists), cap) for cap in sorted([one, other]))
    for name in small:
        assert not bool((~small[name] & large[name]).any())


def test_the_cap_is_global_not_per_tensor():
    variables = {"low": torch.full((4,), -0.9), "high": torch.full((4,), -0.1)}
    masks = harden(variables, 0.5)
    assert not masks["low"].any()
    assert masks["high"].all()


def test_ties_go_in_order():
    variables = {"a": torch.tensor([-0.5, -0.5]), "b": torch.tensor([-0.5, -0.5])}
    masks = harden(variables, 0.75)
    assert masks["a"].tolist() == [False, False]
    assert masks["b"].tolist() == [False, True]


def test_a_cap_of_zero_removes_nothing():
    masks = harden({"a": torch.full((5,), -1.0)}, 0.0)
    assert masks["a"].all()
    assert removed_fraction(masks) == 0


@given(st.integers(0, 1000), st.integers(1, 1000))
def test_a_share_of_whole_entries_is_exact(part, total):
    part = min(part, total)
    assert share_of(part / total, total) == part
    assert share_of(1.0, total) == total


def test_shares_are_rounded_down():
    assert share_of(0.29, 100) == 29  # the product of the floats is 28.999999999999996
    assert share_of(0.5, 3) == 1
    assert share_of(0.999, 10) == 9


def test_removed_fraction():
    masks = {"a": torch.tensor([True, False]), "b": torch.tensor([[False, False, True, True]])}
    assert removed_fraction(masks) == 0.5
    assert removed_fraction({}) == 0.0
