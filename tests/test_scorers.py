"""Scorers of one estimator: labels, groups, probabilities, and what they ask for."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.svm import SVC

from fairsvd import fairness_score, fairness_scorer, group_table
from fairsvd.exceptions import GroupError
from fairsvd.metrics import METRICS

EXACT = {"rtol": 0, "atol": 1e-12}
NAME = "equalized_odds_difference"


class Echo(ClassifierMixin, BaseEstimator):
    """A classifier whose predictions are its only feature."""

    def __init__(self, classes=("no", "yes")):
        self.classes = classes

    def fit(self, X, y):
        self.classes_ = np.array(self.classes)
        return self

    def predict(self, X):
        return self.classes_[np.asarray(X)[:, 0].astype(int)]

    def predict_proba(self, X):
        return np.eye(len(self.classes_))[np.asarray(X)[:, 0].astype(int)]


def echo(y_pred, classes=("no", "yes")):
    """Return a fitted classifier and an X on which it predicts these codes."""
    return Echo(classes).fit(None, None), np.asarray(y_pred).reshape(-1, 1)


@pytest.fixture
def rows():
    """String labels, predictions of three groups, and the codes behind both."""
    rng = np.random.default_rng(0)
    group = rng.choice(["a", "b", "c"], size=300)
    y = rng.integers(2, size=300)
    predicted = np.where(rng.random(300) < 0.6 + 0.3 * (group == "a"), y, 1 - y)
    return np.array(["no", "yes"])[y], predicted, group


@pytest.fixture
def frame():
    """A table and labels whose index holds the attribute, so that index labels repeat."""
    rng = np.random.default_rng(20260)
    group = rng.integers(2, size=400)
    X = pd.DataFrame(rng.normal(size=(400, 3)), columns=list("abc"))
    X["b"] += 2 * group
    y = (X["a"] + 1.5 * group - 0.75 + 0.6 * rng.normal(size=400) > 0).astype(int)
    sex = pd.Index(np.where(group == 1, "m", "f"), name="sex")
    return X.set_axis(sex), y.set_axis(sex)


@pytest.mark.parametrize("name", METRICS)
def test_scores_of_string_labels(rows, name):
    y, predicted, group = rows
    import fairlearn.metrics as theirs

    stem, kind = name.rsplit("_", 1)
    y01 = (y == "yes").astype(int)
    options = {"sensitive_features": group}
    if stem == "accuracy_parity":
        frame = theirs.MetricFrame(metrics=accuracy_score, y_true=y01, y_pred=predicted, **options)
        expected = getattr(frame, kind)()
    elif stem == "average_odds":
        function = getattr(theirs, f"equalized_odds_{kind}")
        expected = function(y01, predicted, agg="mean", **options)
    elif stem == "signed_average_odds":
        rates = [
            theirs.MetricFrame(metrics=f, y_true=y01, y_pred=predicted, **options).by_group
            for f in (theirs.true_positive_rate, theirs.false_positive_rate)
        ]
        means = (rates[0] + rates[1]) / 2
        expected = np.ptp(means) if kind == "difference" else means.min() / means.max()
    else:
        expected = getattr(theirs, name)(y01, predicted, **options)
    labels = np.array(["no", "yes"])[predicted]
    assert 0.05 < expected < 0.95
    np.testing.assert_allclose(
        fairness_score(name, y, labels, sensitive_features=group), expected, **EXACT
    )
    classifier, X = echo(predicted)
    sign = -1 if kind == "difference" else 1
    for method in ("predict", "predict_proba"):
        scorer = fairness_scorer(name, response_method=method)
        np.testing.assert_allclose(
            scorer(classifier, X, y, sensitive_features=group), sign * expected, **EXACT
        )


def test_positive_label(rows):
    y, predicted, group = rows
    labels = np.array(["no", "yes"])[predicted]
    name = "equal_opportunity_difference"

    def score(**options):
        return fairness_score(name, y, labels, sensitive_features=group, **options)

    assert score() == score(pos_label="yes") == score(labels=["no", "yes"])
    assert score(pos_label="no") == score(labels=["yes", "no"])
    assert abs(score(pos_label="no") - score()) > 0.01
    classifier, X = echo(predicted)
    for positive in ("no", "yes"):
        scorer = fairness_scorer(name, pos_label=positive)
        assert scorer(classifier, X, y, sensitive_features=group) == -score(pos_label=positive)
    # The order of classes_ counts, not the alphabet.
    turned, X = echo(1 - predicted, classes=("yes", "no"))
    scorer = fairness_scorer(name)
    assert scorer(turned, X, y, sensitive_features=group) == -score(pos_label="no")


def test_several_classes_are_compared_with_the_rest():
    rng = np.random.default_rng(1)
    y, predicted, group = rng.integers(4, size=(3, 400))
    for name in ("equalized_odds_difference", "demographic_parity_ratio"):
        one_by_one = [
            fairness_score(name, y == c, predicted == c, sensitive_features=group) for c in range(4)
        ]
        together = fairness_score(name, y, predicted, sensitive_features=group)
        np.testing.assert_allclose(together, np.mean(one_by_one), **EXACT)
    with pytest.raises(ValueError, match=r"pos_label=2 was given with 4 classes"):
        fairness_score(NAME, y, predicted, sensitive_features=group, pos_label=2)
    classifier, X = echo(predicted, classes=tuple("abcd"))
    labels = np.array(list("abcd"))[y]
    scorer = fairness_scorer(NAME)
    hard = fairness_score(NAME, y, predicted, sensitive_features=group)
    np.testing.assert_allclose(scorer(classifier, X, labels, sensitive_features=group), -hard)


def test_a_fold_with_one_group_is_nan_and_not_perfect(rows):
    y, predicted, _ = rows
    classifier, X = echo(predicted)
    one = np.full(len(y), "a")
    for name in METRICS:
        assert np.isnan(fairness_scorer(name)(classifier, X, y, sensitive_features=one))


def test_a_rate_that_only_one_group_has_is_nan():
    y, group = np.array(["no", "no", "no", "yes"]), ["a", "a", "b", "b"]
    classifier, X = echo([0, 1, 0, 1])
    scorer = fairness_scorer("equal_opportunity_difference")
    assert np.isnan(scorer(classifier, X, y, sensitive_features=group))
    scorer = fairness_scorer("equalized_odds_difference")
    assert scorer(classifier, X, y, sensitive_features=group) == -0.5  # of the FPR alone


def test_equal_groups_score_zero_without_a_sign():
    classifier, X = echo([0, 1, 0, 1])
    score = fairness_scorer(NAME)(
        classifier, X, ["no", "yes"] * 2, sensitive_features=["a", "a", "b", "b"]
    )
    assert str(score) == "0.0"


def test_response_methods_differ_where_they_should(frame):
    X, y = frame
    classifier = LogisticRegression().fit(X, y)
    scores = {
        method: fairness_scorer(
            "demographic_parity_difference", sensitive_columns="sex", response_method=method
        )(classifier, X, y)
        for method in ("predict", "predict_proba", "decision_function")
    }
    means = pd.Series(classifier.predict_proba(X)[:, 1]).groupby(np.asarray(y.index)).mean()
    np.testing.assert_allclose(scores["predict_proba"], -(means.max() - means.min()))
    assert scores["predict"] == scores["decision_function"]
    assert scores["predict"] < scores["predict_proba"] < -0.05


@pytest.mark.parametrize("name", ["average_odds_difference", "accuracy_parity_ratio"])
def test_decisions_of_several_classes(name):
    rng = np.random.default_rng(2)
    X, y, group = rng.normal(size=(150, 3)), rng.integers(3, size=150), rng.integers(2, size=150)
    X[:, 0] += y * group
    classifier = LogisticRegression().fit(X, y)
    scores = [
        fairness_scorer(name, response_method=method)(classifier, X, y, sensitive_features=group)
        for method in ("predict", "decision_function")
    ]
    assert scores[0] == scores[1] != 0
    pairs = SVC(decision_function_shape="ovo").fit(np.r_[X, X], np.r_[y, y + 3])
    scorer = fairness_scorer(name, response_method="decision_function")
    with pytest.raises(ValueError, match=r"gave shape \(150, 15\) for 6 classes.*'ovr'"):
        scorer(pairs, X, y, sensitive_features=group)


def test_an_estimator_without_classes():
    class Bare:
        def predict(self, X):
            return X[:, 0]

    X, y = np.array([[0], [1], [1], [1]]), [0, 1, 0, 1]
    scorer = fairness_scorer("demographic_parity_difference")
    assert scorer(Bare(), X, y, sensitive_features=[0, 0, 1, 1]) == -0.5
    scorer = fairness_scorer("demographic_parity_difference", response_method="predict_proba")
    with pytest.raises(ValueError, match="Bare has no classes_"):
        scorer(Bare(), X, y, sensitive_features=[0, 0, 1, 1])


def test_a_class_that_the_estimator_never_saw():
    classifier, X = echo([0, 1, 0, 1])
    y, group = ["no", "yes", "yes", "zoo"], [0, 0, 1, 1]
    labels = np.array(["no", "yes"])[X[:, 0]]
    expected = fairness_score("accuracy_parity_difference", y, labels, sensitive_features=group)
    for method in ("predict", "predict_proba"):
        scorer = fairness_scorer("accuracy_parity_difference", response_method=method)
        assert scorer(classifier, X, y, sensitive_features=group) == -expected == -1.0


def test_what_is_requested(routing):
    def requested(scorer):
        requests = scorer.get_metadata_routing().score.requests
        return requests["sensitive_features"], requests["sample_weight"]

    assert requested(fairness_scorer(NAME)) == (True, None)
    named = fairness_scorer(NAME, sensitive_columns="sex")
    assert requested(named) == (False, None)
    assert requested(named.set_score_request(sensitive_features=True)) == (True, None)
    assert requested(named.set_score_request(sample_weight="w")) == (True, "w")


def test_requests_need_routing():
    with pytest.raises(RuntimeError, match="enable_metadata_routing=True"):
        fairness_scorer(NAME).set_score_request(sensitive_features=False)


def test_no_attribute_says_the_ways_out(rows):
    y, predicted, _ = rows
    classifier, X = echo(predicted)
    with pytest.raises(ValueError) as error:
        fairness_scorer(NAME)(classifier, X, y)
    for part in ("enable_metadata_routing", "sensitive_columns=", "sensitive_features=...", NAME):
        assert part in str(error.value)
    with pytest.raises(GroupError, match=r"'sex'.*index names of y"):
        fairness_scorer(NAME, sensitive_columns="sex")(classifier, X, y)


def test_what_is_passed_goes_before_columns(frame):
    X, y = frame
    classifier = LogisticRegression().fit(X, y)
    scorer = fairness_scorer(NAME, sensitive_columns="sex")
    half = np.arange(len(y)) % 2
    assert scorer(classifier, X, y, sensitive_features=y.index) == scorer(classifier, X, y) < -0.1
    assert scorer(classifier, X, y, sensitive_features=half) > scorer(classifier, X, y)


def test_missing_groups(rows):
    y, predicted, group = rows
    group = np.where(np.arange(300) % 10 == 0, None, group)
    classifier, X = echo(predicted)
    with pytest.raises(GroupError, match=r"30.*missing_group='ignore'"):
        fairness_scorer(NAME)(classifier, X, y, sensitive_features=group)
    known = group != None  # noqa: E711 (an array of objects)
    for method in ("predict", "predict_proba"):
        ignore = fairness_scorer(NAME, missing_group="ignore", response_method=method)
        assert ignore(classifier, X, y, sensitive_features=group) == pytest.approx(
            ignore(classifier, X[known], y[known], sensitive_features=group[known]), abs=1e-12
        )
    labels = np.array(["no", "yes"])[predicted]
    assert list(group_table(y, labels, group, missing_group="own_group").index) == [
        *"abc",
        "missing",
    ]


def test_scorers_show_themselves_and_pickle(rows):
    y, predicted, group = rows
    scorer = fairness_scorer(NAME, sensitive_columns=["sex"], pos_label="no")
    assert repr(scorer) == (f"fairness_scorer('{NAME}', sensitive_columns=['sex'], pos_label='no')")
    assert repr(fairness_scorer(NAME)) == f"fairness_scorer('{NAME}')"
    assert eval(repr(scorer), {"fairness_scorer": fairness_scorer}).pos_label == "no"
    again = pickle.loads(pickle.dumps(scorer))
    assert repr(again) == repr(scorer)
    classifier, X = echo(predicted)
    options = {"sensitive_features": group}
    assert again(classifier, X, y, **options) == scorer(classifier, X, y, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fairness_scorer("equalized_odds"), r"Did you mean 'equalized_odds_"),
        (lambda: fairness_scorer("zzz"), r"Unknown metric 'zzz': wanted one of demographic"),
        (lambda: fairness_score("dp", [], [], sensitive_features=[]), "Unknown metric 'dp'"),
        (
            lambda: fairness_score([NAME], [], [], sensitive_features=[]),
            r"Unknown metric \['",
        ),
        (lambda: fairness_scorer(NAME, response_method="proba"), "response_method='proba'"),
        (lambda: fairness_scorer(NAME, missing_group="drop"), "missing_group='drop'"),
    ],
)
def test_misspelt_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_constant_classifier_has_no_gap_and_no_ratio(frame):
    X, y = frame
    constant = DummyClassifier().fit(X, y)
    assert fairness_scorer(NAME, sensitive_columns="sex")(constant, X, y) == 0
    never = DummyClassifier(strategy="constant", constant=0).fit(X, y)
    ratio = fairness_scorer("demographic_parity_ratio", sensitive_columns="sex")
    assert np.isnan(ratio(never, X, y))
