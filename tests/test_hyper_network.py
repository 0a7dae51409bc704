"""The hypernetwork: what it emits, what it must not depend on, and what its losses are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributions import MultivariateNormal

from fairsvd.generative import (
    GaussianGenerator,
    Generator,
    ImageVAE,
    MixtureGenerator,
    TableVAE,
)
from fairsvd.generative.hyper._emittable import as_generator, draw_rows, natural_form, row_nll
from fairsvd.generative.hyper._loss import HyperLoss, mean_nll, pairs_gap, squared_gap
from fairsvd.generative.hyper._network import HyperNetwork, normalise


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=rng(seed))


GENERATORS = {
    "gaussian": (lambda: GaussianGenerator(3), (3,)),
    "diagonal": (lambda: GaussianGenerator(3, "diag"), (3,)),
    "mixture": (lambda: MixtureGenerator(3, 2, generator=rng()), (3,)),
    "table VAE": (lambda: TableVAE(3, 2, (4,), generator=rng()), (3,)),
    "image VAE": (lambda: ImageVAE((2, 5, 6), 3, 2, generator=rng()), (2, 5, 6)),
}


@pytest.fixture(params=GENERATORS)
def built(request):
    make, shape = GENERATORS[request.param]
    return make(), shape


def network(generator: Generator, shape: tuple[int, ...], **settings: object) -> HyperNetwork:
    made = HyperNetwork(generator, shape, (8, 8), rng=rng(), **settings)
    # Readouts that react strongly: at the start they hardly would.
    with torch.no_grad():
        made.readout.weight += 0.3 * randn(*made.readout.weight.shape, seed=9)
    return made


def test_readouts_are_made_from_the_named_parameters(built):
    generator, shape = built
    emission = network(generator, shape)(randn(4, 7, *shape))
    wanted = {name: (4, *p.shape) for name, p in generator.named_parameters()}
    assert {name: tuple(w.shape) for name, w in emission.weights.items()} == wanted


@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("normalize", ["whiten", "scale", "table"])
def test_the_order_of_rows_plays_no_part(built, normalize, outer):
    generator, shape = built
    net = network(generator, shape, normalize=normalize, outer=outer).double()
    sets = randn(2, 9, *shape).double()
    order = torch.randperm(9, generator=rng(1))
    first, second = net(sets), net(sets[:, order])
    for name, weights in first.weights.items():
        torch.testing.assert_close(weights, second.weights[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("normalize", ["whiten", "scale", "table"])
def test_other_data_give_another_generator(built, normalize):
    generator, shape = built
    net = network(generator, shape, normalize=normalize)
    first, second = net(randn(1, 9, *shape)), net(2 * randn(1, 9, *shape, seed=3) + 1)
    one, other = (natural_form(generator, *emission) for emission in (first, second))
    assert any(not torch.allclose(one[name], other[name]) for name in one)


@pytest.mark.parametrize("normalize", ["whiten", "scale"])
def test_a_generator_moves_with_its_data(normalize):
    generator = GaussianGenerator(3)
    net = network(generator, (3,), normalize=normalize)
    sets, shift = randn(2, 20, 3), torch.tensor([1.0, -2.0, 5.0])
    scale = torch.tensor([1.0, 3.0, 0.5])
    here, there = (natural_form(generator, *net(s)) for s in (sets, sets * scale + shift))
    moved = here["mean"] * scale + shift
    torch.testing.assert_close(there["mean"], moved, rtol=1e-3, atol=1e-3)
    grown = here["covariance"] * scale[:, None] * scale
    torch.testing.assert_close(there["covariance"], grown, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(("normalize", "n"), [("whiten", 30), ("whiten", 4), ("scale", 30)])
def test_rows_are_normalised_and_restored(normalize, n):
    net = network(GaussianGenerator(3), (3,), normalize=normalize)
    sets = 3 * randn(2, n, 3) @ randn(3, 3, seed=1) + 5
    emission = net(sets)
    z = normalise(sets, emission.location, emission.factor)
    torch.testing.assert_close(z.mean(dim=1), torch.zeros(2, 3), rtol=0, atol=1e-3)
    if normalize == "whiten" and n == 30:
        covariance = z.mT @ z / n
        torch.testing.assert_close(covariance, torch.eye(3).expand(2, 3, 3), rtol=0, atol=1e-2)
    torch.testing.assert_close(emission.restore(z), sets, rtol=1e-3, atol=1e-3)


def test_one_row_keeps_the_scale_of_the_table():
    emission = network(GaussianGenerator(3), (3,))(randn(1, 1, 3))
    assert torch.equal(emission.factor, torch.eye(3)[None])


def test_blocks_of_rows_give_the_same_as_one(monkeypatch, built):
    generator, shape = built
    net, rows = network(generator, shape), randn(11, *shape)
    whole = net(rows[None])
    net.eval()
    monkeypatch.setattr("fairsvd.generative.hyper._network.BLOCK", 4)
    for name, weights in net.of_rows(rows).weights.items():
        torch.testing.assert_close(weights, whole.weights[name], rtol=1e-4, atol=1e-4)


def test_outside_of_training_averages_stay_in_the_range_of_training():
    net = network(GaussianGenerator(2), (2,), normalize="table")
    for seed in range(5):
        net(randn(4, 9, 2, seed=seed))
    net.eval()
    far, farther = (net(1e3 * k + randn(1, 9, 2)).weights["mean"] for k in (1, 50))
    torch.testing.assert_close(far, farther)
    inside = randn(1, 9, 2, seed=0) * 0.5
    assert not torch.allclose(net(inside).weights["mean"], far)


def test_the_gaussian_agrees_with_torch():
    generator, n = GaussianGenerator(3), 50
    net = network(generator, (3,))
    sets = randn(2, n, 3) * 2 + 1
    emission = net(sets)
    named = natural_form(generator, *emission)
    wanted = MultivariateNormal(named["mean"][:, None], named["covariance"][:, None])
    nll = mean_nll(generator, emission, sets, torch.zeros(2, n, 3))
    torch.testing.assert_close(nll, -wanted.log_prob(sets).mean() / 3, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_draws_have_the_moments_of_the_natural_form(kind):
    make, shape = GENERATORS[kind]
    generator = make()
    with torch.no_grad():
        emission = network(generator, shape)(randn(1, 40, 3))
        named = {k: v[0].double() for k, v in natural_form(generator, *emission).items()}
        noise = randn(1, 40_000, generator.noise_size)
        rows = emission.restore(draw_rows(generator, emission.weights, noise))[0].double()
    if kind == "mixture":
        w, m, C = named["weights"], named["means"], named["covariances"]
        mean = w @ m
        second = (w[:, None, None] * (C + m[:, :, None] * m[:, None])).sum(0)
        named = {"mean": mean, "covariance": second - mean[:, None] * mean}
    torch.testing.assert_close(rows.mean(0), named["mean"], rtol=0.05, atol=0.05)
    torch.testing.assert_close(rows.T.cov(), named["covariance"], rtol=0.06, atol=0.06)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 50))
def test_natural_forms_are_in_their_space(n_features, n_components, seed):
    generator = MixtureGenerator(n_features, n_components, generator=rng(seed))
    weights = {name: 3 * randn(2, *p.shape, seed=seed) for name, p in generator.named_parameters()}
    named = natural_form(generator, weights, None, None)
    torch.testing.assert_close(named["weights"].sum(1), torch.ones(2))
    assert (named["weights"] >= 0).all()
    covariances = named["covariances"].double()
    assert (torch.linalg.eigvalsh(covariances) > -1e-4).all()
    torch.testing.assert_close(covariances, covariances.mT)


def test_the_bound_of_a_vae_is_one():
    """With one latent number, -ELBO on average is at least -log p, integrated on a grid."""
    generator = TableVAE(1, 1, (4,), generator=rng()).double()
    weights = {name: p.detach()[None] for name, p in generator.named_parameters()}
    X = randn(6, 1).double()
    noise = randn(1, 6 * 4000, 2, seed=4).double()
    rows = X.repeat_interleave(4000, dim=0)[None]
    bound = row_nll(generator, weights, rows, noise).reshape(6, 4000).mean(dim=1)
    grid = torch.linspace(-6, 6, 4001, dtype=torch.float64)[:, None]
    decoded, scale = generator.decoder(grid), generator._scale()
    log_joint = torch.distributions.Normal(decoded, scale).log_prob(X.T)
    log_joint = log_joint + torch.distributions.Normal(0.0, 1.0).log_prob(grid)
    exact = -(torch.logsumexp(log_joint, dim=0) + math.log(12 / 4000))
    assert (bound > exact - 0.02).all()
    assert (bound < exact + 2).all()


def make_loss(weight: float, penalty: str = "pairs", n_draws: int = 8, **settings: object):
    generator = GaussianGenerator(2)
    net = network(generator, (2,), **settings)
    return HyperLoss(net, generator, weight, n_draws, penalty, rng(5))


@pytest.mark.parametrize("penalty", ["pairs", "detached", "through"])
def test_without_weight_the_loss_is_plain_likelihood(penalty):
    loss, sets = make_loss(0.0, penalty), randn(3, 10, 2)
    value = loss(sets)
    generator, emission = loss.generator, loss.network(sets)
    plain = mean_nll(generator, emission, sets, torch.zeros(3, 10, 2))
    assert value.item() == plain.item()
    value.backward()
    got = [p.grad.clone() for p in loss.network.parameters()]
    loss.network.zero_grad()
    plain.backward()
    for p, grad in zip(loss.network.parameters(), got, strict=True):
        assert torch.equal(p.grad, grad)


@pytest.mark.parametrize("penalty", ["pairs", "detached", "through"])
def test_with_weight_the_penalty_is_added(penalty):
    sets = randn(3, 10, 2)
    plain, one, two = (make_loss(w, penalty)(sets).item() for w in (0.0, 1.0, 2.0))
    assert one != plain
    assert two - plain == pytest.approx(2 * (one - plain), rel=1e-3)


def test_gaps_of_known_numbers():
    target = {"a": torch.tensor([[1.0, 2.0]])}
    again = {"a": torch.tensor([[[0.0, 2.0], [2.0, 4.0]]])}
    scale = 5 + 1e-3 * 2
    assert squared_gap(target, again, scaled=False).item() == pytest.approx(1)
    assert squared_gap(target, again, scaled=True).item() == pytest.approx(1 / scale)
    # (1, 0) times (-1, -2)
    assert pairs_gap(target, again).item() == pytest.approx(-1 / scale)


def test_the_gap_of_pairs_is_unbiased_and_that_of_an_average_is_not():
    target, draws = {"v": torch.ones(20_000, 1)}, 0.8 + randn(20_000, 2, 1)
    unbiased, biased = (
        pairs_gap(target, {"v": draws}),
        squared_gap(target, {"v": draws}, scaled=True),
    )
    assert unbiased.item() == pytest.approx(0.04, abs=0.02)
    assert biased.item() == pytest.approx(0.54, abs=0.02)


def best_correction(penalty: str, n_draws: int, n: int = 10) -> float:
    """Find the c for which the penalty of var_hat = c * S / n is least, S about the mean."""
    S = randn(4000, n_draws, n).var(dim=2, unbiased=False)
    scales = torch.linspace(0.7, 1.3, 121)
    gap = pairs_gap if penalty == "pairs" else squared_gap
    settings = {} if penalty == "pairs" else {"scaled": True}
    target = torch.ones(4000, 1)
    # The truth is c times as large as well: the estimate is a share of it.
    values = [gap({"v": target}, {"v": c * S[..., None]}, **settings) for c in scales]
    return scales[int(torch.stack(values).argmin())].item()


@pytest.mark.parametrize(
    ("penalty", "n_draws", "wanted"),
    [
        ("detached", 1, 10 / 11),
        ("detached", 8, 10 / 9.25),
        ("pairs", 2, 10 / 9),
        ("pairs", 8, 10 / 9),
    ],
)
def test_which_correction_each_penalty_asks_for(penalty, n_draws, wanted):
    """n / ((n - 1) + 2 / M) for averages of M draws, Bessel's n / (n - 1) for pairs."""
    assert best_correction(penalty, n_draws) == pytest.approx(wanted, abs=0.025)


def test_detached_gradients_do_not_pass_the_samples(monkeypatch):
    seen = []
    monkeypatch.setattr(HyperLoss, "_draw_sets", recording(HyperLoss._draw_sets, seen))
    for penalty in ("pairs", "detached", "through"):
        make_loss(1.0, penalty)(randn(3, 10, 2))
    assert [rows.requires_grad for rows in seen] == [False, False, True]


def recording(call, seen):
    def recorded(self, *args):
        seen.append(call(self, *args))
        return seen[-1]

    return recorded


class Shifted(nn.Module):
    """Foreign module: one parameter, a location."""

    noise_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.zeros(1))

    def nll(self, X, noise):
        return (X - self.at).square().sum(1)

    def draw(self, noise):
        return noise + self.at


def test_a_foreign_module_is_taken_as_it_is():
    generator = as_generator(Shifted())
    emission = network(generator, (1,))(randn(2, 5, 1))
    assert set(emission.weights) == {"module.at"}
    noise = randn(2, 5, 1)
    rows = draw_rows(generator, emission.weights, noise)
    torch.testing.assert_close(rows, noise + emission.weights["module.at"][:, None])
    assert set(natural_form(generator, *emission)) == {"module.at", "location", "factor"}


def test_what_is_no_generator_is_refused():
    with pytest.raises(ValueError, match=r"Linear without nll, draw, noise_size"):
        as_generator(nn.Linear(2, 2))
    module = Shifted()
    del module.at
    with pytest.raises(ValueError, match="no parameters to emit"):
        as_generator(module)


def test_building_moves_no_global_state():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for make, shape in GENERATORS.values():
        network(make(), shape)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
