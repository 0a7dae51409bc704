"""The objective phi against plain loops over resamples and thresholds, and in every editor."""

from __future__ import annotations

import itertools
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import Pipeline

from editors import CONFIGURATIONS, make
from fairsvd import FairLRFTransformerCV, GapFineTuner, PhiObjective, RandomPerturbation
from fairsvd.exceptions import ConstraintNotMetWarning, OverfittedNetworkWarning
from fairsvd.objective import Constraint, Judge, make_judge
from fairsvd.report import plot_tradeoff
from helpers import IGNORE_SMALL_DATA, fingerprint, global_state, mlp, table, told, trained

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

ROWS = table(200)
NETWORK = trained(mlp(), ROWS)
PAPERS = ("demographic_parity", "equal_opportunity", "signed_average_odds")


def constraint(phi, **changes):
    base = Constraint(phi.measure, phi.epsilon, 0.8, "balanced_accuracy", None, 1, "classes", phi)
    return replace(base, **changes)


def judge_of(phi, seed=0, *, n=90, n_classes=2, n_groups=2, **changes):
    rng = np.random.default_rng(seed)
    y, groups = rng.integers(n_classes, size=n), rng.integers(n_groups, size=n)
    parts = np.zeros(n, dtype=np.int64)
    return make_judge(y, groups, parts, n_classes, n_groups, constraint(phi, **changes))


def logits_of(judge, seed=0, *, bias=0.6):
    rng = np.random.default_rng(100 + seed)
    logits = rng.normal(size=(len(judge.y), judge.n_classes))
    logits[np.arange(len(judge.y)), judge.y] += 1
    logits[:, -1] += bias * judge.groups
    return torch.as_tensor(logits)


def bias_of(yhat, y, group, measure):
    """The paper's signed differences, unprivileged (0) minus privileged (1)."""

    def difference(rows):
        return yhat[rows & (group == 0)].mean() - yhat[rows & (group == 1)].mean()

    return {
        "demographic_parity": lambda: difference(y >= 0),
        "equal_opportunity": lambda: difference(y == 1),
        "signed_average_odds": lambda: (difference(y == 0) + difference(y == 1)) / 2,
    }[measure]()


def phi_by_loops(scores, y, group, objective):
    """Phi at every threshold, one resample and one threshold at a time."""
    seeds = np.random.SeedSequence(objective.random_state).spawn(objective.n_bootstrap)
    n = len(y)
    draws = [np.random.default_rng(seed).integers(n, size=n) for seed in seeds] or [np.arange(n)]
    phi = []
    for tau in np.linspace(0, 1, objective.n_thresholds):
        earned = []
        for rows in draws:
            yhat, truth = scores[rows] > tau, y[rows]
            rho = (yhat[truth == 1].mean() + (~yhat[truth == 0]).mean()) / 2
            bias = bias_of(yhat, truth, group[rows], objective.measure)
            met = abs(bias) < objective.epsilon - objective.slack
            earned.append(rho if met else 0.0)
        phi.append(np.mean(earned))
    return np.array(phi)


@pytest.mark.parametrize("n_bootstrap", [0, 1, 7])
@pytest.mark.parametrize("measure", PAPERS)
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_loops_over_resamples_and_thresholds(seed, measure, n_bootstrap):
    objective = PhiObjective(
        measure,
        epsilon=0.3,
        slack=0.05,
        n_bootstrap=n_bootstrap,
        n_thresholds=101,
        random_state=seed,
    )
    judge = judge_of(objective, seed)
    logits = logits_of(judge, seed)
    scores = expit((logits[:, 1] - logits[:, 0]).numpy())
    expected = phi_by_loops(scores, judge.y, judge.groups, objective)
    curves = judge.curves(logits)
    np.testing.assert_allclose(curves.phi, expected, rtol=0, atol=1e-12)
    assert len(np.unique(expected)) > 5  # 0, the constant's half, and more
    verdict, best = judge(logits), int(np.argmax(expected))
    assert verdict.value == pytest.approx(expected[best], abs=1e-12)
    assert expit(verdict.margin) == pytest.approx(best / 100, abs=1e-12)
    yhat = scores > best / 100
    assert verdict.gap == pytest.approx(abs(bias_of(yhat, judge.y, judge.groups, measure)))


def test_average_odds_that_cancel_are_within_the_limit():
    """One group is found more often and wrongly suspected less often, by the same share."""
    y = np.repeat([0, 1], 20)
    group = np.tile(np.repeat([0, 1], 10), 2)
    positive = np.concatenate([np.arange(10) < k for k in (1, 4, 9, 6)])
    logits = torch.tensor(np.stack([np.zeros(40), np.where(positive, 2.0, -2.0)], axis=1))
    phi = PhiObjective("signed_average_odds", n_bootstrap=0)
    parts = np.zeros(40, dtype=np.int64)
    signed = make_judge(y, group, parts, 2, 2, constraint(phi))(logits)
    assert (signed.value, signed.gap) == (pytest.approx(0.75), pytest.approx(0, abs=1e-12))
    one_sided = PhiObjective("average_odds", n_bootstrap=0)
    unsigned = make_judge(y, group, parts, 2, 2, constraint(one_sided))(logits)
    assert unsigned.value == 0.5  # only a constant is within the limit
    assert unsigned.margin < -20


def test_the_limit_is_strict_and_ties_go_to_the_lowest_threshold():
    y, group = np.array([0, 0, 0, 0, 1, 1, 1, 1] * 2), np.repeat([0, 1], 8)
    positive = np.concatenate([y[:8] == 1, (y[8:] == 1) | (np.arange(8) < 2)])  # a gap of 1/4
    logits = torch.tensor(np.stack([np.zeros(16), np.where(positive, 1.0, -1.0)], axis=1))

    def verdict(epsilon):
        phi = PhiObjective(epsilon=epsilon, slack=0.0, n_bootstrap=0, n_thresholds=11)
        return make_judge(y, group, np.zeros(16, dtype=np.int64), 2, 2, constraint(phi))(logits)

    assert verdict(0.25).value == 0.5
    above = verdict(0.2501)
    assert above.value == pytest.approx(7 / 8)
    assert expit(above.margin) == pytest.approx(0.3)  # sigmoid(-1) = .269: .3 to .7 are equal


def test_resamples_are_shared_and_leave_the_global_generators_alone():
    objective = PhiObjective(epsilon=0.4, random_state=3)
    judge, state = judge_of(objective), global_state()
    logits = logits_of(judge)
    first = judge.curves(logits)
    assert np.array_equal(first.phi, judge.curves(logits).phi)
    assert np.array_equal(first.phi, pickle.loads(pickle.dumps(judge)).curves(logits).phi)
    other = judge_of(PhiObjective(epsilon=0.4, random_state=4)).curves(logits)
    assert not np.array_equal(first.phi, other.phi)
    assert global_state() == state


def test_where_phi_is_zero_everywhere_the_threshold_is_that_of_utility():
    """Constant predictions are right for different shares of the groups."""
    y, group = np.array([0] * 9 + [1] + [0] + [1] * 9), np.repeat([0, 1], 10)
    phi = PhiObjective("accuracy_parity", n_thresholds=21, n_bootstrap=0)
    judge = make_judge(y, group, np.zeros(20, dtype=np.int64), 2, 2, constraint(phi))
    margins = np.random.default_rng(1).normal(size=20) + np.where(group == 1, 3 * y + 1, -y)
    verdict = judge(torch.tensor(np.stack([np.zeros(20), margins], axis=1)))
    assert (verdict.feasible, verdict.value) == (False, 0.0)
    scores = expit(margins)
    recalls = [
        ((scores > tau)[y == 1].mean() + (scores <= tau)[y == 0].mean()) / 2
        for tau in np.linspace(0, 1, 21)
    ]
    assert verdict.utility == pytest.approx(max(recalls))
    assert expit(verdict.margin) == pytest.approx(np.argmax(recalls) / 20)


def test_a_question_under_a_limit_is_answered_as_by_any_judge():
    judge = judge_of(PhiObjective(epsilon=0.4, n_thresholds=51))
    logits = logits_of(judge)
    curves = judge.curves(logits)
    for limit in (0.0, 0.1, 0.3):
        allowed = np.where(curves.gaps <= limit, curves.utility, -1.0)
        assert judge(curves, limit).utility == allowed.max()
    assert judge.for_utility(curves).utility == curves.utility.max()
    held = judge.against(curves)
    assert type(held) is type(judge)
    assert held.floor == pytest.approx((0.5 + curves.utility.max()) / 2)


def test_several_classes_and_groups_have_no_threshold():
    objective = PhiObjective(epsilon=0.3, random_state=1)
    judge = judge_of(objective, n=300, n_classes=3, n_groups=3)
    logits = logits_of(judge, bias=0.3)
    verdict, predicted = judge(logits), logits.argmax(dim=1).numpy()
    earned = []
    for seed in np.random.SeedSequence(1).spawn(5):
        rows = np.random.default_rng(seed).integers(300, size=300)
        yhat, y, group = predicted[rows], judge.y[rows], judge.groups[rows]
        rho = np.mean([(yhat[y == k] == k).mean() for k in range(3)])
        spreads = [np.ptp([(yhat[group == g] == k).mean() for g in range(3)]) for k in range(3)]
        earned.append(rho if np.mean(spreads) < 0.29 else 0.0)
    assert verdict.margin == 0
    assert verdict.value == pytest.approx(np.mean(earned))
    assert verdict.value > 0


def test_a_fixed_threshold_is_kept():
    judge = judge_of(PhiObjective(epsilon=0.9, n_bootstrap=0), threshold=0.3)
    logits = logits_of(judge)
    verdict = judge(logits)
    assert expit(verdict.margin) == pytest.approx(0.3)
    yhat = expit((logits[:, 1] - logits[:, 0]).numpy()) > 0.3
    recalls = [(yhat == judge.y)[judge.y == k].mean() for k in (0, 1)]
    assert verdict.value == pytest.approx(np.mean(recalls))


def test_logits_that_are_not_finite_lose():
    judge = judge_of(PhiObjective())
    logits = logits_of(judge)
    logits[3, 0] = np.nan
    assert judge(logits).rank < (False, 0.0)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"measure": "parity"}, r"measure='parity'.*demographic_parity"),
        ({"epsilon": 0}, r"epsilon=0 .*\(0, 1\]"),
        ({"epsilon": "small"}, r"epsilon='small'"),
        ({"slack": 0.05}, r"slack=0\.05 .*\[0, epsilon=0\.05\)"),
        ({"n_bootstrap": -1}, r"n_bootstrap=-1 .*at least 0"),
        ({"n_thresholds": 2.5}, r"n_thresholds=2\.5 .*at least 3"),
        ({"random_state": None}, r"random_state=None"),
    ],
)
def test_parameters_are_checked_in_fit(parameters, message):
    editor = make("RandomPerturbation", NETWORK, constraint=PhiObjective(**parameters))
    with pytest.raises(ValueError, match=message):
        editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


def test_a_callable_utility_is_refused():
    editor = make(
        "RandomPerturbation", NETWORK, constraint=PhiObjective(), utility=lambda y, p: 1.0
    )
    with pytest.raises(ValueError, match=r"utility=.*resamples.*'auto'"):
        editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


def test_it_is_a_parameter_like_others():
    phi = PhiObjective("equal_opportunity", epsilon=0.1)
    assert repr(phi) == "PhiObjective(epsilon=0.1, measure='equal_opportunity')"
    editor = RandomPerturbation(constraint=phi)
    copied = clone(editor)
    assert copied.constraint is not phi
    assert copied.get_params()["constraint__epsilon"] == 0.1
    copied.set_params(constraint__measure="demographic_parity")
    assert (phi.measure, copied.constraint.measure) == ("equal_opportunity", "demographic_parity")


def fitted(name="RandomPerturbation", **parameters):
    settings = {"constraint": PhiObjective(epsilon=0.3, n_thresholds=51), **parameters}
    return make(name, NETWORK, **settings).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


def test_a_fit_chooses_by_phi_on_the_validation_rows():
    held = np.arange(200) % 3 == 0
    phi = PhiObjective("signed_average_odds", epsilon=0.2, n_thresholds=201)
    editor = fitted(constraint=phi, validation=PredefinedSplit(np.where(held, 0, -1)), n_trials=30)
    history = editor.history_
    scores = NETWORK(torch.tensor(ROWS.X[held])).softmax(dim=1)[:, 1].detach().numpy()
    untouched = phi_by_loops(scores, ROWS.y[held], ROWS.group[held], phi)
    assert history["value"][0] == pytest.approx(untouched.max())
    with torch.no_grad():
        margins = torch.diff(editor.module_(torch.tensor(ROWS.X[held])).double())[:, 0].numpy()
    chosen = phi_by_loops(expit(margins), ROWS.y[held], ROWS.group[held], phi)
    assert history["value"].max() == pytest.approx(chosen.max())
    assert editor.threshold_ == pytest.approx(np.argmax(chosen) / 200, abs=1e-9)
    assert history["value"].max() > history["value"][0]
    note = next(note for note in editor.report_.notes if "phi" in note)
    for part in ("balanced_accuracy", "signed_average_odds", "0.19", "5 resamples", "67 "):
        assert part in note
    gaps = editor.report_.gaps
    assert gaps.loc["signed_average_odds", "tolerance"] == 0.2
    assert gaps["tolerance"].notna().sum() == 1


def test_what_the_user_changes_later_is_no_part_of_the_fit():
    editor = fitted()
    editor.constraint.epsilon = 0.7
    assert editor.report_.gaps.loc["demographic_parity", "tolerance"] == 0.3


def test_editing_rows_may_be_those_of_the_choice():
    class Everything:
        def split(self, X, y=None, groups=None):
            yield np.arange(len(X)), np.arange(len(X))

    editor = fitted(validation=Everything())
    assert any("edited on" in note and "validation=" in note for note in editor.report_.notes)
    assert editor.report_.groups.loc["overall"]["", "n"] == 200
    assert any(" 200 validation rows" in note for note in editor.report_.notes)


def test_no_candidate_at_all_is_the_untouched_network():
    with pytest.warns(ConstraintNotMetWarning, match=r"demographic_parity below 0\.002 .*epsilon"):
        editor = fitted(
            constraint=PhiObjective(epsilon=0.003, slack=0.001, n_bootstrap=0),
            threshold=0.5,
        )
    assert fingerprint(editor.module_) == fingerprint(NETWORK)
    assert not editor.history_["feasible"].any()
    assert (editor.history_["value"] == 0).all()


def test_without_sensitive_features_phi_is_the_utility():
    editor = make("RandomPerturbation", NETWORK, constraint=PhiObjective(n_bootstrap=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        editor.fit(ROWS.X, ROWS.y)
    history = editor.history_
    assert history["value"].equals(history["utility"])
    assert history["gap"].eq(0).all()


def test_over_fitted_networks_are_judged_on_validation_rows_too():
    class Memory(torch.nn.Module):
        """Knows every row but those of validation."""

        def __init__(self, known):
            super().__init__()
            self.register_buffer("known", torch.tensor(ROWS.X[known]))
            self.register_buffer("labels", torch.tensor(ROWS.y[known]))
            self.out = torch.nn.Linear(2, 2)
            torch.nn.init.eye_(self.out.weight)

        def forward(self, X):
            distance, nearest = torch.cdist(X, self.known).min(dim=1)
            sure = torch.where(distance < 1e-3, 5.0, 0.1)[:, None]
            return self.out(sure * torch.nn.functional.one_hot(self.labels[nearest], 2))

    held = np.arange(200) % 3 == 0
    network = Memory(~held)
    editor = RandomPerturbation(
        network,
        n_trials=2,
        validation=PredefinedSplit(np.where(held, 0, -1)),
        constraint=PhiObjective(epsilon=0.4),
        random_state=0,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    assert told(caught, OverfittedNetworkWarning) == []
    usual = clone(editor).set_params(constraint="demographic_parity")
    with pytest.warns(match="higher on its editing rows"):
        usual.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


@pytest.mark.parametrize("grid", ["objects", "parameters"])
def test_a_search_over_two_objectives(grid):
    values = {
        "objects": {"editor__constraint": [PhiObjective(m, epsilon=0.4) for m in PAPERS[:2]]},
        "parameters": {"editor__constraint__epsilon": [0.1, 0.4]},
    }[grid]
    editor = make("RandomPerturbation", None, constraint=PhiObjective(), sensitive_columns=5)
    search = GridSearchCV(Pipeline([("editor", editor)]), values, cv=2, error_score="raise")
    X = ROWS.X.copy()
    X[:, 5] = ROWS.group
    search.fit(X, ROWS.y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    chosen = search.best_estimator_["editor"].constraint
    key, value = next(iter(search.best_params_.items()))
    if grid == "objects":
        assert chosen.measure == value.measure
    else:
        assert (key, chosen.epsilon) == ("editor__constraint__epsilon", value)


@pytest.mark.parametrize(
    ("name", "measure"),
    [
        *zip(CONFIGURATIONS, itertools.cycle(PAPERS), strict=False),
        *(("GapFineTuner, descent", measure) for measure in PAPERS),
    ],
)
def test_every_editor_takes_it(name, measure):
    phi = PhiObjective(measure, epsilon=0.2, n_thresholds=101)
    fits = [fitted(name, constraint=phi, n_jobs=jobs) for jobs in (None, 2)]
    assert fingerprint(fits[0].module_) == fingerprint(fits[1].module_)
    history = fits[0].history_
    assert history["value"].between(0, 1).all()
    assert history["feasible"].equals(history["value"] > 0)
    assert any("phi" in note for note in fits[0].report_.notes)
    assert Judge not in {type(each) for each in vars(fits[0]).values()}


@pytest.mark.slow
def test_the_search_over_folds_takes_it():
    phi = PhiObjective("equal_opportunity", epsilon=0.3)
    search = FairLRFTransformerCV(
        NETWORK, sparsities=[0.0, 0.2], ranks=[1.0], cv=2, max_steps=3, constraint=phi
    )
    search.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    assert search.report_.gaps.loc["equal_opportunity", "tolerance"] == 0.3
    assert f"limit={0.3}" in repr(search.refit or f"limit={phi.epsilon}")


def test_the_plot_names_its_gap_and_limits():
    pytest.importorskip("matplotlib")
    editor = GapFineTuner(NETWORK, max_steps=3, constraint=PhiObjective(epsilon=0.3))
    editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    ax = plot_tradeoff(editor)
    assert "demographic parity" in ax.get_xlabel()
    assert ax.get_ylabel() == "balanced accuracy"
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {"target of the choice, 0.29", "tolerance, 0.3"} <= set(labels)


def test_what_is_kept_in_memory_belongs_to_its_objective(tmp_path):
    phis = [PhiObjective(epsilon=e, n_thresholds=51) for e in (0.3, 0.05, 0.3)]
    fits = [fitted(constraint=phi, memory=tmp_path) for phi in phis]
    fresh = [fitted(constraint=phi) for phi in phis[:2]]
    for one, other in zip(fits, [*fresh, fresh[0]], strict=True):
        assert one.history_.equals(other.history_)
        assert fingerprint(one.module_) == fingerprint(other.module_)
    assert not fits[0].history_.equals(fits[1].history_)
