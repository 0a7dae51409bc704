"""Straight-through masks: values, gradients, hardening."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairsvd.layers import Factors
from fairsvd.low_rank._rebuild import rebuild
from fairsvd.masking._scaled import along_rows, mask_and_scale
from fairsvd.masks import (
    START,
    curvature_scores,
    harden,
    lowest_masks,
    magnitude_scores,
    mask_variables,
    random_scores,
    removed_fraction,
    share_of,
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
    made = mask_variables([{name: value} for name, value in values.items()])
    for leaf in made.leaves:
        assert leaf.requires_grad
        assert leaf.is_leaf
    for name, variable in made.by_name().items():
        assert variable.shape == values[name].shape
        assert variable.dtype == values[name].dtype
        assert not variable.requires_grad
        assert bool((variable == START).all())
    assert removed_fraction(harden(made.by_name())) == 0


def test_variables_of_one_type_share_a_leaf_up_to_16_mib():
    small = {f"s{k}": torch.zeros(2, 3) for k in range(4)}
    large = {"l/U": torch.zeros(1, 2**21), "l/V": torch.zeros(1, 2**21)}
    units = [{name: value} for name, value in small.items()]
    made = mask_variables([*units, large, {"t": torch.zeros(1)}])
    assert [list(block.shapes) for block in made.blocks] == [list(small), list(large), ["t"]]
    mixed = mask_variables([{"a": torch.zeros(2)}, {"b": torch.zeros(2, dtype=torch.float64)}])
    assert [leaf.dtype for leaf in mixed.leaves] == [torch.float32, torch.float64]


def test_what_an_optimiser_changes_shows_under_every_name():
    made = mask_variables([{"a": torch.zeros(2)}, {"b": torch.zeros(1, 2)}])
    views = made.by_name()
    with torch.no_grad():
        made.leaves[0].copy_(torch.tensor([-3.0, -1.0, 0.3, 7.0]))
    made.clamp()
    assert views["a"].tolist() == [-1.0, -1.0]
    assert views["b"].tolist() == [[pytest.approx(0.3), 1.0]]
    assert made.leaves[0].is_leaf
    assert made.leaves[0].requires_grad


def straight_through(variable):
    """Give the 0/1 mask of a variable, by torch's own operators; its gradient passes unchanged."""
    return (variable.detach() > 0).to(variable.dtype) + (variable - variable.detach())


def factored(seed=0):
    """Two layers, one of a grouped convolution, with variables of both signs and zero."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    shapes = {"a": ((1, 5, 3), (1, 4, 3), (5, 4)), "b": ((2, 3, 2), (2, 4, 2), (6, 4, 1, 1))}
    factors = {
        name: Factors(draw(*u), draw(len(u) and u[0], u[2]), draw(*v), shape, f"{name}.weight")
        for name, (u, v, shape) in shapes.items()
    }
    made = mask_variables([{f"{n}/U": f.U, f"{n}/V": f.V} for n, f in factors.items()])
    with torch.no_grad():
        made.leaves[0].copy_(draw(len(made.leaves[0])).round(decimals=0))
    return factors, made


def test_rebuilt_weights_and_their_gradients_are_those_of_plain_operators():
    factors, made = factored()
    of_weight = {n: torch.randn(f.shape, dtype=torch.float64) for n, f in factors.items()}
    S = {n: f.S.clone().requires_grad_() for n, f in factors.items()}
    loose = {n: replace(f, S=S[n]) for n, f in factors.items()}
    found = rebuild(made.blocks[0], loose)
    sum((found[f"{n}.weight"] * g).sum() for n, g in of_weight.items()).backward()
    theirs = {n: v.clone().requires_grad_() for n, v in made.by_name().items()}
    plain_S = {n: f.S.clone().requires_grad_() for n, f in factors.items()}
    for n, f in factors.items():
        masks = (straight_through(theirs[f"{n}/{side}"]) for side in "UV")
        weight = replace(f, S=plain_S[n]).masked(*masks).weight()
        assert torch.equal(found[f"{n}.weight"], weight)
        (weight * of_weight[n]).sum().backward()
        assert torch.equal(S[n].grad, plain_S[n].grad)
    for name, gradient in made.blocks[0].cut(made.leaves[0].grad).items():
        assert torch.equal(gradient, theirs[name].grad)
        # What is removed gets a gradient, too, and so can come back.
        assert bool(gradient[theirs[name] <= 0].abs().sum() > 0)


@pytest.mark.parametrize("scaled", [False, True])
def test_masked_weights_and_their_gradients_are_those_of_plain_operators(scaled):
    generator = torch.Generator().manual_seed(1)
    weights = {
        n: torch.randn(s, generator=generator) for n, s in (("a", (4, 3)), ("b", (2, 3, 2, 2)))
    }
    made = mask_variables([weights])
    with torch.no_grad():
        made.leaves[0].normal_(generator=generator)
    mine, theirs = (
        {n: torch.linspace(0.5, 2, len(w)).requires_grad_() for n, w in weights.items()}
        for _ in range(2)
    )
    found = mask_and_scale(made.blocks[0], weights, mine if scaled else {})
    sum(value.square().sum() for value in found.values()).backward()
    for name, variable in made.by_name().items():
        variable = variable.clone().requires_grad_()
        weight = weights[name] * straight_through(variable)
        if scaled:
            weight = along_rows(theirs[name], weight) * weight
        assert torch.equal(found[name], weight)
        weight.square().sum().backward()
        assert torch.equal(made.blocks[0].cut(made.leaves[0].grad)[name], variable.grad)
        if scaled:
            assert torch.equal(mine[name].grad, theirs[name].grad)


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


@pytest.mark.parametrize("cap", [0.0, 0.01, 0.2, 0.37, 0.6, 1.0])
def test_a_cap_removes_the_lowest_and_of_equal_ones_the_first(cap):
    generator = torch.Generator().manual_seed(0)
    variables = {
        name: ((torch.rand(shape, generator=generator) - 0.6) * 8).round() / 8
        for name, shape in {"a": (5, 7), "b": (2, 3, 4), "c": (11,)}.items()
    }
    flat = torch.cat([value.flatten() for value in variables.values()])
    removed = min(int(cap * len(flat) + 1e-6), int((flat <= 0).sum()))
    wanted = torch.ones_like(flat, dtype=torch.bool)
    wanted[torch.sort(flat, stable=True).indices[:removed]] = False
    found = harden(variables, cap)
    assert torch.equal(torch.cat([mask.flatten() for mask in found.values()]), wanted)
    assert [mask.shape for mask in found.values()] == [v.shape for v in variables.values()]
