"""scikit-learn's tools around scorers and editors: what it takes apart, and what is set late."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier, StackingClassifier, VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    TunedThresholdClassifierCV,
    cross_validate,
    learning_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import SVC

from fairsvd import FairLRFTransformer, best_under_gap, fairness_score, fairness_scorer
from fairsvd.exceptions import GroupError
from helpers import IGNORE_SMALL_DATA, mlp, quick, table, trained

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

ROWS = table(160)
SEX = np.array(["f", "m"])[ROWS.group]
Y = pd.Series(ROWS.y, index=pd.Index(SEX, name="sex"))
BY_INDEX = fairness_scorer("demographic_parity_difference", sensitive_columns="sex")


@pytest.fixture(params=[True, False], ids=["routing", "no routing"])
def routing(request):
    with sklearn.config_context(enable_metadata_routing=request.param):
        yield request.param


@pytest.fixture(scope="module")
def network():
    return trained(mlp(), ROWS)


def editor(network):
    return quick(network, sensitive_columns="sex")


@pytest.fixture(scope="module")
def fitted(network):
    return editor(network).fit(ROWS.X, Y)


@pytest.mark.parametrize("name", ["demographic_parity_difference", "demographic_parity_ratio"])
def test_a_threshold_is_tuned_for_a_gap(routing, name):
    """Of all thresholds tried on the rows themselves it takes the one with the best score."""
    scorer = fairness_scorer(name, sensitive_columns="sex")
    model = LogisticRegression().fit(ROWS.X, ROWS.y)
    tuned = TunedThresholdClassifierCV(
        model, scoring=scorer, cv="prefit", refit=False, thresholds=[0.3, 0.5, 0.7],
        store_cv_results=True,
    ).fit(ROWS.X, Y)  # fmt: skip
    shares = model.predict_proba(ROWS.X)[:, 1]
    sign = -1 if name.endswith("difference") else 1
    wanted = [
        sign * fairness_score(name, ROWS.y, (shares >= cut).astype(int), sensitive_features=SEX)
        for cut in (0.3, 0.5, 0.7)
    ]
    np.testing.assert_allclose(tuned.cv_results_["scores"], wanted, atol=1e-12)
    assert tuned.best_score_ == pytest.approx(max(wanted))
    assert scorer(model, ROWS.X, Y) == pytest.approx(wanted[1])


def test_the_positive_label_of_a_tuned_threshold_is_the_scorers():
    labels = np.array(["no", "yes"])[ROWS.y]
    scorer = fairness_scorer("equal_opportunity_difference", pos_label="no")
    with sklearn.config_context(enable_metadata_routing=True):
        tuned = TunedThresholdClassifierCV(
            LogisticRegression(), scoring=scorer, cv=2, thresholds=[0.8, 0.9]
        ).fit(ROWS.X, labels, sensitive_features=SEX)
    shares = tuned.estimator_.predict_proba(ROWS.X)[:, 0]
    assert (tuned.predict(ROWS.X) == np.where(shares >= tuned.best_threshold_, "no", "yes")).all()


def test_columns_of_x_are_out_of_reach_where_only_labels_are_shown():
    frame = pd.DataFrame(ROWS.X, columns=list("abcdef"))
    scorer = fairness_scorer("demographic_parity_difference", sensitive_columns="a")
    with pytest.raises(GroupError, match=r"'a' were not found in the index of y.*labels only"):
        TunedThresholdClassifierCV(LogisticRegression(), scoring=scorer, cv=2).fit(frame, ROWS.y)


AROUND = {
    "tuned threshold": lambda each: TunedThresholdClassifierCV(each, cv=2, thresholds=3),
    "fixed threshold": lambda each: FixedThresholdClassifier(each, threshold=0.4),
    "calibrated": lambda each: CalibratedClassifierCV(each, cv=2),
    "one versus rest": OneVsRestClassifier,
}


@pytest.mark.filterwarnings("ignore::fairsvd.exceptions.MissingSensitiveFeaturesWarning")
@pytest.mark.parametrize("name", AROUND)
def test_estimators_around_an_editor(routing, network, name):
    inside = quick(network) if name == "one versus rest" else editor(network)  # drops y's index
    around = AROUND[name](inside).fit(ROWS.X, Y)
    predicted = around.predict(ROWS.X)
    assert (predicted == ROWS.y).mean() > 0.6
    assert BY_INDEX(around, ROWS.X, Y) == pytest.approx(
        -fairness_score("demographic_parity_difference", ROWS.y, predicted, sensitive_features=SEX)
    )


def test_groups_are_routed_through_an_ensemble(network):
    with sklearn.config_context(enable_metadata_routing=True):
        parts = [("a", quick(network)), ("b", quick(network, rank=0.5))]
        around = VotingClassifier(parts).fit(ROWS.X, ROWS.y, sensitive_features=SEX)
    assert [each.groups_ for each in around.estimators_] == [["f", "m"]] * 2


def test_a_frozen_editor_is_not_fitted_again(routing, fitted):
    frozen = FrozenEstimator(fitted).fit(ROWS.X, 1 - ROWS.y)
    assert (frozen.predict(ROWS.X) == fitted.predict(ROWS.X)).all()
    assert BY_INDEX(frozen, ROWS.X, Y) == BY_INDEX(fitted, ROWS.X, Y)
    stacked = StackingClassifier([("a", fitted)], cv="prefit").fit(ROWS.X, ROWS.y)
    assert stacked.predict(ROWS.X).shape == ROWS.y.shape


def test_curves_and_importances_take_the_scorer(routing, fitted, network):
    scores = learning_curve(editor(network), ROWS.X, Y, scoring=BY_INDEX, cv=2, train_sizes=[1.0])[
        2
    ]
    assert np.isfinite(scores).all() and (scores <= 0).all()
    scoring = {"accuracy": "accuracy", "gap": BY_INDEX, "auc": "roc_auc"}
    found = cross_validate(LogisticRegression(), ROWS.X, Y, scoring=scoring, cv=2)
    assert np.isfinite(found["test_gap"]).all()
    found = permutation_importance(fitted, ROWS.X, Y, scoring=scoring, n_repeats=1, random_state=0)
    assert found["gap"].importances.shape == (6, 1)


@pytest.mark.parametrize("method", ["decision_function", "predict_proba"])
def test_a_response_that_is_not_there_is_an_error_with_the_cure(method):
    model = RandomForestClassifier(2) if method == "decision_function" else SVC()
    scorer = fairness_scorer(
        "demographic_parity_difference", sensitive_columns="sex", response_method=method
    )
    with pytest.raises(ValueError, match=f"has no {method}: pass response_method='predict'"):
        scorer(model.fit(ROWS.X, ROWS.y), ROWS.X, Y)


@pytest.mark.parametrize("method", ["decision_function", "predict_proba"])
def test_a_response_of_nan_is_of_no_class(method):
    class Broken(LogisticRegression):
        def decision_function(self, X):
            return np.where(np.arange(len(X)) < 3, np.nan, 1.0)

        def predict_proba(self, X):
            return np.column_stack([self.decision_function(X)] * 2)

    scorer = fairness_scorer(
        "demographic_parity_difference", sensitive_columns="sex", response_method=method
    )
    with pytest.raises(ValueError, match=f"{method} of Broken gave NaN for 3 rows"):
        scorer(Broken().fit(ROWS.X, ROWS.y), ROWS.X, Y)


def test_decisions_between_pairs_of_classes_are_not_taken_for_decisions_for_classes():
    """Three classes have three pairs, so that the shape tells nothing."""
    rows = table(150, n_classes=3)
    y = pd.Series(rows.y, index=pd.Index(rows.group, name="sex"))
    scorer = fairness_scorer(
        "accuracy_parity_difference",
        sensitive_columns="sex",
        response_method="decision_function",
    )
    one = SVC(decision_function_shape="ovr").fit(rows.X, rows.y)
    usual = fairness_scorer("accuracy_parity_difference", sensitive_columns="sex")
    assert scorer(one, rows.X, y) == pytest.approx(usual(one, rows.X, y))
    with pytest.raises(ValueError, match="decision_function_shape='ovr'"):
        scorer(SVC(decision_function_shape="ovo").fit(rows.X, rows.y), rows.X, y)


# What is set after fit


@pytest.mark.parametrize("output", ["features", "logits", "probabilities"])
@pytest.mark.parametrize("later", ["features", "logits", "probabilities"])
def test_an_output_set_after_fit_acts(network, output, later):
    first, second = (
        quick(network, sensitive_columns="sex", output=each).fit(ROWS.X, Y)
        for each in (output, later)
    )
    first.set_params(output=later)
    assert np.array_equal(first.transform(ROWS.X), second.transform(ROWS.X))
    assert first.get_feature_names_out().tolist() == second.get_feature_names_out().tolist()
    assert first.transform(ROWS.X).shape[1] == (8 if later == "features" else 2)


def test_set_output_acts_on_what_is_transformed(network):
    X = pd.DataFrame(ROWS.X).rename(columns="x{}".format, index=lambda row: row + 7)
    fitted = editor(network).fit(X, Y)
    plain = fitted.transform(X)
    framed = fitted.set_output(transform="pandas").transform(X)
    assert isinstance(plain, np.ndarray)
    assert framed.columns.tolist() == fitted.get_feature_names_out().tolist()
    assert framed.index.equals(X.index)
    assert np.array_equal(framed, plain)


def test_an_unknown_output_set_after_fit_is_an_error(network):
    late = editor(network).fit(ROWS.X, Y).set_params(output="logit")
    with pytest.raises(ValueError, match=r"output='logit': wanted one of features, logits"):
        late.transform(ROWS.X)
    with pytest.raises(ValueError, match="output='logit'"):
        late.get_feature_names_out()


@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "decision_function", "transform", "to_module"]
)
def test_a_threshold_set_after_fit_is_an_error_until_the_next_fit(network, method):
    late = editor(network).fit(ROWS.X, Y).set_params(threshold=0.9)
    arguments = () if method == "to_module" else (ROWS.X,)
    with pytest.raises(ValueError, match=r"threshold=0\.9 was set after fit.*'tune'.*fit again"):
        getattr(late, method)(*arguments)
    late.fit(ROWS.X, Y)
    assert late.threshold_ == pytest.approx(0.9)
    getattr(late, method)(*arguments)


@pytest.mark.parametrize("validation", ["0.2", "half", "0,2", b"0.2"])
def test_a_text_is_no_splitter(validation):
    with pytest.raises(
        ValueError, match=r"'validation' parameter .* splitter of exactly one split"
    ):
        FairLRFTransformer(validation=validation).fit(ROWS.X, Y)


# The score of a search


@pytest.mark.parametrize("search_on", [True, False], ids=["dictionary", "callable"])
def test_a_search_scores_by_the_utility_after_best_under_gap(routing, search_on):
    def both(model, X, y):
        return {"utility": model.score(X, y), "gap": BY_INDEX(model, X, y)}

    scoring = {"utility": "accuracy", "gap": BY_INDEX} if search_on else both
    refit = best_under_gap("utility", "gap", limit=0.9)
    search = GridSearchCV(
        LogisticRegression(), {"C": [0.1, 1.0]}, scoring=scoring, refit=refit, cv=2
    )
    search.fit(ROWS.X, Y)
    wanted = (search.predict(ROWS.X) == ROWS.y).mean()
    assert search.score(ROWS.X, Y) == pytest.approx(wanted)


def test_refits_are_equal_by_what_they_ask():
    one, same = (best_under_gap("u", "g", limit=0.1) for _ in range(2))
    assert one == same and hash(one) == hash(same)
    assert one != best_under_gap("u", "g", limit=0.2)
    assert one != best_under_gap("v", "g", limit=0.1)
    assert {"u": 1}[one] == 1
