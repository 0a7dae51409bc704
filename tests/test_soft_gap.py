"""The soft gap: equal to the hard one on certain predictions, and differentiable."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fairsvd.objective import GAPS, RunningMeans, count_table, gap, soft_gap
from fairsvd.objective._soft_gap import GapTerms, gap_of
from helpers import EXACT, draw


def soft(probabilities, y, group, name, *, weights=None, pos=1, n_groups=None):
    n_groups = n_groups or int(group.max()) + 1
    weights = None if weights is None else torch.as_tensor(weights)
    return soft_gap(
        torch.as_tensor(probabilities),
        torch.as_tensor(y),
        torch.as_tensor(group),
        weights,
        name,
        pos,
        n_groups,
    )


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("n_groups", [2, 3])
@pytest.mark.parametrize("name", GAPS)
def test_soft_gap_of_certain_predictions_is_the_hard_gap(name, n_groups, n_classes):
    y, predictions, group = draw(5, n=900, n_groups=n_groups, n_classes=n_classes)
    counts = count_table(y, predictions, group, n_classes, n_groups)
    expected = gap(counts, name, 1)
    if name in ("equalized_odds", "average_odds"):
        expected = 2 * gap(counts, "average_odds", 1)  # the sum of both gaps
    if name == "signed_average_odds":
        expected = 2 * expected  # the gap of both rates' sum
    value = soft(np.eye(n_classes)[predictions], y, group, name, weights=np.full(900, 0.5))
    assert value.shape == ()
    np.testing.assert_allclose(value.item(), expected, **EXACT)


@pytest.mark.parametrize("seed", range(6))
def test_signed_odds_of_few_rows_skip_what_the_hard_gap_skips(seed):
    y, predictions, group = np.random.default_rng(seed).integers([[2], [2], [3]], size=(3, 5))
    counts = count_table(y, predictions, group, 2, 3)
    assert (counts.sum(axis=2) == 0).any()
    both = ((counts.sum(axis=2) > 0).sum(axis=0) > 1).all()
    hard = np.nan_to_num(gap(counts, "signed_average_odds", 1))
    value = soft(np.eye(2)[predictions], y, group, "signed_average_odds", n_groups=3)
    np.testing.assert_allclose(value.item(), hard * (2 if both else 1), **EXACT)


@pytest.mark.parametrize("name", ["demographic_parity", "equal_opportunity"])
@pytest.mark.parametrize("seed", [0, 1, 4, 5])
def test_soft_gap_skips_the_classes_that_the_hard_gap_skips(name, seed):
    y, predictions = np.random.default_rng(seed).integers(5, size=(2, 12))
    group = np.arange(12) % 3
    counts = count_table(y, predictions, group, 5, 3)
    assert ((counts.sum(axis=2) > 0).sum(axis=0) == 1).any()  # a label in one group only
    value = soft(np.eye(5)[predictions], y, group, name)
    np.testing.assert_allclose(value.item(), gap(counts, name), **EXACT)


@pytest.mark.parametrize("name", GAPS)
def test_a_class_that_cannot_be_compared_is_not_averaged_in(name):
    """All rows of the first class are the first group's: neither of its odds can be compared."""
    y, group = np.array([0, 0, 0, 1, 1, 2, 2, 2]), np.array([0, 0, 0, 1, 1, 1, 1, 1])
    predictions = np.array([0, 1, 1, 1, 2, 2, 0, 2])
    counts = count_table(y, predictions, group, 3, 2)
    expected = {
        "demographic_parity": (abs(1 / 3 - 1 / 5) + abs(2 / 3 - 1 / 5) + 3 / 5) / 3,
        "equal_opportunity": 0.0,  # nothing at all
        "accuracy_parity": abs(1 / 3 - 3 / 5),
    }
    # False positives of the other two classes: 2 of 3 and none of 3; none of 3 and 1 of 2.
    odds = (2 / 3 + 1 / 2) / 2
    value = soft(np.eye(3)[predictions], y, group, name)
    assert value.item() == pytest.approx(expected.get(name, odds), abs=1e-12)
    np.testing.assert_allclose(np.nan_to_num(gap(counts, name)), value.item(), **EXACT)


@pytest.mark.parametrize("pos", [0, 1])
def test_the_positive_class_of_the_soft_gap(pos):
    """Probabilities of class 1, a group a row: .9 and .3 of label 1, .6 and .2 of label 0."""
    of_one = np.array([0.9, 0.3, 0.6, 0.2])
    probabilities = np.stack([1 - of_one, of_one], axis=1)
    y, group = np.array([1, 1, 0, 0]), np.array([0, 1, 0, 1])
    found = {name: soft(probabilities, y, group, name, pos=pos).item() for name in GAPS}
    assert found == pytest.approx(
        {
            "demographic_parity": 0.75 - 0.25,
            "equal_opportunity": 0.6 if pos == 1 else 0.4,
            "equalized_odds": 0.6 + 0.4,
            "average_odds": 0.6 + 0.4,
            "signed_average_odds": 1.5 - 0.5,
            "accuracy_parity": abs((0.9 + 0.4) / 2 - (0.3 + 0.8) / 2),
        }
    )


@pytest.mark.parametrize("name", GAPS)
def test_weights_are_repetitions(name):
    y, _, group = draw(6, n=60, n_groups=3)
    probabilities = np.random.default_rng(0).dirichlet([1, 1], size=60)
    times = np.random.default_rng(1).integers(0, 4, size=60)
    repeated = [np.repeat(a, times, axis=0) for a in (probabilities, y, group)]
    np.testing.assert_allclose(
        soft(probabilities, y, group, name, weights=times), soft(*repeated, name), **EXACT
    )


@pytest.mark.parametrize("pos", [None, 1])
@pytest.mark.parametrize("name", GAPS)
def test_gradient_of_the_soft_gap(name, pos):
    rng = np.random.default_rng(2)
    logits = torch.tensor(rng.normal(size=(24, 2)), requires_grad=True)
    y, group = torch.tensor(rng.integers(2, size=24)), torch.tensor(rng.integers(-1, 2, size=24))
    weights = torch.tensor(rng.random(24))

    def loss(z):
        return soft_gap(z.softmax(dim=1), y, group, weights, name, pos, 2)

    assert torch.autograd.gradcheck(loss, (logits,))
    (gradient,) = torch.autograd.grad(loss(logits), logits)
    assert (gradient[group == -1] == 0).all()
    assert gradient.abs().sum() > 0.01
    assert loss(logits - 0.1 * gradient) < loss(logits)


@pytest.mark.parametrize("name", GAPS)
def test_absent_groups_are_skipped_without_nan_gradients(name):
    rng = np.random.default_rng(3)
    y, group = torch.tensor(rng.integers(2, size=40)), torch.tensor(rng.integers(2, size=40) * 2)
    logits = torch.tensor(rng.normal(size=(40, 2)), requires_grad=True)
    value = soft_gap(logits.softmax(dim=1), y, group, None, name, 1, 4)
    close_up = soft_gap(logits.softmax(dim=1), y, group // 2, None, name, 1, 2)
    torch.testing.assert_close(value, close_up)
    value.backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("name", GAPS)
def test_nothing_to_compare_is_zero_with_a_zero_gradient(name):
    logits = torch.randn(5, 2, requires_grad=True)
    group = torch.zeros(5, dtype=torch.int64)
    value = soft_gap(logits.softmax(dim=1), group, group, None, name, 1, 2)
    value.backward()
    assert value.item() == 0
    assert (logits.grad == 0).all()
    assert value.dtype == torch.float32


def followed(running, positive, group):
    """Measure the gap of rows that are all positive, three groups, and its gradient."""
    values = torch.tensor(positive, dtype=torch.float64)
    probabilities = torch.stack([1 - values, values], dim=1).requires_grad_()
    y = torch.ones(len(group), dtype=torch.int64)
    sizes = 2, 3
    terms = GapTerms.of(y, torch.tensor(group), None, "equal_opportunity", 1, sizes, torch.float64)
    value = gap_of(probabilities, terms, running)
    value.backward()
    return [value.item(), *probabilities.grad[:, 1].tolist()]


def test_running_means_name_the_extreme_groups_and_the_batch_has_the_gradient():
    running = RunningMeans()
    # Of the first batch alone, as without running means.
    first = followed(running, [0.8, 1.0, 0.5, 0.1], [0, 0, 1, 2])
    assert first == pytest.approx([0.8, 0.5, 0.5, 0.0, -1.0])
    assert followed(None, [0.8, 1.0, 0.5, 0.1], [0, 0, 1, 2]) == first
    # Means .7, .55, .2 of both batches: group 0 leads, though group 1 does in this batch.
    second = followed(running, [0.5, 0.6, 0.2, 0.4], [0, 1, 2, 2])
    assert second == pytest.approx([0.5, 1.0, 0.0, -0.5, -0.5])
    # Group 2 is not in the third batch: it is neither compared nor drawn to anything.
    third = followed(running, [0.1, 0.7], [0, 1])
    assert third == pytest.approx([0.6 - 0.5, -1.0, 1.0])
    assert running.values[0, :, 0].tolist() == pytest.approx([0.5, 0.6, 0.2])
    for _ in range(20):
        followed(running, [0.5, 0.6, 0.2], [0, 1, 2])
    # From the tenth batch on the newest weighs a tenth.
    followed(running, [1.0, 0.6, 0.2], [0, 1, 2])
    assert running.values[0, 0, 0].item() == pytest.approx(0.9 * 0.5 + 0.1)
