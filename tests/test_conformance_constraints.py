"""Conformance constraints: the definition, the densest rows, and the columns they bound."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KernelDensity

from fairsvd.conformance import ConformanceConstraints
from fairsvd.conformance import _constraints as constraints
from fairsvd.conformance._cells import Columns
from fairsvd.conformance._constraints import densest
from helpers import IGNORE_SMALL_DATA

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]


# Constraints


@pytest.fixture
def cloud():
    rng = np.random.default_rng(0)
    return rng.normal(size=(200, 3)) @ rng.normal(size=(3, 3)) * 0.1


def test_violations_are_those_of_the_definition(cloud):
    """Every projection by itself, from the covariance by numpy."""
    found = ConformanceConstraints.of(cloud)
    variances, directions = np.linalg.eigh(np.cov(cloud.T, bias=True))
    importance = 1 / np.log(2 + np.sqrt(variances))
    new = cloud[:20] + np.linspace(0, 3, 20)[:, None]
    wanted = np.zeros(20)
    for variance, direction, weight in zip(variances, directions.T, importance, strict=True):
        spread, projected = np.sqrt(variance), cloud @ direction
        low, high = projected.mean() - 4 * spread, projected.mean() + 4 * spread
        for i, value in enumerate(new @ direction):
            outside = max(0.0, value - high, low - value)
            wanted[i] += weight / importance.sum() * (1 - np.exp(-outside / spread))
    np.testing.assert_allclose(found.violation(new), wanted, atol=1e-12)
    assert wanted.max() > 0.5
    assert found.importance.sum() == pytest.approx(1)


def test_rows_that_made_the_constraints_keep_them_and_far_ones_do_not(cloud):
    found = ConformanceConstraints.of(cloud)
    assert found.violation(cloud).max() == 0
    assert found.violation(cloud + 100).min() > 0.9
    assert found.distance(cloud).mean() == pytest.approx(1)


def test_a_sum_that_is_constant_is_the_strictest_constraint():
    t = np.random.default_rng(0).random(50)
    found = ConformanceConstraints.of(np.column_stack([t, 1 - t]))
    off = found.violation(np.array([[0.5, 0.5], [0.5, 0.52]]))
    assert off[0] == 0
    assert off[1] > 0.4


def test_the_densest_rows_are_those_of_a_kernel_density_without_the_row_itself(monkeypatch):
    """Among 25 drawn rows, where a row that is drawn must not count for itself."""
    monkeypatch.setattr(constraints, "MOST", 25)
    rows = np.random.default_rng(0).random((60, 2))
    among = np.random.default_rng(1).choice(60, size=25, replace=False)
    density = [
        KernelDensity(bandwidth=0.1).fit(rows[among[among != i]]).score_samples(rows[[i]])[0]
        + np.log((among != i).sum())
        for i in range(60)
    ]
    kept = densest(rows, 0.3, np.random.default_rng(1))
    np.testing.assert_array_equal(kept, rows[np.argsort(-np.array(density))[:18]])


def test_few_rows_are_all_kept_and_many_are_measured_among_some():
    rng = np.random.default_rng(0)
    rows = rng.random((30, 4))
    assert len(densest(rows, 0.2, rng)) == 20
    assert len(densest(rows[:9], 0.2, rng)) == 9
    heap = np.concatenate([rng.normal(0.5, 0.02, (1500, 2)), rng.random((1500, 2))])
    kept = densest(heap, 0.4, np.random.default_rng(0))
    assert np.abs(kept - 0.5).max() < 0.2


def test_columns_are_numbers_of_more_than_two_values_scaled_to_their_range():
    X = pd.DataFrame({"a": [1.0, 3, 5], "word": list("xyz"), "flag": [0, 1, 0], "b": [2, 2, 4]})
    found = Columns.of(X)
    assert found.places == [0]
    assert found.scaled(X).ravel().tolist() == [0, 0.5, 1]
    assert Columns.of(np.array([[0.0, 1], [1, 1]])).places == [0, 1]
    with pytest.raises(ValueError, match=r"X has no column of numbers \(1 columns in all\)"):
        Columns.of(X[["word"]])
