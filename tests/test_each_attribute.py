"""Constraints of each of several attributes alone: what they measure, how they act."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.metrics import equalized_odds_difference
from sklearn.dummy import DummyClassifier

from fairsvd import (
    BlindPostProcessor,
    CountLimit,
    EachAttribute,
    GapLimit,
    MinimumRate,
    NoHarm,
    fairness_score,
    fairness_scorer,
    group_table,
    load,
    save,
)
from fairsvd.exceptions import GroupError
from fairsvd.groups import encode_groups
from fairsvd.objective import (
    Constraint,
    Seen,
    SoftRows,
    count_moves,
    count_table,
    gap,
    make_judge,
    on_groups,
    solve_rules,
)
from fairsvd.testing import assert_met

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.LevellingDownWarning"),
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.SmallCellWarning"),
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.OverfittedNetworkWarning"),
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.ConstraintNotMetWarning"),
]


def table_of(rng, n=2000):
    """Rows of two attributes, the second of three values, and predictions that follow both."""
    people = pd.DataFrame(
        {
            "sex": rng.choice(["f", "m"], n),
            "race": rng.choice(["a", "b", "c"], n, p=[0.5, 0.3, 0.2]),
        }
    )
    y = rng.integers(2, size=n)
    chance = 0.25 + 0.4 * y + 0.15 * (people["sex"] == "m") - 0.1 * (people["race"] == "b")
    return people, y, (rng.random(n) < chance).to_numpy().astype(np.int64)


def resolved(requirement, people):
    groups = encode_groups(people, len(people))
    return on_groups([requirement], groups), groups


def test_each_attribute_is_measured_as_fairlearn_measures_it_alone():
    people, y, predicted = table_of(np.random.default_rng(0))
    asked, groups = resolved(EachAttribute("equalized_odds"), people)
    counts = count_table(y, predicted, groups.codes, 2, groups.n_groups)
    assert [each.name for each in asked] == ["equalized_odds by sex", "equalized_odds by race"]
    for each, name in zip(asked, people, strict=True):
        expected = equalized_odds_difference(y, predicted, sensitive_features=people[name])
        assert float(each.measure(counts, 1)) == pytest.approx(expected, abs=1e-12)
        # Tables in leading dimensions, as of all thresholds.
        several = each.measure(np.stack([counts, 3 * counts])[:, None], 1)
        np.testing.assert_allclose(several, [[expected]] * 2, atol=1e-12)


# [sex, race]: the shares that two networks select; both range over .3 between intersections.
CROSSED, ALIGNED = np.array([[0.2, 0.5], [0.5, 0.2]]), np.array([[0.2, 0.2], [0.5, 0.5]])


def selecting(shares):
    """Count 100 rows of each label in each of four groups, of which a share is selected."""
    hits = np.rint(100 * shares.reshape(4, 1)).astype(np.int64) * np.ones(2, dtype=np.int64)
    return np.stack([100 - hits, hits], axis=-1)


def test_two_networks_of_one_gap_between_intersections_differ_by_attribute():
    people = pd.DataFrame({"sex": ["f", "f", "m", "m"], "race": ["a", "b", "a", "b"]})
    (sex, race), _ = resolved(EachAttribute("demographic_parity"), people)
    crossed, aligned = selecting(CROSSED), selecting(ALIGNED)
    between = GapLimit("demographic_parity")
    assert between.measure(crossed, 1) == between.measure(aligned, 1) == pytest.approx(0.3)
    values = [[float(each.measure(c, 1)) for c in (crossed, aligned)] for each in (sex, race)]
    np.testing.assert_allclose(values, [[0.0, 0.3], [0.0, 0.0]], atol=1e-12)


def constraint_of(*requirements, **options):
    settings = {"fraction": 1.0, "utility": "balanced_accuracy", "threshold": None, "pos": 1}
    return Constraint(
        "equalized_odds",
        requirements[0].limit,
        balance=None,
        requirements=requirements,
        **{**settings, **options},
    )


def test_the_judge_takes_the_best_threshold_under_the_gap_of_one_attribute():
    """Brute force over every threshold, with the gap of the attribute's own groups."""
    rng = np.random.default_rng(1)
    people, y, _ = table_of(rng, 600)
    margin = 1.4 * y - 0.7 + 0.8 * (people["sex"] == "m") + rng.normal(size=len(y))
    logits = torch.as_tensor(np.column_stack([np.zeros(len(y)), margin]))
    (asked,), groups = resolved(EachAttribute("demographic_parity", "sex"), people)
    found = make_judge(y, groups.codes, 0 * y, 2, groups.n_groups, constraint_of(asked))(logits)
    cuts = (np.sort(margin)[1:] + np.sort(margin)[:-1]) / 2
    alone = encode_groups(people["sex"], len(y)).codes
    recall, met = [], []
    for cut in np.r_[-np.inf, cuts, np.inf]:
        selected = margin > cut
        met.append(abs(selected[alone == 0].mean() - selected[alone == 1].mean()) <= asked.limit)
        recall.append((selected[y == 1].mean() + (~selected)[y == 0].mean()) / 2)
    assert found.feasible
    assert found.utility == pytest.approx(max(r for r, ok in zip(recall, met, strict=True) if ok))
    assert found.utility < max(recall), "the limit changes nothing, so that it is no test"


@pytest.mark.parametrize(
    "inner", [GapLimit("equalized_odds"), GapLimit("ppv"), MinimumRate("tpr", 0.9), NoHarm(0.0)]
)
def test_the_soft_form_is_that_of_the_attributes_own_groups(inner):
    rng = np.random.default_rng(2)
    people, y, predicted = table_of(rng, 300)
    asked, groups = resolved(EachAttribute(inner), people)
    before = count_table(y, predicted, groups.codes, 2, groups.n_groups)
    shares = torch.as_tensor(rng.dirichlet([1, 1], size=len(y)))
    weights = torch.as_tensor(rng.random(len(y)))
    columns = torch.as_tensor(y), torch.as_tensor(groups.codes)
    soft = [r.soft(SoftRows(shares, *columns, weights, 1, groups.n_groups), before) for r in asked]
    for value, name in zip(soft, people, strict=True):
        own = encode_groups(people[name], len(y))
        former = count_table(y, predicted, own.codes, 2, own.n_groups)
        alone = SoftRows(shares, columns[0], torch.as_tensor(own.codes), weights, 1, own.n_groups)
        assert float(value) == pytest.approx(float(inner.soft(alone, former)))
    assert float(soft[0]) != pytest.approx(float(soft[1]))
    # Rows without a group have none of either attribute.
    unknown = torch.full_like(columns[1], -1)
    rows = SoftRows(shares, columns[0], unknown, weights, 1, groups.n_groups)
    assert float(asked[0].soft(rows, before)) == 0


def test_bounds_are_those_of_the_attributes_own_groups():
    rng = np.random.default_rng(3)
    people, y, old = table_of(rng, 900)
    new = np.where(rng.random(len(y)) < 0.1, 1 - old, old)
    for inner in (GapLimit("equalized_odds"), NoHarm(0.05)):
        (asked, _), groups = resolved(EachAttribute(inner), people)
        bounds = []
        for each, by in ((asked, groups), (inner, encode_groups(people["sex"], len(y)))):
            sizes = 2, by.n_groups
            counts = [count_table(y, codes, by.codes, *sizes) for codes in (new, old)]
            moves = count_moves(y, (old, new), by.codes, sizes, 1)
            seen = Seen(*counts, moves, 1)
            bounds.append(each.bound(seen, 0.9, rng))
        assert bounds[0] == pytest.approx(bounds[1], abs=1e-12)


def cell_probabilities(rng, n=3000):
    """Probabilities of (label, group) cells of four groups, as if exactly known."""
    z = rng.normal(size=(n, 3))
    scores = np.column_stack([z @ rng.normal(size=3) for _ in range(8)])
    shares = np.exp(scores)
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", ["demographic_parity", "equalized_odds", "accuracy_parity"])
def test_the_rule_of_one_attribute_is_that_of_its_merged_cells(name):
    """The groups of one value may be taken together before the rule is sought."""
    cells = cell_probabilities(np.random.default_rng(4))
    counts = cells.sum(axis=0).reshape(2, 4)
    options = (name, 1, "balanced_accuracy", [0.05])
    (rule,) = solve_rules(cells, counts, *options, divisions=[(0, 0, 1, 1)])
    merged = cells.reshape(-1, 2, 2, 2).sum(axis=3).reshape(-1, 4)
    (alone,) = solve_rules(merged, counts.reshape(2, 2, 2).sum(axis=2), *options)
    np.testing.assert_allclose(rule.scores(cells), alone.scores(merged), atol=2e-3)


def test_the_rule_limits_the_gaps_of_all_attributes_that_are_asked():
    cells = cell_probabilities(np.random.default_rng(5))
    counts = cells.sum(axis=0).reshape(2, 4)
    divisions = [(0, 0, 1, 1), (0, 1, 0, 1)]

    def gaps(asked):
        (rule,) = solve_rules(
            cells, counts, "demographic_parity", 1, "accuracy", [0.01], divisions=asked
        )
        selected = rule.scores(cells).argmax(axis=1)
        groups = cells.reshape(-1, 2, 4).sum(axis=1)
        rates = (groups * selected[:, None]).sum(axis=0) / groups.sum(axis=0)
        mass = groups.sum(axis=0)
        means = [
            [np.average(rates[np.equal(d, v)], weights=mass[np.equal(d, v)]) for v in (0, 1)]
            for d in divisions
        ]
        return np.ptp(means, axis=1)

    assert gaps(divisions[:1])[0] < 0.03
    assert gaps(divisions[:1])[1] > 0.08, "the other attribute has no gap: no test"
    assert gaps(divisions).max() < 0.03


@pytest.fixture(scope="module")
def task():
    """Rows in which both attributes shift the score, sex the more."""
    rng = np.random.default_rng(6)
    n = 1600
    people = pd.DataFrame({"sex": rng.choice(["f", "m"], n), "race": rng.choice(["a", "b"], n)})
    male, second = (people["sex"] == "m").to_numpy(), (people["race"] == "b").to_numpy()
    y = rng.integers(2, size=n)
    score = 1.6 * y - 0.8 + 1.0 * male + 0.5 * second + rng.normal(size=n)
    X = np.column_stack([score, male + 0.3 * rng.normal(size=n), second + 0.3 * rng.normal(size=n)])
    net = torch.nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.zero_()
        net.weight[1, 0] = 1.5
        net.bias.copy_(torch.tensor([0.0, -1.0]))
    return X.astype(np.float32), y, people, net


def fit(task, constraint, editor=None, **options):
    X, y, people, net = task
    editor = BlindPostProcessor(joint="head", n_teachers=1) if editor is None else editor
    editor.set_params(network=net, constraint=constraint, random_state=0, **options)
    return editor.fit(X, y, sensitive_features=people)


def test_an_edit_closes_the_gap_of_each_attribute(task, tmp_path):
    editor = fit(task, EachAttribute("equalized_odds"), tolerance=0.1)
    report = editor.report_
    table = report.constraints
    assert table.index.tolist() == ["equalized_odds by sex", "equalized_odds by race"]
    assert table["limit"].tolist() == [0.1, 0.1]
    assert table["before"].iloc[0] > 0.25
    assert (table["after"] < 0.13).all()
    by = report.gaps_by_attribute.xs("equalized_odds", level="gap")
    assert by.index.tolist() == ["sex", "race", "sex x race"]
    np.testing.assert_allclose(by["after"].iloc[:2], table["after"])
    assert by["after"].iloc[2] == report.gaps.loc["equalized_odds", "after"]
    assert any("Attributes alone were asked about" in note for note in report.notes)
    save(editor, tmp_path / "editor.fairsvd")
    again = load(tmp_path / "editor.fairsvd")
    assert again.constraint == editor.constraint
    assert again.report_.constraints.equals(table)


def test_marginals_and_intersections_stand_in_one_table_of_the_report(task):
    report = fit(task, [EachAttribute(MinimumRate("tpr", 0.5)), "equalized_odds"]).report_
    table = report.groups_by_attribute
    assert table.index.names == ["sex", "race"]
    first = [("f", "(all)"), ("m", "(all)"), ("(all)", "a"), ("(all)", "b")]
    assert table.index.tolist() == [*first, ("f", "a"), ("f", "b"), ("m", "a"), ("m", "b")]
    n = table["", "n"]
    assert n.iloc[:2].sum() == n.iloc[2:4].sum() == n.iloc[4:].sum() == 400
    of_sex = table["tpr", "after"].iloc[:2]
    short = report.constraints.loc["0.5 - smallest tpr by sex", "after"]
    assert of_sex.min() == pytest.approx(0.5 - short)
    # 100 rows of each intersection, so that no label has as many; 200 of each value.
    assert all("label 0: " in text for text in table["", "few_rows"].iloc[4:])
    single = fit((*task[:2], task[2][["sex"]], task[3]), "equalized_odds").report_
    assert single.groups_by_attribute.empty
    assert single.gaps_by_attribute.empty


def test_a_certificate_has_a_line_for_each_attribute(task):
    asked = [EachAttribute(GapLimit("demographic_parity", 0.5)), EachAttribute(NoHarm(0.9))]
    found = fit(task, asked, confidence=0.9).report_.certificate
    assert found.given
    assert found.table.index.tolist() == [
        *("demographic_parity by sex", "demographic_parity by race"),
        *("largest fall of a rate by sex", "largest fall of a rate by race"),
    ]


def test_descent_on_the_soft_form_closes_what_is_asked_and_nothing_else(task):
    """Steps under the gap of sex alone leave that of race; under each alone both fall."""
    X, y, people, net = task
    groups = encode_groups(people, len(y))
    features, codes = torch.as_tensor(X), torch.as_tensor(groups.codes)
    after = {}
    for which in ("sex", None):
        asked = on_groups([EachAttribute("demographic_parity", which)], groups)
        weight = net.weight.detach().clone().requires_grad_(True)
        optimiser = torch.optim.Adam([weight], 0.05)
        for _ in range(80):
            shares = torch.softmax(4 * (features @ weight.T + net.bias.detach()), dim=1)
            rows = SoftRows(shares, torch.as_tensor(y), codes, None, 1, groups.n_groups)
            optimiser.zero_grad()
            torch.stack([each.soft(rows, None) for each in asked]).sum().backward()
            optimiser.step()
        predicted = shares.argmax(dim=1).numpy()
        after[which] = [
            fairness_score("demographic_parity_difference", y, predicted, sensitive_features=p)
            for _, p in people.items()
        ]
    assert after["sex"][0] < 0.08
    assert after["sex"][1] > 0.12
    assert max(after[None]) < 0.08


def test_scorers_and_assertions_understand_attributes():
    people, y, predicted = table_of(np.random.default_rng(7))
    X = predicted.reshape(-1, 1)
    model = DummyClassifier().fit(X, y)
    model.predict = lambda X: X[:, 0]
    gaps = [
        fairness_score("equalized_odds_difference", y, predicted, sensitive_features=people[name])
        for name in people
    ]
    raw = fairness_scorer(EachAttribute(GapLimit("equalized_odds", 0.0)))
    assert raw(model, X, y, sensitive_features=people) == pytest.approx(-max(gaps))
    race = fairness_scorer([EachAttribute(GapLimit("equalized_odds", 0.0), "race")])
    assert race(model, X, y, sensitive_features=people) == pytest.approx(-gaps[1])
    # Of one attribute each alone is the attribute.
    assert raw(model, X, y, sensitive_features=people["sex"]) == pytest.approx(-gaps[0])
    loose, tight = (EachAttribute(GapLimit("equalized_odds", t), "race") for t in (0.5, 0.02))
    assert_met(model, X, y, people, loose)
    with pytest.raises(AssertionError, match="equalized_odds by race is"):
        assert_met(model, X, y, people, tight, None)
    with pytest.raises(ValueError, match="NoHarm compares"):
        fairness_scorer(EachAttribute(NoHarm()))


def test_own_functions_get_the_counts_of_the_values():
    people, y, predicted = table_of(np.random.default_rng(8))

    def fewest(counts):
        return -float(counts.sum(axis=(1, 2)).min())

    (_, asked), groups = resolved(EachAttribute(CountLimit(fewest, 0.0)), people)
    counts = count_table(y, predicted, groups.codes, 2, groups.n_groups)
    assert float(asked.measure(counts, 1)) == -group_table(y, predicted, people["race"])["n"].min()
    assert not asked.is_exact
    assert not asked.is_fast


@pytest.mark.parametrize(
    ("constraint", "error", "message"),
    [
        (EachAttribute("tprr"), ValueError, r"gap='tprr' of GapLimit.*Did you mean 'tpr'"),
        (EachAttribute(0.05), ValueError, "requirement=0.05 of EachAttribute"),
        (EachAttribute(EachAttribute("tpr")), ValueError, "requirement=EachAttribute"),
        (EachAttribute("tpr", ()), ValueError, r"attributes=\(\) of EachAttribute"),
        (EachAttribute("tpr", 1.5), ValueError, "attributes=1.5 of EachAttribute"),
        (
            EachAttribute("tpr", "age"),
            GroupError,
            "'age', and the sensitive features are 'sex', 'r",
        ),
        (EachAttribute("tpr", 2), GroupError, "hold 2, and the sensitive features"),
    ],
)
def test_what_cannot_be_asked(task, constraint, error, message):
    with pytest.raises(error, match=message):
        fit(task, constraint)


def test_an_attribute_of_one_value_is_named(task):
    people = task[2].assign(region="north")
    with pytest.raises(GroupError, match="'region', which is 'north' in every row"):
        fit((*task[:2], people, task[3]), EachAttribute("tpr"))
    # By position, and without that column.
    asked = EachAttribute(GapLimit("demographic_parity", 0.9), (0, 1))
    table = fit((*task[:2], people, task[3]), asked).report_.constraints
    assert table.index.tolist() == ["demographic_parity by sex", "demographic_parity by race"]


def test_counts_alone_do_not_name_attributes():
    with pytest.raises(ValueError, match=r"ask for of\(groups\) first"):
        EachAttribute("tpr").measure(np.ones((2, 2, 2)), 1)
    assert float(gap(np.ones((2, 2, 2)), "tpr", 1)) == 0
