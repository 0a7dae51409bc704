"""Per-group curvature against a loop over single rows, and what the pass leaves behind."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fairsvd.curvature._sums as sums_module
from fairsvd.curvature import group_curvature, group_weight_curvature, per_sample_gradients

# torch.func itself still calls torch.jit.script on its first use.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

N_CLASSES = 3


class Mean(nn.Module):
    """Average over the positions (N, T, n) -> (N, n)."""

    def forward(self, x):
        return x.mean(1)


class Twice(nn.Module):
    """One layer used twice in a forward pass."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


class Residual(nn.Module):
    """Residual block with batch normalisation and in-place activations."""

    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        out = self.norm(self.second(self.relu(self.first(x))))
        out += x
        return self.relu(out)


class Doubled(nn.Linear):
    """A layer of another kind: a subclass whose forward pass is its own."""

    def forward(self, x):
        return 2 * super().forward(x)


def image_net(*body, channels=4):
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, N_CLASSES)]
    return nn.Sequential(*body, *head)


def conv_net(**options):
    first = nn.Conv2d(4, 8, **{"kernel_size": 3, **options})
    return image_net(first, nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1), nn.Tanh())


NETWORKS = {
    "mlp": lambda: nn.Sequential(
        nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)
    ),
    "positions": lambda: nn.Sequential(
        nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), Mean(), nn.Linear(4, 3)
    ),
    "linear used twice": lambda: nn.Sequential(Twice(nn.Linear(6, 6)), nn.Linear(6, 3)),
    "conv used twice": lambda: image_net(Twice(nn.Conv2d(4, 4, 3, padding=1))),
    "residual": lambda: image_net(Residual(4)),
    "conv": lambda: conv_net(),
    "stride": lambda: conv_net(stride=2, padding=1),
    "strides": lambda: conv_net(stride=(2, 1), padding=(0, 2), kernel_size=(2, 3)),
    "same": lambda: conv_net(kernel_size=(3, 5), padding="same", dilation=(1, 2)),
    "same, even": lambda: conv_net(kernel_size=(4, 3), padding="same"),
    "reflect": lambda: conv_net(padding=(1, 2), padding_mode="reflect"),
    "dilation": lambda: conv_net(dilation=2, padding=2),
    "groups": lambda: conv_net(groups=2, padding=1),
    "depthwise": lambda: conv_net(groups=4, padding=1, stride=2),
    "pointwise": lambda: conv_net(kernel_size=1, groups=2),
    "conv1d (torch.func)": lambda: nn.Sequential(
        nn.Conv1d(4, 4, 3, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)
    ),
    "subclass (torch.func)": lambda: nn.Sequential(Doubled(6, 5), nn.Tanh(), nn.Linear(5, 3)),
}
INPUTS = {"positions": (7, 6), "conv1d (torch.func)": (4, 6)}
FLAT = {"mlp", "linear used twice", "subclass (torch.func)"}


def input_shape(kind):
    return (6,) if kind in FLAT else INPUTS.get(kind, (4, 9, 8))


# torch says that an even window with padding="same" copies its input.
ignore_copy = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")


def identity(output):
    return output


def make(kind, dtype=torch.float64, n_rows=13, n_groups=2, seed=0):
    """Network, its layers with weights, and rows of which some have no group."""
    torch.manual_seed(seed)
    module = NETWORKS[kind]().to(dtype).eval()
    x = torch.randn(n_rows, *input_shape(kind), dtype=dtype)
    y = torch.randint(N_CLASSES, (n_rows,))
    group = torch.arange(n_rows) * 7 % (n_groups + 1) - 1
    kinds = (nn.Linear, nn.Conv2d, nn.Conv1d)
    names = [name for name, part in module.named_modules() if isinstance(part, kinds)]
    return module, names, (x, y, group)


def matrices(module, name):
    layer = module.get_submodule(name)
    c = getattr(layer, "groups", 1)
    return layer.weight.detach().reshape(c, layer.weight.shape[0] // c, -1)


def factorise(module, names, share=1.0):
    factors = {}
    for name in names:
        U, S, Vh = torch.linalg.svd(matrices(module, name), full_matrices=False)
        r = max(1, round(share * S.shape[-1]))
        factors[name] = U[..., :r], S[..., :r], Vh.mT[..., :r]
    return factors


def in_batches(rows, size=5):
    return [tuple(part[i : i + size] for part in rows) for i in range(0, len(rows[0]), size)]


def directions(logits, label, hessian):
    """What is backpropagated for one row: one vector, or one a class."""
    p = logits.detach().softmax(0)
    unit = torch.eye(len(p), dtype=p.dtype)
    return [p - unit[label]] if hessian == "fisher" else [*(p.sqrt()[:, None] * (unit - p))]


def loop(module, names, rows, n_groups, hessian):
    """Squared gradients one row at a time: name -> gradients per group (rows, c, m, n)."""
    found = {name: [[] for _ in range(n_groups)] for name in names}
    weights = [module.get_submodule(name).weight for name in names]
    for x, label, group in zip(*rows, strict=True):
        logits = module(x[None])[0]
        for vector in directions(logits, label, hessian):
            grads = torch.autograd.grad(logits, weights, vector, retain_graph=True)
            if group >= 0:
                for name, g in zip(names, grads, strict=True):
                    found[name][group].append(g.reshape(matrices(module, name).shape))
    return found


def reference(module, factors, rows, n_groups, hessian="fisher"):
    """hU, hV and the curvature of W by the definition, row by row."""
    gradients = loop(module, list(factors), rows, n_groups, hessian)
    counts = [max(1, int((rows[2] == g).sum())) for g in range(n_groups)]
    result = {}
    for name, (U, S, V) in factors.items():
        totals = [torch.zeros(n_groups, *each.shape).to(U) for each in (U, V, U @ V.mT)]
        for g in range(n_groups):
            for G in gradients[name][g]:
                parts = (G @ V * S[:, None], G.mT @ U * S[:, None], G)
                for total, part in zip(totals, parts, strict=True):
                    total[g] += part**2 / counts[g]
        result[name] = totals
    return result


def curvature(module, factors, batches, n_groups=2, **options):
    return group_curvature(
        module, factors, batches, n_groups=n_groups, to_logits=identity, **options
    )


def assert_close(found, wanted, tolerance=1e-9):
    scale = wanted.abs().max().item()
    assert scale > 0
    torch.testing.assert_close(found / scale, wanted / scale, rtol=0, atol=tolerance)


def assert_same(found, wanted, tolerance=1e-9):
    assert list(found) == list(wanted)
    for name in wanted:
        for mine, other in zip(found[name], wanted[name], strict=True):
            assert mine.shape == other.shape
            assert_close(mine, other, tolerance)


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
    max_bytes = data.draw(st.sampled_from([1, 5000, 2**28]))
    shuffled = in_batches([part[order] for part in rows], size)
    found = curvature(module, factors, shuffled, max_bytes=max_bytes)
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


def state(module):
    """All that the pass may not change."""
    parts = list(module.modules())
    return (
        [part.training for part in parts],
        [len(part._forward_hooks) for part in parts],
        [parameter.requires_grad for parameter in module.parameters()],
        [parameter.grad for parameter in module.parameters()],
        [tensor.clone() for tensor in module.state_dict().values()],
    )


def assert_untouched(module, before):
    *flags, values = state(module)
    assert flags[:3] == list(before[:3])
    assert all(now is then for now, then in zip(flags[3], before[3], strict=True))
    assert all(map(torch.equal, values, before[4]))


def prepared(kind="residual"):
    """A network whose modes, flags and gradients are all mixed."""
    module, names, rows = make(kind)
    module.train()
    module[-1].eval()
    next(module.parameters()).requires_grad_(False)
    module[-1].weight.grad = torch.ones_like(module[-1].weight)
    return module, names, rows


@pytest.mark.parametrize("kind", ["residual", "mlp", "conv1d (torch.func)"])
def test_the_module_is_left_as_it_was(kind):
    module, names, rows = prepared(kind)
    before = state(module)
    random_state = torch.get_rng_state()
    curvature(module, factorise(module, names), in_batches(rows), hessian="ggn")
    assert_untouched(module, before)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.is_grad_enabled()


class Failure(Exception):
    pass


@pytest.mark.parametrize("where", ["batches", "forward", "logits", "labels"])
def test_the_module_is_left_as_it_was_after_a_failure(where):
    module, names, rows = prepared()
    factors = factorise(module, names)
    if where == "forward":
        module[-1].register_forward_pre_hook(fail)
    before = state(module)

    def batches():
        yield rows
        if where == "batches":
            fail()
        yield rows[0], rows[1] + 5, rows[2]

    to_logits = fail if where == "logits" else identity
    with pytest.raises(ValueError if where == "labels" else Failure):
        group_curvature(module, factors, batches(), n_groups=2, to_logits=to_logits)
    assert_untouched(module, before)


def fail(*_):
    raise Failure


def test_per_sample_gradients_of_the_loss():
    module, names, (x, y, _) = make("residual")
    cotangents = module(x).detach().softmax(1) - nn.functional.one_hot(y, N_CLASSES)
    found = per_sample_gradients(module, names, x, cotangents, identity)
    for i in range(len(x)):
        module.zero_grad()
        nn.functional.cross_entropy(module(x[i : i + 1]), y[i : i + 1]).backward()
        for name in names:
            assert_close(found[name][i], module.get_submodule(name).weight.grad)


def attempt(**changes):
    module, names, (x, y, group) = make("mlp")
    arguments = {"module": module, "factors": factorise(module, names), "n_groups": 2}
    arguments |= {"to_logits": identity, "batches": [(x, y, group)], **changes}
    return group_curvature(**arguments)


TRIPLE = torch.zeros(1, 5, 2), torch.zeros(1, 2), torch.zeros(1, 6, 2)
X, CODES = torch.zeros(4, 6).double(), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hessian": "exact"}, "hessian must be 'fisher' or 'ggn', got 'exact'"),
        ({"n_groups": 0}, "n_groups must be at least 1, got 0"),
        ({"max_bytes": 0}, "max_bytes must be positive, got 0"),
        ({"factors": {"nothing": TRIPLE}}, "no layer 'nothing'"),
        ({"factors": {"1": TRIPLE}}, r"'1' is a ReLU.*nn.Linear and nn.Conv2d"),
        ({"factors": {"2": TRIPLE}}, r"factors\['2'\]: U, S, V must have the shapes"),
        ({"batches": [(X, CODES, CODES[:3])]}, "same length, got 4, 4 and 3"),
        ({"batches": [(X, CODES, CODES + 2)]}, "group codes must lie in"),
        ({"batches": [(X, CODES, CODES - 2)]}, "group codes must lie in"),
        ({"batches": [(X, CODES + 3, CODES)]}, "class codes in .0, 3.*from 3 to 3"),
        ({"batches": [(X, CODES - 1, CODES)]}, "class codes in .0, 3.*from -1 to -1"),
        ({"to_logits": lambda output: output[:, :1]}, "n_classes.*got shape"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        attempt(**changes)


def test_a_layer_that_never_runs_is_refused():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x):
            return self.used(x)

    module = Idle().double()
    with pytest.raises(ValueError, match=r"'idle'.* never ran"):
        attempt(module=module, factors=factorise(module, ["used", "idle"]))


def test_a_weight_that_is_computed_is_taken_where_the_layer_is_known():
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    _, _, rows = make("mlp")
    wanted = curvature(module, factorise(module, ["0"]), [rows])
    nn.utils.parametrizations.weight_norm(module[0])
    assert not isinstance(module[0].weight, nn.Parameter)
    assert_same(curvature(module, factorise(module, ["0"]), [rows]), wanted)


def test_a_weight_that_is_computed_is_refused_elsewhere():
    module = nn.Sequential(Doubled(6, 3)).double()
    nn.utils.parametrizations.weight_norm(module[0])
    with pytest.raises(ValueError, match="without a floating-point parameter"):
        attempt(module=module, factors=factorise(module, ["0"]))


def test_an_input_without_one_entry_a_row_is_refused():
    module = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Flatten(0, 1), nn.Linear(3, 3))
    module = nn.Sequential(*module, nn.Unflatten(0, (-1, 2)), Mean()).double()
    with pytest.raises(ValueError, match="first dimension must be the rows"):
        attempt(module=module, factors=factorise(module, ["2"]))


def test_an_input_that_changes_after_the_layer_is_refused():
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6).requires_grad_(False)

        def forward(self, x):
            x = x * 1.0
            out = self.layer(x)
            x += 1
            return out[:, :3] + x[:, :3]

    module = Changing().double()
    with pytest.raises(ValueError, match="changed in place"):
        attempt(module=module, factors=factorise(module, ["layer"]))
