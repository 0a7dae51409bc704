"""Generators and planted colours: what is promised exactly is exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from fairsvd.datasets import (
    load_biased_digits,
    make_biased_classification,
    make_biased_images,
    make_tinted,
)
from fairsvd.datasets._draws import as_generator, plant, split_exactly

FAST = settings(max_examples=40, deadline=None)


def shares_of(codes: np.ndarray, values: np.ndarray) -> np.ndarray:
    table = np.zeros((codes.max() + 1, values.max() + 1))
    np.add.at(table, (codes, values), 1)
    return table


# Draws


@FAST
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    n_values=st.integers(2, 5),
    strength=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_plant_is_exact_in_every_class(counts, n_values, strength, seed):
    codes = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    values = plant(codes, n_values, strength, np.random.default_rng(seed))
    table = np.zeros((len(counts), n_values))
    np.add.at(table, (codes, values), 1)
    for k, n in enumerate(counts):
        others = np.delete(table[k], k % n_values)
        assert table[k, k % n_values] == np.floor(strength * n + 0.5)
        assert others.max() - others.min() <= 1


@FAST
@given(st.integers(0, 500), st.lists(st.floats(0.01, 1), min_size=1, max_size=6))
def test_split_exactly_adds_up_within_one_row(n, weights):
    shares = np.array(weights) / np.sum(weights)
    counts = split_exactly(n, shares)
    assert counts.sum() == n
    assert (np.abs(counts - n * shares) < 1 + 1e-8).all()


def test_split_exactly_gives_rows_left_over_to_the_largest_remainders():
    assert split_exactly(7, np.array([0.55, 0.25, 0.2])).tolist() == [4, 2, 1]
    assert split_exactly(7, np.array([0.2, 0.25, 0.55])).tolist() == [1, 2, 4]
    assert split_exactly(10, np.array([0.1 + 0.2, 0.7])).tolist() == [3, 7]
    assert split_exactly(1000, np.array([0.29, 0.71])).tolist() == [290, 710]


def test_any_random_state_gives_a_generator():
    assert as_generator(3).random() == np.random.default_rng(3).random()
    rng = np.random.default_rng(0)
    assert as_generator(rng) is rng
    first, second = (as_generator(np.random.RandomState(5)).random() for _ in range(2))
    assert first == second
    assert as_generator(None).random() != as_generator(None).random()
    for wrong in (-1, "seed", 1.5, True):
        with pytest.raises(ValueError, match="random_state must be an integer"):
            as_generator(wrong)


@pytest.mark.parametrize("seed", [None, 0, np.random.default_rng(0)])
def test_numpys_global_generator_is_not_touched(seed):
    before = np.random.get_state()[1:3]
    make_biased_classification(50, random_state=seed)
    make_biased_images(10, size=8, random_state=seed)
    load_biased_digits(random_state=seed)
    after = np.random.get_state()[1:3]
    assert (before[0] == after[0]).all() and before[1] == after[1]


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda seed: make_biased_classification(60, random_state=seed), "data"),
        (lambda seed: make_biased_images(20, size=8, random_state=seed), "data"),
        (lambda seed: load_biased_digits(random_state=seed), "data"),
        (
            lambda seed: make_tinted(
                np.ones((40, 2, 2)), [0, 1] * 20, strength=0.5, random_state=seed
            ),
            "images",
        ),
    ],
)
def test_equal_seeds_equal_data(make, key):
    np.testing.assert_array_equal(make(7)[key], make(7)[key])
    assert (make(7)[key] != make(8)[key]).any()


# Tables


@FAST
@given(
    n=st.integers(1, 200),
    n_classes=st.integers(2, 5),
    n_groups=st.integers(2, 5),
    extra=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_classification_shapes(n, n_classes, n_groups, extra, seed):
    bunch = make_biased_classification(
        n,
        n_features=n_classes + extra,
        n_classes=n_classes,
        n_groups=n_groups,
        base_rate_gap=0.2,
        label_bias=0.3,
        random_state=seed,
    )
    assert bunch.data.shape == (n, n_classes + extra) and bunch.data.dtype == np.float64
    assert bunch.target.shape == bunch.groups.shape == bunch.true_target.shape == (n,)
    assert bunch.target.dtype == bunch.groups.dtype == np.int64
    assert bunch.sensitive_features["group"].tolist() == [f"g{k}" for k in bunch.groups]
    for table in (bunch.probabilities, bunch.blind_probabilities):
        assert table.shape == (n, n_classes) and (table >= -1e-15).all()
        np.testing.assert_allclose(table.sum(axis=1), 1)
    np.testing.assert_allclose(bunch.base_rates.sum(axis=1), 1)


def test_planted_base_rates_hold_in_the_population_and_in_the_sample():
    bunch = make_biased_classification(
        12_000,
        n_classes=3,
        n_groups=3,
        group_shares=[3, 2, 1],
        base_rate=0.4,
        base_rate_gap=0.2,
        label_bias=0.5,
        random_state=0,
    )
    np.testing.assert_allclose(bunch.true_base_rates[:, 2], [0.5, 0.4, 0.3])
    np.testing.assert_allclose(bunch.base_rates[:, 2], [0.5, 0.3, 0.15])
    np.testing.assert_allclose(bunch.base_rates[:, 0], [0.25, 0.3 + 0.1, 0.35 + 0.15])
    assert np.bincount(bunch.groups).tolist() == [6000, 4000, 2000]
    for labels, rates in (
        (bunch.target, bunch.base_rates),
        (bunch.true_target, bunch.true_base_rates),
    ):
        found = shares_of(bunch.groups, labels)
        np.testing.assert_allclose(found / found.sum(axis=1, keepdims=True), rates, atol=1e-12)
    changed = bunch.target != bunch.true_target
    assert (bunch.true_target[changed] == 2).all() and (bunch.target[changed] == 0).all()
    assert np.bincount(bunch.groups[changed], minlength=3).tolist() == [0, 400, 300]


def test_probabilities_are_bayes_rule_over_scipys_densities():
    shares, gap, bias = np.array([0.7, 0.3]), 0.3, 0.4
    bunch = make_biased_classification(
        200,
        n_features=4,
        group_shares=shares,
        base_rate_gap=gap,
        label_bias=bias,
        noise=[1.0, 2.0],
        random_state=1,
    )
    # The centres, found again from many rows of the same seed's geometry without any noise.
    still = make_biased_classification(
        200,
        n_features=4,
        group_shares=shares,
        base_rate_gap=gap,
        label_bias=bias,
        noise=1e-9,
        random_state=1,
    )
    joint = np.zeros((200, 2, 2))
    for g in (0, 1):
        for y in (0, 1):
            centre = still.data[(still.groups == g) & (still.true_target == y)][0]
            density = multivariate_normal(centre, (1.0 + g) ** 2).pdf(bunch.data)
            joint[:, g, y] = shares[g] * bunch.true_base_rates[g, y] * density
    moved = joint[:, 1, 1] * bias
    joint[:, 1, 1] -= moved
    joint[:, 1, 0] += moved
    own = joint[np.arange(200), bunch.groups]
    expected = own / own.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(bunch.probabilities, expected, atol=1e-6)
    blind = joint.sum(axis=1) / joint.sum(axis=(1, 2))[:, None]
    np.testing.assert_allclose(bunch.blind_probabilities, blind, atol=1e-6)
    np.testing.assert_array_equal(bunch.bayes_target, expected.argmax(axis=1))
    np.testing.assert_array_equal(bunch.blind_bayes_target, blind.argmax(axis=1))


def test_probabilities_are_calibrated_and_bayes_labels_are_the_best():
    bunch = make_biased_classification(40_000, label_bias=0.3, noise=[1, 1.5], random_state=2)
    for table in (bunch.probabilities, bunch.blind_probabilities):
        bins = np.digitize(table[:, 1], [0.2, 0.4, 0.6, 0.8])
        for k in range(5):
            rows = bins == k
            assert abs(bunch.target[rows].mean() - table[rows, 1].mean()) < 0.03
    aware = (bunch.bayes_target == bunch.target).mean()
    blind = (bunch.blind_bayes_target == bunch.target).mean()
    assert aware >= blind > 0.7
    assert aware == pytest.approx(bunch.probabilities.max(axis=1).mean(), abs=0.01)


def test_distances_are_as_asked():
    bunch = make_biased_classification(
        30, n_classes=3, n_groups=3, class_separation=3.0, group_shift=2.0, noise=1e-9
    )
    centre = {
        (g, y): bunch.data[(bunch.groups == g) & (bunch.true_target == y)][0]
        for g in range(3)
        for y in range(3)
    }
    assert np.linalg.norm(centre[0, 0] - centre[0, 2]) == pytest.approx(3, abs=1e-6)
    assert np.linalg.norm(centre[0, 1] - centre[1, 1]) == pytest.approx(2, abs=1e-6)
    across = centre[0, 0] - centre[0, 1]
    assert across @ (centre[0, 0] - centre[2, 0]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_samples": 0}, "n_samples must be an integer at least 1, got 0"),
        ({"n_features": 2}, "n_features must be an integer at least 3"),
        ({"n_classes": 1}, "n_classes"),
        ({"n_groups": 1.5}, "n_groups"),
        ({"group_shares": [1, 0]}, "group_shares must be 2 numbers above 0"),
        ({"group_shares": [1, 1, 1]}, "group_shares"),
        ({"base_rate_gap": 1.0}, r"base_rate=0.5 and base_rate_gap=1 .* inside \(0, 1\)"),
        ({"base_rate": 1.2}, "base_rate=1.2"),
        ({"label_bias": -0.1}, r"label_bias must be a number in \[0, 1\]"),
        ({"class_separation": -1.0}, "class_separation"),
        ({"group_shift": float("nan")}, "group_shift"),
        ({"noise": 0.0}, "noise must be one number above 0 or 2 of them"),
        ({"noise": [1, 2, 3]}, "noise"),
    ],
)
def test_classification_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_biased_classification(**arguments)
