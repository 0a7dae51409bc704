"""Limits, ratios, minimum rates, no harm, users' functions: what they measure, how they act."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from fairsvd import (
    BlindPostProcessor,
    CountLimit,
    GapFineTuner,
    GapLimit,
    MinimumRate,
    NoHarm,
    RatioLimit,
    load,
    save,
)
from fairsvd.datasets import make_biased_classification
from fairsvd.exceptions import ConstraintNotMetWarning
from fairsvd.objective import (
    GAPS,
    STATISTICS,
    Constraint,
    SoftRows,
    bound_gap,
    count_table,
    edit_loss,
    gap,
    make_judge,
    ratio,
    soft_gap,
    statistic,
)
from fairsvd.training import Batch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.LevellingDownWarning"),
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.SmallCellWarning"),
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.OverfittedNetworkWarning"),
]

# [group, true, predicted]: TPR .8 and .5, TNR .85 and .75.
COUNTS = np.array([[[850, 150], [400, 1600]], [[1500, 500], [400, 400]]])


def worst_cell(counts):
    """A user's own measure: the largest share of errors in a (group, label) cell."""
    right = np.diagonal(counts, axis1=1, axis2=2)
    return float((1 - right / counts.sum(axis=2)).max())


def asked(*requirements, **options):
    settings = {"fraction": 1.0, "utility": "balanced_accuracy", "threshold": None, "pos": 1}
    return Constraint(
        "equalized_odds",
        requirements[0].limit,
        balance=None,
        requirements=requirements,
        **{**settings, **options},
    )


@pytest.mark.parametrize(
    ("requirement", "value", "met"),
    [
        (GapLimit("tpr", 0.3), 0.3, True),
        (GapLimit("equalized_odds", 0.29), 0.3, False),
        (GapLimit("ppv", 0.5), 1600 / 1750 - 400 / 900, True),
        (GapLimit("f1", 0.5), 3200 / 3750 - 800 / 1700, True),
        (RatioLimit("tpr", 0.7), 1 - 0.5 / 0.8, False),
        (MinimumRate("tpr", 0.5), 0.0, True),
        (MinimumRate("tnr", 0.8), 0.05, False),
        (MinimumRate("balanced_accuracy", 0.6), 0.6 - 0.625, True),
        (CountLimit(worst_cell, 0.5), 0.5, True),
    ],
)
def test_what_is_measured(requirement, value, met):
    found = float(requirement.measure(COUNTS, 1))
    assert found == pytest.approx(value, abs=1e-12)
    assert (found <= requirement.limit + 1e-12) == met
    # Tables in leading dimensions are measured each.
    several = requirement.measure(np.stack([COUNTS, COUNTS[::-1], 2 * COUNTS])[None], 1)
    np.testing.assert_allclose(several, [[value] * 3], atol=1e-12)


def test_no_harm_is_the_largest_fall_against_the_untouched_network():
    before = COUNTS.copy()
    after = COUNTS.copy()
    after[1, 1] = [440, 360]  # the TPR of group 1 falls by .05
    after[0, 0] = [860, 140]  # the TNR of group 0 rises
    assert float(NoHarm().measure(after, 1, before)) == pytest.approx(0.05)
    assert float(NoHarm().measure(before, 1, before)) == 0
    with pytest.raises(ValueError, match="untouched network"):
        NoHarm().measure(after, 1)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", STATISTICS)
def test_soft_forms_of_hard_decisions_are_the_hard_ones(name, n_classes):
    """Of probabilities 0 and 1 the soft excess equals the measured gap, ratio and shortfall."""
    rng = np.random.default_rng(0)
    y, group = rng.integers(n_classes, size=400), rng.integers(3, size=400)
    predicted = np.where(rng.random(400) < 0.5 + 0.2 * group, y, rng.integers(n_classes, size=400))
    counts = count_table(y, predicted, group, n_classes, 3)
    hard = torch.nn.functional.one_hot(torch.as_tensor(predicted), n_classes).double()
    rows = SoftRows(hard, torch.as_tensor(y), torch.as_tensor(group), None, 1, 3)
    assert float(GapLimit(name).soft(rows, None)) == pytest.approx(float(gap(counts, name, 1)))
    values = statistic(counts, name, 1)
    short = np.maximum(0.9 * values.max(axis=0) - values.min(axis=0), 0).mean()
    assert float(RatioLimit(name, 0.9).soft(rows, None)) == pytest.approx(short)
    if STATISTICS[name].best == 1:
        shortfall = np.maximum(0.8 - values, 0).sum()
        assert float(MinimumRate(name, 0.8).soft(rows, None)) == pytest.approx(shortfall)


def test_soft_forms_weigh_rows_and_have_gradients():
    rng = np.random.default_rng(1)
    margin = torch.tensor(rng.normal(size=60), requires_grad=True)
    shares = torch.stack([torch.sigmoid(-margin), torch.sigmoid(margin)], dim=1)
    y, group = (torch.as_tensor(rng.integers(2, size=60)) for _ in range(2))
    weights = torch.as_tensor(rng.integers(1, 3, size=60)).double()
    rows = torch.repeat_interleave(torch.arange(60), weights.long())
    before = np.array([[[30, 0], [0, 30]]] * 2)
    for each in (
        *[GapLimit("ppv"), RatioLimit("tpr", 0.99), MinimumRate("f1", 0.9), NoHarm(0.0)],
        *[MinimumRate("npv", 0.95), GapLimit("equalized_odds")],
    ):
        value = each.soft(SoftRows(shares, y, group, weights, 1, 2), before)
        repeated = each.soft(SoftRows(shares[rows], y[rows], group[rows], None, 1, 2), before)
        assert value.item() == pytest.approx(repeated.item())
        (slope,) = torch.autograd.grad(value, margin, retain_graph=True)
        assert slope.isfinite().all()
        assert slope.abs().max() > 1e-6, each


def test_the_loss_of_a_gap_limit_is_that_of_the_gap():
    rng = np.random.default_rng(2)
    logits = torch.as_tensor(rng.normal(size=(50, 2)))
    y, group = (torch.as_tensor(rng.integers(2, size=50)) for _ in range(2))
    ones = torch.ones(50, dtype=torch.float64)
    batch = Batch(logits, y, group, ones, ones)
    options = {"margin": 0.2, "gap_weight": 0.7, "n_groups": 2}
    plain = Constraint("equal_opportunity", 0.05, 0.4, "accuracy", None, 1, None)
    for names in (["equal_opportunity"], ["equal_opportunity", "demographic_parity"]):
        limits = asked(*map(GapLimit, names))
        shares = torch.softmax(4 * (logits - torch.tensor([0.0, 0.2])), dim=1)
        extra = sum(soft_gap(shares, y, group, ones, each, 1, 2) for each in names[1:])
        expected = edit_loss(logits, batch, plain, **options) + 0.7 * extra
        torch.testing.assert_close(edit_loss(logits, batch, limits, **options), expected)


def judged_rows(n=600, seed=0):
    rng = np.random.default_rng(seed)
    group = rng.integers(2, size=n)
    y = (rng.random(n) < 0.3 + 0.3 * group).astype(np.int64)
    margin = 1.5 * y + 0.8 * group - 1 + rng.normal(size=n)
    logits = torch.as_tensor(np.column_stack([np.zeros(n), margin]))
    return y, group, logits


@pytest.mark.parametrize(
    "requirements",
    [
        (GapLimit("ppv", 0.08),),
        (GapLimit("false_omission_rate", 0.05),),
        (RatioLimit("selection_rate", 0.8),),
        (MinimumRate("tpr", 0.8),),
        (GapLimit("equalized_odds", 0.3), MinimumRate("tnr", 0.5), GapLimit("f1", 0.25)),
        (CountLimit(worst_cell, 0.45), GapLimit("npv", 0.2)),
        (NoHarm(0.05), MinimumRate("tpr", 0.7)),
    ],
)
def test_the_judge_takes_the_best_threshold_that_meets_everything(requirements):
    """Brute force over every threshold finds no better one."""
    y, group, logits = judged_rows()
    parts = np.zeros_like(y)
    judge = make_judge(y, group, parts, 2, 2, asked(*requirements)).referring(logits)
    verdict = judge(logits)
    margin = logits[:, 1].numpy()
    before = count_table(y, (margin > 0).astype(int), group, 2, 2)
    cuts = np.r_[-np.inf, (np.sort(margin)[1:] + np.sort(margin)[:-1]) / 2, np.inf]
    if any(isinstance(each, CountLimit) for each in requirements):
        cuts = np.quantile(margin, np.linspace(0, 1, 101))
    tables = [count_table(y, (margin > cut).astype(int), group, 2, 2) for cut in cuts]
    with np.errstate(invalid="ignore"):
        met = [all(r.measure(t, 1, before) <= r.limit for r in requirements) for t in tables]
    recall = [np.diagonal(t.sum(axis=0)) / t.sum(axis=(0, 2)) for t in tables]
    best = max(r.mean() for r, ok in zip(recall, met, strict=True) if ok)
    assert verdict.feasible
    assert verdict.utility == pytest.approx(best)
    free = make_judge(y, group, parts, 2, 2, asked(GapLimit("ppv", 1.0)))(logits)
    assert verdict.utility < free.utility, "the requirement changes nothing, so that it is no test"


def test_a_gap_limit_of_a_plain_gap_is_judged_as_the_gap():
    y, group, logits = judged_rows(seed=3)
    for name in GAPS:
        plain = Constraint(name, 0.1, 0.4, "balanced_accuracy", None, 1, None)
        limit = Constraint(
            name, 0.1, 0.4, "balanced_accuracy", None, 1, None, None, (GapLimit(name, 0.1),), 0.1
        )
        verdicts = [make_judge(y, group, 0 * y, 2, 2, c)(logits) for c in (plain, limit)]
        assert verdicts[0].margin == verdicts[1].margin
        assert verdicts[0].value == pytest.approx(verdicts[1].value, abs=1e-12)


@pytest.fixture(scope="module")
def data():
    return make_biased_classification(1600, random_state=1)


@pytest.fixture(scope="module")
def network(data):
    """A small network that is trained once."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(data.data.shape[1], 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)
    )
    X, y = torch.as_tensor(data.data).float(), torch.as_tensor(data.target)
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(150):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(X), y).backward()
        optimiser.step()
    return net


def fit(data, network, constraint, editor=None, **options):
    if editor is None:
        editor = BlindPostProcessor(joint="head", random_state=0)
    editor = editor.set_params(network=network, constraint=constraint, **options)
    return editor.fit(data.data, data.target, sensitive_features=data.sensitive_features)


def tuner():
    return GapFineTuner(max_steps=40, random_state=0)


def test_a_minimum_rate_lifts_the_lowest_group(data, network):
    low = {}
    for minimum in (0.0, 0.9):
        editor = fit(data, network, MinimumRate("tpr", minimum), tuner())
        low[minimum] = editor.report_.groups["tpr", "after"].iloc[:2].min()
    assert low[0.0] < 0.86
    assert low[0.9] > low[0.0] + 0.03
    row = editor.report_.constraints.iloc[0]
    assert row["after"] == pytest.approx(0.9 - low[0.9])
    assert row["met"] == (low[0.9] >= 0.9)
    assert any("No fair rule is known" in note for note in editor.report_.notes)
    assert editor.objective_ == "soft_gap"
    assert "0.9 - smallest tpr" in editor.report_.summary()


def test_several_are_met_together_and_the_rule_follows_the_one_it_knows(data, network):
    asked_for = ["demographic_parity", MinimumRate("tnr", 0.7)]
    editor = fit(data, network, asked_for, tolerance=0.1)
    table = editor.report_.constraints
    assert table.index.tolist() == ["demographic_parity", "0.7 - smallest tnr"]
    assert table["limit"].tolist() == [0.1, 0.0]
    assert table["before"].iloc[0] > 0.15
    assert table["after"].iloc[0] < 0.12
    assert table["met"].iloc[1]
    counts, pos = editor._report.after, editor._report.constraint.pos
    wanted = bound_gap(counts, "demographic_parity", pos, 0.95)
    assert table["upper"].iloc[0] == pytest.approx(wanted)
    assert wanted > table["after"].iloc[0]
    assert table["upper"].iloc[1] <= table["limit"].iloc[1]
    first, second = (
        line for line in editor.report_.summary().splitlines() if line.startswith("Asked")
    )
    doubt = f"on all rows of this kind it is at most {wanted:.3f} with 95 % confidence"
    assert (doubt in first) == (table["after"].iloc[0] <= 0.1 < wanted)
    assert second.endswith("which meets it, also at the upper bound.")
    assert clone(editor).constraint == editor.constraint


def test_no_harm_forbids_what_parity_would_take(data, network):
    def worst_fall(editor):
        falls = editor.report_.harm["change"]
        return falls[[name for name in falls.index if "selection" not in name[1]]].min()

    taken = worst_fall(fit(data, network, "demographic_parity"))
    assert taken < -0.05
    with pytest.warns(ConstraintNotMetWarning, match="everything that constraint= asks"):
        held = fit(data, network, ["demographic_parity", NoHarm(0.02)])
    assert worst_fall(held) > taken


def test_an_editor_with_requirements_is_saved_and_loaded(data, network, tmp_path):
    editor = fit(data, network, [RatioLimit(), MinimumRate("tpr", 0.5)], tuner())
    save(editor, tmp_path / "editor.fairsvd")
    again = load(tmp_path / "editor.fairsvd")
    np.testing.assert_array_equal(again.predict(data.data), editor.predict(data.data))
    assert again.constraint == editor.constraint
    assert again.report_.constraints.equals(editor.report_.constraints)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ([], r"constraint=\[\] asks for nothing"),
        ([0.05], "constraint holds 0.05"),
        (GapLimit("tprr"), r"gap='tprr' of GapLimit.*Did you mean 'tpr'"),
        (GapLimit("tpr", 2), "tolerance=2 of GapLimit"),
        (RatioLimit("auc"), "statistic='auc' of RatioLimit"),
        (MinimumRate("fpr", 0.2), "statistic='fpr' of MinimumRate"),
        (MinimumRate("tpr", 80), "minimum=80 of MinimumRate"),
        (NoHarm(-1), "tolerance=-1 of NoHarm"),
        (CountLimit(3, 0.1), "function=3 of CountLimit"),
        (CountLimit(worst_cell, np.nan), "limit=nan of CountLimit"),
        ("tprr", "constraint"),
    ],
)
def test_what_cannot_be_asked(data, network, constraint, message):
    with pytest.raises(ValueError, match=message):
        fit(data, network, constraint)


def test_a_teacher_needs_a_rule(data, network):
    with pytest.raises(ValueError, match=r"objective='teacher' needs a gap.*ppv_difference"):
        fit(data, network, "ppv", tuner(), objective="teacher")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=8, max_size=8), st.floats(0.1, 1))
def test_a_ratio_and_its_limit(flat, minimum):
    counts = np.array(flat).reshape(2, 2, 2)
    limit = RatioLimit("selection_rate", minimum)
    found, expected = float(limit.measure(counts, 1)), float(ratio(counts, "selection_rate", 1))
    np.testing.assert_allclose(found, 1 - expected)
    assert np.isnan(expected) or (found <= limit.limit) == (1 - expected <= 1 - minimum)
