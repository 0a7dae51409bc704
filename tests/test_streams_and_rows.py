"""Random streams, tasks side by side, and rows as tensors: each in the numbers it promises."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest
import torch
from joblib import parallel_config
from torch import nn
from torch.utils.data import Dataset

from fairsvd._parallel import in_parallel
from fairsvd._rng import resolve_seed, seeded_globally, stage_rng, torch_generator
from fairsvd.arrays import Batches, LabelledRows, as_batches
from helpers import IGNORE_SMALL_DATA, fingerprint, mlp, quick, skorch_net, table

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]


# Streams


def draws():
    return torch.rand(2).tolist(), np.random.random(2).tolist(), [random.random(), random.random()]


def test_all_three_global_generators_are_those_of_the_seed_inside_and_the_callers_outside():
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    untouched = draws()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    with seeded_globally(12):
        inside = draws()
    assert draws() == untouched
    wanted = torch.Generator().manual_seed(12)
    assert inside[0] == torch.rand(2, generator=wanted).tolist()
    assert inside[1] == np.random.RandomState(12).random(2).tolist()
    own = random.Random(12)
    assert inside[2] == [own.random(), own.random()]
    with seeded_globally(2**31 - 2):
        pass


class PythonDraws(nn.Module):
    """Draws from Python's generator alone while it is trained."""

    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, X):
        return self.inner(X + (random.random() if self.training else 0))


def test_a_net_that_draws_from_pythons_generator_is_trained_by_the_seed():
    rows, found = table(80), []
    for state in (1, 2):
        random.seed(state)
        net = skorch_net(PythonDraws, max_epochs=3, lr=0.5)
        editor = quick(net, sparsity=0, refine=None, random_state=3)
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
        found.append(fingerprint(editor.module_))
    assert found[0] == found[1]


def test_seeds_and_streams_are_numpys():
    assert [resolve_seed(seed) for seed in (0, 7, np.int64(7))] == [0, 7, 7]
    state = np.random.RandomState(3)
    assert resolve_seed(state) == np.random.RandomState(3).randint(2**31 - 1)
    numbers = {"split": 0, "base": 1, "edit": 2, "bootstrap": 3, "sample": 4}
    for stage, number in numbers.items():
        wanted = np.random.default_rng(np.random.SeedSequence([9, number]))
        assert stage_rng(9, stage).integers(2**62) == wanted.integers(2**62)
    rng, twin = np.random.default_rng(5), np.random.default_rng(5)
    seed = int(twin.integers(2**63 - 1))
    assert torch_generator(rng).initial_seed() == seed
    assert torch_generator(rng).initial_seed() != seed  # the next draw


# Tasks side by side


def met(barrier, number):
    barrier.wait(timeout=20)
    return number


@pytest.mark.parametrize("n_jobs", [2, 3])
def test_as_many_tasks_run_at_a_time_as_are_asked_for_and_come_in_order(n_jobs):
    """Each waits for the others of its turn: one after the other none would end."""
    barrier = threading.Barrier(n_jobs)
    with parallel_config("threading"):
        tasks = [(barrier, number) for number in range(2 * n_jobs)]
        assert list(in_parallel(met, tasks, n_jobs)) == list(range(2 * n_jobs))


def late(events, number):
    """The first task ends last."""
    if number == 0:
        events[0].wait(timeout=20)
    else:
        events[0].set()
    return number


def test_results_come_in_the_order_of_tasks_whichever_ends_first():
    event = threading.Event()
    with parallel_config("threading"):
        assert list(in_parallel(late, [([event], k) for k in range(4)], 2)) == [0, 1, 2, 3]


# Rows

X = np.arange(40, dtype=np.float64).reshape(10, 4)


def test_rows_that_are_held_are_copies_in_the_dtype_that_was_asked_for():
    reads = []

    def fetch(rows):
        reads.append(rows.tolist())
        return torch.as_tensor(X[rows])

    order = np.array([7, 3, 3, 9, 0, 1, 2])
    held = Batches(fetch, order, torch.float64).held()
    assert reads[-1] == order.tolist()
    read = len(reads)
    assert held.dtype == torch.float64
    for positions in (slice(2, 6), np.array([4, 5, 6]), np.array([4, 4, 5]), np.array([0, 2, 4])):
        wanted = X[order[positions]]
        rows = held[positions]
        np.testing.assert_array_equal(rows, wanted)
        rows.zero_()  # as a network may that works in place
        np.testing.assert_array_equal(held[positions], wanted)
    assert len(reads) == read


def test_only_what_fits_into_one_block_is_held(monkeypatch):
    monkeypatch.setattr("fairsvd.arrays._batches.BLOCK_BYTES", 10 * 4 * 4)
    fits = as_batches(X)
    assert fits.held() is not fits
    monkeypatch.setattr("fairsvd.arrays._batches.BLOCK_BYTES", 10 * 4 * 4 - 1)
    larger = as_batches(X)
    assert larger.held() is larger


def test_a_limit_on_files_is_a_limit_on_blocks():
    batches = Batches(lambda rows: torch.as_tensor(X[rows]), np.arange(10), most=3)
    assert [batches.block_size(most) for most in (2, 3, 100)] == [2, 3, 3]
    rows = LabelledRows(batches, torch.arange(10), torch.arange(10))
    sizes = [len(y) for _, y, _ in rows.batches(100, torch.device("cpu"))]
    assert sizes == [3, 3, 3, 1]


def test_augmented_rows_are_asked_for_by_their_own_numbers_and_a_seed_of_the_generator():
    asked = []

    def augmented(rows, seed):
        asked.append((rows.tolist(), seed))
        return torch.as_tensor(X[rows]) + 0.5

    def plain(rows):
        return torch.as_tensor(X[rows])

    batches = Batches(plain, np.array([8, 6, 4, 2]), torch.float32, fetch_augmented=augmented)
    generator, twin = (torch.Generator().manual_seed(3) for _ in range(2))
    seeds = [int(torch.randint(2**31, (), generator=twin)) for _ in range(2)]
    for positions in (np.array([0, 3]), np.array([1])):
        rows = batches.for_training(positions, generator)
        assert rows.dtype == torch.float32
        np.testing.assert_array_equal(rows, X[np.array([8, 6, 4, 2])[positions]] + 0.5)
    assert asked == [([8, 2], seeds[0]), ([6], seeds[1])]
    assert seeds[0] != seeds[1]
    still = Batches(plain, np.arange(10))
    before = generator.get_state()
    np.testing.assert_array_equal(still.for_training(np.array([2]), generator), X[[2]])
    assert torch.equal(generator.get_state(), before)


class Spoiled(Dataset):
    """Has two rows with infinite values."""

    def __len__(self):
        return 10

    def __getitem__(self, row):
        return np.where(row in (2, 5), np.inf, X[row])


def test_the_first_of_the_bad_rows_is_named_in_whatever_order_they_are_read():
    batches = as_batches(Spoiled())
    for rows in ([5, 2, 1], [1, 2, 5], [9, 5, 2]):
        with pytest.raises(ValueError, match=r"infinite values in row 2, counted from 0"):
            batches[np.array(rows)]
    with pytest.raises(ValueError, match="in row 5, counted"):
        batches.subset(np.array([5, 6]))[:]
    assert batches[np.array([0, 1])].shape == (2, 4)


def test_a_net_is_trained_where_the_editor_says_not_where_it_says_itself():
    """A net for a device that may not be there; the default of skorch alone would fail on it."""
    rows = table(80)
    net = skorch_net(mlp(), device="cuda:63")
    editor = quick(net, device="cpu", sparsity=0, refine=None)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert next(editor.module_.parameters()).device.type == "cpu"
    assert editor.to_skorch().device == "cpu"
    assert net.device == "cuda:63"
