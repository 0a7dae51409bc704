"""What scorers make of decisions, probabilities and missing groups, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from fairsvd import fairness_scorer
from fairsvd.exceptions import GroupError


class Deciding(ClassifierMixin, BaseEstimator):
    """Its only feature is its decision, and its probability of the second class."""

    def fit(self, X, y):
        self.classes_ = np.array(["no", "yes"])
        return self

    def decision_function(self, X):
        return np.asarray(X, dtype=float)[:, 0]

    def predict(self, X):
        return self.classes_[(self.decision_function(X) > 0).astype(int)]

    def predict_proba(self, X):
        share = self.decision_function(X)
        return np.stack([1 - share, share], axis=1)


def test_a_decision_of_exactly_zero_is_the_first_class():
    classifier = Deciding().fit(None, None)
    X, y, group = [[0.0], [1.0], [-2.0], [-1.0]], ["no", "yes"] * 2, ["a", "a", "b", "b"]
    scorer = fairness_scorer("demographic_parity_difference", response_method="decision_function")
    assert scorer(classifier, X, y, sensitive_features=group) == -0.5


def test_means_of_probabilities_stand_in_for_rates():
    classifier = Deciding().fit(None, None)
    X = [[0.9], [0.5], [0.2], [0.4], [0.3], [0.7]]
    y = ["yes", "no", "no", "yes", "yes", "no"]
    group = ["a", "a", "a", "b", "b", "b"]
    expected = {  # of a: .9 and the mean of .5 and .2; of b the mean of .4 and .3, and .7
        "demographic_parity_difference": -(1.6 / 3 - 1.4 / 3),
        "equal_opportunity_difference": -(0.9 - 0.35),
        "equal_opportunity_ratio": 0.35 / 0.9,
        "equalized_odds_difference": -0.55,
        "equalized_odds_ratio": 0.35 / 0.9,
        "average_odds_difference": -(0.55 + 0.35) / 2,
        "signed_average_odds_difference": -abs((0.9 + 0.35) / 2 - (0.35 + 0.7) / 2),
        # Of a row's probabilities that of its label: .9, .5, .8 and .4, .3, .3.
        "accuracy_parity_difference": -(2.2 - 1.0) / 3,
        "accuracy_parity_ratio": 1.0 / 2.2,
    }
    for name, value in expected.items():
        scorer = fairness_scorer(name, response_method="predict_proba")
        assert scorer(classifier, X, y, sensitive_features=group) == pytest.approx(value), name
    no = fairness_scorer(
        "equal_opportunity_difference", response_method="predict_proba", pos_label="no"
    )
    assert no(classifier, X, y, sensitive_features=group) == pytest.approx(-(0.65 - 0.3))


def test_rows_of_missing_groups_can_be_a_group_of_their_own():
    classifier, X = Deciding().fit(None, None), [[0.0], [1.0], [1.0], [1.0]]
    y, group = ["no", "yes", "yes", "no"], ["a", "a", None, None]
    for method in ("predict", "predict_proba"):
        options = {"missing_group": "own_group", "response_method": method}
        scorer = fairness_scorer("demographic_parity_difference", **options)
        assert scorer(classifier, X, y, sensitive_features=group) == -0.5
    with pytest.raises(GroupError, match="missing values"):
        fairness_scorer("demographic_parity_difference")(classifier, X, y, sensitive_features=group)
