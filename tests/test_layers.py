"""Factored layers: the decomposition, and the choice of layers and ranks."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fairsvd.exceptions import NetworkError, RankWarning
from fairsvd.layers import (
    chosen_weights,
    editable_layers,
    factorise,
    full_rank,
    resolve_ranks,
    select_layers,
)
from fairsvd.networks import layer_weights

# Name, layer, shape of one block of its weight as a matrix.
LAYERS = {
    "wide linear": (lambda: nn.Linear(9, 5), (5, 9)),
    "tall linear": (lambda: nn.Linear(4, 11, bias=False), (11, 4)),
    "conv": (lambda: nn.Conv2d(3, 8, (2, 3)), (8, 18)),
    "grouped": (lambda: nn.Conv2d(6, 9, 3, groups=3), (3, 18)),
    "depthwise": (lambda: nn.Conv2d(5, 10, 3, groups=5), (2, 9)),
}
PRECISION = {torch.float32: 1e-6, torch.float64: 1e-14}


def make(kind, dtype=torch.float64, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LAYERS[kind][0]().to(dtype)


def blocks_of(layer):
    """Blocks of the weight as numpy matrices, in float64."""
    weight = layer.weight.detach().double()
    groups = getattr(layer, "groups", 1)
    return weight.reshape(groups, weight.shape[0] // groups, -1).numpy()


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("kind", LAYERS)
def test_full_rank_gives_the_weight_back(kind, dtype):
    layer = make(kind, dtype)
    rank = full_rank(layer)
    assert rank == min(LAYERS[kind][1])
    factors = factorise(layer, rank)
    blocks = getattr(layer, "groups", 1)
    m, n = LAYERS[kind][1]
    assert factors.U.shape == (blocks, m, rank)
    assert factors.S.shape == (blocks, rank)
    assert factors.V.shape == (blocks, n, rank)
    assert factors.U.dtype == factors.S.dtype == factors.V.dtype == dtype
    back = factors.weight()
    assert back.shape == layer.weight.shape
    torch.testing.assert_close(back, layer.weight.detach(), rtol=0, atol=PRECISION[dtype])


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("kind", LAYERS)
def test_columns_are_orthonormal_and_values_sorted(kind, dtype):
    factors = factorise(make(kind, dtype), min(LAYERS[kind][1]))
    eye = torch.eye(factors.S.shape[1], dtype=dtype).expand(len(factors.S), -1, -1)
    for side in (factors.U, factors.V):
        torch.testing.assert_close(side.mT @ side, eye, rtol=0, atol=10 * PRECISION[dtype])
    assert bool((factors.S >= 0).all())
    assert bool((factors.S.diff(dim=1) <= 0).all())


@given(
    st.sampled_from(["linear", "conv", "grouped"]),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 99),
)
def test_truncation_is_the_best_approximation(kind, m, n, rank, seed):
    """Eckart-Young: the squared error is the sum of the squares of what was cut off."""
    torch.manual_seed(seed)
    layer = {
        "linear": lambda: nn.Linear(n, m),
        "conv": lambda: nn.Conv2d(n, m, 2),
        "grouped": lambda: nn.Conv2d(2 * n, 2 * m, 2, groups=2),
    }[kind]().double()
    rank = min(rank, full_rank(layer))
    error = blocks_of(layer) - (
        factorise(layer, rank).weight().reshape(blocks_of(layer).shape).numpy()
    )
    for block, difference in zip(blocks_of(layer), error, strict=True):
        cut = np.linalg.svd(block, compute_uv=False)[rank:]
        assert np.square(difference).sum() == pytest.approx(np.square(cut).sum(), abs=1e-12)
        assert np.linalg.norm(difference, 2) == pytest.approx(max(cut, default=0), abs=1e-7)


@pytest.mark.parametrize("kind", ["tall linear", "grouped"])
def test_a_reach_is_how_far_a_weight_moves_if_all_entries_move_by_one(kind):
    factors = factorise(make(kind), 2)
    for side, reach in zip("UV", factors.reaches(), strict=True):
        moved = replace(factors, **{side: getattr(factors, side) + 1}).weight() - factors.weight()
        assert float(moved.square().mean().sqrt()) == pytest.approx(reach, rel=1e-4)


@given(st.integers(2, 7), st.integers(2, 7), st.floats(0.01, 100), st.integers(0, 99))
def test_permuting_and_scaling_a_weight_permutes_and_scales_its_factors(m, n, scale, seed):
    torch.manual_seed(seed)
    layer, other = nn.Linear(n, m).double(), nn.Linear(n, m).double()
    rows, columns = torch.randperm(m), torch.randperm(n)
    with torch.no_grad():
        other.weight.copy_(scale * layer.weight[rows][:, columns])
    rank = max(1, full_rank(layer) - 1)
    ours, theirs = factorise(layer, rank), factorise(other, rank)
    torch.testing.assert_close(theirs.S, scale * ours.S)
    expected = scale * ours.weight()[rows][:, columns]
    torch.testing.assert_close(theirs.weight(), expected, atol=1e-9 * scale, rtol=1e-6)


def test_factors_of_single_precision_are_rounded_once_only():
    """Decomposed in double precision; in single the small singular values lose their digits."""
    torch.manual_seed(0)
    layer = nn.Linear(60, 40)
    with torch.no_grad():
        layer.weight.mul_(10.0 ** torch.linspace(0, -4, 60))
    exact = np.linalg.svd(layer.weight.detach().double().numpy(), compute_uv=False)
    factors = factorise(layer, 40)
    assert factors.S.dtype == torch.float32
    np.testing.assert_allclose(factors.S[0], exact, rtol=1.2e-7)


def test_masked_zeroes_entries_and_leaves_the_rest():
    factors = factorise(make("grouped"), 2)
    keep_u, keep_v = torch.rand(factors.U.shape) > 0.5, torch.rand(factors.V.shape) > 0.5
    masked = factors.masked(keep_u, keep_v)
    for block in range(3):
        u = factors.U[block].numpy() * keep_u[block].numpy()
        v = factors.V[block].numpy() * keep_v[block].numpy()
        np.testing.assert_allclose(
            masked.weight().reshape(3, 3, 18)[block], u @ np.diag(factors.S[block]) @ v.T
        )


def network():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3),
            nn.Flatten(),
            nn.Linear(6, 10),
            nn.LayerNorm(10),
            nn.Linear(10, 4),
            nn.Linear(4, 2),
        )


NAMES = ["0", "2", "4", "5"]


def test_ranks():
    net = network()
    full = {"0": 6, "2": 6, "4": 4, "5": 2}
    assert resolve_ranks(net, NAMES, None) == full
    assert resolve_ranks(net, NAMES, 1.0) == full
    assert resolve_ranks(net, NAMES, 0.5) == {"0": 3, "2": 3, "4": 2, "5": 1}
    assert resolve_ranks(net, NAMES, np.float32(0.5)) == {"0": 3, "2": 3, "4": 2, "5": 1}
    # 2.7, 1.8 and 0.9, then 2.4, 1.6 and 0.8: to the nearest, never below 1.
    assert resolve_ranks(net, NAMES, 0.45) == {"0": 3, "2": 3, "4": 2, "5": 1}
    assert resolve_ranks(net, NAMES, 0.4) == {"0": 2, "2": 2, "4": 2, "5": 1}
    assert resolve_ranks(net, NAMES, 0.01) == dict.fromkeys(NAMES, 1)
    assert resolve_ranks(net, NAMES, 4) == {"0": 4, "2": 4, "4": 4, "5": 2}
    assert resolve_ranks(net, NAMES, np.int64(6)) == full
    with pytest.raises(ValueError, match=r"rank=7 is above .* Use an int up to 6"):
        resolve_ranks(net, NAMES, 7)
    with pytest.warns(RankWarning, match="rank=1 .an int. keeps one"):
        assert resolve_ranks(net, NAMES, 1) == dict.fromkeys(NAMES, 1)


def test_selection():
    net = network()
    assert select_layers(net, "all", "5") == NAMES
    assert select_layers(net, "hidden", "5") == ["0", "2", "4"]
    assert select_layers(net, ["4", "0"], "5") == ["0", "4"]  # in the network's order
    assert select_layers(net, re.compile("[45]"), "5") == ["4", "5"]
    named = nn.ModuleDict({"encoder": nn.Linear(3, 3), "encoded": nn.ReLU(), "head": net[5]})
    with pytest.raises(
        NetworkError, match=r"layers names 'encodr', .*it has .*Did you mean 'encoder'"
    ):
        select_layers(named, ["encodr"], "head")
    with pytest.raises(NetworkError, match="'encoded', which is no Linear or Conv2d"):
        select_layers(named, ["encoded"], "head")
    with pytest.raises(NetworkError, match="leaves no Linear or Conv2d layer"):
        select_layers(net, re.compile("nothing"), "5")
    with pytest.raises(NetworkError, match="layers='all'"):
        select_layers(nn.Sequential(nn.Linear(2, 2)), "hidden", "0")


class Shared(nn.Module):
    """One layer in two places, and two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.again = nn.Sequential(self.first, nn.ReLU())
        self.tied = nn.Linear(6, 6)
        self.tied.weight = self.first.weight
        self.out = nn.Linear(6, 2)

    def forward(self, X):
        return self.out(self.tied(self.again(self.first(X))))


def test_shared_layers_and_weights_are_listed_once():
    net = Shared()
    assert list(editable_layers(net)) == ["first", "out"]
    assert list(editable_layers(nn.Linear(2, 2))) == [""]
    assert select_layers(net, ["tied"], "out") == ["first"]  # the first stands for both
    assert select_layers(net, "hidden", "tied") == ["out"]  # the weight that makes the logits
    assert select_layers(net, "all", "tied") == ["first", "out"]


def test_attention_has_its_projections():
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    wanted = {
        "self_attn.in_proj": "self_attn.in_proj_weight",
        "self_attn.out_proj": "self_attn.out_proj.weight",
        "linear1": "linear1.weight",
        "linear2": "linear2.weight",
    }
    found = editable_layers(layer)
    assert {name: weight.parameter for name, weight in found.items()} == wanted
    assert list(editable_layers(nn.MultiheadAttention(8, 2))) == ["in_proj", "out_proj"]
    apart = nn.MultiheadAttention(8, 2, kdim=5, vdim=6, bias=False)
    assert list(editable_layers(apart)) == ["q_proj", "k_proj", "v_proj", "out_proj"]
    assert [w.parameter for w in editable_layers(apart).values()][1] == "k_proj_weight"


def test_every_projection_of_a_packed_weight_is_factored_on_its_own():
    attention = nn.MultiheadAttention(6, 2).double()
    weight = editable_layers(attention)["in_proj"]
    assert full_rank(weight) == 6
    factors = factorise(weight, 4)
    assert factors.U.shape == factors.V.shape == (3, 6, 4)
    assert factors.parameter == "in_proj_weight"
    for k, block in enumerate(attention.in_proj_weight.detach().chunk(3)):
        U, S, Vh = np.linalg.svd(block.numpy())
        np.testing.assert_allclose(factors.S[k], S[:4])
        product = U[:, :4] * S[:4] @ Vh[:4]
        np.testing.assert_allclose(factors.weight().chunk(3)[k], product, atol=1e-12)


def test_biases_of_units():
    bias = {name: weight.bias for name, weight in layer_weights(network()).items()}
    assert bias == {name: (f"{name}.bias", slice(None)) for name in NAMES}
    packed = layer_weights(nn.MultiheadAttention(8, 2))
    assert packed["in_proj"].bias == ("in_proj_bias", slice(None))
    apart = layer_weights(nn.MultiheadAttention(8, 2, kdim=5, vdim=6))
    assert apart["v_proj"].bias == ("in_proj_bias", slice(16, 24))
    assert layer_weights(nn.Linear(2, 2, bias=False))[""].bias is None


def test_a_weight_that_is_computed_is_not_edited():
    net = network()
    nn.utils.parametrizations.weight_norm(net[2])
    assert list(editable_layers(net)) == ["0", "4", "5"]
    with pytest.raises(NetworkError, match="'2' has no weight to edit"):
        chosen_weights(net, ["0", "2"])


def test_factors_are_detached_copies():
    layer = make("conv", torch.float32)
    factors = factorise(layer, 2)
    assert not any(t.requires_grad for t in (factors.U, factors.S, factors.V))
    before = layer.weight.detach().clone()
    factors.U.zero_()
    assert torch.equal(layer.weight, before)
