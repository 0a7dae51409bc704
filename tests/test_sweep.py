"""Every threshold at once against one threshold after the other; utilities of counts."""

from __future__ import annotations

import functools
import operator
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from fairsvd.objective import _sweep, count_table, is_unbalanced, utility_from_counts
from fairsvd.objective._constraint import UTILITIES, chance_utility
from fairsvd.objective._sweep import _falling, sweep


def draw(seed, n=60, n_groups=3, n_parts=2, decimals=1):
    """Rows whose margins tie often."""
    rng = np.random.default_rng(seed)
    margins = rng.normal(size=n).round(decimals)
    y, groups, parts = (rng.integers(k, size=n) for k in (2, n_groups, n_parts))
    return margins, y, groups, parts


def brute_force(margins, y, groups, parts, n_groups, n_parts):
    """Distinct sets of positive rows, from none to all, counted one by one."""
    tables = []
    for value in [np.inf, *np.unique(margins)[::-1].tolist()]:
        predicted = (margins >= value).astype(np.int64)
        parted = [
            count_table(y[parts == p], predicted[parts == p], groups[parts == p], 2, n_groups)
            for p in range(n_parts)
        ]
        tables.append(np.stack(parted))
    return np.stack(tables)


def middles(margins):
    """Thresholds by what they are to be: between neighbours, and one beyond both ends."""
    values = np.unique(margins)[::-1]
    return np.array([values[0] + 1, *((values[:-1] + values[1:]) / 2), values[-1] - 1])


def swept(*args):
    chunks = list(sweep(*args))
    assert all(len(c.thresholds) == len(c.counts) > 0 for c in chunks)
    return (
        np.concatenate([c.thresholds for c in chunks]),
        np.concatenate([c.counts for c in chunks]),
    )


def check(margins, y, groups, parts, n_groups, n_parts):
    thresholds, counts = swept(margins, y, groups, parts, n_groups, n_parts)
    np.testing.assert_array_equal(counts, brute_force(margins, y, groups, parts, n_groups, n_parts))
    np.testing.assert_array_equal(thresholds, middles(margins))
    assert np.all(np.diff(thresholds) < 0)
    # A threshold means what prediction makes of it: the rows above it are positive.
    for threshold, table in zip(thresholds, counts, strict=True):
        assert (margins > threshold).sum() == table[..., 1].sum()
    return counts


ROWS = st.lists(
    st.tuples(
        st.sampled_from([-2.0, -1.0, -0.5, -0.0, 0.0, 0.25, 0.5, 3.0])
        | st.floats(-50, 50, width=32),
        st.integers(0, 1),
        st.integers(0, 2),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=40,
)


@given(ROWS)
def test_equal_to_brute_force(rows):
    margins, *codes = (np.array(column) for column in zip(*rows, strict=True))
    check(margins, *codes, 3, 2)


@given(ROWS, st.integers(1, 60))
def test_equal_to_brute_force_across_the_borders_of_chunks(rows, chunk):
    margins, *codes = (np.array(column) for column in zip(*rows, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sweep, "CHUNK", chunk * 2)
        check(margins, *codes, 3, 2)


@pytest.mark.parametrize("chunk", [1, 12, 36, 12 * 60, 12 * 61, 12 * 62])
def test_chunks_are_as_long_as_they_may_be(chunk, monkeypatch):
    args = (*draw(0, decimals=12), 3, 2)
    expected = swept(*args)
    monkeypatch.setattr(_sweep, "CHUNK", chunk)
    chunks = list(sweep(*args))
    size = max(1, chunk // 12)
    assert len(chunks) == -(-61 // size)  # 60 rows, 61 cuts, no ties
    assert all(len(c.thresholds) <= size for c in chunks)
    np.testing.assert_array_equal(np.concatenate([c.counts for c in chunks]), expected[1])
    np.testing.assert_array_equal(np.concatenate([c.thresholds for c in chunks]), expected[0])


def test_one_value_gives_nobody_and_everybody():
    counts = check(np.full(5, 0.3), *(np.zeros(5, dtype=np.int64),) * 3, 1, 1)
    assert counts.shape == (2, 1, 1, 2, 2)
    assert counts[:, 0, 0, 0].tolist() == [[5, 0], [0, 5]]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=60))
def test_any_finite_margins_come_in_order(values):
    margins = np.array(values)
    order = _falling(margins)
    assert sorted(order.tolist()) == list(range(len(margins)))
    assert (margins[order][1:] <= margins[order][:-1]).all()


N_SORTED = 3000
SHAPES = {
    "normal": lambda rng: rng.normal(size=N_SORTED),
    "one far away": lambda rng: np.append(rng.normal(size=N_SORTED) * 1e-12, 20.0),
    "heavy tails": lambda rng: rng.standard_cauchy(N_SORTED) ** 3,
    "many ties": lambda rng: rng.normal(size=N_SORTED).round(1),
    "zeros of both signs": lambda rng: np.where(rng.random(N_SORTED) < 0.5, -0.0, 0.0),
    "neighbouring floats": lambda rng: 1 + np.spacing(1.0) * rng.integers(5, size=N_SORTED),
    "tiny": lambda rng: rng.integers(9, size=N_SORTED) * 5e-324,
    "huge": lambda rng: rng.normal(size=N_SORTED) * 1e307,
    "difference of single precision": lambda rng: np.subtract(
        *rng.normal(size=(2, N_SORTED)).astype(np.float32).astype(np.float64)
    ),
    "sorted": lambda rng: np.sort(rng.normal(size=N_SORTED)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_many_margins_of_any_shape_come_in_order(shape):
    margins = SHAPES[shape](np.random.default_rng(0))
    order = _falling(margins)
    np.testing.assert_array_equal(margins[order], np.sort(margins)[::-1])
    assert len(np.unique(order)) == len(margins)


@pytest.mark.parametrize("n_groups", [1, 2, 130])
def test_many_rows_equal_one_table_of_all_cuts(n_groups):
    """No chunks, no cells of one byte, no halves of places: the sweep in four lines."""
    rng = np.random.default_rng(n_groups)
    n, n_cells = 2000, 4 * n_groups
    margins = rng.normal(size=n).astype(np.float32).astype(np.float64) - rng.normal(size=n).round(2)
    margins[::3] = margins[0]
    y, groups, parts = (rng.integers(k, size=n) for k in (2, n_groups, 2))
    values, place = np.unique(-margins, return_inverse=True)
    added = np.zeros((len(values) + 1, n_cells), dtype=np.int64)
    np.add.at(added, (place + 1, (parts * n_groups + groups) * 2 + y), 1)
    positive = added.cumsum(axis=0)
    thresholds, counts = swept(margins, y, groups, parts, n_groups, 2)
    np.testing.assert_array_equal(counts[..., 1].reshape(-1, n_cells), positive)
    np.testing.assert_array_equal(counts[..., 0].reshape(-1, n_cells), added.sum(axis=0) - positive)
    np.testing.assert_array_equal(thresholds, middles(margins))


def test_memory_is_bounded_by_the_chunk_not_by_the_rows(monkeypatch):
    def peak(chunk, n=50_000):
        monkeypatch.setattr(_sweep, "CHUNK", chunk)
        args = draw(0, n=n, decimals=12)
        tracemalloc.start()
        for _ in sweep(*args, 3, 2):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found / n

    # In bytes a row: 12 cells of 8 bytes are one table of all cuts.
    assert peak(2**14) < 12 * 8
    assert peak(2**22) > 2 * 12 * 8


def counts_of(seed, n=300, n_groups=3, n_classes=3):
    rng = np.random.default_rng(seed)
    y, groups = rng.integers(n_classes, size=n), rng.integers(n_groups, size=n)
    predicted = np.where(rng.random(n) < 0.6, y, rng.integers(n_classes, size=n))
    return y, predicted, groups, count_table(y, predicted, groups, n_classes, n_groups)


@given(st.integers(0, 99), st.integers(1, 4), st.integers(2, 4))
def test_utilities_equal_scikit_learn(seed, n_groups, n_classes):
    y, predicted, groups, counts = counts_of(seed, n_groups=n_groups, n_classes=n_classes)
    cells = [
        accuracy_score(y[mask], predicted[mask])
        for k in range(n_classes)
        for g in range(n_groups)
        if (mask := (y == k) & (groups == g)).any()
    ]
    expected = {
        "balanced_accuracy": balanced_accuracy_score(y, predicted),
        "accuracy": accuracy_score(y, predicted),
        "cell_balanced_accuracy": np.mean(cells),
        "worst_cell_accuracy": np.min(cells),
        "mean_and_worst_cell_accuracy": (np.mean(cells) + np.min(cells)) / 2,
    }
    assert set(expected) == set(UTILITIES)
    for name, value in expected.items():
        assert float(utility_from_counts(counts, name)) == pytest.approx(value, abs=1e-12)
        stacked = utility_from_counts(np.stack([counts, counts[::-1]]), name)
        np.testing.assert_allclose(stacked, [value, value])


@given(st.integers(0, 99), st.integers(1, 9), st.booleans(), st.sampled_from(UTILITIES))
def test_the_order_in_memory_does_not_move_a_bit_of_a_utility(seed, n_groups, holes, name):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 40, size=(n_groups, 2, 2, 6))
    if holes:
        counts[rng.integers(n_groups), rng.integers(2)] = 0
        counts[0, 0, 0] += 1  # some row there is
    cuts_first = np.moveaxis(counts, -1, 0)
    found = utility_from_counts(cuts_first, name)
    assert np.array_equal(found, utility_from_counts(cuts_first.copy(order="C"), name))
    assert found.tolist() == [
        float(utility_from_counts(table.copy(), name)) for table in cuts_first
    ]


@given(st.integers(0, 99), st.integers(1, 9))
def test_utilities_are_quotients_of_counts_summed_from_the_left(seed, n_groups):
    """In the arithmetic of Python's numbers, to the bit."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 40, size=(5, n_groups, 2, 2))
    for table, *found in zip(
        counts.tolist(),
        *(utility_from_counts(counts, name).tolist() for name in UTILITIES),
        strict=True,
    ):
        cells = [table[g][k][k] / sum(table[g][k]) for g in range(n_groups) for k in range(2)]
        right, rows = (
            [sum(line) for line in zip(*per_group, strict=True)]
            for per_group in (
                [[table[g][k][k] for k in range(2)] for g in range(n_groups)],
                [[sum(table[g][k]) for k in range(2)] for g in range(n_groups)],
            )
        )
        expected = {
            "balanced_accuracy": (right[0] / rows[0] + right[1] / rows[1]) / 2,
            "cell_balanced_accuracy": from_the_left(cells) / len(cells),
            "accuracy": sum(right) / sum(rows),
            "worst_cell_accuracy": min(cells),
            "mean_and_worst_cell_accuracy": (from_the_left(cells) / len(cells) + min(cells)) / 2,
        }
        assert dict(zip(UTILITIES, found, strict=True)) == expected


def from_the_left(values):
    # Python's own sum of floats compensates for rounding.
    return functools.reduce(operator.add, values)


def test_utilities_skip_empty_cells():
    y, groups = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 0])
    counts = count_table(y, np.array([0, 1, 1, 0]), groups, 2, 2)
    assert float(utility_from_counts(counts, "cell_balanced_accuracy")) == pytest.approx(0.5)
    assert float(utility_from_counts(counts, "worst_cell_accuracy")) == 0
    assert float(utility_from_counts(counts, "mean_and_worst_cell_accuracy")) == pytest.approx(0.25)
    assert float(utility_from_counts(counts, "balanced_accuracy")) == pytest.approx(0.5)


def test_is_unbalanced():
    independent = np.outer([30, 70], [20, 80])
    assert not is_unbalanced(independent)
    assert not is_unbalanced(np.array([[1, 1], [1, 1]]))
    # Half of the rows that independence would give a cell is the border.
    assert not is_unbalanced(np.array([[50, 150], [150, 50]]))
    assert is_unbalanced(np.array([[49, 151], [151, 49]]))
    assert is_unbalanced(np.array([[10, 10, 0], [10, 10, 10]]))


@given(st.integers(0, 99), st.sampled_from(UTILITIES))
def test_chance_is_the_best_constant_prediction(seed, name):
    y, _, groups, _ = counts_of(seed, n=40)
    y[y == 2] *= np.random.default_rng(seed).integers(2, size=(y == 2).sum())  # fewer of class 2
    table = np.bincount(y * 3 + groups, minlength=9).reshape(3, 3)
    tables = [count_table(y, np.full_like(y, k), groups, 3, 3) for k in range(3)]
    expected = max(float(utility_from_counts(t, name)) for t in tables)
    assert chance_utility(y, groups, table, name) == pytest.approx(expected)


def test_chance_of_a_callable():
    y, groups = np.array([0, 1, 1, 1]), np.zeros(4, dtype=np.int64)
    table = np.array([[1], [3]])
    assert chance_utility(y, groups, table, accuracy_score) == 0.75
    assert chance_utility(y, groups, table, lambda t, p: float((p == 0).mean())) == 1.0
