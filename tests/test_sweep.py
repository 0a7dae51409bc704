"""Every threshold at once against one threshold after the other; utilities of counts."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from fairsvd.objective import _sweep, count_table, is_unbalanced, utility_from_counts
from fairsvd.objective._constraint import UTILITIES, chance_utility
from fairsvd.objective._sweep import sweep


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
    assert np.all(np.diff(thresholds) < 0)
    # A threshold means what prediction makes of it: the rows above it are positive.
    for threshold, table in zip(thresholds, counts, strict=True):
        assert (margins > threshold).sum() == table[..., 1].sum()
    return counts


ROWS = st.lists(
    st.tuples(
        st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 3.0]) | st.floats(-50, 50, width=32),
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
    }
    assert set(expected) == set(UTILITIES)
    for name, value in expected.items():
        assert float(utility_from_counts(counts, name)) == pytest.approx(value, abs=1e-12)
        stacked = utility_from_counts(np.stack([counts, counts[::-1]]), name)
        np.testing.assert_allclose(stacked, [value, value])


def test_utilities_skip_empty_cells():
    y, groups = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 0])
    counts = count_table(y, np.array([0, 1, 1, 0]), groups, 2, 2)
    assert float(utility_from_counts(counts, "cell_balanced_accuracy")) == pytest.approx(0.5)
    assert float(utility_from_counts(counts, "worst_cell_accuracy")) == 0
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
