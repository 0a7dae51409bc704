"""Layers that are kept as two thin factors."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from fairsvd.layers import (
    Factors,
    LowRankConv2d,
    LowRankLinear,
    compress_layer,
    factorise,
    full_rank,
)

CONVOLUTIONS = {
    "plain": {},
    "no bias": {"bias": False},
    "stride and padding": {"stride": (2, 1), "padding": (1, 2)},
    "same": {"padding": "same", "dilation": 2},
    "reflect": {"padding": 1, "padding_mode": "reflect"},
    "circular": {"padding": (2, 1), "padding_mode": "circular", "stride": 2},
    "groups": {"groups": 2, "padding": 1},
    "depthwise": {"groups": 4, "dilation": (1, 2)},
}


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_thin_convolution_equals_the_dense_one(kind, rank):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 8, 3, **CONVOLUTIONS[kind]).double()
    factors = factorise(layer, rank)
    thin = LowRankConv2d(layer, factors)
    with torch.no_grad():
        layer.weight.copy_(factors.weight())
    X = torch.randn(2, 4, 9, 10, dtype=torch.float64)
    torch.testing.assert_close(thin(X), layer(X))
    torch.testing.assert_close(thin.weight, layer.weight)
    assert thin.weight.shape == layer.weight.shape
    assert (thin.bias is None) == (layer.bias is None)
    assert all(p.is_contiguous() for p in thin.parameters())


@pytest.mark.parametrize("bias", [True, False])
def test_thin_linear_equals_the_dense_one(bias):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 10, bias=bias).double())
    factors = factorise(net[0], 3)
    with torch.no_grad():
        net[0].weight.copy_(factors.weight())
    dense = copy.deepcopy(net)
    assert compress_layer(net, "0", factors)
    assert isinstance(net[0], LowRankLinear)
    assert (net[0].in_features, net[0].out_features) == (12, 10)
    X = torch.randn(2, 5, 12, dtype=torch.float64)
    torch.testing.assert_close(net(X), dense(X))
    torch.testing.assert_close(net[0].weight, dense[0].weight)
    assert all(p.is_contiguous() for p in net.parameters())


def saved_and_loaded(net):
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = compressed_network(seed=1)
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


def compressed_network(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(2, 8, 3, groups=2), nn.Flatten(), nn.Linear(32, 16))
    for name, rank in (("0", 1), ("2", 3)):
        assert compress_layer(net, name, factorise(net.get_submodule(name), rank))
    return net.eval()


@pytest.mark.parametrize(
    "travel",
    [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net)), saved_and_loaded],
    ids=["deepcopy", "pickle", "state_dict"],
)
def test_compressed_networks_travel(travel):
    net, X = compressed_network(), torch.randn(3, 2, 4, 4)
    other = travel(net)
    assert torch.equal(other(X), net(X))
    assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in net.parameters()}
    assert sum(p.numel() for p in net.parameters()) < 32 * 16  # fewer numbers than one dense weight


def test_compression_takes_factors_only_where_they_are_smaller():
    def compressed(m, n, rank):
        net = nn.Sequential(nn.Linear(n, m))
        before = net[0]
        done = compress_layer(net, "0", factorise(before, rank))
        assert (net[0] is before) == (not done)
        return done

    assert compressed(6, 6, 2)  # 24 < 36
    assert not compressed(6, 6, 3)  # 36 = 36
    assert not compressed(4, 12, 3)  # 48 = 48
    assert compressed(4, 12, 2)
    layer = nn.Linear(6, 6)
    assert not compress_layer(layer, "", factorise(layer, 1))  # it has no parent


class Shared(nn.Module):
    """One layer in two places."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.again = nn.Sequential(self.first, nn.ReLU())
        self.out = nn.Linear(6, 2)

    def forward(self, X):
        return self.out(self.again(self.first(X)))


def test_compression_reaches_every_place_of_a_shared_layer():
    torch.manual_seed(0)
    net = Shared()
    factors = factorise(net.first, 2)
    with torch.no_grad():
        net.first.weight.copy_(factors.weight())
    X = torch.randn(4, 6)
    dense, mode = net(X), net.first.train(False).training
    assert compress_layer(net, "first", factors)
    assert isinstance(net.first, LowRankLinear)
    assert net.first is net.again[0]
    assert net.first.training is mode
    torch.testing.assert_close(net(X), dense)


class Scaled(nn.Linear):
    """Does more than its kind does."""

    def forward(self, X):
        return 2 * super().forward(X)


def doubled(layer, inputs, *output):
    return 2 * output[0] if output else (2 * inputs[0],)


KEPT = {
    "a hook before it": lambda layer: layer.register_forward_pre_hook(doubled),
    "a hook after it": lambda layer: layer.register_forward_hook(doubled),
    "a forward pass of its own": lambda layer: setattr(layer, "__class__", Scaled),
}


@pytest.mark.parametrize("why", KEPT)
def test_a_layer_that_does_more_than_multiply_stays_as_it_is(why):
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    KEPT[why](net[0])
    before = net[0]
    assert not compress_layer(net, "0", factorise(net[0], 1))
    assert net[0] is before
    assert compress_layer(net, "1", factorise(net[1], 1))


def test_a_layer_whose_weight_another_one_has_too_stays_as_it_is():
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    net[1].weight = net[0].weight
    assert not any(compress_layer(net, name, factorise(net[0], 1)) for name in "01")
    assert net[1].weight is net[0].weight


def test_compression_works_inside_a_transformer_with_and_without_its_fast_path():
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True).eval()
    X = torch.randn(3, 5, 16)
    factors = {name: factorise(getattr(encoder, name), 4) for name in ("linear1", "linear2")}
    with torch.no_grad():
        for name, f in factors.items():
            getattr(encoder, name).weight.copy_(f.weight())
        dense = encoder(X)
    assert all(compress_layer(encoder, name, f) for name, f in factors.items())
    with torch.no_grad():
        torch.testing.assert_close(encoder(X), dense)
    torch.testing.assert_close(encoder(X), dense)  # with gradients: torch takes the slow path


def test_compression_draws_no_random_numbers():
    net = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Linear(20, 20))
    before = torch.get_rng_state()
    assert all(compress_layer(net, name, factorise(net.get_submodule(name), 2)) for name in "01")
    assert torch.equal(torch.get_rng_state(), before)


WIDE = {
    "linear": (lambda: nn.Linear(300, 200), (64, 300)),
    "linear, one large direction": (lambda: nn.Linear(300, 200), (64, 300)),
    "conv": (lambda: nn.Conv2d(16, 32, 3, padding=1), (4, 16, 12, 12)),
    "grouped": (lambda: nn.Conv2d(32, 64, 3, groups=2, stride=2), (4, 32, 12, 12)),
}


@pytest.mark.parametrize("solver", ["full", "randomized"])
@pytest.mark.parametrize("kind", WIDE)
def test_thin_layers_are_as_exact_as_float32_allows(kind, solver):
    torch.manual_seed(0)
    build, shape = WIDE[kind]
    net, X = nn.Sequential(build()), torch.randn(shape)
    if "large" in kind:
        with torch.no_grad():
            net[0].weight.add_(100 * torch.outer(torch.randn(200), torch.randn(300)) / 300)
    factors = factorise(net[0], 12, solver)
    exact = copy.deepcopy(net).double()
    sides = (side.double() for side in (factors.U, factors.S, factors.V))
    with torch.no_grad():
        exact[0].weight.copy_(Factors(*sides, factors.shape).weight())
        assert compress_layer(net, "0", factors)
        wanted = exact(X.double())
        assert (net(X) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def multiplications(layer, X):
    """Count the products of numbers that the convolutions inside compute for X."""
    count = 0

    def note(part, _inputs, output):
        nonlocal count
        count += part.weight.numel() * output[:, 0].numel()

    leaves = [part for part in layer.modules() if isinstance(part, nn.Conv2d)]
    handles = [leaf.register_forward_hook(note) for leaf in leaves]
    layer(X)
    for handle in handles:
        handle.remove()
    return count


@pytest.mark.parametrize("settings", [{}, {"stride": 2}, {"groups": 2, "dilation": 2}])
def test_a_smaller_convolution_multiplies_less(settings):
    torch.manual_seed(0)
    layer, X = nn.Conv2d(6, 10, 3, **settings), torch.randn(2, 6, 9, 9)
    dense = multiplications(layer, X)
    taken = []
    for rank in range(1, full_rank(layer) + 1):
        net = nn.Sequential(layer)
        factors = factorise(layer, rank)
        taken.append(compress_layer(net, "0", factors))
        assert taken[-1] == (multiplications(LowRankConv2d(layer, factors), X) < dense)
    assert taken[0]
    assert not taken[-1]
