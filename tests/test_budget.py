"""The budget of an edit in epochs: what it buys; steady thresholds and averages of steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fairsvd.objective._verdict import Curves, steady_cut
from fairsvd.phases._brief import NEWEST, Average
from fairsvd.phases._budget import Budget

BUDGET = Budget(visits=1500.0, n_editing=100, n_judged=150, step_rows=10)


def test_a_look_costs_a_third_of_every_judged_row() -> None:
    assert BUDGET.look == 50.0
    # A third of the visits, 500, buys ten looks.
    assert [BUDGET.count_looks(most) for most in (4, 10, 99)] == [4, 10, 10]
    assert BUDGET.less(1480.0).count_looks(4) == 1


def test_steps_get_what_the_looks_leave_and_at_most_ten_passes() -> None:
    assert BUDGET.count_steps(10) == 100
    assert BUDGET.less(500.0).count_steps(4) == 80
    # 800 visits are 50 steps of 16, of which 48 are as many before each of four looks.
    assert BUDGET.less(500.0).count_steps(4, a_step=16.0) == 48
    assert BUDGET.less(1500.0).count_steps(1) == 1
    # What only asks the untouched network costs, but is no pass over the rows.
    assert BUDGET.count_steps(4, asked=2.0) == 100
    assert BUDGET.less(500.0).count_steps(4, asked=6.0) == 48
    assert BUDGET.asked(0.3) == pytest.approx(10 / 3)
    assert BUDGET.asked(0.0) == 0.0


def test_an_imitation_gets_a_third_and_pays_for_the_teacher_s_answers() -> None:
    # 500 visits less three looks leave 350: 26 steps of 10 rows at 13.3, 8 before each look.
    assert BUDGET.count_lessons(400, 4, rows=10) == (24, 3)
    assert BUDGET.count_lessons(5, 4, rows=10) == (5, 3)


def curves(*values: float) -> Curves:
    places = np.arange(len(values), dtype=np.float64) - 1
    return Curves(places, np.array(values), np.full(len(values), 0.1))


@pytest.mark.parametrize(("noise", "margin"), [(0.05, 0.0), (0.15, 0.0), (0.02, 1.0)])
def test_a_threshold_moves_only_for_more_than_noise(noise: float, margin: float) -> None:
    verdict = steady_cut(
        curves(0.6, 0.8, 0.84, 0.5), 0.1, noise, limit=0.05, target=0.02, floor=0.55
    )
    assert verdict.margin == margin
    assert verdict.value == pytest.approx(verdict.utility - 0.08)
    assert not verdict.feasible


def test_a_threshold_below_the_floor_is_left_and_one_over_the_limit_if_that_is_strict() -> None:
    bounds = {"limit": 0.2, "target": 0.2}
    assert steady_cut(curves(0.9, 0.3, 0.4), 0.0, 1.0, floor=0.5, **bounds).margin == -1.0
    mixed = Curves(np.array([-1.0, 0.0]), np.array([0.7, 0.9]), np.array([0.1, 0.3]))
    assert steady_cut(mixed, 0.0, 1.0, floor=0.5, strict=True, **bounds).margin == -1.0
    kept = steady_cut(mixed, 0.0, 1.0, floor=0.5, **bounds)
    assert (kept.margin, kept.feasible) == (0.0, False)


def test_an_average_follows_slowly_and_changes_places() -> None:
    leaf = torch.zeros(2, requires_grad=True)
    average = Average([leaf])
    with torch.no_grad():
        leaf += 1.0
    average.follow()
    average.swap()
    torch.testing.assert_close(leaf.detach(), torch.full((2,), NEWEST))
    torch.testing.assert_close(average.values[0], torch.ones(2))
