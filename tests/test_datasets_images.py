"""Images: the planted correlation is exact, the pixels are what they should be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from fairsvd.datasets import load_biased_digits, make_biased_images, make_tinted

FAST = settings(max_examples=30, deadline=None)


@FAST
@given(
    n=st.integers(1, 60),
    size=st.integers(8, 13),
    channels=st.sampled_from([1, 3]),
    n_classes=st.integers(2, 4),
    n_groups=st.integers(2, 4),
    strength=st.floats(0, 1),
)
def test_biased_images_keep_their_promises(n, size, channels, n_classes, n_groups, strength):
    bunch = make_biased_images(
        n,
        size=size,
        channels=channels,
        n_classes=n_classes,
        n_groups=n_groups,
        strength=strength,
        random_state=0,
    )
    assert bunch.images.shape == (n, channels, size, size) and bunch.images.dtype == np.float32
    assert bunch.images.min() >= 0 and bunch.images.max() <= 1
    assert bunch.data.shape == (n, channels * size * size)
    assert bunch.target.dtype == bunch.groups.dtype == np.int64
    per_class = np.bincount(bunch.target, minlength=n_classes)
    assert per_class.max() - per_class.min() <= 1
    counts = np.zeros((n_classes, n_groups), dtype=int)
    np.add.at(counts, (bunch.target, bunch.groups), 1)
    np.testing.assert_array_equal(bunch.counts, counts)
    own = counts[np.arange(n_classes), np.arange(n_classes) % n_groups]
    np.testing.assert_array_equal(own, np.floor(strength * per_class + 0.5))
    assert bunch.aligned.sum() == own.sum()


def test_biased_images_without_noise_show_shape_and_colour():
    bunch = make_biased_images(60, n_classes=3, n_groups=3, strength=0.5, noise=0, random_state=0)
    np.testing.assert_allclose(bunch.images.max(axis=1), bunch.shapes, atol=1e-6)
    red = bunch.groups == 0
    assert bunch.images[red, 0].sum() > 0 and bunch.images[red, 1:].sum() == 0
    assert (bunch.shapes.sum(axis=(1, 2)) > 8).all()  # no bar has left its image


def test_grey_biased_images_show_the_group_in_the_background():
    bunch = make_biased_images(40, channels=1, n_groups=3, strength=1 / 3, noise=0, random_state=0)
    column = bunch.images[:, 0, :, 0]  # bars do not reach the left edge
    edges = (np.abs(np.diff(column, axis=1)) > 0.3).sum(axis=1)
    np.testing.assert_array_equal(edges, 2 * (bunch.groups + 1) - 1)


def test_noise_may_differ_between_groups():
    bunch = make_biased_images(400, noise=[0.0, 0.3], strength=0.5, random_state=0)
    background = np.where(bunch.shapes[:, None] == 0, bunch.images, 0)
    assert background[bunch.groups == 0].max() == 0
    assert background[bunch.groups == 1].std() > 0.1


def test_class_and_group_can_be_learned_from_biased_images():
    bunch = make_biased_images(600, strength=0.5, random_state=0)
    groups_rule = bunch.images[:, 0].mean(axis=(1, 2)) > bunch.images[:, 2].mean(axis=(1, 2))
    assert (groups_rule == (bunch.groups == 0)).mean() > 0.99
    grey = bunch.images.max(axis=1).reshape(600, -1)
    model = LogisticRegression(max_iter=500).fit(grey[:400], bunch.target[:400])
    assert model.score(grey[400:], bunch.target[400:]) > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be an integer at least 1"),
        ({"size": 7}, "size must be an integer at least 8"),
        ({"channels": 2}, "channels must be 1"),
        ({"n_classes": 9, "size": 16}, "n_classes must be an integer from 2 to 8"),
        ({"n_groups": 11}, "n_groups must be an integer from 2 to 10"),
        ({"n_groups": 9, "channels": 1}, "n_groups must be an integer from 2 to 8"),
        ({"strength": 1.1}, "strength must be a number"),
        ({"noise": -1}, "noise must be one number at least 0"),
    ],
)
def test_biased_images_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_biased_images(**arguments)


# Tints


@FAST
@given(
    n=st.integers(1, 80),
    n_labels=st.integers(1, 5),
    n_colors=st.integers(2, 5),
    strength=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_tint_agrees_for_an_exact_share_of_each_class(n, n_labels, n_colors, strength, seed):
    labels = np.random.default_rng(seed).integers(n_labels, size=n)
    tinted = make_tinted(np.ones((n, 2, 3)), labels, strength, n_colors=n_colors, random_state=seed)
    assert tinted.images.shape == (n, 3, 2, 3) and tinted.images.dtype == np.float32
    for k, label in enumerate(np.unique(labels)):
        rows = labels == label
        assert tinted.aligned[rows].sum() == np.floor(strength * rows.sum() + 0.5)
        np.testing.assert_array_equal(tinted.groups[rows] == k % n_colors, tinted.aligned[rows])


def test_tint_multiplies_by_the_colour():
    images = np.array([[[0, 255], [51, 102]]] * 2, dtype=np.uint8)
    tinted = make_tinted(images, ["cat", "dog"], 1.0)
    grey = images[0] / np.float32(255)
    zero = np.zeros_like(grey)
    np.testing.assert_allclose(tinted.images, [[grey, zero, zero], [zero, zero, grey]])
    assert tinted.sensitive_features["color"].tolist() == ["red", "blue"]
    assert tinted.target.tolist() == ["cat", "dog"] and tinted.color_names == ["red", "blue"]
    half = make_tinted(images, ["cat", "dog"], 1.0, saturation=0.5)
    np.testing.assert_allclose(half.images[0], [grey, grey / 2, grey / 2])
    none = make_tinted(images, ["cat", "dog"], 1.0, saturation=0.0)
    np.testing.assert_allclose(none.images[0], [grey, grey, grey])


def test_tint_takes_one_channel_images_and_leaves_its_input_alone():
    images = np.random.default_rng(0).random((6, 1, 4, 4), dtype=np.float32)
    before = images.copy()
    tinted = make_tinted(images, [0, 1] * 3, random_state=0)
    np.testing.assert_array_equal(tinted.images.max(axis=1), before[:, 0])
    np.testing.assert_array_equal(images, before)


def test_known_groups_repaint_the_same_images():
    images, labels = np.random.default_rng(0).random((20, 3, 3)), [0, 1] * 10
    first = make_tinted(images, labels, 0.8, random_state=0)
    other = make_tinted(images, labels, groups=1 - first.groups)
    np.testing.assert_array_equal(other.groups, 1 - first.groups)
    np.testing.assert_array_equal(other.aligned, ~first.aligned)
    np.testing.assert_array_equal(other.images[:, ::-1], first.images)  # red and blue swapped


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": np.zeros((4, 3, 2, 2))}, r"images must be grey, .* got \(4, 3, 2, 2\)"),
        ({"images": np.zeros((0, 2, 2)), "labels": []}, "images must be grey"),
        ({"images": np.full((4, 2, 2), 255)}, r"images must be uint8 .* got int64 in \[255, 255\]"),
        ({"images": np.full((4, 2, 2), 1.5)}, "images must be uint8"),
        ({"images": np.full((4, 2, 2), np.nan)}, "without NaN"),
        ({"labels": [0, 1]}, r"labels must hold one label per image, shape \(4,\), got \(2,\)"),
        ({"strength": 2}, "strength must be a number"),
        ({"strength": float("nan")}, "strength must be a number"),
        ({"n_colors": 11}, "n_colors must be an integer from 2 to 10"),
        ({"saturation": -1}, "saturation must be a number"),
        ({"groups": [0, 1, 2, 0]}, r"groups must be 4 integers from 0 to 1"),
        ({"groups": [0.0, 1.0, 1.0, 0.0]}, "got float64"),
        ({"groups": [0, 1]}, r"of shape \(2,\)"),
    ],
)
def test_tint_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_tinted(**{"images": np.zeros((4, 2, 2)), "labels": [0, 1, 0, 1], **arguments})


# Digits


def test_biased_digits_are_scikit_learns_tinted():
    digits = load_biased_digits(strength=0.9)
    assert digits.images.shape == (1797, 3, 8, 8) and digits.data.shape == (1797, 192)
    assert digits.images.min() == 0 and digits.images.max() == 1
    for label in range(10):
        rows = digits.target == label
        share = (digits.groups[rows] == label % 2).sum()
        assert share == np.floor(0.9 * rows.sum() + 0.5)
    assert digits.target_names == [str(k) for k in range(10)]
    assert set(digits.sensitive_features["color"]) == {"red", "blue"}
    assert "colour" in digits.DESCR


def test_biased_digits_of_two_classes():
    digits = load_biased_digits(classes=(3, 8), strength=1.0)
    assert set(digits.target) == {3, 8} and digits.target_names == ["3", "8"]
    np.testing.assert_array_equal(digits.groups, digits.target == 8)
    for wrong in ((3, 10), ()):
        with pytest.raises(ValueError, match="classes must name some of"):
            load_biased_digits(classes=wrong)
