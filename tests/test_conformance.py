"""ConFairReweigher and DifFair against references and null controls."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from fairsvd import (
    ConFairReweigher,
    DifFair,
    GapFineTuner,
    JointStratifiedKFold,
    compare,
    fairness_scorer,
    load,
    save,
)
from fairsvd.exceptions import GroupError, MissingSensitiveFeaturesWarning
from helpers import IGNORE_SMALL_DATA, skorch_net, table, trained

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

KINDS = [ConFairReweigher, DifFair]


class Recorder(ClassifierMixin, BaseEstimator):
    """Keeps what fit was given, and scores by the first column."""

    def fit(self, X, y, sample_weight=None):
        self.classes_ = np.unique(y)
        self.given_ = np.asarray(X), np.asarray(y), sample_weight
        return self

    def decision_function(self, X):
        return np.asarray(X)[:, 0]

    def predict(self, X):
        return self.classes_[(self.decision_function(X) > 0).astype(int)]


def worst_cell(model, X, y, group):
    right = model.predict(X) == y
    return min(right[(y == k) & (group == g)].mean() for k in (0, 1) for g in (0, 1))


# ConFairReweigher


@pytest.fixture(scope="module")
def skewed():
    """Positives are rarer in group 1; a fifth of each cell lies far from the rest of it."""
    rng = np.random.default_rng(0)
    group = rng.integers(2, size=1200)
    y = (rng.random(1200) < np.where(group == 1, 0.2, 0.6)).astype(int)
    X = rng.normal(size=(1200, 2)) * [1.0, 0.3]
    X += np.column_stack([1.2 * y, 4 * group])
    far = rng.random(1200) < 0.2
    X[far] = rng.normal(size=(int(far.sum()), 2)) * 3
    return X, y, group


def test_weights_are_those_of_independence_plus_alpha_for_typical_rows_of_rare_cells(skewed):
    X, y, group = skewed
    model = ConFairReweigher(Recorder(), alpha=1.5, threshold=0.5, min_violation=0.0)
    model.fit(X, y, sensitive_features=group)
    given, _, weights = model.estimator_.given_
    np.testing.assert_array_equal(given, X)
    scaled = (X - X.min(axis=0)) / np.ptp(X, axis=0)
    for label, g in np.ndindex(2, 2):
        cell = (y == label) & (group == g)
        n_cell, expected = cell.sum(), (y == label).mean() * (group == g).sum()
        violation = model.constraints_[label, g].violation(scaled)
        assert model.violations_[label, g] == pytest.approx(violation.mean())
        extra = {(1, 1): 1.5, (0, 0): 0.75}.get((label, g), 0.0)
        assert (extra > 0) == (n_cell < expected)
        wanted = expected / n_cell + extra * (violation == 0)
        np.testing.assert_allclose(weights[cell], wanted[cell])
        assert 0.3 < (violation[cell] == 0).mean() < 1
    plain = ConFairReweigher(Recorder(), alpha=0.0, threshold=0.5)
    weights = plain.fit(X, y, sensitive_features=group).weights_
    shares = [weights[(y == 1) & (group == g)].sum() / weights[group == g].sum() for g in (0, 1)]
    assert shares == pytest.approx([y.mean(), y.mean()])


def test_a_cell_whose_constraints_nothing_violates_gets_no_extra_weight(skewed):
    X, y, group = skewed
    settings = {"alpha": 2.0, "threshold": 0.5}
    none = ConFairReweigher(Recorder(), min_violation=1.0, **settings)
    kamiran = ConFairReweigher(Recorder(), alpha=0.0, threshold=0.5)
    fits = [m.fit(X, y, sensitive_features=group).weights_ for m in (none, kamiran)]
    np.testing.assert_array_equal(*fits)


def test_a_fit_without_sample_weight_gets_rows_drawn_by_the_weights(skewed):
    X, y, group = skewed
    pipeline = make_pipeline("passthrough", Recorder())
    model = ConFairReweigher(pipeline, alpha=1.0, threshold=0.5, random_state=0)
    model.fit(X, y, sensitive_features=group)
    drawn, _, weights = model.estimator_[-1].given_
    assert weights is None
    counts = (X[:, :1] == drawn[:, 0]).sum(axis=1)
    expected = model.weights_ * len(y) / model.weights_.sum()
    assert np.abs(counts - expected).max() < 1
    assert np.ptp(expected) > 1


def test_reweighing_beats_random_weights_on_the_worst_cell(skewed):
    """Positive control: the same weights on rows in another order change nothing."""
    X, y, group = skewed
    model = ConFairReweigher(LogisticRegression(), threshold=0.5, random_state=0)
    model.fit(X, y, sensitive_features=group)
    shuffled = np.random.default_rng(0).permutation(group)
    null = clone(model).fit(X, y, sensitive_features=shuffled)
    assert worst_cell(model, X, y, group) > worst_cell(null, X, y, group) + 0.05


def test_alpha_is_the_best_of_the_tried_ones_on_the_validation_rows(skewed):
    X, y, group = skewed
    held = PredefinedSplit(np.where(np.arange(len(y)) % 4 == 0, 0, -1))
    settings = {"validation": held, "threshold": 0.5, "constraint": "demographic_parity"}
    chosen = ConFairReweigher(**settings).fit(X, y, sensitive_features=group)
    rows = np.arange(len(y)) % 4 == 0
    found = {}
    for alpha in (0.0, 0.25, 0.5, 1.0, 2.0, 4.0):
        model = ConFairReweigher(alpha=alpha, threshold=0.5)
        model.fit(X[~rows], y[~rows], sensitive_features=group[~rows])
        predicted = model.predict(X[rows])
        rates = [predicted[group[rows] == g].mean() for g in (0, 1)]
        balanced = np.mean([(predicted == k)[y[rows] == k].mean() for k in (0, 1)])
        gap = abs(rates[0] - rates[1])
        found[alpha] = (gap <= 0.05, balanced - max(0, gap - 0.02))
    assert chosen.alpha_ == max(found, key=found.get)
    assert len(set(found.values())) > 1


def test_an_editor_gets_the_groups_and_rows_or_weights(skewed):
    X, y, group = (part[:300] for part in skewed)
    rows = table(300)._replace(X=X.astype(np.float32), y=y, group=group)
    base = trained(torch.nn.Sequential(torch.nn.Linear(2, 2)), rows)
    editor = GapFineTuner(base, max_steps=3, gap_weight=1.0, random_state=0)
    model = ConFairReweigher(editor, alpha=1.0, random_state=0)
    model.fit(X.astype(np.float32), y, sensitive_features=group)
    assert model.estimator_.groups_ == [0, 1]
    assert model.predict(X.astype(np.float32)).shape == (300,)


# DifFair


@pytest.fixture(scope="module")
def opposed():
    """The label follows the first column upwards in group 0, downwards in group 1."""
    rng = np.random.default_rng(0)
    group = (rng.random(1000) < 0.4).astype(int)
    X = rng.normal(size=(1000, 2)) * [1, 0.5]
    X[:, 1] += 4 * group
    y = (np.where(group == 1, -X[:, 0], X[:, 0]) > 0).astype(int)
    return X, y, group


def test_each_row_is_served_by_the_model_of_rows_like_it(opposed):
    """Positive control; the null control learns of groups in another order."""
    X, y, group = opposed
    model = DifFair(random_state=0).fit(X, y, sensitive_features=group)
    served = model.serving_group(X).astype(int)
    assert (served == group).mean() > 0.97
    for g in (0, 1):
        mine = served == g
        alone = model.estimators_[g].decision_function(X[mine])
        np.testing.assert_allclose(model.decision_function(X)[mine], alone - model.offset_)
    null = clone(model).fit(X, y, sensitive_features=np.random.default_rng(1).permutation(group))
    assert worst_cell(model, X, y, group) > worst_cell(null, X, y, group) + 0.3


def test_the_route_is_by_the_least_violated_cell_then_by_the_nearest(opposed):
    X, y, group = opposed
    model = DifFair().fit(X, y, sensitive_features=group)
    new = np.random.default_rng(2).uniform(-30, 30, size=(50, 2))
    held = model._columns
    scaled = (new - held.low) / held.span
    served = model.serving_group(new)
    for row, chosen in zip(scaled, served, strict=True):
        ranks = {}
        for (_, g), each in model.constraints_.items():
            rank = float(each.violation(row[None])[0]), float(each.distance(row[None])[0])
            ranks[g] = min(ranks.get(g, rank), rank)
        assert ranks[chosen] == min(ranks.values())
    assert set(served) == {0, 1}


def test_a_group_of_one_class_cannot_have_a_model(opposed):
    X, y, group = opposed
    with pytest.raises(GroupError, match="group 1 has rows of the class 0 only"):
        DifFair(threshold=0.5).fit(X, y * (group == 0), sensitive_features=group)


def test_a_group_may_lack_one_of_three_classes(opposed):
    X, _, group = opposed
    y = np.random.default_rng(0).integers(3 - group)
    model = DifFair(random_state=0).fit(X, y, sensitive_features=group)
    shares = model.predict_proba(X)
    assert shares.shape == (1000, 3)
    assert shares[model.serving_group(X) == 1, 2].max() < 1e-6
    assert model.threshold_ is None


# Both


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_groups_and_classes_of_any_number_and_name(kind, n_classes):
    rows = table(400, n_classes=n_classes, n_groups=3)
    y = np.array(["no", "yes", "maybe"])[rows.y]
    groups = pd.DataFrame({"sex": rows.group % 2, "old": rows.group > 1})
    model = kind(random_state=0).fit(rows.X, y, sensitive_features=groups)
    assert set(model.predict(rows.X)) <= set(y)
    assert len(model.groups_) == 3
    assert set(model.constraints_) <= {(k, g) for k in model.classes_ for g in model.groups_}
    shares = model.predict_proba(rows.X)
    np.testing.assert_array_equal(model.classes_[shares.argmax(axis=1)], model.predict(rows.X))


@pytest.mark.parametrize("kind", KINDS)
def test_the_groups_are_found_in_x_and_taken_out(kind, skewed):
    X, y, group = skewed
    frame = pd.DataFrame(X, columns=["a", "b"]).assign(sex=group)
    found = kind(sensitive_columns="sex", random_state=0).fit(frame, y)
    assert found.feature_names_in_.tolist() == ["a", "b"]
    given = kind(random_state=0).fit(frame[["a", "b"]], y, sensitive_features=group)
    np.testing.assert_array_equal(found.predict(frame), given.predict(frame[["a", "b"]]))
    np.testing.assert_array_equal(found.predict(frame[["a", "b"]]), found.predict(frame))


@pytest.mark.parametrize("kind", KINDS)
def test_any_classifier_that_scores_rows(kind, skewed):
    X, y, group = skewed
    for inner in (GaussianNB(), LinearSVC(), make_pipeline(StandardScaler(), GaussianNB())):
        model = kind(inner, random_state=0).fit(X, y, sensitive_features=group)
        decided = model.decision_function(X) > 0
        np.testing.assert_array_equal(model.predict(X), decided.astype(int))
    small = X[:200].astype(np.float32), y[:200].astype(np.int64)
    net = skorch_net(torch.nn.Linear(2, 2), max_epochs=1)
    model = kind(net, random_state=0).fit(*small, sensitive_features=group[:200])
    assert model.predict(small[0]).shape == (200,)


@pytest.mark.parametrize("kind", KINDS)
def test_the_threshold_is_a_probability_that_shifts_all_outputs(kind, skewed):
    X, y, group = skewed
    low, high = (
        kind(threshold=t, random_state=0, **({"alpha": 0.0} if kind is ConFairReweigher else {}))
        .fit(X, y, sensitive_features=group)
        for t in (0.2, 0.5)
    )  # fmt: skip
    shift = np.log(0.2 / 0.8)
    np.testing.assert_allclose(low.decision_function(X), high.decision_function(X) - shift)
    assert (low.threshold_, high.offset_) == (pytest.approx(0.2), 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_without_groups_it_is_the_classifier(kind, skewed):
    X, y, _ = skewed
    with pytest.warns(MissingSensitiveFeaturesWarning, match="the classifier is fitted as it is"):
        model = kind(LogisticRegression(), threshold=0.5).fit(X, y)
    expected = LogisticRegression().fit(X, y)
    np.testing.assert_array_equal(model.predict(X), expected.predict(X))


@pytest.mark.parametrize("kind", KINDS)
def test_it_works_in_a_pipeline_and_a_search(kind, skewed):
    X, y, group = skewed
    y = pd.Series(y, index=pd.Index(group, name="sex"))
    name = kind.__name__.lower()
    values = {"alpha": [0.0, 2.0]} if kind is ConFairReweigher else {"density": [0.1, 0.9]}
    search = GridSearchCV(
        make_pipeline(StandardScaler(), kind(sensitive_columns="sex", random_state=0)),
        {f"{name}__{key}": value for key, value in values.items()},
        scoring=fairness_scorer("demographic_parity_difference", sensitive_columns="sex"),
        cv=JointStratifiedKFold(2, sensitive_columns="sex"),
        error_score="raise",
    )
    search.fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.predict(X).shape == y.shape


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_with_metadata_routing_passes_the_groups(kind, skewed, routing):
    X, y, group = skewed
    search = GridSearchCV(
        kind(random_state=0),
        {"density": [0.2, 0.9]},
        scoring=fairness_scorer("demographic_parity_difference"),
        cv=JointStratifiedKFold(2),
        error_score="raise",
    )
    search.fit(X, y, sensitive_features=group)
    assert search.best_estimator_.groups_ == [0, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_is_the_same(kind, skewed, tmp_path):
    X, y, group = skewed
    model = kind(random_state=0).fit(X, y, sensitive_features=group)
    save(model, tmp_path / "model.fairsvd")
    again = load(tmp_path / "model.fairsvd")
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert again.get_params().keys() == model.get_params().keys()


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_give_equal_models(kind, skewed):
    X, y, group = skewed
    fits = [kind(random_state=s).fit(X, y, sensitive_features=group) for s in (3, 3, 4)]
    values = [model.decision_function(X) for model in fits]
    np.testing.assert_array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_cannot_take_is_refused_in_the_first_line(kind, skewed):
    X, y, group = skewed
    with pytest.raises(ValueError, match="constraints bound sums of a table's columns"):
        kind().fit(np.zeros((4, 1, 8, 8)), [0, 1, 0, 1], sensitive_features=[0, 0, 1, 1])
    dataset = torch.utils.data.TensorDataset(torch.as_tensor(X))
    with pytest.raises(ValueError, match="X is a TensorDataset of rows that are no lists"):
        kind().fit(dataset, y, sensitive_features=group)
    with pytest.raises(GroupError):
        kind().fit(X, y, sensitive_features=np.zeros(len(y)))
    with pytest.raises(ValueError, match="density"):
        kind(density=0.0).fit(X, y, sensitive_features=group)

    class Mute(Recorder):
        decision_function = None

    with pytest.raises((ValueError, TypeError)):
        kind(Mute()).fit(X, y, sensitive_features=group)


def test_compare_knows_both_by_name_and_sets_what_a_row_asks(skewed):
    X, y, group = skewed
    X = X.astype(np.float32)
    base = trained(torch.nn.Sequential(torch.nn.Linear(2, 2)), table(8)._replace(
        X=X, y=y, group=group))  # fmt: skip
    found = compare(
        ["ConFairReweigher", DifFair(constraint="accuracy_parity")], X, y, group, base=base, cv=2,
        constraints="demographic_parity", random_state=0,
    )  # fmt: skip
    assert (found["error"] == "").all()
    summary = found.summary().droplevel("constraint")
    assert not summary["needs_group"].any()
    assert summary.loc["ConFairReweigher", "psi"] > summary.loc["untouched", "psi"]


@pytest.mark.filterwarnings("ignore::fairsvd.exceptions.MissingSensitiveFeaturesWarning")
@parametrize_with_checks([kind() for kind in KINDS])
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_with_its_default_parameters(kind):
    X, y = make_blobs(60, n_features=3, centers=3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MissingSensitiveFeaturesWarning)
        assert kind(random_state=0).fit(X, y).score(X, y) > 0.9
