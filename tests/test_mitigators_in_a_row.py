"""One mitigator after another: theirs before ours, theirs after ours, ours after ours."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.metrics import demographic_parity_difference
from fairlearn.postprocessing import ThresholdOptimizer
from fairlearn.preprocessing import CorrelationRemover
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from fairsvd import FairLRFTransformer, GapFineTuner, JointStratifiedKFold, fairness_scorer
from fairsvd.interop import GroupAwareWrapper
from helpers import IGNORE_SMALL_DATA, LastWins, fast_net, fingerprint

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

PARITY = {"constraint": "demographic_parity", "random_state": 0}


@pytest.fixture(scope="module")
def credit():
    """Features with the attribute among them, decisions and the attribute, of 500 applicants."""
    rng = np.random.default_rng(81)
    male = rng.integers(2, size=500)
    income, debt = rng.normal(size=(2, 500))
    X = pd.DataFrame(
        {"male": male, "income": income, "debt": debt, "years": 2 * male + rng.normal(size=500) / 2}
    ).astype(float)
    y = (income - debt + 2.5 * (male - 0.5) > 0.3 * rng.normal(size=500)).astype(int)
    return X, y, male


@pytest.fixture(scope="module")
def net(credit):
    """Train a network on the features without the attribute."""
    X, y, _ = credit
    net = fast_net()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return net.fit(np.array(X.drop(columns="male"), np.float32), y)


def gap(y, predicted, male):
    return demographic_parity_difference(y, predicted, sensitive_features=male)


def test_theirs_after_ours(credit, net):
    X, y, male = credit
    features = X.drop(columns="male")
    editor = FairLRFTransformer(FrozenEstimator(net), max_steps=20, gap_weight=1.0, random_state=0)
    editor.fit(features, y, sensitive_features=male)
    before = gap(y, editor.predict(features), male)
    optimizer = ThresholdOptimizer(
        estimator=editor, prefit=True, predict_method="predict_proba"
    ).fit(features, y, sensitive_features=male)
    predicted = optimizer.predict(features, sensitive_features=male, random_state=0)
    assert gap(y, predicted, male) < 0.1 < 0.25 < before
    # The same from one table, as a search would run it.
    frozen = clone(optimizer).set_params(estimator=FrozenEstimator(editor))
    wrapped = GroupAwareWrapper(frozen, "male", random_state=0).fit(X, y)
    assert np.array_equal(wrapped.predict(X), predicted)


def test_a_search_over_an_editor_inside_their_mitigator(credit, net):
    X, y, male = credit
    # The attribute stays in the table, from which the editor takes it out.
    editor = FairLRFTransformer(
        FrozenEstimator(net), max_steps=5, gap_weight=1.0, random_state=0, sensitive_columns="male"
    )
    optimizer = ThresholdOptimizer(estimator=editor, predict_method="predict_proba")
    search = GridSearchCV(
        GroupAwareWrapper(optimizer, "male", drop=False, random_state=0),
        {"estimator__estimator__sparsity": [0.0, 0.1]},
        scoring=fairness_scorer("demographic_parity_difference", sensitive_columns="male"),
        cv=JointStratifiedKFold(2, sensitive_columns="male"),
        error_score="raise",
    ).fit(X, y)
    assert gap(y, net.predict(np.array(X.drop(columns="male"), np.float32)), male) > 0.25
    assert -search.cv_results_["mean_test_score"].min() < 0.15
    inner = search.best_estimator_.estimator_.estimator_
    assert inner.groups_ == [0.0, 1.0]
    assert inner.n_features_in_ == 3


def test_theirs_before_ours(routing, credit):
    X, y, male = credit
    remover = CorrelationRemover(sensitive_feature_ids=["male"])
    left = remover.fit_transform(X)
    assert np.abs(np.corrcoef(X["years"], male)[0, 1]) > 0.5
    assert np.abs(np.corrcoef(left[:, 2], male)[0, 1]) < 1e-12
    pipe = make_pipeline(clone(remover), GapFineTuner(max_steps=20, **PARITY), memory=None).fit(
        X, y, sensitive_features=male
    )
    alone = GapFineTuner(max_steps=20, **PARITY).fit(left, y, sensitive_features=male)
    assert np.array_equal(pipe.predict_proba(X), alone.predict_proba(left))
    assert pipe[-1].n_features_in_ == 3
    plain = LogisticRegression().fit(X, y).predict(X)
    assert gap(y, pipe.predict(X), male) < 0.15 < 0.3 < gap(y, plain, male)


def test_ours_after_ours(credit, net):
    X, y, male = credit
    features = X.drop(columns="male")
    first = LastWins(
        FrozenEstimator(net), max_steps=10, gap_weight=1.0, threshold=0.4, random_state=0
    ).fit(features, y, sensitive_features=male)
    between = first.to_skorch()
    before, bits = gap(y, first.predict(features), male), fingerprint(between.module_)
    second = GapFineTuner(FrozenEstimator(between), learning_rate=1e-2, max_steps=40, **PARITY).fit(
        features, y, sensitive_features=male
    )
    assert fingerprint(between.module_) == bits
    assert gap(y, second.predict(features), male) < 0.15 < 0.25 < before
    # The second starts where the first ended, its threshold included.
    untouched = FairLRFTransformer(
        FrozenEstimator(between), sparsity=0, refine=None, threshold=0.5, random_state=0
    ).fit(features, y, sensitive_features=male)
    np.testing.assert_allclose(
        untouched.predict_proba(features), first.predict_proba(features), rtol=0, atol=1e-6
    )
    assert second.report_.gaps.loc["demographic_parity", "before"] == pytest.approx(
        untouched.report_.gaps.loc["demographic_parity", "before"]
    )
    # An edited module goes the same way.
    as_module = clone(second).set_params(network=first.to_module())
    as_module.fit(features, y, sensitive_features=male)
    assert np.array_equal(as_module.predict_proba(features), second.predict_proba(features))
