"""The fine-tuning loop: rows as batches, cells in batches, and what Adam is given."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset, Subset, TensorDataset

from fairsvd.arrays import LabelledRows, as_batches, is_dataset
from fairsvd.training import CellBatches, RowBatches, cell_shares, tune

CPU = torch.device("cpu")
TABLE = np.array([[50, 5, 0], [20, 100, 25]])  # (n_classes, n_groups), one cell empty


class Rows(Dataset):
    """A map-style dataset without batched access."""

    def __init__(self, X):
        self.X = X

    def __len__(self):
        return len(self.X)

    def __getitem__(self, i):
        return self.X[i], "a label that nobody reads"


class Lazy:
    """An array that notes which rows are read; only what a memory map or an HDF5 file offers."""

    def __init__(self, X):
        self.X, self.read = X, []

    def __len__(self):
        return len(self.X)

    def __getitem__(self, rows):
        self.read.extend(rows.tolist())
        return self.X[rows]


VALUES = np.arange(24, dtype=np.float64).reshape(8, 3)
FORMS = {
    "ndarray": lambda: VALUES,
    "uint8": lambda: VALUES.astype(np.uint8),
    "strided": lambda: np.repeat(VALUES, 2, axis=1)[:, ::2],
    "read-only": lambda: np.frombuffer(VALUES.tobytes()).reshape(8, 3),
    "DataFrame": lambda: pd.DataFrame(VALUES, index=list("hgfedcba")),
    "Tensor": lambda: torch.as_tensor(VALUES),
    "TensorDataset": lambda: TensorDataset(torch.as_tensor(VALUES), torch.zeros(8)),
    "Dataset": lambda: Rows(VALUES),
    "Subset": lambda: Subset(Rows(torch.as_tensor(VALUES)), range(8)),
    "lazy": lambda: Lazy(VALUES),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_X_gives_the_same_rows(form):
    X = FORMS[form]()
    batches = as_batches(X)
    assert len(batches) == 8
    assert batches.item_shape == (3,)
    assert batches[:].dtype == torch.float32
    np.testing.assert_array_equal(torch.cat(list(batches.blocks(3))), VALUES)
    some = batches.subset(np.array([6, 1, 3])).astype(torch.float64)
    assert some[:].dtype == torch.float64
    np.testing.assert_array_equal(some[np.array([2, 0])], VALUES[[3, 6]])
    assert is_dataset(X) == ("set" in form.lower())


def test_rows_are_read_when_they_are_asked_for_and_travel_by_pickle():
    lazy = Lazy(VALUES)
    batches = as_batches(lazy).subset(np.array([5, 7]))
    assert lazy.read == []
    assert batches[1:].tolist() == VALUES[[7]].tolist()
    assert lazy.read == [7]
    assert pickle.loads(pickle.dumps(batches))[:].tolist() == VALUES[[5, 7]].tolist()


def test_labelled_rows_keep_rows_labels_and_groups_together():
    rows = LabelledRows(as_batches(VALUES), torch.arange(8), torch.arange(8) + 100)
    some = rows.subset(np.array([4, 0, 2]))
    parts = list(some.batches(2, CPU))
    assert [len(y) for _, y, _ in parts] == [2, 1]
    for X, y, groups in parts:
        np.testing.assert_array_equal(X, VALUES[y.numpy()])
        assert torch.equal(groups, y + 100)


def test_cell_shares():
    n = TABLE.sum()
    np.testing.assert_allclose(cell_shares(TABLE, None), TABLE / n)
    cells = [[0.2, 0.2, 0], [0.2, 0.2, 0.2]]
    np.testing.assert_allclose(cell_shares(TABLE, "cells"), cells)
    classes = [[50 / 110, 5 / 110, 0], [20 / 290, 100 / 290, 25 / 290]]
    np.testing.assert_allclose(cell_shares(TABLE, "classes"), classes)
    # A class without rows leaves its share to the others.
    np.testing.assert_allclose(cell_shares(np.array([[0, 0], [1, 3]]), "classes")[1], [0.25, 0.75])


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=2, max_size=4),
    st.sampled_from(["cells", "classes", None]),
)
def test_cell_shares_add_up_and_leave_empty_cells_out(table, balance):
    table = np.array(table)
    table[0, 0] += 1
    shares = cell_shares(table, balance)
    assert shares.sum() == pytest.approx(1)
    np.testing.assert_array_equal(shares > 0, table > 0)


def rows_of(table, seed=0):
    """Shuffled rows with that many in every (class, group) cell; X is the row's own number."""
    cells = np.repeat(np.arange(table.size), table.ravel())
    np.random.default_rng(seed).shuffle(cells)
    X = np.arange(len(cells), dtype=np.float64)[:, None]
    y, groups = np.divmod(cells, table.shape[1])
    return LabelledRows(as_batches(X), torch.as_tensor(y), torch.as_tensor(groups))


def batches_of(table, *, batch_size=40, balance=None, seed=0, dtype=torch.float64):
    return CellBatches(
        rows_of(table),
        *table.shape,
        batch_size=batch_size,
        balance=balance,
        generator=torch.Generator().manual_seed(seed),
        device=CPU,
        dtype=dtype,
    )


def cells_in(batch, n_groups=3):
    return batch.y * n_groups + batch.groups


@pytest.mark.parametrize(
    ("batch_size", "per_cell"), [(40, 8), (44, 8), (5, 1), (10**30, int(TABLE.sum()) // 5)]
)
def test_every_batch_holds_every_cell_equally(batch_size, per_cell):
    rows = rows_of(TABLE)
    for batch in itertools.islice(batches_of(TABLE, batch_size=batch_size), 20):
        counts = torch.bincount(cells_in(batch), minlength=6)
        assert counts.tolist() == [per_cell, per_cell, 0, per_cell, per_cell, per_cell]
        numbers = batch.X[:, 0].long()
        assert torch.equal(rows.y[numbers], batch.y)  # X, y and groups are of the same rows
        assert torch.equal(rows.groups[numbers], batch.groups)
        assert batch.X.dtype == batch.loss_weights.dtype == batch.gap_weights.dtype == torch.float64


def test_every_row_of_a_cell_is_drawn_equally_often():
    n_batches, drawn = 600, np.zeros(TABLE.sum())
    for batch in itertools.islice(batches_of(TABLE), n_batches):
        drawn += np.bincount(batch.X[:, 0].long(), minlength=len(drawn))
    cells = cells_in(rows_of(TABLE)).numpy()
    expected = 8 * n_batches / TABLE.ravel()[cells]
    # Six standard deviations of a Poisson count.
    assert np.all(np.abs(drawn - expected) < 6 * np.sqrt(expected))


@pytest.mark.parametrize("balance", ["cells", "classes", None])
@pytest.mark.parametrize("batch_size", [40, 3])
def test_weights_give_the_full_data_statistics_in_expectation(balance, batch_size):
    rows, n_batches = rows_of(TABLE), 1500
    value = torch.sin(torch.arange(len(rows), dtype=torch.float64)) + cells_in(rows)
    sums = torch.zeros(n_batches, 3, dtype=torch.float64)
    for i, batch in enumerate(
        itertools.islice(batches_of(TABLE, balance=balance, batch_size=batch_size), n_batches)
    ):
        drawn = value[batch.X[:, 0].long()]
        sums[i, 0] = (batch.loss_weights * drawn).mean()
        sums[i, 1] = (batch.gap_weights * drawn).mean()
        sums[i, 2] = batch.loss_weights.mean()
    means = torch.stack([value[cells_in(rows) == c].mean() for c in range(6)]).nan_to_num()
    wanted = [
        float((torch.as_tensor(cell_shares(TABLE, b)).flatten() * means).sum())
        for b in (balance, None)
    ]
    error = 5 * sums.std(dim=0) / n_batches**0.5 + 1e-12
    assert abs(sums[:, 0].mean() - wanted[0]) < error[0]
    assert abs(sums[:, 1].mean() - wanted[1]) < error[1]
    assert abs(sums[:, 2].mean() - 1) < error[2]
    if balance is not None:  # the three shares are apart, so one cannot pass for another
        assert abs(wanted[0] - wanted[1]) > 2 * max(error[:2])


def test_more_cells_than_rows_in_a_batch():
    table = np.full((4, 5), 3)
    seen = set()
    for batch in itertools.islice(batches_of(table, batch_size=7), 60):
        cells = cells_in(batch, 5).tolist()
        assert len(cells) == len(set(cells)) == 7
        seen.update(cells)
    assert seen == set(range(20))


@pytest.mark.parametrize("batch_size", [40, 3])
def test_draws_come_from_the_generator_alone(batch_size):
    def first(seed):
        batches = batches_of(TABLE, seed=seed, batch_size=batch_size)
        return [b.X for b in itertools.islice(batches, 3)]

    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, same, other = first(0), first(0), first(1)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[0], one[1])
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_tuning_reaches_the_optimum_of_a_quadratic():
    """Weighted least squares: the optimum is the share-weighted mean of the cells' targets."""
    targets = torch.tensor([1.0, -2.0, 0.0, 3.0, 0.5, 4.0], dtype=torch.float64)
    for balance in ("cells", "classes", None):
        theta = torch.zeros((), dtype=torch.float64, requires_grad=True)

        def loss(batch, theta=theta):
            return (batch.loss_weights * (theta - targets[cells_in(batch)]).square()).mean()

        batches = batches_of(TABLE, balance=balance)
        list(tune(loss, [theta], batches, n_steps=200, learning_rate=0.1, every=200))
        shares = torch.as_tensor(cell_shares(TABLE, balance)).flatten()
        assert theta.item() == pytest.approx(float((shares * targets).sum()), abs=1e-3)


@pytest.mark.parametrize(
    ("n_steps", "every", "wanted"),
    [(10, 4, [4, 8, 10]), (8, 4, [4, 8]), (3, 5, [3]), (1, 1, [1]), (3, 1, [1, 2, 3])],
)
def test_candidate_steps(n_steps, every, wanted):
    theta = torch.ones(2, requires_grad=True)
    calls = {"after": 0, "progress": 0, "loss": 0}

    def loss(batch):
        calls["loss"] += 1
        return theta.square().sum()

    def project():
        calls["after"] += 1
        with torch.no_grad():
            theta.clamp_(min=0.99)

    def progress():
        calls["progress"] += 1
        assert bool((theta >= 0.99).all())  # after_step comes first

    steps = []
    for step in tune(
        loss,
        [theta],
        batches_of(TABLE),
        n_steps=n_steps,
        learning_rate=0.1,
        every=every,
        after_step=project,
        progress=progress,
    ):
        steps.append(step)
        assert calls == dict.fromkeys(calls, step)  # lazily: no step ahead of its candidate
        assert theta.grad is None
    assert steps == wanted
    assert theta.tolist() == pytest.approx([0.99, 0.99])  # the first of Adam's steps is 0.1


def test_no_gradient_is_left_behind_or_taken_in():
    theta = torch.zeros(1, requires_grad=True)
    theta.grad = torch.full((1,), 1e6)
    list(
        tune(
            lambda _: -theta.sum(), [theta], batches_of(TABLE), n_steps=1, learning_rate=1, every=1
        )
    )
    assert theta.grad is None
    assert theta.item() == pytest.approx(1)  # up: the gradient that was there pointed down


def after_steps(n_steps, slope=1.0, start=0.0, **options):
    """Where a number with the loss ``slope * number`` is after some steps of .1."""
    theta = torch.full((1,), start, dtype=torch.float64, requires_grad=True)

    def loss(_):
        return slope * theta.sum()

    settings = {"learning_rate": 0.1, "every": n_steps, **options}
    list(tune(loss, [theta], itertools.repeat(None), n_steps=n_steps, **settings))
    return theta.item()


def test_sgd_gathers_momentum_and_adam_steps_by_the_rate():
    # Velocities of 1, 1.9 and 2.71; with a momentum of .5 of 1, 1.5 and 1.75.
    assert after_steps(3, optimizer="sgd") == pytest.approx(-0.1 * (1 + 1.9 + 2.71))
    assert after_steps(3, optimizer="sgd", momentum=0.5) == pytest.approx(-0.1 * (1 + 1.5 + 1.75))
    assert after_steps(3, optimizer="sgd", momentum=0.0) == pytest.approx(-0.3)
    # Adam's steps have the size of the rate whatever the slope.
    assert after_steps(3, slope=7.0) == pytest.approx(-0.3)
    assert after_steps(3, slope=7.0, optimizer="adam") == after_steps(3, slope=7.0)


def test_weight_decay_is_a_gradient_of_the_squares():
    """Not a shrinking beside the gradient: alone it makes Adam take a whole step."""
    assert after_steps(1, slope=0.0, start=2.0) == 2.0
    decayed = after_steps(1, slope=0.0, start=2.0, weight_decay=0.01)
    assert decayed == pytest.approx(1.9)
    options = {"optimizer": "sgd", "start": 2.0, "weight_decay": 0.5}
    assert after_steps(1, **options) == pytest.approx(2.0 - 0.1 * (1 + 0.5 * 2.0))


def test_an_update_passes_by_the_share_of_its_mask():
    start = [1.0, 1.0, 1.0]
    free, masked = (torch.tensor(start, requires_grad=True) for _ in range(2))
    mask = torch.tensor([0.0, 0.25, 1.0])
    list(
        tune(
            lambda _: (free + masked).sum(),
            [free, masked],
            itertools.repeat(None),
            n_steps=2,
            every=2,
            learning_rate=0.5,
            optimizer="sgd",
            momentum=0.0,
            update_masks=[None, mask],
        )
    )
    assert free.tolist() == [0.0, 0.0, 0.0]
    assert masked.tolist() == [1.0, 0.75, 0.0]


def test_weights_of_a_batch_by_hand():
    """Cells of 50, 5, 0, 20, 100 and 25 rows of 200: five that have rows, so five times a share."""
    batch = next(iter(batches_of(TABLE, balance="classes")))
    gap_weights = {0: 50, 1: 5, 3: 20, 4: 100, 5: 25}
    own_class = {0: 55, 1: 55, 3: 145, 4: 145, 5: 145}
    for cell, loss, gap in zip(
        cells_in(batch).tolist(),
        batch.loss_weights.tolist(),
        batch.gap_weights.tolist(),
        strict=True,
    ):
        assert gap == pytest.approx(5 * gap_weights[cell] / 200)
        assert loss == pytest.approx(5 * gap_weights[cell] / own_class[cell] / 2)


def test_rows_in_turn_carry_their_own_weights():
    rows, weights = rows_of(TABLE), torch.arange(float(TABLE.sum()), dtype=torch.float64) / 7
    generator = torch.Generator().manual_seed(0)
    settings = {"batch_size": 64, "generator": generator, "device": CPU, "dtype": torch.float64}
    weighed, plain = RowBatches(rows, weights=weights, **settings), RowBatches(rows, **settings)
    for batch in itertools.islice(weighed, weighed.per_epoch):
        assert torch.equal(batch.loss_weights, batch.X[:, 0] / 7)
        assert torch.equal(rows.y[batch.X[:, 0].long()], batch.y)
        assert bool((batch.gap_weights == 1).all())
    assert bool((next(iter(plain)).loss_weights == 1).all())
