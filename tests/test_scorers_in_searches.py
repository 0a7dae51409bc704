"""Scorers in cross-validation and searches, with and without metadata routing."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import check_scoring
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fairsvd import fairness_score, fairness_scorer
from fairsvd.model_selection import JointStratifiedKFold

EXACT = {"rtol": 0, "atol": 1e-12}
NAME = "equalized_odds_difference"


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


SCORERS = {
    "accuracy": "accuracy",
    "gap": fairness_scorer(NAME),
    "ratio": fairness_scorer("demographic_parity_ratio", response_method="predict_proba"),
}


def test_cross_validate_with_routing_alone_and_in_a_dict(routing, frame):
    X, y = frame
    params = {"sensitive_features": np.asarray(y.index)}
    cv = JointStratifiedKFold(3)
    pipe = make_pipeline(StandardScaler(), LogisticRegression())
    alone = cross_validate(pipe, X, y, params=params, cv=cv, scoring=SCORERS["gap"])
    many = cross_validate(pipe, X, y, params=params, cv=cv, scoring=SCORERS)
    np.testing.assert_array_equal(alone["test_score"], many["test_gap"])
    assert (many["test_gap"] < 0).all()
    assert ((many["test_ratio"] > 0) & (many["test_ratio"] < 1)).all()
    for fold, (train, test) in enumerate(cv.split(X, y, sensitive_features=y.index)):
        labels = pipe.fit(X.iloc[train], y.iloc[train]).predict(X.iloc[test])
        expected = fairness_score(NAME, y.iloc[test], labels, sensitive_features=y.index[test])
        np.testing.assert_allclose(many["test_gap"][fold], -expected, **EXACT)


@pytest.mark.parametrize("source", ["columns of X", "index of X", "index of y"])
@pytest.mark.parametrize("kind", [GridSearchCV, RandomizedSearchCV, cross_validate])
def test_without_routing_the_attribute_is_found(frame, kind, source):
    X, y = frame
    sex = np.asarray(y.index)
    if source == "columns of X":
        X, y = X.assign(sex=(sex == "m").astype(float)).reset_index(drop=True), y.to_numpy()
    elif source == "index of X":
        y = y.to_numpy()
    else:
        X = X.to_numpy()
    scoring = {
        "accuracy": "accuracy",
        "gap": fairness_scorer("demographic_parity_difference", sensitive_columns="sex"),
    }
    if kind is cross_validate:
        gaps = cross_validate(LogisticRegression(), X, y, scoring=scoring, cv=3)["test_gap"]
    else:
        grids = {"n_iter": 2, "random_state": 0} if kind is RandomizedSearchCV else {}
        search = kind(
            LogisticRegression(), {"C": [0.1, 1.0]}, scoring=scoring, refit="gap", cv=3, **grids
        )
        gaps = search.fit(X, y).cv_results_["mean_test_gap"]
    assert np.isfinite(gaps).all()
    assert (gaps < -0.1).all()


class Counting(LogisticRegression):
    """Counts how often it is asked."""

    asked = 0

    def predict(self, X):
        type(self).asked += 1
        return super().predict(X)


@pytest.mark.parametrize("first", ["gap", "utility"])
def test_scorers_of_a_search_share_predictions(frame, monkeypatch, first):
    X, y = frame
    scorers = {
        "gap": fairness_scorer(NAME, sensitive_columns="sex"),
        "utility": "balanced_accuracy",
    }
    scoring = {name: scorers[name] for name in (first, *scorers)}
    search = GridSearchCV(Counting(), {"C": [0.1, 1.0]}, scoring=scoring, refit=False, cv=3)
    monkeypatch.setattr(Counting, "asked", 0)
    search.fit(X, y)
    assert Counting.asked == 6  # once for each setting and fold
    for name, scorer in scorers.items():
        alone = GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, scoring=scorer, cv=3)
        np.testing.assert_array_equal(
            search.cv_results_[f"mean_test_{name}"],
            alone.fit(X, y).cv_results_["mean_test_score"],
        )


def test_probabilities_are_not_those_that_others_keep(frame):
    X, y = frame
    gap = fairness_scorer(NAME, sensitive_columns="sex", response_method="predict_proba")
    scoring = {"before": "roc_auc", "gap": gap, "after": "neg_log_loss"}
    many = cross_validate(LogisticRegression(), X, y, scoring=scoring, cv=3)
    for name, scorer in scoring.items():
        alone = cross_validate(LogisticRegression(), X, y, scoring=scorer, cv=3)
        np.testing.assert_array_equal(many[f"test_{name}"], alone["test_score"])


def test_alone_in_a_search(frame):
    X, y = frame
    scorer = fairness_scorer(NAME, sensitive_columns="sex")
    search = GridSearchCV(LogisticRegression(), {"C": [1e-6, 1.0]}, scoring=scorer, cv=3)
    search.fit(X, y)
    assert search.best_params_ == {"C": 1e-6}  # a constant classifier: gaps alone are no goal
    assert search.score(X, y) == search.best_score_ == 0
    assert check_scoring(search, scoring=scorer) is scorer


def test_sample_weights_do_not_disturb(frame):
    X, y = frame
    scoring = {
        "accuracy": "accuracy",
        "gap": fairness_scorer(NAME, sensitive_columns="sex"),
    }
    search = GridSearchCV(LogisticRegression(), {"C": [1.0]}, scoring=scoring, refit=False, cv=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, about its own scorers
        search.fit(X, y, sample_weight=np.ones(len(y)))
    assert np.isfinite(search.cv_results_["mean_test_gap"]).all()


def test_two_attributes_in_one_search(routing, frame):
    X, y = frame
    half = np.arange(len(y)) % 2
    scoring = {
        "sex": fairness_scorer(NAME).set_score_request(sensitive_features="sex"),
        "half": fairness_scorer(NAME).set_score_request(sensitive_features="half"),
        "none": fairness_scorer(NAME, sensitive_columns="sex"),
    }
    # Not the index itself, which scikit-learn cannot divide where pandas has pyarrow.
    params = {"sex": y.index.to_numpy(), "half": half}
    scores = cross_validate(LogisticRegression(), X, y, params=params, scoring=scoring, cv=3)
    np.testing.assert_array_equal(scores["test_sex"], scores["test_none"])
    by_half = cross_validate(
        LogisticRegression(),
        X,
        y,
        params={"sensitive_features": half},
        scoring=fairness_scorer(NAME),
        cv=3,
    )
    np.testing.assert_array_equal(scores["test_half"], by_half["test_score"])
    assert (scores["test_half"] != scores["test_sex"]).all()
