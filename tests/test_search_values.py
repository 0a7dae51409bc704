"""Shifts, the soft gap's two phases, the layer-wise search and noise: their numbers by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.model_selection import PredefinedSplit

from edit_data import constraint, edit_data
from fairsvd import GapFineTuner, LayerwiseOptimizer, RandomPerturbation
from fairsvd.base import Task
from fairsvd.intraprocessing._group_shift import SIZES, run_shift
from fairsvd.intraprocessing._layerwise import TensorSearch, propose, run_search, score
from fairsvd.intraprocessing._perturbation import perturb
from fairsvd.objective import GapJudge, Verdict
from fairsvd.phases import Best
from helpers import IGNORE_SMALL_DATA, Rows, last_wins, mlp, table, trained

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]


def watched(kind, network, rows, **parameters):
    """Fit, and return the editor with the candidates that still had their networks."""
    seen = []

    class Watched(kind):
        def _edit(self, task, rng):
            for candidate in super()._edit(task, rng):
                if candidate.state:
                    seen.append(candidate.owned())  # the next step changes its tensors
                yield candidate

    editor = Watched(network, random_state=0, **parameters)
    return editor.fit(rows.X, rows.y, sensitive_features=rows.group), seen


def shift_task(n_classes, n_groups):
    """A task whose judged rows are its editing rows, and its untouched logits."""
    rows = table(200, n_classes=n_classes, n_groups=n_groups)
    network = trained(mlp(n_classes), rows).double().requires_grad_(False)
    with torch.no_grad():
        logits = network(torch.tensor(rows.X).double())
    request = constraint()
    data = edit_data(rows, n_groups, n_classes, request=request, untouched=logits)
    return Task(network, data, request), rows, logits


def logits_under(task, rows, state):
    X = torch.tensor(rows.X).double()
    with torch.no_grad():
        return torch.func.functional_call(task.module, dict(state), (X,))


def test_a_shift_adds_what_tells_the_groups_apart_and_nothing_on_average():
    task, rows, logits = shift_task(2, 2)
    margins = torch.diff(logits)[:, 0]
    found = list(run_shift(task, {}))
    assert [c.params["shift"] for c in found] == pytest.approx(list(SIZES))
    assert (min(SIZES), max(SIZES), len(SIZES)) == (-1, 1, 40)
    for candidate in found:
        assert (candidate.params["group"], candidate.params["class"]) == (1, 1)
        moved = logits_under(task, rows, candidate.state) - logits
        assert not moved[:, 0].any()  # the first class's logit stays
        size = candidate.params["shift"]
        assert float(moved[:, 1].mean()) == pytest.approx(0, abs=1e-9)
        spread = float(moved[:, 1].std(correction=0))
        assert spread == pytest.approx(abs(size) * float(margins.std()), rel=1e-6)
        toward = moved[rows.group == 1, 1].mean() - moved[rows.group == 0, 1].mean()
        assert np.sign(float(toward)) == np.sign(size)


def test_the_direction_is_that_of_the_editing_rows_among_the_judged_ones():
    """On these nothing changes on average, and a shift of size 1 is a whole spread."""
    task, rows, logits = shift_task(2, 2)
    parts = (np.arange(200) % 3 > 0).astype(int)  # validation first, then editing rows
    judge = GapJudge(rows.y, rows.group, parts, 2, 2, task.constraint)
    task = replace(task, data=replace(task.data, judge=judge))
    for candidate in list(run_shift(task, {}))[::13]:
        moved = (logits_under(task, rows, candidate.state) - logits)[parts == 1, 1]
        assert float(moved.mean()) == pytest.approx(0, abs=1e-9)
        wanted = abs(candidate.params["shift"]) * float(torch.diff(logits).std())
        assert float(moved.std(correction=0)) == pytest.approx(wanted, rel=1e-6)


def test_each_line_starts_from_the_best_of_those_before_and_moves_one_class():
    task, rows, logits = shift_task(3, 3)
    centred = logits - logits.mean(dim=1, keepdim=True)
    leader = Best(logits)
    leader.offer(task.data.judge(logits).rank, logits)
    found, bases = list(run_shift(task, {})), []
    assert [(c.params["group"], c.params["class"]) for c in found[:: len(SIZES)]] == [
        (group, label) for group in range(3) for label in range(3)
    ]
    for start in range(0, len(found), len(SIZES)):
        base = leader.value
        bases.append(base)
        for candidate in found[start : start + len(SIZES)]:
            after = logits_under(task, rows, candidate.state)
            moved, label = after - base, candidate.params["class"]
            others = [k for k in range(3) if k != label]
            torch.testing.assert_close(moved[:, others], 0 * moved[:, others], atol=1e-9, rtol=0)
            assert float(moved[:, label].mean()) == pytest.approx(0, abs=1e-9)
            wanted = abs(candidate.params["shift"]) * float(centred[:, label].std())
            assert float(moved[:, label].std(correction=0)) == pytest.approx(wanted, rel=1e-6)
            leader.offer(task.data.judge(after).rank, after)
    assert len({id(base) for base in bases}) > 1  # some line found something better
    assert bases[0] is logits


@pytest.mark.parametrize(("before", "first"), [((True, 9.0), False), ((False, -9.0), True)])
def test_the_untouched_network_is_what_the_first_line_has_to_beat(before, first):
    task, rows, logits = shift_task(2, 3)
    verdict = replace(task.data.judge(logits), feasible=before[0], value=before[1])
    task = replace(task, data=replace(task.data, before=verdict))
    found = list(run_shift(task, {}))
    second = found[len(SIZES)]
    assert second.params["group"] == 1
    moved = logits_under(task, rows, second.state) - logits
    # From the untouched weights one direction alone has moved, by a whole spread.
    spread = float(moved[:, 1].std(correction=0))
    alone = spread == pytest.approx(float(torch.diff(logits).std()), rel=1e-6)
    assert alone != first


@pytest.mark.usefixtures("no_edit_left_out")
@pytest.mark.parametrize("mode", ["penalty", "descent"])
def test_the_second_phase_starts_from_the_best_of_the_first_at_a_third_of_the_rate(mode):
    """Adam's first step is as long as its rate: two phases of one step each tell both rates."""
    rows = table()
    network, rate = trained(mlp(), rows), 1e-3
    settings = {"max_steps": 1, "learning_rate": rate, "mode": mode}
    if mode == "penalty":
        settings["gap_weight"] = 1.0
    _, seen = watched(last_wins(GapFineTuner), network, rows, **settings)
    first, second = seen
    assert (first.params["stage"], second.params["stage"]) == ("tune", "settle")
    before = network.state_dict()
    for one, other, length in (
        (before, first.state, rate),
        (first.state, second.state, rate / 3),
    ):
        steps = torch.cat([(other[name] - one[name]).flatten() for name in first.state])
        steps = steps.abs() / length
        large = steps > 0.02  # the others' gradients are zero or next to it
        assert large.sum() > 50
        assert float(steps[large].median()) == pytest.approx(1, abs=0.02)
        assert float(steps.max()) < 1.02


@pytest.mark.parametrize(
    ("scope", "rates"),
    [("all", (1e-3, 1e-4)), ("head", (1e-2, 3e-4)), ("bias", (1e-2, 3e-4))],
)
def test_the_rates_of_both_modes_are_those_of_their_scope(scope, rates):
    rows = table()
    network = trained(mlp(), rows)
    for mode, rate in zip(("penalty", "descent"), rates, strict=True):
        _, seen = watched(
            last_wins(GapFineTuner),
            network,
            rows,
            max_steps=1,
            scope=scope,
            mode=mode,
            objective="soft_gap",
        )
        before, first = network.state_dict(), seen[0].state
        longest = max(float((first[name] - before[name]).abs().max()) for name in first)
        assert longest == pytest.approx(rate, rel=0.02)


def test_a_descent_follows_the_soft_gap_alone_and_a_weight_of_nought_the_labels_alone():
    """Adam's first step has the sign of the gradient; the batch is large enough to be all rows."""
    rows = table()
    network, held = trained(mlp(), rows), np.arange(120) % 4 == 0
    rows = rows._replace(y=1 - rows.y)  # it is wrong about most rows: the labels pull hard
    X, y, g = (torch.tensor(part[~held]) for part in rows)
    head = {n: p.detach().clone().requires_grad_() for n, p in network[4].named_parameters()}
    with torch.no_grad():
        hidden = network[:4](X)
    logits = hidden @ head["weight"].T + head["bias"]
    p = torch.softmax(4 * logits, dim=1)[:, 1]
    wanted = {
        "descent": (p[g == 1].mean() - p[g == 0].mean()).abs(),
        "penalty": torch.nn.functional.cross_entropy(
            logits, y, weight=1 / torch.bincount(y).float()
        ),
    }
    settings = {"max_steps": 1, "constraint": "demographic_parity", "batch_size": 10**4}
    settings |= {"threshold": 0.5, "scope": "head", "balance": "classes", "group_shift": "never"}
    settings |= {"validation": PredefinedSplit(np.where(held, 0, -1))}
    large_ones = {}
    for mode, loss in wanted.items():
        gap = {} if mode == "descent" else {"gap_weight": 0.0}
        _, seen = watched(last_wins(GapFineTuner), network, rows, mode=mode, **gap, **settings)
        (slope,) = torch.autograd.grad(loss, head["weight"], retain_graph=True)
        step = seen[0].state["4.weight"] - network.state_dict()["4.weight"]
        large = slope.abs() > 0.1 * slope.abs().max()
        assert large.sum() >= 6
        assert torch.equal(step.sign()[large], -slope.sign()[large])
        large_ones[mode] = torch.where(large, slope.sign(), 0)
    # The two losses do not ask for the same.
    assert (large_ones["descent"] * large_ones["penalty"] < 0).any()


def test_the_weights_of_gap_and_labels_are_those_asked_for():
    """Where the two pull against each other, the stronger one decides an entry's first step."""
    rows = table()
    network = trained(mlp(), rows)
    # A hundred copies of each row, since a batch draws as many rows as there are.
    X, y, group = (np.concatenate([part] * 100) for part in rows)
    rows, held = Rows(X, 1 - y, group), np.arange(12_000) % 4 == 0
    X, y, g = (torch.tensor(part[~held]) for part in rows)
    weight = network[4].weight.detach().clone().requires_grad_()
    with torch.no_grad():
        hidden = network[:4](X)
    logits = hidden @ weight.T + network[4].bias.detach()
    p = torch.softmax(4 * logits, dim=1)[:, 1]
    labels = torch.nn.functional.cross_entropy(logits, y, weight=1 / torch.bincount(y).float())
    gap = (p[g == 1].mean() - p[g == 0].mean()).abs()
    slopes = [torch.autograd.grad(v, weight, retain_graph=True)[0] for v in (labels, gap)]
    against = slopes[0] * slopes[1]
    at = np.unravel_index(int(against.argmin()), against.shape)
    assert against[at] < 0
    ratio = float(slopes[0][at].abs() / slopes[1][at].abs())
    settings = {"max_steps": 1, "constraint": "demographic_parity", "batch_size": 10**4}
    settings |= {"threshold": 0.5, "scope": "head", "balance": "classes", "group_shift": "never"}
    settings |= {"validation": PredefinedSplit(np.where(held, 0, -1))}
    for share, leader in ((0.7, slopes[0]), (1.4, slopes[1])):
        kind = last_wins(GapFineTuner)
        _, seen = watched(kind, network, rows, gap_weight=share * ratio, **settings)
        step = seen[0].state["4.weight"] - network.state_dict()["4.weight"]
        assert torch.sign(step[at]) == -torch.sign(leader[at])


@pytest.mark.usefixtures("no_edit_left_out")
def test_every_weight_starts_from_the_untouched_network_and_settling_from_the_best():
    rows, rate = table(), 0.3
    network = trained(mlp(), rows)
    settings = {"learning_rate": rate, "tolerance": 0.5, "objective": "soft_gap"}
    before, left = network.state_dict(), []

    def farthest(one, other):
        return max(float((one[name] - other[name]).abs().max()) for name in one)

    for weight in (0.3, 1.0, 3.0):
        _, own = watched(
            last_wins(GapFineTuner), network, rows, max_steps=6, gap_weight=weight, **settings
        )
        tuned, settled = ([c for c in own if c.params["stage"] == s] for s in ("tune", "settle"))
        assert [c.params["step"] for c in tuned] == [1, 2, 3, 4, 5, 6]
        assert farthest(tuned[0].state, before) == pytest.approx(rate, rel=0.02)
        near = [farthest(settled[0].state, c.state) <= rate / 3 * 1.02 for c in tuned]
        assert sum(near) == 1
        left.append(near.index(True))
    # Long steps do harm: some path's best is not its last.
    assert min(left) < 5


def moves(parameter, n_calls=20, width=2.0, **parameters):
    rows = table()
    network = trained(mlp(), rows)
    settings = {"n_calls": n_calls, "n_initial": n_calls, "width": width, **parameters}
    _, seen = watched(
        last_wins(LayerwiseOptimizer), network, rows, **settings, parameters=[parameter]
    )
    original = network.state_dict()[parameter]
    return original, [candidate.state[parameter] - original for candidate in seen]


@pytest.mark.usefixtures("no_edit_left_out")
def test_random_points_fill_the_box_on_both_sides_evenly():
    original, found = moves("2.weight")
    radius = 2.0 * float(original.double().std(correction=0))
    places = torch.stack(found).flatten() / radius
    assert len(places) >= 64
    n = len(places)
    assert float(places.min()) < -0.9
    assert float(places.max()) > 0.9
    # A uniform distribution on (-1, 1) has mean 0 and variance 1/3; four standard errors.
    assert float(places.mean()) == pytest.approx(0, abs=4 * (1 / 3 / n) ** 0.5)
    assert float(places.var()) == pytest.approx(1 / 3, abs=4 * (4 / 45 / n) ** 0.5)


@pytest.mark.usefixtures("no_edit_left_out")
def test_which_entries_of_a_large_tensor_move_is_drawn_and_stays_for_the_search():
    _, found = moves("2.weight", n_calls=4, max_entries=10)
    masks = torch.stack([(change != 0).flatten() for change in found])
    assert len(masks) == 4
    assert (masks == masks[0]).all()
    places = torch.nonzero(masks[0]).flatten()
    assert len(places) == 10
    assert int(places[-1] - places[0]) > 20  # of 64: no ten in a row


def test_scores_are_utilities_and_one_more_where_the_limit_is_met():
    verdict = Verdict(0.0, 0.8, 0.3, False, 0.65)
    assert score(verdict) == pytest.approx(0.65)
    assert score(replace(verdict, feasible=True, value=0.8)) == pytest.approx(1.8)
    assert score(replace(verdict, value=-np.inf)) == pytest.approx(0.8 - 0.3 - 1)
    assert score(replace(verdict, value=-np.inf, gap=np.inf)) == pytest.approx(0.8 - 1 - 1)


def test_a_search_draws_its_first_points_and_proposes_the_others_by_all_it_has_seen():
    rows = table()
    network = trained(mlp(), rows).requires_grad_(False)
    data = edit_data(rows, dtype=torch.float32)
    search = TensorSearch.of(
        Task(network, data, data.judge.constraint),
        name="4.weight",
        n_calls=6,
        n_initial=4,
        max_entries=99,
        width=3.0,
        guided=True,
        attributes={},
        seed=np.random.SeedSequence(6),
    )
    found = list(run_search(search))
    assert [c.params["stage"] for c in found] == ["random"] * 4 + ["guided"] * 2
    original = network.state_dict()["4.weight"]
    radius = 3.0 * float(original.double().std(correction=0))
    rng, points, values = np.random.default_rng(np.random.SeedSequence(6)), [], []
    for number, candidate in enumerate(found):
        if number < 4:
            points.append(rng.random(16, dtype=np.float32))
        else:
            points.append(propose(np.stack(points), np.array(values), rng))
        place = original + radius * (2 * torch.tensor(points[-1]) - 1).reshape(2, 8)
        torch.testing.assert_close(candidate.state["4.weight"], place)
        values.append(score(candidate.verdict))
    assert len(set(values)) > 3


def test_a_proposal_is_the_point_of_largest_expected_improvement_of_three_models():
    rng = np.random.default_rng(5)
    points = rng.random((25, 4), dtype=np.float32)
    scores = np.sin(6 * points[:, 0]) + rng.normal(0, 0.2, 25)
    found = propose(points, scores, np.random.default_rng(9))
    rng = np.random.default_rng(9)
    pool = rng.random((4096, 4), dtype=np.float32)
    seeds = rng.integers(2**31 - 1, size=3)
    low, middle, high = (
        GradientBoostingRegressor(
            loss="quantile", alpha=alpha, n_estimators=30, max_features=4, random_state=int(seed)
        )
        .fit(points, scores)
        .predict(pool)
        for alpha, seed in zip((0.16, 0.5, 0.84), seeds, strict=True)
    )
    spread = np.maximum(np.abs(high - low) / 2, 1e-12)
    gain = middle - scores.max() - 0.01
    improvement = gain * norm.cdf(gain / spread) + spread * norm.pdf(gain / spread)
    assert np.array_equal(found, pool[improvement.argmax()])


def test_half_precision_is_drawn_in_single():
    weight, seed = torch.linspace(-2, 2, 50), np.random.SeedSequence(3)
    single, half = (
        perturb({"w": weight.to(dtype)}, 0.3, np.random.SeedSequence(3))["w"]
        for dtype in (torch.float32, torch.bfloat16)
    )
    generator = torch.Generator().manual_seed(int(np.random.default_rng(seed).integers(2**63 - 1)))
    factor = 1 + 0.3 * torch.randn(50, generator=generator)
    torch.testing.assert_close(single, weight * factor)
    assert torch.equal(half, weight.bfloat16() * factor.bfloat16())


@pytest.mark.usefixtures("no_edit_left_out")
def test_every_trial_has_draws_of_its_own_whatever_their_number():
    """Trials of the second and third task have draws of their own, under their own numbers."""
    rows = table()
    network = trained(mlp(), rows)
    _, seen = watched(last_wins(RandomPerturbation), network, rows, n_trials=40, scale=0.2)
    assert [c.params["trial"] for c in seen] == list(range(1, 41))
    assert [c.attributes["trial_"] for c in seen] == list(range(1, 41))
    weights = torch.stack([c.state["0.weight"] for c in seen])
    assert len(torch.unique(weights.flatten(1), dim=0)) == 40
    # With the last trials left out, those that stay are the same.
    for n in (17, 33):
        _, fewer = watched(last_wins(RandomPerturbation), network, rows, n_trials=n, scale=0.2)
        assert [c.params["trial"] for c in fewer] == list(range(1, n + 1))
        torch.testing.assert_close(torch.stack([c.state["0.weight"] for c in fewer]), weights[:n])
