"""Per-group curvature against a loop over single rows."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fairsvd.curvature._engine as engine_module
import fairsvd.curvature._sums as sums_module
from curvature_reference import (
    N_CLASSES,
    NETWORKS,
    Mean,
    assert_close,
    assert_same,
    curvature,
    factorise,
    identity,
    ignore_copy,
    image_net,
    in_batches,
    make,
    reference,
)
from fairsvd.curvature import group_curvature, group_weight_curvature

# torch.func itself still calls torch.jit.script on its first use.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


@ignore_copy
@pytest.mark.parametrize("hessian", ["fisher", "ggn"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_equals_the_loop_over_single_rows(kind, hessian):
    module, names, rows = make(kind)
    factors = factorise(module, names)
    wanted = reference(module, factors, rows, 2, hessian)
    found = curvature(module, factors, in_batches(rows), hessian=hessian)
    assert_same(found, {name: each[:2] for name, each in wanted.items()})
    in_weights = group_weight_curvature(
        module, names, in_batches(rows), n_groups=2, to_logits=identity, hessian=hessian
    )
    assert_same({n: [h] for n, h in in_weights.items()}, {n: w[2:] for n, w in wanted.items()})


@ignore_copy
@pytest.mark.parametrize("kind", NETWORKS)
def test_only_some_need_torch_func(monkeypatch, kind):
    module, names, rows = make(kind)
    seen = []
    run = engine_module.gradients_by_row
    monkeypatch.setattr(engine_module, "gradients_by_row", lambda *a: seen.append(a[1]) or run(*a))
    curvature(module, factorise(module, names), [rows])
    assert bool(seen) == kind.endswith("(torch.func)")


@pytest.mark.parametrize("kind", ["attention", "transformer", "tied, transposed (torch.func)"])
def test_attention_leaves_no_setting_behind(kind):
    module, names, rows = make(kind)
    hooks = [len(part._forward_hooks) for part in module.modules()]
    wanted = module(rows[0])
    with torch.no_grad():
        curvature(module, factorise(module, names), [rows])
        assert torch.backends.mha.get_fastpath_enabled()
        assert torch.overrides._get_current_function_mode() is None
        torch.testing.assert_close(module(rows[0]), wanted)
    assert [len(part._forward_hooks) for part in module.modules()] == hooks


@pytest.mark.parametrize("kind", ["attention", "transformer", "transformer, norm first"])
def test_frozen_attention(kind):
    """With frozen weights torch would take its fast path, in which no projection can be seen."""
    module, names, rows = make(kind)
    factors = factorise(module, names)
    wanted = reference(module, factors, rows, 2)
    module.requires_grad_(False)
    assert_same(curvature(module, factors, [rows]), {n: w[:2] for n, w in wanted.items()})


def test_what_is_done_with_a_weight_beside_running_it_does_not_disturb():
    class Asking(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x):
            return self.layer(x.to(self.layer.weight.dtype)) * self.layer.weight.shape[0]

    module, (_, _, rows) = Asking().double(), make("mlp")
    factors = factorise(module, ["layer"])
    wanted = reference(module, factors, rows, 2)["layer"][:2]
    assert_same(curvature(module, factors, [rows]), {"layer": wanted})


@ignore_copy
@pytest.mark.parametrize("kind", NETWORKS)
def test_equals_the_loop_in_float32_with_truncated_factors(kind):
    module, names, rows = make(kind, torch.float32)
    factors = factorise(module, names, 0.5)
    wanted = reference(module, factors, rows, 2)
    found = curvature(module, factors, in_batches(rows))
    assert {h.dtype for pair in found.values() for h in pair} == {torch.float32}
    assert_same(found, {name: each[:2] for name, each in wanted.items()}, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [4, 12])  # 12: more than 64 positions, another way on the CPU
@pytest.mark.parametrize("first", [True, False])
def test_both_orders_of_the_products_agree(monkeypatch, size, first, dtype):
    module = image_net(nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)).to(dtype)
    x, y, group = torch.randn(9, 4, size, size, dtype=dtype), torch.arange(9) % 3, torch.arange(9)
    factors = factorise(module, ["0", "1"])
    wanted = reference(module, factors, (x, y, group % 2), 2)
    monkeypatch.setattr(sums_module.LayerSums, "_forms_gradient", lambda self, positions: first)
    found = curvature(module, factors, [(x, y, group % 2)])
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    assert_same(found, {name: each[:2] for name, each in wanted.items()}, tolerance)


@pytest.mark.parametrize("kind", ["mlp", "positions", "residual", "groups"])
def test_five_groups(kind):
    module, names, rows = make(kind, n_rows=31, n_groups=5)
    factors = factorise(module, names)
    wanted = reference(module, factors, rows, 5)
    found = curvature(module, factors, in_batches(rows, 8), n_groups=5)
    assert_same(found, {name: each[:2] for name, each in wanted.items()})


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_ggn_is_the_diagonal_of_the_hessian_of_the_loss_through_the_logits(kind):
    module, names, (x, y, group) = make(kind, n_rows=6)
    name, group = names[0], torch.zeros_like(group)
    layer = module.get_submodule(name)

    def logits(weight, row):
        out = torch.func.functional_call(module, {f"{name}.weight": weight}, (row[None],))
        return out[0]

    wanted = 0
    for row, label in zip(x, y, strict=True):
        z = logits(layer.weight, row).detach()
        H = torch.func.hessian(lambda z, label=label: nn.functional.cross_entropy(z, label))(z)
        J = torch.func.jacrev(logits)(layer.weight.detach(), row).flatten(1)
        wanted = wanted + torch.einsum("ci,cd,di->i", J, H, J) / len(x)
    found = group_weight_curvature(
        module, [name], [(x, y, group)], n_groups=1, to_logits=identity, hessian="ggn"
    )
    assert_close(found[name].flatten(), wanted)


def test_ggn_does_not_read_the_labels():
    module, names, (x, y, group) = make("mlp")
    factors = factorise(module, names)
    one = curvature(module, factors, [(x, y, group)], hessian="ggn")
    other = curvature(module, factors, [(x, (y + 1) % N_CLASSES, group)], hessian="ggn")
    assert_same(one, other, 0)


def test_ggn_survives_certain_predictions():
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3))
    with torch.no_grad():
        module[1].bias += torch.tensor([300.0, 0.0, -300.0])
    rows = torch.randn(4, 2), torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
    found = curvature(module, factorise(module, ["0"]), [rows], n_groups=1, hessian="ggn")
    assert all(torch.isfinite(h).all() and (h >= 0).all() for h in found["0"])


@settings(max_examples=40)
@given(st.data())
def test_order_and_batches_of_the_rows_do_not_matter(data):
    kind = data.draw(st.sampled_from(["mlp", "positions", "residual", "depthwise"]))
    module, names, rows = make(kind, n_rows=12)
    factors = factorise(module, names)
    order = torch.tensor(data.draw(st.permutations(range(12))))
    size = data.draw(st.integers(1, 12))
    max_memory = data.draw(st.sampled_from([1, 5000, 2**28]))
    shuffled = in_batches([part[order] for part in rows], size)
    found = curvature(module, factors, shuffled, max_memory=max_memory)
    assert_same(found, curvature(module, factors, [rows]))


@settings(max_examples=50)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 6))
def test_shapes_and_ranks_of_a_linear_layer(positions, n_in, n_out, rank):
    torch.manual_seed(positions + 10 * n_in + 100 * n_out)
    module = nn.Sequential(nn.Linear(n_in, n_out), Mean(), nn.Linear(n_out, 3)).double()
    rank = min(rank, n_in, n_out)
    U, S, V = (torch.randn(1, *size).double() for size in ((n_out, rank), (rank,), (n_in, rank)))
    rows = torch.randn(4, positions, n_in).double(), torch.arange(4) % 3, torch.arange(4) % 2
    wanted = reference(module, {"0": (U, S, V)}, rows, 2)
    assert_same(curvature(module, {"0": (U, S, V)}, [rows]), {"0": wanted["0"][:2]})


def test_groups_trade_places_with_their_codes():
    module, names, (x, y, group) = make("residual")
    factors = factorise(module, names)
    swapped = torch.where(group < 0, group, 1 - group)
    found = curvature(module, factors, [(x, y, swapped)])
    wanted = curvature(module, factors, [(x, y, group)])
    assert_same(found, {name: [h.flip(0) for h in pair] for name, pair in wanted.items()})


def test_a_group_without_rows_gets_zeros():
    module, names, (x, y, group) = make("mlp")
    found = curvature(module, factorise(module, names), [(x, y, group * 0)], n_groups=3)
    for pair in found.values():
        for h in pair:
            assert h[0].max() > 0
            assert not h[1:].any()


def test_rows_without_a_group_are_left_out():
    module, names, rows = make("residual")
    factors = factorise(module, names)
    kept = [part[rows[2] >= 0] for part in rows]
    assert len(kept[0]) < len(rows[0])
    assert_same(curvature(module, factors, [rows]), curvature(module, factors, [kept]), 1e-14)


def test_no_rows_at_all_give_zeros():
    module, names, (x, y, group) = make("mlp")
    found = curvature(module, factorise(module, names), [(x, y, 0 * group - 1)])
    assert not any(h.any() for pair in found.values() for h in pair)


@pytest.mark.parametrize("kind", ["attention", "attention in windows (torch.func)"])
def test_batches_without_a_row_are_passed_over(kind):
    module, names, (x, y, group) = make(kind)
    factors = factorise(module, names)
    batches = [(x, y, 0 * group - 1), (x[:0], y[:0], group[:0]), (x, y, group)]
    found = curvature(module, factors, batches, max_memory=1)
    assert_same(found, curvature(module, factors, [(x, y, group)]))


def test_one_logit_for_two_classes():
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    rows = torch.randn(6, 3).double(), torch.arange(6) % 2, torch.arange(6) % 2
    factors = factorise(module, ["0"])
    found = group_curvature(
        module,
        factors,
        [rows],
        n_groups=2,
        to_logits=lambda z: torch.cat([torch.zeros_like(z), z], 1),
    )
    two = copy.deepcopy(module)
    two[2] = nn.Linear(4, 2).double()
    with torch.no_grad():
        two[2].weight.copy_(torch.cat([0 * module[2].weight, module[2].weight]))
        two[2].bias.copy_(torch.cat([0 * module[2].bias, module[2].bias]))
    assert_same(found, curvature(two, factors, [rows]))


def test_frozen_weights_and_in_place_activations():
    module, names, rows = make("mlp")
    factors = factorise(module, names)
    wanted = curvature(module, factors, [rows])
    module.requires_grad_(False)
    with torch.no_grad():
        assert_same(curvature(module, factors, [rows]), wanted, 0)
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_a_part_that_does_not_reach_the_logits_counts_as_zero():
    class Ignored(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.ignored = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            self.ignored(x)
            return self.used(x)

    module = Ignored()
    rows = torch.randn(6, 4), torch.arange(6) % 3, torch.arange(6) % 2
    found = curvature(module, factorise(module, ["used", "ignored"]), [rows])
    assert found["used"][0].any()
    assert not found["ignored"][0].any()


def test_users_own_hooks_stay_and_do_not_disturb():
    module, names, rows = make("mlp")
    factors = factorise(module, names)
    module[0].register_forward_hook(lambda layer, args, output: output * 3)
    wanted = reference(module, factors, rows, 2)
    assert_same(curvature(module, factors, [rows]), {n: w[:2] for n, w in wanted.items()})
    assert len(module[0]._forward_hooks) == 1
