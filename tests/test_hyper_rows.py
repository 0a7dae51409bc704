"""What a hypernetwork is trained on: encoded rows, and data sets drawn from them."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairsvd.generative.cells._codec import Encoded
from fairsvd.generative.hyper._fit import set_sizes
from fairsvd.generative.hyper._rows import ImageRows, TableScores
from fairsvd.generative.hyper._sets import ResampledSets, SimulatedSets


def encoded(n: int, n_numbers: int, n_codes: int, missing: bool, seed: int) -> Encoded:
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(n, n_numbers)) * 100 + 7
    codes = rng.integers(-1 if missing else 0, 4, size=(n, n_codes))
    if missing:
        numbers[rng.random(numbers.shape) < 0.3] = np.nan
    return Encoded(numbers, codes)


@given(st.integers(1, 40), st.integers(0, 3), st.integers(0, 3), st.booleans(), st.integers(0, 99))
def test_rows_come_back_as_they_were(n, n_numbers, n_codes, missing, seed):
    rows = encoded(n, n_numbers, n_codes, missing, seed)
    scores = TableScores(rows)
    tensor = scores.encode(rows, np.random.default_rng(0))
    assert tensor.dtype == torch.float32 and tensor.isfinite().all()
    assert tensor.shape == (n, scores.n_columns)
    again = scores.decode(tensor)
    assert np.array_equal(again.codes, rows.codes)
    assert np.array_equal(np.isnan(again.numbers), np.isnan(rows.numbers))
    known = ~np.isnan(rows.numbers)
    assert again.numbers[known] == pytest.approx(rows.numbers[known], rel=1e-4, abs=1e-3)


def test_columns_are_about_standard_normal():
    rows = encoded(4000, 1, 2, True, 0)
    tensor = TableScores(rows).encode(rows, np.random.default_rng(0)).double()
    assert tensor.mean(0).numpy() == pytest.approx(np.zeros(4), abs=0.06)
    assert tensor.std(0).numpy() == pytest.approx(np.ones(4), abs=0.06)


def test_normal_draws_have_the_shares_of_the_levels():
    codes = np.repeat([0, 1, 2], [900, 95, 5])[:, None]
    scores = TableScores(Encoded(np.empty((1000, 0)), codes))
    drawn = scores.decode(torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0)))
    shares = np.bincount(drawn.codes[:, 0]) / 200_000
    assert shares == pytest.approx([0.9, 0.095, 0.005], abs=0.002)


def test_scores_beyond_every_level_are_of_the_last():
    scores = TableScores(Encoded(np.empty((4, 0)), np.array([[0], [1], [1], [3]])))
    extreme = torch.tensor([[-40.0], [40.0]])
    assert scores.decode(extreme).codes[:, 0].tolist() == [0, 3]


def test_other_rows_keep_the_units():
    first, second = encoded(50, 2, 1, False, 0), encoded(50, 2, 1, False, 1)
    scores = TableScores(first)
    other = TableScores(second, like=scores)
    assert other.mean is scores.mean and other.scale is scores.scale
    rng = np.random.default_rng(0)
    wanted = (second.numbers - scores.mean) / scores.scale
    assert other.encode(second, rng)[:, :2].numpy() == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def test_images_are_standardised_by_channel(monkeypatch):
    monkeypatch.setattr("fairsvd.generative.hyper._rows.IMAGES", 7)
    rng = np.random.default_rng(0)
    flat = rng.integers(0, 255, size=(20, 2 * 3 * 4)).astype(np.uint8)
    flat[:, 12:] //= 4
    rows = ImageRows(flat, (2, 3, 4))
    assert rows[:].mean(dim=(0, 2, 3)).numpy() == pytest.approx([0, 0], abs=1e-5)
    assert rows[:].std(dim=(0, 2, 3), correction=0).numpy() == pytest.approx([1, 1], rel=1e-5)
    part = rows.subset(np.array([3, 5]))
    assert torch.equal(part[:], rows[torch.tensor([3, 5])])
    assert rows.decode(rows[:]).numbers == pytest.approx(flat, abs=1e-3)


def resampled(cells, sizes=(4, 4), n_sets=50, move=False, seed=0):
    # The first column tells the row, the second the cell.
    rows = torch.stack([torch.arange(len(cells)), torch.tensor(cells)], dim=1).float()
    rng = torch.Generator().manual_seed(seed)
    return ResampledSets(rows, np.array(cells), sizes, n_sets, move=move, rng=rng)


def test_sets_are_of_the_table_or_of_one_cell():
    sets = next(iter(resampled([0] * 60 + [1] * 30 + [2] * 3, (8, 8), 400)))
    cells = sets[..., 1]
    whole = (cells != cells[:, :1]).any(dim=1)
    pure = cells[~whole][:, 0]
    # The table and the two cells of eight rows or more, a third each; never the cell of three.
    assert 0.2 < whole.float().mean() < 0.45
    assert set(pure.tolist()) == {0.0, 1.0}
    assert (cells[whole] == 2).any()


def test_some_sets_are_tilted():
    sets = next(iter(resampled([0] * 400, (64, 64), 300)))
    means = sets[..., 0].mean(dim=1)
    # A plain bootstrap's mean has a standard deviation of 115 / 8 = 14.
    assert means.std() > 14 and (means - 200).abs().max() > 70
    plain = ((means - 200).abs() < 45).float().mean()
    assert plain > 0.5


@given(st.integers(1, 9), st.integers(0, 30))
def test_sizes_are_within_their_limits(low, more):
    sets = resampled([0] * 40, (low, low + more), 2)
    sizes = {s.shape[1] for s in islice(sets, 30)}
    assert min(sizes) >= low and max(sizes) <= low + more
    assert more < 5 or len(sizes) > 1


def test_without_normalisation_sets_are_moved():
    plain = next(iter(resampled([0] * 40)))
    moved = next(iter(resampled([0] * 40, move=True)))
    shift = (moved - plain).mean(dim=1)
    assert shift.std() > 0.5


def test_sets_of_images_come_as_they_are_read():
    flat = np.random.default_rng(0).random((30, 4)).astype(np.float32)
    images = ImageRows(flat, (1, 2, 2))
    rng = torch.Generator().manual_seed(0)
    sets = ResampledSets(images, np.zeros(30, dtype=np.int64), (5, 5), 3, move=False, rng=rng)
    drawn = next(iter(sets))
    assert drawn.shape == (3, 5, 1, 2, 2)
    distances = (drawn.flatten(0, 1)[:, None] - images[:]).abs().flatten(2).amax(dim=2)
    assert (distances.min(dim=1).values == 0).all()


def test_simulated_sets_are_in_the_units_of_the_table():
    rows = Encoded(np.array([[10.0], [30.0]]), np.empty((2, 0), dtype=np.int64))
    scores = TableScores(rows)
    sets = SimulatedSets(
        lambda rng, n_sets, n: np.full((n_sets, n, 1), 40.0),
        scores,
        (3, 3),
        2,
        np.random.default_rng(0),
    )
    assert torch.equal(next(iter(sets)), torch.full((2, 3, 1), 2.0))


@pytest.mark.parametrize(
    ("given_size", "counts", "wanted"),
    [
        (None, [100, 20], (20, 120)),
        (None, [900, 2], (4, 128)),
        (None, [2], (2, 2)),
        (7, [100], (7, 7)),
        ((3, 9), [100], (3, 9)),
    ],
)
def test_how_many_rows_a_training_set_has(given_size, counts, wanted):
    assert set_sizes(given_size, np.array(counts)) == wanted
