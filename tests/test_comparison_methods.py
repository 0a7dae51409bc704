"""The methods that compare knows by name, and what is no method."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.metrics import (
    equalized_odds_difference,
)
from fairlearn.postprocessing import ThresholdOptimizer
from fairlearn.reductions import DemographicParity, ExponentiatedGradient
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

import fairsvd.comparison._fold as folds
from comparison_rows import PEERS, QUICK, Stub, compared, rows_of
from fairsvd import (
    GapFineTuner,
    JointStratifiedKFold,
    compare,
)
from fairsvd.base import EDITORS
from fairsvd.base import QUICK as PARAMETERS
from fairsvd.comparison._methods import names
from helpers import IGNORE_SMALL_DATA, mlp, skorch_net, table, trained

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]


@pytest.fixture(scope="module")
def task():
    return table(240)


@pytest.fixture(scope="module")
def base(task):
    """A network that comes trained, so that nothing has to be."""
    return trained(mlp(), task)


def test_peers_by_name_close_the_gap_that_is_there():
    rows = table(600)
    net = skorch_net(mlp(), optimizer=torch.optim.Adam, lr=0.01, max_epochs=20)
    settings = {"base": net, "cv": 2, "constraints": ["equalized_odds", "demographic_parity"]}
    found = compared([*PEERS, "threshold"], rows, **settings)
    assert found["error"].tolist() == [""] * len(found)
    summary = found.summary("demographic_parity").droplevel("constraint")
    assert summary.loc["untouched", "gap"] > 0.15  # the positive control
    for name in ("ThresholdOptimizer", "ExponentiatedGradient"):
        assert summary.loc[name, "gap"] < 0.6 * summary.loc["untouched", "gap"]
    assert summary["needs_group"][summary["needs_group"]].index.sort_values().tolist() == [
        "EqOddsPostprocessing", "ThresholdOptimizer",
    ]  # fmt: skip
    odds = found.summary("equalized_odds").droplevel("constraint")
    balanced = odds["balanced_accuracy"]
    assert balanced["threshold"] > balanced["untouched"] - 0.02


def test_threshold_optimizer_is_fairlearns_own(task, base):
    """The row equals what fairlearn predicts around the same network on the same rows."""
    cv = JointStratifiedKFold(2, shuffle=True, random_state=0)
    found = compared("ThresholdOptimizer", task, base=base, cv=cv)
    assert not found.failed.any()
    (train, test), *_ = cv.split(task.X, task.y, sensitive_features=task.group)
    net = FrozenEstimator(skorch_net(base).initialize())
    net.estimator.module_ = base

    class Scores(Stub):
        def predict_proba(self, X):
            with torch.no_grad():
                return base(torch.tensor(np.asarray(X))).double().softmax(1).numpy()

    peer = ThresholdOptimizer(
        estimator=Scores().fit(task.X, task.y),
        constraints="equalized_odds",
        objective="balanced_accuracy_score",
        prefit=True,
        predict_method="predict_proba",
    ).fit(task.X[train], task.y[train], sensitive_features=task.group[train])
    seed = folds.fold_seed(0, 0)
    predicted = peer.predict(task.X[test], sensitive_features=task.group[test], random_state=seed)
    expected = equalized_odds_difference(
        task.y[test], predicted, sensitive_features=task.group[test]
    )
    assert rows_of(found, "ThresholdOptimizer")["gap"].iloc[0] == pytest.approx(expected, abs=1e-12)


def test_every_name_runs(monkeypatch):
    for name, kind in list(EDITORS.items()):
        monkeypatch.setitem(EDITORS, name, partial(kind, **PARAMETERS[name]))
    rows = table(120)
    split = next(JointStratifiedKFold(2).split(rows.X, rows.y, sensitive_features=rows.group))
    found = compared(names(), rows, cv=[split])
    assert found["error"].tolist() == [""] * len(found)
    assert found.groupby("method").size().to_dict() == dict.fromkeys(names(), 1)


def test_instances_of_fairlearn_and_aif360(task, base):
    from aif360.algorithms.postprocessing import EqOddsPostprocessing
    from aif360.algorithms.preprocessing import Reweighing

    roles = [{"sex": 0}], [{"sex": 1}]
    sex = pd.Series(task.group, name="sex")
    methods = {
        "optimizer": ThresholdOptimizer(),
        "own estimator": ThresholdOptimizer(estimator=LogisticRegression()),
        "reduction": ExponentiatedGradient(LogisticRegression(), DemographicParity(), max_iter=5),
        "odds": EqOddsPostprocessing(*roles, seed=0),
        "weights": Reweighing(*roles),
    }
    settings = {"cv": 2, "random_state": 0, "constraints": "demographic_parity"}
    found = compare(methods, task.X, task.y, sex, base=skorch_net(mlp()), **settings)
    assert found["error"].tolist() == [""] * 12
    assert methods["optimizer"].estimator is None
    fixed = compare(methods, task.X, task.y, sex, base=base, **settings)
    assert rows_of(fixed, "weights")["error"].str.contains("base came trained").all()


@pytest.mark.parametrize(
    ("methods", "complaint"),
    [
        ("FairLRF", "Unknown method 'FairLRF'.*Did you mean .*'FairLRFTransformer'"),
        (["Threshold"], "Did you mean 'threshold'"),
        ([QUICK, "GapFineTuner"], "GapFineTuner more than once: pass a dict"),
        ([GapFineTuner], "the class GapFineTuner"),
        ({"untouched": QUICK}, "base network's own name"),
        ([3], "hold a int: wanted a name"),
    ],
)
def test_what_is_no_method(task, methods, complaint):
    with pytest.raises(ValueError, match=complaint):
        compared(methods, task)
