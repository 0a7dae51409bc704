"""The randomised decomposition against the exact one, and the choice between the two."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fairsvd.layers import _svd, factorise, full_rank, resolve_solver
from fairsvd.layers._svd import exact_svd, in_float64, randomised_pays, randomised_svd

pytestmark = pytest.mark.slow

ROUNDING = 1e-12  # of a matrix's norm: what the truncated product may be off beside the 1 %


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_spectrum(values, c, m, n, seed=0):
    """Draw matrices that have the given singular values."""
    U = torch.linalg.qr(gaussian(c, m, len(values), seed=seed)).Q
    V = torch.linalg.qr(gaussian(c, n, len(values), seed=seed + 1)).Q
    return (U * values) @ V.mT


def decaying(speed):
    return lambda k: torch.arange(1, k + 1, dtype=torch.float64).pow(-speed)


SPECTRA = {
    "flat": None,
    "equal": torch.ones,
    "slow": decaying(0.5),
    "fast": decaying(2),
    "geometric": lambda k: 0.5 ** torch.arange(k, dtype=torch.float64),
    "one large": lambda k: torch.cat([torch.tensor([1e6]), torch.ones(k - 1)]).double(),
    "two levels": lambda k: torch.cat(
        [torch.ones(k // 8), torch.full((k - k // 8,), 0.9)]
    ).double(),
}
SHAPES = {
    "square": (1, 300, 300),
    "wide": (1, 200, 700),
    "tall": (1, 700, 200),
    "many": (3, 90, 256),
}


def matrices(spectrum, shape):
    c, m, n = SHAPES[shape]
    if SPECTRA[spectrum] is None:
        return gaussian(c, m, n)
    return with_spectrum(SPECTRA[spectrum](min(m, n)), c, m, n)


def product(U, S, V):
    return (U * S.unsqueeze(1)) @ V.mT


def errors(A, U, S, V):
    """Frobenius norms of what the truncated product leaves, one for each matrix."""
    return torch.linalg.matrix_norm(A - product(U, S, V))


def assert_nearly_optimal(A, rank):
    U, S, V = randomised_svd(A, rank)
    best = exact_svd(A, rank)
    assert [side.shape for side in (U, S, V)] == [side.shape for side in best]
    norm = torch.linalg.matrix_norm(A)
    assert (errors(A, U, S, V) <= 1.01 * errors(A, *best) + ROUNDING * norm).all()
    short = best[1] - S
    assert (short <= 0.01 * best[1] + ROUNDING * norm[:, None]).all()
    assert (short >= -ROUNDING * norm[:, None]).all()
    assert (S.diff(dim=1) <= 0).all()
    eye = torch.eye(rank, dtype=A.dtype).expand(len(A), -1, -1)
    for side in (U, V):
        torch.testing.assert_close(side.mT @ side, eye, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rank", [1, 10, 60])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_nearly_optimal(spectrum, shape, rank):
    assert_nearly_optimal(matrices(spectrum, shape), rank)


@pytest.mark.parametrize("rank", [5, 50, 100])
@pytest.mark.parametrize("shape", [(1024, 1024), (1500, 600), (512, 2304)])
def test_nearly_optimal_at_the_sizes_it_is_for(shape, rank):
    assert_nearly_optimal(gaussian(1, *shape, seed=rank), rank)


@settings(max_examples=40)
@given(
    st.integers(1, 3),
    st.integers(1, 200),
    st.integers(1, 200),
    st.floats(0, 1),
    st.floats(0, 4),
    st.integers(0, 99),
)
def test_nearly_optimal_for_any_shape_rank_and_decay(c, m, n, share, speed, seed):
    size = min(m, n)
    rank = max(1, round(share * size))
    assert_nearly_optimal(with_spectrum(decaying(speed)(size), c, m, n, seed), rank)


@pytest.mark.parametrize("shape", [(1, 400, 300), (2, 150, 500)])
def test_a_matrix_of_low_rank_is_found_exactly(shape):
    c, m, n = shape
    A = gaussian(c, m, 7) @ gaussian(c, 7, n, seed=1)
    U, S, V = randomised_svd(A, 7)
    torch.testing.assert_close(product(U, S, V), A, rtol=0, atol=1e-10)
    torch.testing.assert_close(S, exact_svd(A, 7)[1], rtol=1e-12, atol=0)
    assert_nearly_optimal(A, 12)  # more than there are


def test_zeros_have_factors():
    A = torch.zeros(2, 120, 150, dtype=torch.float64)
    assert_nearly_optimal(A, 3)
    assert_nearly_optimal(with_spectrum(torch.ones(1).double(), 1, 120, 150), 3)


def test_small_singular_values_beside_large_ones_keep_their_digits():
    values = torch.cat([torch.tensor([1e7]), torch.linspace(2, 1, 99)]).double()
    A = with_spectrum(values, 1, 300, 400)
    S = randomised_svd(A, 20)[1]
    torch.testing.assert_close(S[0], values[:20], rtol=0.01, atol=0)


# A linear layer, a convolution and a grouped one whose weights are large enough to truncate well.
LAYERS = {
    "linear": lambda: nn.Linear(300, 200),
    "tall linear": lambda: nn.Linear(150, 400),
    "conv": lambda: nn.Conv2d(40, 96, 3),
    "grouped": lambda: nn.Conv2d(64, 256, 3, groups=2),
}


def layer_of(kind, dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LAYERS[kind]().to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", LAYERS)
def test_factors_of_layers(kind, dtype):
    layer = layer_of(kind, dtype)
    mine, exact = (factorise(layer, 20, solver) for solver in ("randomized", "full"))
    assert mine.shape == exact.shape == tuple(layer.weight.shape)
    assert mine.U.dtype == mine.S.dtype == mine.V.dtype == dtype
    assert mine.V.is_contiguous()
    weight = layer.weight.detach()
    left, least = ((weight - f.weight()).double().norm() for f in (mine, exact))
    assert left <= 1.01 * least
    torch.testing.assert_close(mine.S, exact.S, rtol=0.01, atol=0)
    eye = torch.eye(20, dtype=dtype).expand(len(mine.S), -1, -1)
    for side in (mine.U, mine.V):
        torch.testing.assert_close(side.mT @ side, eye, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_full_solver_is_the_plain_decomposition(kind):
    layer = layer_of(kind)
    blocks = layer.weight.detach().reshape(getattr(layer, "groups", 1), -1, layer.weight[0].numel())
    U, S, Vh = torch.linalg.svd(blocks.double(), full_matrices=False)
    for factors in (factorise(layer, 9, "full"), factorise(layer, 9)):
        assert torch.equal(factors.U, U[..., :9].float())
        assert torch.equal(factors.S, S[:, :9].float())
        assert torch.equal(factors.V, Vh[:, :9].mT.float())


@pytest.mark.parametrize("kind", ["linear", "grouped"])
def test_factors_depend_on_weight_and_rank_only(kind):
    layer = layer_of(kind)
    torch.manual_seed(1)
    first = factorise(layer, 5, "randomized")
    torch.manual_seed(2)
    np.random.seed(3)
    second = factorise(copy.deepcopy(layer), 5, "randomized")
    assert torch.equal(first.U, second.U)
    assert torch.equal(first.S, second.S)
    assert torch.equal(first.V, second.V)


def test_no_random_number_of_the_caller_s_is_drawn():
    before = torch.get_rng_state()
    factorise(layer_of("linear"), 5, "randomized")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_transposed_weight_has_transposed_factors():
    A = gaussian(2, 150, 260)
    U, S, V = randomised_svd(A, 8)
    V_too, S_too, U_too = randomised_svd(A.mT, 8)
    assert torch.equal(S, S_too)
    assert torch.equal(U, U_too)
    assert torch.equal(V, V_too)


def test_auto_is_randomised_for_large_weights_and_low_ranks_only():
    def choice(layer, rank):
        return resolve_solver(layer, rank, "auto")

    with torch.device("meta"):
        large, small = nn.Linear(2048, 2048), nn.Linear(256, 256)
        narrow, conv = nn.Linear(4096, 128), nn.Conv2d(512, 512, 3)
        grouped = nn.Conv2d(512, 512, 3, groups=4)
    assert [choice(large, round(share * 2048)) for share in (0.05, 0.1)] == ["randomized"] * 2
    assert [choice(large, round(share * 2048)) for share in (0.25, 0.5)] == ["full"] * 2
    assert choice(conv, 20) == "randomized"
    assert {choice(layer, 1) for layer in (small, narrow, grouped)} == {"full"}
    assert {choice(large, rank) for rank in range(1, full_rank(large) + 1)} == {
        "randomized",
        "full",
    }


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_what_pays_pays_for_lower_ranks_and_larger_sizes_too(size, rank):
    if randomised_pays(size, rank):
        assert rank < size / 5
        assert randomised_pays(size, max(1, rank - 1))
        assert randomised_pays(size + 1, rank)


def test_a_solver_that_is_named_is_taken():
    layer = layer_of("linear")
    assert resolve_solver(layer, 200, "randomized") == "randomized"
    assert resolve_solver(layer, 1, "full") == "full"
    with pytest.raises(ValueError, match=r"solver must be one of \['auto', .*; got 'exact'"):
        factorise(layer, 1, "exact")


def test_auto_runs_what_the_rule_says(monkeypatch):
    monkeypatch.setattr(_svd, "LEAST_SIZE", 100)
    monkeypatch.setattr(_svd, "WIDEST_SHARE", 1)
    layer = layer_of("linear")
    for rank, solver in ((10, "randomized"), (180, "full")):
        assert resolve_solver(layer, rank, "auto") == solver
        assert torch.equal(factorise(layer, rank).U, factorise(layer, rank, solver).U)


class Elsewhere:
    """Stands for a tensor on a device that knows no float64."""

    device = torch.device("mps")

    def __init__(self):
        self.moves = []

    def to(self, where):
        self.moves.append(where)
        return self


def test_where_a_device_has_no_float64_the_cpu_computes():
    far = Elsewhere()
    in_float64(far)
    assert far.moves == ["cpu", torch.float64]  # in this order: the other one would fail there
