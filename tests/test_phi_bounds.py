"""The objective phi at its bounds: parameters, limits, and what a resample may lack."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fairsvd import PhiObjective
from fairsvd.objective import Constraint, make_judge


def asked(phi, **changes):
    base = Constraint(phi.measure, phi.epsilon, 0.8, "balanced_accuracy", None, 1, "classes", phi)
    return replace(base, **changes)


def test_limit_and_target_are_epsilon_less_the_slack():
    phi = PhiObjective(epsilon=0.3, slack=0.1)
    by_phi = asked(phi, tolerance=0.3, fraction=0.5)
    assert by_phi.limit == by_phi.target == phi.limit == pytest.approx(0.2)
    without = replace(by_phi, phi=None)
    assert (without.limit, without.target) == (0.3, 0.15)


def test_the_defaults_are_those_of_the_paper():
    assert PhiObjective().get_params() == {
        "measure": "demographic_parity",
        "epsilon": 0.05,
        "slack": 0.01,
        "n_bootstrap": 5,
        "n_thresholds": 501,
        "random_state": 0,
    }


def test_parameters_at_their_bounds_are_taken():
    PhiObjective(epsilon=1, slack=0, n_bootstrap=0, n_thresholds=3, random_state=0).check()
    PhiObjective(epsilon=np.float64(0.2), slack=np.nextafter(0.2, 0), n_bootstrap=1).check()


@pytest.mark.parametrize(
    "parameters", [{"epsilon": 1.01}, {"slack": -0.01}, {"n_thresholds": 2}, {"random_state": -1}]
)
def test_parameters_beyond_their_bounds_are_named(parameters):
    name, value = next(iter(parameters.items()))
    with pytest.raises(ValueError, match=f"{name}={value} of PhiObjective"):
        PhiObjective(**parameters).check()


def test_the_utility_and_the_positive_class_are_the_constraints():
    """Accuracy and the specificity, on an unbalanced table with a fixed threshold."""
    y, group = np.repeat([0, 1], [6, 2]), np.array([0, 0, 0, 1, 1, 1, 0, 1])
    positive = np.array([1, 0, 0, 1, 1, 0, 1, 1])  # specificities of 2/3 and 1/3, recalls of 1
    logits = torch.tensor(np.stack([np.zeros(8), np.where(positive, 1.0, -1.0)], axis=1))
    phi = PhiObjective("equal_opportunity", epsilon=0.9, n_bootstrap=0)
    found = [
        make_judge(
            y, group, np.zeros(8, dtype=np.int64), 2, 2, asked(phi, threshold=0.5, **changes)
        )(logits)
        for changes in ({}, {"utility": "accuracy"}, {"pos": 0})
    ]
    assert [v.value for v in found] == pytest.approx([(1 / 2 + 1) / 2, 5 / 8, (1 / 2 + 1) / 2])
    assert [v.gap for v in found] == pytest.approx([0.0, 0.0, 1 / 3])


def test_a_resample_without_the_rows_of_the_gap_counts_0():
    """The only positive row of a group is drawn by some resamples and not by others."""
    y, group = np.array([1] + [0] * 9 + [1] * 5 + [0] * 5), np.repeat([0, 1], 10)
    phi = PhiObjective("equal_opportunity", epsilon=1.0, n_bootstrap=20, random_state=5)
    judge = make_judge(y, group, np.zeros(20, dtype=np.int64), 2, 2, asked(phi, threshold=0.5))
    logits = torch.tensor(np.stack([np.zeros(20), 2.0 * y - 1], axis=1))
    seeds = np.random.SeedSequence(5).spawn(20)
    drawn = [0 in np.random.default_rng(seed).integers(20, size=20) for seed in seeds]
    assert 0 < sum(drawn) < 20
    assert judge(logits).value == pytest.approx(sum(drawn) / 20)  # each time 1, or 0


@pytest.mark.parametrize("threshold", [0.5, None])
def test_a_row_on_the_threshold_is_negative_and_one_above_it_positive(threshold):
    """As it is predicted afterwards; of the grid 0, 1/2 and 1 the middle is the margin 0."""
    y, group = np.array([0, 1] * 4), np.repeat([0, 1], 4)
    phi = PhiObjective(epsilon=0.5, n_bootstrap=0, n_thresholds=3)
    judge = make_judge(y, group, np.zeros(8, dtype=np.int64), 2, 2, asked(phi, threshold=threshold))
    margins = np.where(y == 1, 1e-9, 0.0)
    verdict = judge(torch.tensor(np.stack([np.zeros(8), margins], axis=1)))
    assert (verdict.margin, verdict.value) == (0.0, 1.0)
    nobody = judge(torch.zeros((8, 2), dtype=torch.float64))
    assert nobody.value == 0.5


def test_within_the_limit_in_some_resamples_is_feasible_though_not_on_the_rows_as_they_are():
    y, group = np.tile([0, 1], 20), np.repeat([0, 1], 20)
    positive = np.where(group == 0, np.arange(40) % 20 < 12, np.arange(40) % 20 < 8)
    phi = PhiObjective(epsilon=0.2, slack=0.05, n_bootstrap=15)
    judge = make_judge(y, group, np.zeros(40, dtype=np.int64), 2, 2, asked(phi, threshold=0.5))
    verdict = judge(torch.tensor(np.stack([np.zeros(40), np.where(positive, 1.0, -1.0)], axis=1)))
    assert verdict.gap == pytest.approx(0.2)
    assert verdict.utility == 0.5
    assert verdict.feasible
    assert 0 < verdict.value < 0.5
