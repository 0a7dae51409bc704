"""The fair Bayes rule against linear programmes, a closed form and identities."""

from __future__ import annotations

import itertools
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize_scalar
from scipy.special import softmax

from fairsvd.objective import GAPS, FairRule, solve_rules
from fairsvd.objective._rule import ALPHAS, SMOOTHING, shrunk_shares

UTILITIES = ("accuracy", "balanced_accuracy", "cell_balanced_accuracy")

# Classes, groups, and the positive class of two.
SHAPES = [(2, 2, 1), (2, 2, 0), (2, 2, None), (2, 3, 1), (3, 2, None), (3, 3, None)]


class Drawn(NamedTuple):
    """Probabilities of the cells of some rows, and how many rows each cell has."""

    cells: np.ndarray
    counts: np.ndarray


@cache
def draw(n_classes=2, n_groups=2, n=600, seed=0):
    """Draw rows that show label and group; the last group leans to the last class."""
    rng = np.random.default_rng(seed)
    y, group = rng.normal(size=(n, n_classes, 1)), 1.3 * rng.normal(size=(n, 1, n_groups))
    lean = 1.8 * np.outer(np.arange(n_classes), np.arange(n_groups)) / (n_groups - 1)
    lean[0] += 0.8 * (np.arange(n_groups) == 0)
    cells = softmax((1.2 * y + group + lean).reshape(n, -1), axis=1)
    counts = np.rint(10 * n * cells.mean(axis=0)).astype(int).reshape(n_classes, n_groups)
    return Drawn(cells, counts)


def shares_of(counts):
    """Add five rows, spread as if label and group were independent."""
    n = counts.sum()
    spread = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / n**2
    return (counts + 5 * spread) / (n + 5)


def merits(drawn, utility):
    """What deciding for each class earns in each row: expected share of the utility."""
    n_classes, n_groups = drawn.counts.shape
    cells, shares = drawn.cells.reshape(-1, n_classes, n_groups), shares_of(drawn.counts)
    if utility == "accuracy":
        return cells.sum(axis=2)
    if utility == "balanced_accuracy":
        return cells.sum(axis=2) / shares.sum(axis=1) / n_classes
    return (cells / shares).sum(axis=2) / (n_classes * n_groups)


def rates(drawn, gap, pos=None):
    """Each rate that the gap compares, of each group: (n, n_classes) factors of the decisions.

    Groups without rows for a rate are left out of it.
    """
    n_classes, n_groups = drawn.counts.shape
    cells, shares = drawn.cells.reshape(-1, n_classes, n_groups), shares_of(drawn.counts)
    if gap == "accuracy_parity":
        return [[cells[:, :, a] / shares[:, a].sum() for a in range(n_groups)]]
    found = []
    for target in range(n_classes) if pos is None else [pos]:
        everyone, others = range(n_classes), [y for y in range(n_classes) if y != target]
        counted = {"demographic_parity": [list(everyone)], "equal_opportunity": [[target]]}
        of_target = [
            [
                np.outer(
                    cells[:, ys, a].sum(axis=1) / shares[ys, a].sum(),
                    np.arange(n_classes) == target,
                )
                for a in range(n_groups)
                if drawn.counts[ys, a].sum() > 0
            ]
            for ys in counted.get(gap, [[target], others])
        ]
        if gap == "signed_average_odds":
            of_target = [[(tpr + fpr) / 2 for tpr, fpr in zip(*of_target, strict=True)]]
        found.extend(of_target)
    return found


def expected(decisions, drawn, gap, utility, pos=None):
    """Expected utility and the largest expected gap of decisions (n, n_classes)."""
    earned = (decisions * merits(drawn, utility)).sum(axis=1).mean()
    measured = [
        [(decisions * each).sum(axis=1).mean() for each in groups]
        for groups in rates(drawn, gap, pos)
    ]
    return earned, max(np.ptp(each) for each in measured)


def programme(drawn, gap, utility, alpha, pos=None):
    """The best randomised decisions under the limit, by a linear programme: their utility."""
    merit = merits(drawn, utility)
    n, n_classes = merit.shape
    upper = [
        ((one - other) / n).ravel()
        for groups in rates(drawn, gap, pos)
        for one, other in itertools.permutations(groups, 2)
    ]
    found = linprog(
        -merit.ravel() / n,
        A_ub=np.array(upper),
        b_ub=np.full(len(upper), alpha),
        A_eq=np.kron(np.eye(n), np.ones(n_classes)),
        b_eq=np.ones(n),
    )
    assert found.success
    return -found.fun


def decide(rule, cells):
    scores = rule.scores(cells)
    return np.eye(scores.shape[1])[scores.argmax(axis=1)]


def test_shares_are_those_of_the_rows_and_of_five_more_spread_independently():
    # Independent: .4 x .4, .4 x .6, .6 x .4 and .6 x .6 of five rows, beside ten real ones.
    found = shrunk_shares(np.array([[3, 1], [1, 5]]))
    np.testing.assert_allclose(found, np.array([[3.8, 2.2], [2.2, 6.8]]) / 15)
    # An empty cell has a share, a class without rows none.
    assert shrunk_shares(np.array([[4, 0], [2, 4]]))[0, 1] == pytest.approx(5 * 0.16 / 15)
    assert shrunk_shares(np.array([[4, 6], [0, 0]]))[1].tolist() == [0, 0]


@pytest.mark.parametrize("utility", UTILITIES)
@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_randomised_decisions_are_better(shape, gap, utility):
    """One row of 600 moves an expected rate by some thousandths: so near are both optima."""
    *size, pos = shape
    drawn = draw(*size)
    plain = np.eye(size[0])[merits(drawn, utility).argmax(axis=1)]
    highest, gap_there = expected(plain, drawn, gap, utility, pos)
    for rule in solve_rules(*drawn, gap, pos, utility, (0.04,)):
        earned, measured = expected(decide(rule, drawn.cells), drawn, gap, utility, pos)
        best = programme(drawn, gap, utility, rule.alpha, pos)
        assert best <= highest + 1e-9
        assert measured <= rule.alpha + 0.01
        assert earned == pytest.approx(best, abs=0.004)
        # Nothing beats the programme under the gap that the rule really has.
        assert earned <= programme(drawn, gap, utility, max(measured, 1e-6), pos) + 1e-9
        if gap_there < rule.alpha:
            assert earned == pytest.approx(highest, abs=0.001)


@pytest.mark.parametrize(
    ("gap", "alpha"),
    [("demographic_parity", 0.1), ("demographic_parity", 0.02), ("equal_opportunity", 0.04)],
)
def test_two_groups_and_one_rate_are_solved_by_one_number(gap, alpha):
    """Two classes: decide by u - t b, t the minimum of mean max(0, u - t b) + alpha |t|."""
    drawn = draw()
    p, shares = drawn.cells.reshape(-1, 2, 2), shares_of(drawn.counts)
    u = p[:, 1].sum(axis=1) / shares[1].sum() / 2 - p[:, 0].sum(axis=1) / shares[0].sum() / 2
    of_group = p.sum(axis=1) / shares.sum(axis=0)
    if gap == "equal_opportunity":
        of_group = p[:, 1] / shares[1]
    b = of_group[:, 1] - of_group[:, 0]

    def dual(t):
        return np.maximum(0, u - t * b).mean() + alpha * abs(t)

    t = minimize_scalar(dual, bounds=(-2, 2), method="bounded", options={"xatol": 1e-9}).x
    assert abs(t) > 0.02
    (rule,) = solve_rules(*drawn, gap, 1, "balanced_accuracy", (alpha,))
    lead = np.diff(rule.scores(drawn.cells), axis=1)[:, 0]
    (of_u, of_b), left, *_ = np.linalg.lstsq(np.stack([u, b], axis=1), lead, rcond=None)
    assert of_u == pytest.approx(1)
    assert float(left[0]) < 1e-20
    assert -of_b == pytest.approx(t, abs=0.01)
    assert dual(-of_b) == pytest.approx(dual(t), abs=1e-4)
    # The closed form and the linear programme are the same optimum.
    below = merits(drawn, "balanced_accuracy")[:, 0].mean()
    assert below + dual(t) == pytest.approx(programme(drawn, gap, "balanced_accuracy", alpha, 1))


@pytest.mark.parametrize("utility", UTILITIES)
@pytest.mark.parametrize("gap", ["demographic_parity", "equalized_odds"])
def test_a_limit_that_binds_nobody_leaves_the_plain_bayes_decisions(gap, utility):
    drawn = draw(3, 3)
    (rule,) = solve_rules(*drawn, gap, None, utility, (2.0,))
    scores, merit = rule.scores(drawn.cells), merits(drawn, utility)
    # Scores are negative expected losses; the smoothing leaves multipliers of its own width.
    plain = merit - merit.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores, plain, atol=4 * SMOOTHING * scores.std())
    first, second = np.sort(merit, axis=1)[:, :-3:-1].T
    clear = first - second > 4 * SMOOTHING * scores.std()
    assert clear.mean() > 0.8
    assert np.array_equal(scores.argmax(axis=1)[clear], merit.argmax(axis=1)[clear])


@pytest.mark.parametrize("gap", ["demographic_parity", "equalized_odds", "accuracy_parity"])
def test_stricter_limits_lower_the_gap_and_the_utility(gap):
    drawn = draw(2, 3)
    rules = solve_rules(*drawn, gap, 1, "accuracy")
    assert tuple(rule.alpha for rule in rules) == ALPHAS
    assert sorted(ALPHAS, reverse=True) == list(ALPHAS)
    curve = [expected(decide(r, drawn.cells), drawn, gap, "accuracy", 1) for r in rules]
    utility, gaps = np.array(curve).T
    assert np.all(np.diff(utility) < 0.002)
    assert np.all(np.diff(gaps) < 0.005)
    assert gaps[0] > gaps[-1] + 0.05
    assert gaps[-1] < 0.006
    # A start from the looser limit's solution ends where one from nothing does.
    (alone,) = solve_rules(*drawn, gap, 1, "accuracy", ALPHAS[-1:])
    np.testing.assert_allclose(alone.weights, rules[-1].weights, atol=0.02)


ORDERS = st.tuples(st.integers(0, 99), st.permutations(range(3)))


@settings(max_examples=15)
@given(ORDERS, st.sampled_from(GAPS), st.sampled_from([2, 3]))
def test_another_order_of_the_groups_reorders_the_weights(order, gap, n_classes):
    seed, moved = order
    drawn = draw(n_classes, 3, n=100, seed=seed)
    columns = np.arange(3 * n_classes).reshape(n_classes, 3)[:, moved].ravel()
    other = Drawn(drawn.cells[:, columns], drawn.counts[:, moved])
    rules, again = (
        solve_rules(*each, gap, None, "accuracy", (0.1, 0.02)) for each in (drawn, other)
    )
    for one, two in zip(rules, again, strict=True):
        np.testing.assert_allclose(two.weights, one.weights[columns], atol=0.01)


@settings(max_examples=15)
@given(st.integers(0, 99), st.sampled_from(GAPS), st.integers(2, 3))
def test_rows_given_twice_or_in_another_order_change_nothing(seed, gap, times):
    drawn = draw(2, 3, n=100, seed=seed)
    cells = np.random.default_rng(seed).permutation(np.repeat(drawn.cells, times, axis=0))
    (once,) = solve_rules(*drawn, gap, 1, "balanced_accuracy", (0.03,))
    (more,) = solve_rules(cells, drawn.counts, gap, 1, "balanced_accuracy", (0.03,))
    np.testing.assert_allclose(more.weights, once.weights, atol=0.01)


@pytest.mark.parametrize("gap", ["equal_opportunity", "equalized_odds", "demographic_parity"])
def test_a_group_without_rows_for_a_rate_is_left_out_of_it(gap):
    drawn = draw(2, 3)
    counts = drawn.counts.copy()
    counts[1, 2] = 0
    drawn = drawn._replace(counts=counts)
    (rule,) = solve_rules(*drawn, gap, 1, "accuracy", (0.02,))
    assert np.isfinite(rule.weights).all()
    earned, measured = expected(decide(rule, drawn.cells), drawn, gap, "accuracy", 1)
    assert measured < 0.03
    assert earned == pytest.approx(programme(drawn, gap, "accuracy", 0.02, 1), abs=0.004)
    # Rows are numbered y * n_groups + group: no multiplier for the true positives of group 2.
    bare = rule.weights[5].tolist() == [-1, 0]
    assert bare == (gap != "demographic_parity")


def test_one_group_alone_has_the_plain_rule_at_every_limit():
    cells = softmax(np.random.default_rng(0).normal(size=(50, 3)), axis=1)
    counts = np.array([[20], [30], [50]])
    for rule in solve_rules(
        cells, counts, "equalized_odds", None, "balanced_accuracy", (0.1, 0.01)
    ):
        gains = np.array([20, 30, 50]) / 100
        np.testing.assert_allclose(rule.weights, (np.eye(3) - 1) / (3 * gains[:, None]))


@given(st.floats(-3, 3), st.integers(0, 99))
def test_a_shift_lowers_the_lead_of_the_second_class(cut, seed):
    cells = draw(2, 2, n=100, seed=seed).cells
    rule = FairRule(np.random.default_rng(seed).normal(size=(4, 2)), 0.1)
    before, after = (each.scores(cells) for each in (rule, rule.shifted(cut)))
    np.testing.assert_allclose(after[:, 0], before[:, 0])
    np.testing.assert_allclose(after[:, 1], before[:, 1] - cut, atol=1e-12)
    assert rule.shifted(cut).alpha == 0.1


def test_a_group_without_one_of_two_rates_is_left_out_of_their_mean():
    """As the package's own gap leaves it out: the weights of its cells carry no multiplier."""
    rng = np.random.default_rng(0)
    cells, counts = rng.dirichlet(np.ones(6), size=200), np.array([[40, 40, 40], [30, 20, 0]])
    asked = "signed_average_odds", 1, "balanced_accuracy"
    (free,) = solve_rules(cells, counts, *asked, [2.0])
    (bound,) = solve_rules(cells, counts, *asked, [0.001])
    moved = (bound.weights - free.weights).reshape(2, 3, 2)
    np.testing.assert_allclose(moved[:, 2], 0, atol=1e-9)
    assert abs(moved[:, :2]).max() > 0.01


def test_a_group_of_no_rows_weighs_nothing():
    counts, cells = np.array([[40, 40, 0], [30, 20, 0]]), np.full((10, 6), 1 / 6)
    (rule,) = solve_rules(cells, counts, "equalized_odds", 1, "cell_balanced_accuracy", [0.1])
    assert np.isfinite(rule.weights).all()
    np.testing.assert_array_equal(rule.weights.reshape(2, 3, 2)[:, 2], 0)
