"""Curvature of many groups: rows of several batches are sorted together, within a limit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from curvature_reference import (
    assert_same,
    curvature,
    factorise,
    in_batches,
    make,
    reference,
)
from fairsvd.curvature import group_weight_curvature
from fairsvd.curvature._rows import sorted_batches
from fairsvd.curvature._sums import GradientSums

# torch.func itself still calls torch.jit.script on its first use.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


def drawn(n_rows, n_groups, seed=0):
    """Numbered rows in random order of their groups, some without a group."""
    generator = torch.Generator().manual_seed(seed)
    number = torch.arange(n_rows)
    group = torch.randint(-1, n_groups, (n_rows,), generator=generator)
    return number[:, None].float(), number, group


@settings(max_examples=40)
@given(st.data())
def test_equals_the_loop_for_any_groups_batches_and_memory(data):
    kind = data.draw(st.sampled_from(["mlp", "mlp", "mlp", "residual", "conv1d (torch.func)"]))
    n_groups = data.draw(st.integers(1, 9))
    module, names, (x, y, _) = make(kind, n_rows=20)
    codes = st.lists(st.integers(-1, n_groups - 1), min_size=20, max_size=20)
    rows = x, y, torch.tensor(data.draw(codes))
    factors = factorise(module, names, 0.5)
    wanted = reference(module, factors, rows, n_groups)
    found = curvature(
        module,
        factors,
        in_batches(rows, data.draw(st.integers(1, 20))),
        n_groups=n_groups,
        max_memory=data.draw(st.sampled_from([1, 1000, 4000, 2**28])),
    )
    for name, (hU, hV, _) in wanted.items():
        for mine, other in zip(found[name], (hU, hV), strict=True):
            scale = other.max().clamp_min(1e-30)
            torch.testing.assert_close(mine / scale, other / scale, rtol=0, atol=1e-9)


@pytest.mark.parametrize("hessian", ["fisher", "ggn"])
def test_sixty_four_groups(hessian):
    module, names, (x, y, _) = make("mlp", n_rows=300)
    group = torch.randint(-1, 64, (300,))
    factors = factorise(module, names)
    wanted = reference(module, factors, (x, y, group), 64, hessian)
    batches = in_batches((x, y, group), 32)
    found = curvature(module, factors, batches, n_groups=64, hessian=hessian)
    assert_same(found, {name: each[:2] for name, each in wanted.items()})
    in_weights = group_weight_curvature(
        module, names, batches, n_groups=64, to_logits=lambda z: z, hessian=hessian
    )
    assert_same({n: [h] for n, h in in_weights.items()}, {n: w[2:] for n, w in wanted.items()})


@settings(max_examples=60)
@given(
    st.integers(0, 200),
    st.integers(1, 12),
    st.lists(st.integers(0, 50), min_size=1, max_size=6),
    st.sampled_from([1, 500, 3000, 2**20]),
)
def test_every_row_comes_once_among_those_of_its_group(n_rows, n_groups, sizes, memory):
    rows = drawn(n_rows, n_groups)
    batches, start = [], 0
    while start < n_rows or len(batches) < len(sizes):
        size = sizes[len(batches) % len(sizes)] or len(batches) % 2
        batches.append(tuple(part[start : start + size] for part in rows))
        start += size
    found = list(sorted_batches(iter(batches), n_groups, memory))
    assert len(found) <= len(batches)
    numbers = torch.cat([y for _, _, y in found]) if found else rows[1][:0]
    assert numbers.sort().values.equal(rows[1][rows[2] >= 0])
    for bounds, x, y in found:
        assert 0 < len(bounds) == len(x) == len(y) <= max(len(batch[0]) for batch in batches)
        assert x[:, 0].equal(y.float())
        for group, part in bounds.parts(0, len(bounds)):
            assert (rows[2][y[part]] == group).all()


def parts_a_batch(n_groups, **options):
    options = {"max_memory": 2**27, **options}
    found = sorted_batches(in_batches(drawn(16384, n_groups), 256), n_groups, **options)
    counts = [len(list(rows.parts(0, len(rows)))) for rows, _, _ in found]
    return sum(counts) / len(counts)


@pytest.mark.parametrize("n_groups", [2, 5, 64])
def test_a_batch_holds_few_groups_however_many_there_are(n_groups):
    assert parts_a_batch(n_groups) < 2


def test_without_memory_a_batch_holds_many_groups():
    assert parts_a_batch(64, max_memory=1) > 60


@pytest.mark.parametrize("max_memory", [1, 40_000, 400_000, 2**28])
def test_rows_wait_within_the_memory(max_memory):
    taken = []

    def batches():
        for batch in in_batches(drawn(8192, 16), 64):
            taken.append(sum(part.nbytes for part in batch))
            yield batch

    largest, before = 0, 0
    for _ in sorted_batches(batches(), 16, max_memory):
        if len(taken) > before:
            largest, before = max(largest, 2 * sum(taken[before:])), len(taken)
    assert largest <= max(max_memory, 2 * taken[0])
    assert (largest > 2 * taken[0]) == (max_memory >= 40_000)


@pytest.mark.parametrize("kind", ["conv", "pointwise", "groups", "conv1d (torch.func)"])
def test_gradients_of_single_rows_stay_within_the_memory(monkeypatch, kind):
    module, names, rows = make(kind)
    factors = factorise(module, names)
    wanted = curvature(module, factors, [rows])
    chunks, plain = [], GradientSums.add

    def spy(self, rows, gradients, start):
        # The gradients of some rows, and what is made of them on both sides.
        sides = sum(total[0].nbytes for total in self.totals)
        chunks.append((len(gradients), gradients.nbytes + len(gradients) * sides))
        plain(self, rows, gradients, start)

    monkeypatch.setattr(GradientSums, "add", spy)
    for max_memory in (2**16, 2**14, 2**12, 2**10, 1):
        chunks.clear()
        assert_same(curvature(module, factors, [rows], max_memory=max_memory), wanted)
        assert chunks
        assert all(n_rows == 1 or n_bytes <= max_memory / 2 for n_rows, n_bytes in chunks)


def test_one_group_goes_batch_by_batch_as_it_came():
    rows = drawn(90, 1)
    found = list(sorted_batches(in_batches(rows, 16), 1, 2**28))
    wanted = [y[group >= 0] for _, y, group in in_batches(rows, 16)]
    assert all(y.equal(other) for (_, _, y), other in zip(found, wanted, strict=True))


def test_no_batch_is_taken_before_it_is_needed():
    taken = []

    def batches():
        for batch in in_batches(drawn(60, 2), 20):
            taken.append(len(batch[0]))
            yield batch

    stream = sorted_batches(batches(), 2, 1)
    assert not taken
    for n_taken in (1, 2, 3):
        next(stream)
        assert len(taken) == n_taken


def test_a_caller_may_fill_the_same_tensors_again():
    module, names, rows = make("mlp", n_rows=20, n_groups=3)
    factors = factorise(module, names)

    def batches():
        held = [part[:5].clone() for part in rows]
        for batch in in_batches(rows, 5):
            for mine, new in zip(held, batch, strict=True):
                mine.copy_(new)
            yield tuple(held)

    found = curvature(module, factors, batches(), n_groups=3)
    assert_same(found, curvature(module, factors, [rows], n_groups=3))


def test_batches_of_different_shapes():
    module, names, (x, y, group) = make("positions", n_rows=12)
    factors = factorise(module, names)
    short = x[:, :3]
    batches = [(x[:4], y[:4], group[:4]), *in_batches((short, y, group), 3), (x, y, group)]
    wanted = [(x[:4], y[:4], group[:4]), (short, y, group), (x, y, group)]
    joined = [curvature(module, factors, [rows]) for rows in wanted]
    counts = [torch.bincount(rows[2] + 1, minlength=3)[1:] for rows in wanted]
    total = sum(counts)[:, None, None, None]
    means = {
        name: [
            sum(h[name][side] * n[:, None, None, None] for h, n in zip(joined, counts, strict=True))
            / total
            for side in (0, 1)
        ]
        for name in factors
    }
    assert_same(curvature(module, factors, batches), means)


def test_a_module_that_changes_its_input_in_place():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.layer = nn.Parameter(torch.full((6,), 2.0)), nn.Linear(6, 3)

        def forward(self, x):
            x *= self.scale
            return self.layer(x)

    torch.manual_seed(0)
    module = Scaled().double()
    x, y, group = torch.randn(12, 6).double(), torch.arange(12) % 3, torch.arange(12) % 2
    factors = factorise(module, ["layer"])
    plain = nn.Sequential(module.layer)
    wanted = curvature(plain, {"0": factors["layer"]}, [(2 * x, y, group)])
    found = curvature(module, factors, in_batches((x.clone(), y, group), 4))
    assert_same(found, {"layer": wanted["0"]})


def test_a_wrong_code_is_found_in_a_later_batch():
    module, names, (x, y, group) = make("mlp")
    batches = [(x, y, group), (x, y, group + 1)]
    with pytest.raises(ValueError, match=r"group codes must lie in \[0, 2\).*from -1 to 2"):
        curvature(module, factorise(module, names), batches)


def test_rows_a_group_are_sorted_stably():
    x, y, group = drawn(64, 4)
    _, _, numbers = next(sorted_batches([(x, y, group)], 4, 1))
    assert numbers.equal(torch.cat([y[group == g] for g in range(4)]))
