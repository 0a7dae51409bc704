"""The loss of an edit: by hand, in float64, and at the operating threshold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from fairsvd.objective import GAPS, Constraint, edit_loss, margin_of_threshold, shift_logits
from fairsvd.training import Batch

SHARPNESS = 4.0


def constraint(gap="equalized_odds", pos=1):
    return Constraint(gap, 0.05, 0.4, "balanced_accuracy", None, pos, "classes")


def make_batch(seed=0, *, n=60, n_classes=2, n_groups=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    y, groups = (torch.randint(k, (n,), generator=generator) for k in (n_classes, n_groups))
    weights = torch.rand(2, n, generator=generator, dtype=torch.float64) + 0.5
    logits = torch.randn(n, n_classes, generator=generator, dtype=torch.float64)
    logits[:, -1] += groups
    batch = Batch(torch.zeros(n, 1), y, groups, *weights.to(dtype))
    return logits.to(dtype), batch


def reference(logits, batch, name, pos, margin, gap_weight, n_groups):
    """The formula, row by row in numpy."""
    z = logits.double().numpy().copy()
    y, groups = batch.y.numpy(), batch.groups.numpy()
    weights = batch.loss_weights.double().numpy()
    gap_weights = batch.gap_weights.double().numpy()
    if margin:
        z[:, 1] -= margin
    loss = -np.mean(weights * log_softmax(z, axis=1)[np.arange(len(y)), y])
    p = softmax(SHARPNESS * z, axis=1)

    def means(values, rows):
        return {
            g: np.average(values[mask], weights=gap_weights[mask])
            for g in range(n_groups)
            if (mask := rows & (groups == g)).any()
        }

    def spread(values, rows):
        return np.ptp(list(means(values, rows).values()))

    def signed_spread(values, positive):
        both = [means(values, rows) for rows in (positive, ~positive)]
        used = [each for each in both if len(each) > 1]
        whole = [g for g in range(n_groups) if all(g in each for each in used)]
        return np.ptp([sum(each[g] for each in used) for g in whole]) if used else 0.0

    everything = np.ones(len(y), dtype=bool)
    classes = [pos] if z.shape[1] == 2 else range(z.shape[1])
    if name == "accuracy_parity":
        return loss + gap_weight * spread(p[np.arange(len(y)), y], everything)
    gaps = []
    for k in classes:
        tpr, fpr = spread(p[:, k], y == k), spread(p[:, k], y != k)
        gaps.append(
            {
                "demographic_parity": spread(p[:, k], everything),
                "equal_opportunity": tpr,
                "equalized_odds": tpr + fpr,
                "average_odds": tpr + fpr,
                "signed_average_odds": signed_spread(p[:, k], y == k),
            }[name]
        )
    return loss + gap_weight * np.mean(gaps)


def test_by_hand():
    """Four rows, one in each cell; the threshold moves every margin by one."""
    logits = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 1.0], [0.0, 0.5]], dtype=torch.float64)
    batch = Batch(
        torch.zeros(4, 1),
        torch.tensor([1, 1, 0, 0]),
        torch.tensor([0, 1, 0, 1]),
        torch.tensor([2.0, 1.0, 1.0, 0.0], dtype=torch.float64),
        torch.ones(4, dtype=torch.float64),
    )

    def sigmoid(m):
        return 1 / (1 + np.exp(-m))

    # Margins less the threshold: 0, 1, 0, -0.5.
    entropy = (2 * np.log(2) + np.log1p(np.exp(-1)) + np.log(2)) / 4
    tpr_gap = sigmoid(SHARPNESS * 1) - 0.5
    fpr_gap = 0.5 - sigmoid(SHARPNESS * -0.5)
    found = edit_loss(logits, batch, constraint(), margin=1.0, gap_weight=0.3, n_groups=2)
    assert float(found) == pytest.approx(entropy + 0.3 * (tpr_gap + fpr_gap), abs=1e-14)


@pytest.mark.parametrize("shape", [(2, 2), (2, 5), (5, 3)], ids=str)
@pytest.mark.parametrize("name", GAPS)
@given(st.integers(0, 999), st.sampled_from([0.0, 0.7, -1.3]), st.floats(0, 5))
def test_equal_to_the_formula(name, shape, seed, margin, gap_weight):
    n_classes, n_groups = shape
    margin = margin if n_classes == 2 else 0.0
    logits, batch = make_batch(seed, n_classes=n_classes, n_groups=n_groups)
    found = edit_loss(
        logits, batch, constraint(name), margin=margin, gap_weight=gap_weight, n_groups=n_groups
    )
    expected = reference(logits, batch, name, 1, margin, gap_weight, n_groups)
    assert float(found) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", GAPS)
def test_float32_equals_float64(name):
    logits, batch = make_batch(3, dtype=torch.float32)
    options = {"margin": 0.4, "gap_weight": 3.0, "n_groups": 2}
    found = edit_loss(logits, batch, constraint(name), **options)
    assert found.dtype == torch.float32
    expected = reference(logits, batch, name, 1, *options.values())
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_the_positive_class_is_the_constraints():
    logits, batch = make_batch(1)
    options = {"margin": 0.2, "gap_weight": 1.0, "n_groups": 2}
    by_class = [
        float(edit_loss(logits, batch, constraint("equal_opportunity", pos), **options))
        for pos in (0, 1)
    ]
    expected = [reference(logits, batch, "equal_opportunity", pos, 0.2, 1.0, 2) for pos in (0, 1)]
    assert by_class == pytest.approx(expected)
    assert abs(by_class[0] - by_class[1]) > 0.01


def test_the_share_weighs_the_cross_entropy_and_not_the_gap():
    logits, batch = make_batch(4)
    options = {"margin": 0.3, "n_groups": 2}
    entropy = reference(logits, batch, "equalized_odds", 1, 0.3, 0.0, 2)
    penalty = reference(logits, batch, "equalized_odds", 1, 0.3, 1.0, 2) - entropy
    for share in (0.0, 0.25, 1.0, 2.0):
        found = edit_loss(logits, batch, constraint(), gap_weight=0.7, share=share, **options)
        assert float(found) == pytest.approx(share * entropy + 0.7 * penalty)
        found = edit_loss(logits, batch, constraint(), gap_weight=0.0, share=share, **options)
        assert float(found) == pytest.approx(share * entropy)


def test_at_a_sharpness_of_1_the_gap_is_that_of_the_networks_own_probabilities():
    logits = torch.tensor([[0.0, 2.0], [0.0, -1.0], [0.0, 1.0], [0.0, 0.5]], dtype=torch.float64)
    ones = torch.ones(4, dtype=torch.float64)
    rows = Batch(torch.zeros(4, 1), torch.ones(4).long(), torch.tensor([0, 0, 1, 1]), ones, ones)
    p = 1 / (1 + np.exp(-np.array([2.0, -1.0, 1.0, 0.5])))
    sharp = 1 / (1 + np.exp(-SHARPNESS * np.array([2.0, -1.0, 1.0, 0.5])))
    asked = constraint("equal_opportunity")
    options = {"margin": 0.0, "gap_weight": 1.0, "n_groups": 2, "share": 0.0}
    for values, chosen in ((p, {"sharpness": 1.0}), (sharp, {})):
        found = edit_loss(logits, rows, asked, **options, **chosen)
        assert float(found) == pytest.approx(abs(values[:2].mean() - values[2:].mean()))


def test_weight_0_does_not_compute_the_gap():
    logits, batch = make_batch()
    expected = reference(logits, batch, "equalized_odds", 1, 0.5, 0.0, 2)
    # No gap can be computed of rows whose groups are not known.
    unknown = replace(batch, groups=None, gap_weights=None)
    options = {"margin": 0.5, "n_groups": 2}
    found = edit_loss(logits, unknown, constraint(), gap_weight=0, **options)
    assert float(found) == pytest.approx(expected)
    with pytest.raises((TypeError, AttributeError)):
        edit_loss(logits, unknown, constraint(), gap_weight=1e-9, **options)


@pytest.mark.parametrize("share", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("gap_weight", [0.0, 0.5])
def test_the_share_weighs_the_cross_entropy_alone(share, gap_weight):
    logits, batch = make_batch(4)
    entropy = reference(logits, batch, "equalized_odds", 1, 0.5, 0.0, 2)
    both = reference(logits, batch, "equalized_odds", 1, 0.5, gap_weight, 2)
    options = {"margin": 0.5, "n_groups": 2, "gap_weight": gap_weight, "share": share}
    found = edit_loss(logits, batch, constraint(), **options)
    assert float(found) == pytest.approx(share * entropy + (both - entropy), abs=1e-12)


def test_the_penalty_sees_the_gap_where_the_network_is_run():
    """At margin 0 everybody is selected and nothing is penalised; at the threshold a gap is."""
    groups = torch.tensor([0, 0, 1, 1])
    margins = torch.tensor([5.0, 5.0, 8.0, 8.0], dtype=torch.float64)
    logits = torch.stack([torch.zeros_like(margins), margins], dim=1)
    ones = torch.ones(4, dtype=torch.float64)
    batch = Batch(torch.zeros(4, 1), torch.tensor([0, 1, 0, 1]), groups, ones, ones)

    def penalty(margin):
        with_gap, without = (
            edit_loss(logits, batch, constraint(), margin=margin, gap_weight=t, n_groups=2)
            for t in (1, 0)
        )
        return float(with_gap - without)

    assert penalty(0.0) < 1e-6
    assert penalty(6.5) == pytest.approx(2, abs=0.02)  # TPR gap + FPR gap


def test_the_gradient_is_that_of_the_formula():
    logits, batch = make_batch(2, n=12)

    def loss(z):
        return edit_loss(z, batch, constraint(), margin=0.3, gap_weight=1.0, n_groups=2)

    assert torch.autograd.gradcheck(loss, logits.requires_grad_())


def test_shifted():
    logits, _ = make_batch()
    assert shift_logits(logits, 0) is logits
    margin = margin_of_threshold(0.8)
    moved = shift_logits(logits, margin)
    assert torch.equal(moved[:, 0], logits[:, 0])
    above = torch.softmax(logits, dim=1)[:, 1] > 0.8
    assert torch.equal(moved.argmax(dim=1), above.long())
    assert 0 < int(above.sum()) < len(above)
