"""fairlearn's mitigators inside scikit-learn: the groups are read out of X."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from fairlearn.adversarial import AdversarialFairnessClassifier
from fairlearn.metrics import demographic_parity_difference
from fairlearn.postprocessing import ThresholdOptimizer
from fairlearn.reductions import DemographicParity, EqualizedOdds, ExponentiatedGradient
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from fairsvd import JointStratifiedKFold, best_under_gap, fairness_scorer
from fairsvd.exceptions import GroupError
from fairsvd.interop import GroupAwareWrapper
from helpers import IGNORE_SMALL_DATA, mlp, quick, skorch_net, table, trained
from sklearn_checks import checks_of_edits

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
    # fairlearn 0.15 does with pandas 3.1 what pandas 4 will refuse.
    pytest.mark.filterwarnings("ignore:Setting an? (item|value)"),
]

PARITY = "demographic_parity_difference"


def threshold_optimizer(estimator=None, **settings):
    estimator = LogisticRegression() if estimator is None else estimator
    return ThresholdOptimizer(estimator=estimator, predict_method="predict_proba", **settings)


class Parity(DemographicParity):
    """The constraint, without its place in memory in the names of tests."""

    def __repr__(self):
        return "Parity()"


def exponentiated_gradient(**settings):
    return ExponentiatedGradient(LogisticRegression(), Parity(), **{"max_iter": 3, **settings})


MITIGATORS = {"after": threshold_optimizer, "during": exponentiated_gradient}
# What each takes at prediction, beside X.
TOLD = {"after": True, "during": False}


@pytest.fixture(params=MITIGATORS)
def name(request):
    return request.param


@pytest.fixture
def frame(biased_arrays):
    """Columns a to f without the attribute, labels 0 and 1, the attribute as words."""
    X = pd.DataFrame(biased_arrays.X.astype(np.float64), columns=list("abcdef"))
    X["b"] += 3 * biased_arrays.group  # so that a classifier finds it out
    sex = pd.Series(np.array(["f", "m"])[biased_arrays.group], name="sex")
    return X, pd.Series(biased_arrays.y, name="granted"), sex


def fairlearns(name, X, y, sex):
    """Predict as fairlearn's own users do."""
    mitigator = MITIGATORS[name]().fit(X, y, sensitive_features=sex)
    told = {"sensitive_features": sex} if TOLD[name] else {}
    return mitigator.predict(X, random_state=3, **told)


def wrapped(name, columns="sex", **settings):
    return GroupAwareWrapper(MITIGATORS[name](), columns, **{"random_state": 3, **settings})


FORMS = {
    "column of a DataFrame": lambda X, sex: (X.assign(sex=sex), "sex"),
    "its position": lambda X, sex: (X.assign(sex=sex), -1),
    "array": lambda X, sex: (np.column_stack([sex == "m", X]), 0),
    "list": lambda X, sex: (np.column_stack([sex == "m", X]).tolist(), 0),
    "index of X": lambda X, sex: (X.set_axis(pd.Index(sex)), "sex"),
}


@pytest.mark.parametrize("form", FORMS)
def test_predictions_are_fairlearns(name, form, frame):
    X, y, sex = frame
    expected = fairlearns(name, X, y, sex)
    table, columns = FORMS[form](X, sex)
    mitigator = wrapped(name, columns).fit(table, y)
    predicted = mitigator.predict(table)
    assert np.array_equal(predicted, expected)
    assert predicted.dtype == y.dtype
    assert mitigator.groups_ == ([False, True] if form in ("array", "list") else ["f", "m"])
    # There is something to mitigate, and it was.
    plain = LogisticRegression().fit(X, y).predict(X)
    before, after = (
        demographic_parity_difference(y, codes, sensitive_features=sex)
        for codes in (plain, predicted)
    )
    assert before > 0.3 > 0.2 > after


def test_the_column_is_kept_where_that_is_asked(name, frame):
    X, y, sex = frame
    X = X.assign(sex=(sex == "m").astype(float))
    assert wrapped(name).fit(X, y).feature_names_in_.tolist() == list("abcdef")
    kept = wrapped(name, drop=False).fit(X, y)
    assert kept.feature_names_in_.tolist() == [*"abcdef", "sex"]
    assert np.array_equal(kept.predict(X), fairlearns(name, X, y, sex))
    assert not np.array_equal(kept.predict(X), wrapped(name).fit(X, y).predict(X))


def test_several_columns_are_intersected(name, frame):
    X, y, sex = frame
    old = pd.Series(np.arange(len(X)) % 2 == 0, name="old")
    both = X.assign(sex=sex, old=old)
    mitigator = wrapped(name, ["sex", "old"]).fit(both, y)
    assert mitigator.groups_ == [("f", False), ("f", True), ("m", False), ("m", True)]
    expected = fairlearns(name, X, y, both[["sex", "old"]])
    assert np.array_equal(mitigator.predict(both), expected)


def test_any_two_labels(name, frame):
    X, y, sex = frame
    X = X.assign(sex=sex)
    words = np.array(["granted", "refused"])
    mitigator = wrapped(name).fit(X, words[y])
    assert mitigator.classes_.tolist() == words.tolist()
    assert np.array_equal(mitigator.predict(X), words[wrapped(name).fit(X, y).predict(X)])
    with pytest.raises(ValueError, match="0"):
        threshold_optimizer().fit(X.drop(columns="sex"), words[y], sensitive_features=sex)


def test_an_integer_makes_the_drawn_predictions_repeatable(name, frame):
    X, y, sex = frame
    X = X.assign(sex=sex)
    first, second = wrapped(name).fit(X, y), wrapped(name).fit(X, y)
    assert np.array_equal(first.predict(X), second.predict(X))
    free = wrapped(name, random_state=None).fit(X, y)
    draws = [free.predict(X) for _ in range(5)]
    assert any(not np.array_equal(draws[0], draw) for draw in draws[1:])


def test_a_search_by_columns_of_x(name, frame):
    X, y, sex = frame
    grid = {
        "estimator__constraints": (
            ["demographic_parity", "equalized_odds"]
            if name == "after"
            else [DemographicParity(), EqualizedOdds()]
        ),
        "estimator__estimator__C": [0.01, 1.0],
    }
    search = GridSearchCV(
        wrapped(name),
        grid,
        scoring={
            "utility": "balanced_accuracy",
            "gap": fairness_scorer(PARITY, sensitive_columns="sex"),
        },
        cv=JointStratifiedKFold(2, sensitive_columns="sex"),
        refit=best_under_gap("utility", "gap", limit=0.2),
        error_score="raise",
    ).fit(X.assign(sex=sex), y)
    gaps = -search.cv_results_["mean_test_gap"]
    assert len(gaps) == 4
    plain = make_pipeline(
        make_column_transformer(("passthrough", list("abcdef"))), LogisticRegression()
    )
    scorer = fairness_scorer(PARITY, sensitive_columns="sex")
    untouched = cross_validate(plain, X.assign(sex=sex), y, scoring=scorer, cv=2)["test_score"]
    assert gaps[search.best_index_] < 0.2 < 0.3 < -untouched.mean()
    assert search.best_estimator_.estimator_.estimator.C in (0.01, 1.0)
    assert search.predict(X.assign(sex=sex)).shape == y.shape


def test_metadata_routing_leaves_the_wrapper_alone(routing, name, frame):
    X, y, sex = frame
    scores = cross_validate(
        wrapped(name),
        X.assign(sex=sex),
        y,
        scoring=fairness_scorer(PARITY),
        cv=JointStratifiedKFold(2),
        params={"sensitive_features": sex},
        error_score="raise",
    )
    with sklearn.config_context(enable_metadata_routing=False):
        by_column = cross_validate(
            wrapped(name),
            X.assign(sex=sex),
            y,
            scoring=fairness_scorer(PARITY, sensitive_columns="sex"),
            cv=JointStratifiedKFold(2, sensitive_columns="sex"),
        )
    assert np.array_equal(scores["test_score"], by_column["test_score"])


PIPELINES = {
    "passed through": (
        make_column_transformer(
            (StandardScaler(), list("abcdef")),
            remainder="passthrough",
            verbose_feature_names_out=False,
        ).set_output(transform="pandas"),
        "sex",
    ),
    "by position": (
        make_column_transformer((StandardScaler(), list("abcdef")), remainder="passthrough"),
        6,
    ),
    "scaled too": (StandardScaler(), 6),
    "in the index": (StandardScaler().set_output(transform="pandas"), "sex"),
}


@pytest.mark.parametrize("form", PIPELINES)
def test_behind_other_steps(name, form, frame):
    X, y, sex = frame
    step, columns = PIPELINES[form]
    if form == "in the index":
        X_all = X.set_axis(pd.Index(sex))
    else:
        X_all = X.assign(sex=(sex == "m").astype(float) if form == "scaled too" else sex)
    pipe = make_pipeline(clone(step), wrapped(name, columns)).fit(X_all, y)
    expected = fairlearns(name, StandardScaler().fit_transform(X), y, sex)
    assert np.array_equal(pipe.predict(X_all), expected)


def test_a_step_that_loses_the_column(frame):
    X, y, sex = frame
    pipe = make_pipeline(StandardScaler(), wrapped("after"))
    with pytest.raises(GroupError, match=r"not found.*without names"):
        pipe.fit(X.set_axis(pd.Index(sex)), y)


def test_groups_at_prediction_are_for_those_who_want_them(frame):
    X, y, sex = frame
    told = wrapped("after").fit(X.assign(sex=sex), y)
    with pytest.raises(GroupError, match="ThresholdOptimizer needs the groups at prediction too"):
        told.predict(X)
    untold = wrapped("during").fit(X.assign(sex=sex), y)
    assert np.array_equal(untold.predict(X), untold.predict(X.assign(sex="never seen")))
    # Therefore the index of y does for the one, and not for the other.
    labels = y.set_axis(pd.Index(sex))
    assert np.array_equal(wrapped("during").fit(X, labels).predict(X), untold.predict(X))
    with pytest.raises(GroupError, match="index of y, but ThresholdOptimizer"):
        wrapped("after").fit(X, labels)


def test_an_unseen_group_is_an_error_where_fairlearn_predicts_nothing_but_zero(frame):
    X, y, sex = frame
    mitigator = wrapped("after").fit(X.assign(sex=sex), y)
    strange = sex.where(sex == "m", "x")
    with pytest.raises(GroupError, match=r"the groups \['x'\], which fit did not see"):
        mitigator.predict(X.assign(sex=strange))
    alone = threshold_optimizer().fit(X, y, sensitive_features=sex)
    predicted = alone.predict(X, sensitive_features=strange, random_state=0)
    assert predicted[strange == "x"].max() == 0 < predicted[strange == "m"].max()


def test_float32_scores(frame):
    X, y, sex = frame
    X = X.astype(np.float32)
    alone = threshold_optimizer().fit(X, y, sensitive_features=sex)
    with pytest.raises(TypeError, match="float32"):
        alone.predict(X, sensitive_features=sex)
    for method in ("predict_proba", "decision_function", "auto"):
        mitigator = threshold_optimizer().set_params(predict_method=method)
        mine = GroupAwareWrapper(mitigator, "sex", random_state=3).fit(X.assign(sex=sex), y)
        theirs = clone(mitigator).fit(X.astype(float), y, sensitive_features=sex)
        expected = theirs.predict(X.astype(float), sensitive_features=sex, random_state=3)
        # A few rows lie within float32's precision of a threshold.
        assert (mine.predict(X.assign(sex=sex)) == expected).mean() > 0.98


def test_a_classifier_without_probabilities_keeps_its_margin(frame):
    X, y, sex = frame
    ridge = sklearn.linear_model.RidgeClassifier()
    mitigator = ThresholdOptimizer(estimator=ridge, predict_method="auto")
    mine = GroupAwareWrapper(mitigator, "sex", random_state=3).fit(X.assign(sex=sex), y)
    expected = (
        clone(mitigator)
        .fit(X, y, sensitive_features=sex)
        .predict(X, sensitive_features=sex, random_state=3)
    )
    assert np.array_equal(mine.predict(X.assign(sex=sex)), expected)


def test_around_a_network_that_gives_float32():
    rows = table(200)
    net = skorch_net(trained(mlp(), rows), classes=[0, 1])
    net.set_params(criterion__label_smoothing=0.0).initialize()
    net.set_params(predict_nonlinearity="auto")
    X = np.column_stack([rows.X, rows.group]).astype(np.float32)
    mitigator = threshold_optimizer(FrozenEstimator(net), prefit=True)
    mine = GroupAwareWrapper(mitigator, -1, random_state=0).fit(X, rows.y)
    gap = fairness_scorer(PARITY, sensitive_columns=-1)
    before = demographic_parity_difference(
        rows.y, net.predict(rows.X), sensitive_features=rows.group
    )
    assert -gap(mine, X, rows.y) < 0.1 < before
    again = pickle.loads(pickle.dumps(mine))
    assert np.array_equal(again.predict(X), mine.predict(X))


def test_what_was_passed_in_stays_as_it_was(name, frame):
    X, y, sex = frame
    X = X.assign(sex=sex)
    mitigator = MITIGATORS[name]()
    before, columns = repr(mitigator.get_params()), X.columns.tolist()
    wrapper = GroupAwareWrapper(mitigator, "sex", random_state=0).fit(X, y)
    first = wrapper.predict(X)
    assert repr(mitigator.get_params()) == before
    assert X.columns.tolist() == columns
    # Fitted again it gives the same: alone, ExponentiatedGradient keeps what it learned as `nu`.
    assert np.array_equal(wrapper.fit(X, y).predict(X), first)
    fresh = clone(wrapper)
    assert not hasattr(fresh, "estimator_")
    assert np.array_equal(fresh.fit(X, y).predict(X), first)


def test_a_failed_fit_loses_nothing(name, frame):
    X, y, sex = frame
    X = X.assign(sex=sex)
    wrapper = wrapped(name).fit(X, y)
    before = wrapper.predict(X)
    with pytest.raises(ValueError, match="NaN"):
        wrapper.fit(X.drop(columns="a").assign(b=np.nan), y)
    assert np.array_equal(wrapper.predict(X), before)


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_another_mitigator_that_takes_the_groups(frame):
    X, y, sex = frame
    mitigator = AdversarialFairnessClassifier(
        backend="torch", predictor_model=[8], adversary_model=[4], epochs=2, random_state=0
    )
    words, rows = np.array(["no", "yes"]), X.to_numpy(copy=True)
    table = np.column_stack([rows, sex == "m"])
    with torch.random.fork_rng():
        alone = clone(mitigator).fit(rows, words[y], sensitive_features=sex)
        mine = GroupAwareWrapper(mitigator, -1).fit(table, words[y])
    for X_new in (rows, table):
        assert np.array_equal(mine.predict(X_new), alone.predict(rows))


def test_more_than_two_classes_where_the_mitigator_takes_them():
    rows = table(150, n_classes=3)
    X, words = np.column_stack([rows.X, rows.group]), np.array(["a", "b", "c"])
    editor = quick(max_steps=2)
    mine = GroupAwareWrapper(editor, -1).fit(X, words[rows.y])
    alone = clone(editor).fit(X[:, :-1], rows.y, sensitive_features=rows.group)
    assert np.array_equal(mine.predict(X), words[alone.predict(X[:, :-1])])
    for method in ("predict_proba", "decision_function"):
        assert np.array_equal(getattr(mine, method)(X), getattr(alone, method)(X[:, :-1]))
    with pytest.raises(ValueError, match="ThresholdOptimizer takes two classes, y has 3"):
        GroupAwareWrapper(threshold_optimizer(), -1).fit(X, rows.y)
    assert not hasattr(GroupAwareWrapper(threshold_optimizer(), -1), "predict_proba")


BAD = {
    "no such column": ({}, lambda X, y: (X.drop(columns="sex"), y), "not found"),
    "one group": ({}, lambda X, y: (X.assign(sex="f"), y), "single group 'f'"),
    "a missing group": (
        {},
        lambda X, y: (X.assign(sex=X["sex"].where(X.index > 1)), y),
        "missing values .* in 2 rows",
    ),
    "one class": ({}, lambda X, y: (X, 0 * y), "one class only"),
    "nothing but the column": ({}, lambda X, y: (X[["sex"]], y), r"1 feature\(s\)"),
    "lengths": ({}, lambda X, y: (X, y[:-1]), "inconsistent numbers"),
    "a classifier": (
        {"estimator": LogisticRegression()},
        lambda X, y: (X, y),
        "LogisticRegression takes no sensitive_features",
    ),
    "no estimator": ({"estimator": None}, lambda X, y: (X, y), "'estimator' parameter"),
    "a number for drop": ({"drop": 3}, lambda X, y: (X, y), "'drop' parameter"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, frame):
    X, y, sex = frame
    settings, spoil, message = BAD[case]
    wrapper = wrapped("after").set_params(**settings)
    with pytest.raises(ValueError, match=message):
        wrapper.fit(*spoil(X.assign(sex=sex), y))


class ByTurns(ThresholdOptimizer):
    """Makes two groups of any column, since the checks' columns are continuous."""

    def fit(self, X, y, *, sensitive_features):
        return super().fit(X, y, sensitive_features=self.turns(sensitive_features))

    def predict(self, X, *, sensitive_features, random_state=None):
        turns = self.turns(sensitive_features)
        return super().predict(X, sensitive_features=turns, random_state=random_state)

    @staticmethod
    def turns(rows):
        return np.arange(len(rows)) // 2 % 2


def expected_failures(estimator):
    return {
        "check_fit_idempotent": "new rows of a continuous column are new groups, and refused",
        "check_estimators_nan_inf": "so are they here, before anything else is looked at",
    }


def around(mitigator):
    # The last column, kept: the checks count the columns and look at the first one.
    return GroupAwareWrapper(mitigator, -1, drop=False, random_state=0)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@parametrize_with_checks(
    [around(ByTurns(estimator=LogisticRegression()))], expected_failed_checks=expected_failures
)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize(
    ("estimator", "check"),
    checks_of_edits([around(exponentiated_gradient(max_iter=2, eps=1, run_linprog_step=False))]),
)
def test_scikit_learn_check_around_a_reduction(estimator, check):
    check(estimator)
