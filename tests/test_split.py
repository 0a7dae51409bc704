"""Validation rows: a share of every cell, or one split of the user's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import KFold, PredefinedSplit, ShuffleSplit

from fairsvd.base._split import draw_sample, split_rows


def split(validation, cells, y=None, seed=0):
    cells = np.asarray(cells)
    y = np.zeros_like(cells) if y is None else np.asarray(y)
    classes = np.array(["no", "yes"])
    return split_rows(validation, cells, y, np.random.default_rng(seed), classes)


@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=80),
    st.floats(0.01, 0.99),
    st.integers(0, 99),
)
def test_a_share_of_every_cell(cells, fraction, seed):
    editing, held = split(fraction, cells, seed=seed)
    n = len(cells)
    assert np.array_equal(editing, np.sort(editing))
    assert np.array_equal(held, np.sort(held))
    sizes = np.bincount(cells)
    if sizes.max() == 1:  # nothing can be set apart
        assert np.array_equal(editing, np.arange(n))
        assert np.array_equal(held, np.arange(n))
        return
    assert np.array_equal(np.sort(np.concatenate([editing, held])), np.arange(n))
    counts = np.bincount(np.asarray(cells)[held], minlength=len(sizes))
    for size, count in zip(sizes, counts, strict=True):
        if size < 2:
            assert count == 0
        else:
            assert 1 <= count <= size - 1
            assert abs(count - fraction * size) <= 0.5 or count in (1, size - 1)


def test_rows_are_drawn_at_random_by_the_generator_alone():
    cells = np.repeat([0, 1], 50)
    state = np.random.get_state()[1].copy()
    one, same, other = (split(0.3, cells, seed=seed)[1] for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert np.array_equal(np.random.get_state()[1], state)
    drawn = np.bincount(np.concatenate([split(0.3, cells, seed=s)[1] for s in range(400)]))
    assert drawn.min() > 120 - 6 * np.sqrt(120 * 0.7)
    assert drawn.max() < 120 + 6 * np.sqrt(120 * 0.7)


def test_a_splitter_of_one_split():
    fold = np.array([-1, 0, -1, 0, 0, -1])
    y = np.array([0, 1, 1, 0, 1, 0])
    editing, held = split(PredefinedSplit(fold), np.zeros(6, dtype=int), y)
    assert editing.tolist() == [0, 2, 5]
    assert held.tolist() == [1, 3, 4]
    shuffled = split(ShuffleSplit(n_splits=1, test_size=0.25, random_state=0), np.zeros(40, int))
    assert len(shuffled[1]) == 10


def test_what_is_refused():
    y = np.array([0, 0, 0, 1])
    with pytest.raises(ValueError, match=r"splitter of 2 splits.*exactly one"):
        split(KFold(2), np.zeros(4, dtype=int), y)
    with pytest.raises(ValueError, match=r"every row of the classes yes, so that"):
        split(PredefinedSplit(np.array([-1, -1, 0, 0])), np.zeros(4, dtype=int), y)
    with pytest.raises(ValueError, match="empty side"):
        split(PredefinedSplit(np.zeros(4, dtype=int)), np.zeros(4, dtype=int), y)


def test_draw_sample():
    rows = np.arange(100, 200)
    rng = np.random.default_rng(0)
    assert draw_sample(rows, 100, rng) is rows
    drawn = draw_sample(rows, 30, rng)
    assert len(set(drawn.tolist())) == 30
    assert np.array_equal(drawn, np.sort(drawn))
    assert set(drawn.tolist()) < set(rows.tolist())
