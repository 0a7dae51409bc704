"""Calibration by group, and what a map within the groups would mend."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from fairsvd import BlindPostProcessor, group_table
from fairsvd._rng import stage_rng
from fairsvd.datasets import make_biased_classification
from fairsvd.metrics import calibration_table
from fairsvd.report import FairnessReport

pytestmark = pytest.mark.slow

N = 6000


def people(seed=0):
    rng = np.random.default_rng(seed)
    return rng, rng.normal(0, 1.5, N), rng.choice(["f", "m"], N)


@pytest.mark.parametrize("method", ["isotonic", "temperature"])
def test_a_map_of_the_groups_own_mends_what_one_map_cannot(method):
    """The scores of one sex are twice too sharp, those of the other half as sharp as they are."""
    rng, truth, sex = people()
    y = rng.random(N) < expit(truth)
    share = expit(truth * np.where(sex == "f", 2.5, 0.4))
    table = calibration_table(y, share, sex, method=method)
    assert (table["calibration_error"] > 0.08).all()
    assert table["one_map"].max() > 0.06
    assert (table["own_map"] < 0.025).all()
    np.testing.assert_allclose(table["calibration_slope"], [0.4, 2.5], rtol=0.1)
    assert (table["calibration_slope_low"] < table["calibration_slope"]).all()
    wanted = group_table(y, None, sex, y_score=share, measures=["calibration_error"])
    np.testing.assert_allclose(table["calibration_error"], wanted["calibration_error"])
    assert table["n"].tolist() == wanted["n"].tolist()


def test_what_all_groups_share_needs_one_map():
    rng, truth, sex = people(1)
    y = rng.random(N) < expit(truth)
    table = calibration_table(y, expit(3 * truth), sex, method="temperature")
    assert (table["calibration_error"] > 0.08).all()
    assert (table[["one_map", "own_map"]] < 0.025).all(axis=None)
    # A shift is no temperature, and an isotonic map mends it.
    shifted = expit(truth + 1.5)
    slope, steps = (
        calibration_table(y, shifted, sex, method=method)["own_map"]
        for method in ("temperature", "isotonic")
    )
    assert (slope > 0.1).all()
    assert (steps < 0.03).all()


def test_isotonic_maps_are_those_of_scikit_learn():
    """Cross-fitted with the same folds by CalibratedClassifierCV on one group's scores."""
    rng, truth, _ = people(2)
    y = (rng.random(N) < expit(truth)).astype(int)
    share = expit(2 * truth)
    table = calibration_table(y, share, np.repeat(["a", "b"], N // 2), n_folds=2)
    folds = stage_rng(0, "split").permutation(N) % 2
    own = np.arange(N) < N // 2
    mapped = np.empty(N)
    for fold in (0, 1):
        train, test = own & (folds != fold), own & (folds == fold)
        line = LogisticRegression(C=np.inf)
        line.fit([[-1.0], [1.0]], [0, 1])
        line.coef_, line.intercept_ = np.array([[1.0]]), np.zeros(1)
        model = CalibratedClassifierCV(FrozenEstimator(line), method="isotonic")
        model.fit(logit(share[train])[:, None], y[train])
        mapped[test] = model.predict_proba(logit(share[test])[:, None])[:, 1]
    wanted = group_table(
        y[own], None, ["a"] * own.sum(), y_score=mapped[own], measures=["calibration_error"]
    )
    assert table.loc["a", "own_map"] == pytest.approx(wanted["calibration_error"].iloc[0], abs=1e-5)


def test_several_classes_margins_and_weights():
    rng, truth, sex = people(3)
    race = rng.choice(["a", "b"], N)
    logits = np.column_stack([truth, rng.normal(size=N), np.zeros(N)])
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = (shares.cumsum(axis=1) < rng.random((N, 1))).sum(axis=1)
    sharp = shares**3 / (shares**3).sum(axis=1, keepdims=True)
    groups = pd.DataFrame({"sex": sex, "race": race})
    for method in ("isotonic", "temperature"):
        table = calibration_table(y, sharp, groups, method=method, margins=True)
        assert len(table) == 8
        assert table.index[0] == ("f", "(all)")
        assert (table["calibration_error"] > 0.05).all()
        assert (table["own_map"] < table["calibration_error"] / 2).all()
    times = rng.integers(0, 3, size=N)
    weighted = calibration_table(y, sharp, sex, sample_weight=times)
    own = group_table(
        y, None, sex, y_score=sharp, measures="calibration_slope", sample_weight=times
    )
    np.testing.assert_allclose(weighted["calibration_slope"], own["calibration_slope"])
    assert (weighted["own_map"] < 0.04).all()


def test_groups_without_a_map_of_their_own():
    rng, truth, _ = people(4)
    y = rng.random(N) < expit(truth)
    sex = np.where(y & (np.arange(N) < 50), "x", "f")
    table = calibration_table(y, expit(truth), sex)
    assert np.isnan(table.loc["x", "own_map"]), "its rows have one label"
    assert table.loc["x", "one_map"] > 0
    for wrong in ({"method": "sigmoid"}, {"n_folds": 1}, {"level": 95}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
            calibration_table(y, expit(truth), sex, **wrong)


@pytest.mark.filterwarnings("ignore::fairsvd.exceptions.FairsvdWarning")
def test_the_report_has_the_calibration_before_and_after():
    data = make_biased_classification(1200, random_state=0)
    editor = BlindPostProcessor(joint="head", n_teachers=1, random_state=0)
    X, y, group = data.data, data.target, data.sensitive_features
    editor.fit(X[:800], y[:800], sensitive_features=group[:800])
    found = FairnessReport(editor, X[800:], y[800:], group[800:]).calibration
    assert found.index.names == ["attribute", "group", "state"]
    assert sorted(set(found.index.get_level_values("state"))) == [
        *("after", "before", "threshold only")
    ]
    after = calibration_table(y[800:], editor.predict_proba(X[800:]), group[800:])
    own = found.xs("after", level="state").iloc[-len(after) :]
    np.testing.assert_allclose(own.to_numpy(), after.to_numpy())


@pytest.mark.parametrize("score", [0.3, 1e-300, 1.0])
def test_equal_probabilities_have_an_intercept_and_no_slope(score):
    """A line through one point: its height can be told, its steepness cannot."""
    y = np.array([0, 0, 0, 1] * 10)
    measures = ["calibration_slope", "calibration_intercept"]
    table = group_table(y, None, y * 0, y_score=np.full(40, score), measures=measures)
    assert np.isnan(table["calibration_slope"]).all()
    assert np.isfinite(table["calibration_intercept"]).all()
