"""CellSampler inside imbalanced-learn's Pipeline, and imbalanced-learn's checks of samplers."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import DataConversionWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.preprocessing import StandardScaler

from fairsvd import CellSampler, FairLRFTransformer, JointStratifiedKFold, fairness_scorer
from fairsvd.exceptions import MissingSensitiveFeaturesWarning
from helpers import IGNORE_SMALL_DATA, mlp

pipeline = pytest.importorskip("imblearn.pipeline")
checks = pytest.importorskip("imblearn.utils.estimator_checks")

pytestmark = [pytest.mark.filterwarnings(rule) for rule in IGNORE_SMALL_DATA]


@pytest.fixture
def task():
    """300 rows, 30 % of them women; the groups stand in the index of y."""
    rng = np.random.default_rng(0)
    sex = rng.choice(["F", "M"], 300, p=[0.3, 0.7])
    X = pd.DataFrame(rng.normal(size=(300, 6)), columns=list("abcdef"))
    X["a"] += sex == "M"
    y = (X["a"] + rng.normal(size=300) > 0.5).astype(int)
    return X, pd.Series(y.to_numpy(), index=pd.Index(sex, name="sex"), name="hired")


def editor():
    """An editor of an untrained network, which is quick: what it is shown matters here."""
    settings = {"sensitive_columns": "sex", "max_steps": 3, "gap_weight": 1.0}
    return FairLRFTransformer(mlp(), random_state=0, **settings)


def assert_balanced(fitted):
    """The editor behind the sampler has seen a group for each row, all cells alike."""
    sampler, edited = fitted[-2], fitted[-1]
    n = len(sampler.is_synthetic_)
    assert edited.group_counts_.sum() == n
    assert edited.group_counts_.tolist() == [n // 2, n // 2]
    assert edited.sensitive_source_ == "index of y"
    assert sampler.is_synthetic_.any()


def test_cross_validate_and_search_without_routing(task):
    X, y = task
    steps = StandardScaler(), CellSampler(sensitive_columns="sex", random_state=0), editor()
    pipe = pipeline.make_pipeline(*steps)
    scoring = {
        "utility": "balanced_accuracy",
        "gap": fairness_scorer("equalized_odds_difference", sensitive_columns="sex"),
    }
    cv = JointStratifiedKFold(2, sensitive_columns="sex")
    found = cross_validate(pipe, X, y, cv=cv, scoring=scoring, return_estimator=True)
    for fitted in found["estimator"]:
        assert_balanced(fitted)
    assert not np.isnan(found["test_gap"]).any()
    grid = {"cellsampler__generator": ["smoothed", "smote"]}
    search = GridSearchCV(pipe, grid, cv=cv, error_score="raise").fit(X, y)
    assert_balanced(search.best_estimator_)
    assert search.predict(X).shape == (300,)


def test_cross_validate_with_routing(task, routing):
    X, y = task
    edit = editor().set_fit_request(sensitive_features=False)
    pipe = pipeline.make_pipeline(CellSampler(random_state=0), edit)
    sex = pd.Series(y.index, name="sex")
    for labels in (y.to_numpy(), y):  # the groups come as metadata either way
        found = cross_validate(
            pipe, X, labels, cv=2, params={"sensitive_features": sex}, return_estimator=True,
            error_score="raise",
        )  # fmt: skip
        for fitted in found["estimator"]:
            assert_balanced(fitted)
            assert fitted[0].sensitive_source_ == "sensitive_features"
    search = GridSearchCV(
        pipe, {"cellsampler__mode": ["augment", "mix"]}, cv=2, error_score="raise"
    )
    search.fit(X, y, sensitive_features=sex)
    assert search.best_estimator_[-1].sensitive_source_ == "index of y"


def test_groups_in_a_column_reach_the_editor_too(task):
    X, y = task
    X = X.assign(sex=y.index)
    pipe = pipeline.make_pipeline(CellSampler(sensitive_columns="sex", random_state=0), editor())
    pipe.fit(X, y.to_numpy())
    n = len(pipe[0].is_synthetic_)
    assert pipe[1].group_counts_.tolist() == [n // 2, n // 2]
    assert pipe[1].sensitive_source_ == "columns of X"
    assert pipe.predict(X.drop(columns="sex")).shape == (300,)


def test_a_plain_classifier_learns_from_the_resampled_rows_only_in_fit(task):
    X, y = task
    pipe = pipeline.make_pipeline(
        CellSampler(sensitive_columns="sex", mode="replace", random_state=0), LogisticRegression()
    )
    scores = cross_validate(pipe, X, y, cv=3, error_score="raise")["test_score"]
    assert (scores > 0.6).all()
    assert pipe.fit(X, y).predict(X).shape == (300,)


# imbalanced-learn's checks that do not presume its base class, with their own data.
CHECKS = [
    "check_target_type",
    "check_samplers_one_label",
    "check_samplers_fit",
    "check_samplers_fit_resample",
    "check_samplers_sampling_strategy_fit_resample",
    "check_samplers_pandas",
    "check_samplers_string",
    "check_samplers_nan",
    "check_samplers_list",
    "check_samplers_preserve_dtype",
    "check_samplers_2d_target",
]


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("generator", ["copula", "smote"])
def test_imbalanced_learns_checks(name, generator):
    sampler = CellSampler(generator=generator, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MissingSensitiveFeaturesWarning)
        # Of a y of shape (n, 1), which imbalanced-learn takes without a word.
        warnings.simplefilter("ignore", DataConversionWarning)
        getattr(checks, name)("CellSampler", sampler)


def test_imbalanced_learn_takes_it_for_a_sampler():
    base = pytest.importorskip("imblearn.base")
    assert base.is_sampler(CellSampler())
