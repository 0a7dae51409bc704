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
    curvature_scores,
    harden,
    lowest_masks,
    magnitude_scores,
    mask_variables,
    random_scores,
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


def test_an_entry_is_half_a_unit_from_its_removal():
    assert START == 0.5


def test_curvature_scores_by_hand():
    """Half the square times what the protected lose more than the others."""
    values = {"a": torch.tensor([2.0, -3.0, 1.0])}
    protect, sacrifice = {"a": torch.tensor([4.0, 1.0, 0.0])}, {"a": torch.tensor([2.0, 6.0, 8.0])}
    scores = curvature_scores(values, protect, sacrifice, 0.5)
    assert scores["a"].tolist() == [0.5 * 4 * 3, 0.5 * 9 * -2, 0.5 * 1 * -4]
    alone = curvature_scores(values, protect, sacrifice, 0.0)
    assert alone["a"].tolist() == [8.0, 4.5, 0.0]


def test_sizes_and_draws_as_scores():
    values = {"a": torch.tensor([[-3.0, 1.0], [0.0, -2.0]]), "b": torch.zeros(4000)}
    assert magnitude_scores(values)["a"].tolist() == [[3.0, 1.0], [0.0, 2.0]]
    draws = random_scores(values, torch.Generator().manual_seed(0))
    assert draws["a"].shape == (2, 2)
    assert 0 <= draws["b"].min() < 0.01
    assert 0.99 < draws["b"].max() < 1
    assert draws["b"].mean() == pytest.approx(0.5, abs=0.02)
    again = random_scores(values, torch.Generator().manual_seed(0))
    assert torch.equal(draws["b"], again["b"])


def test_every_tensor_loses_its_own_lowest_unless_blocks_are_named():
    scores = {"a": torch.tensor([[4.0, 1.0], [2.0, 3.0]]), "b": torch.tensor([9.0, 8.0])}
    masks = lowest_masks(scores, 0.5)
    assert masks["a"].tolist() == [[True, False], [False, True]]
    assert masks["b"].tolist() == [True, False]
    together = lowest_masks(scores, 0.5, block_of=lambda name: "")
    assert together["a"].tolist() == [[True, False], [False, False]]
    assert together["b"].tolist() == [True, True]


def test_masks_come_in_the_order_of_the_scores():
    scores = {name: torch.arange(4.0) for name in ("x/U", "y/U", "x/V", "y/V")}
    masks = lowest_masks(scores, 0.5, block_of=lambda name: name[0])
    assert list(masks) == list(scores)


def test_what_is_gone_counts_before_the_lowest_go():
    scores = {"a": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    kept = {"a": torch.tensor([True, True, True, False])}
    assert lowest_masks(scores, 0.5, kept)["a"].tolist() == [False, True, True, False]
    assert lowest_masks(scores, 0.25, kept)["a"].tolist() == [True, True, True, False]


def test_of_equal_scores_the_first_go_and_no_more_than_asked():
    scores = {"a": torch.tensor([5.0, 1.0, 1.0, 0.0, 1.0])}
    assert lowest_masks(scores, 0.6)["a"].tolist() == [True, False, False, False, True]
    assert lowest_masks(scores, 0.0)["a"].all()
    assert not lowest_masks(scores, 1.0)["a"].any()


def test_the_gradient_of_a_mask_is_one_for_one():
    variable = torch.tensor([-0.3, 0.0, 0.4], requires_grad=True)
    weights = torch.tensor([2.0, 3.0, 5.0])
    (straight_through(variable) * weights).sum().backward()
    assert variable.grad.tolist() == [2.0, 3.0, 5.0]
