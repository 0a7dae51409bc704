"""Probabilities that a fit maps so that they are calibrated, and what stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from scipy.stats import rankdata
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import PredefinedSplit
from torch import nn

import fairsvd
from benchmark_files import load
from fairsvd.metrics import CalibrationMap
from fairsvd.report import FairnessReport

pytestmark = [
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.LevellingDownWarning"),
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.SmallCellWarning"),
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.ConstraintNotMetWarning"),
]

STEEP = 3.0  # a network that is three times as sure as it should be


def network() -> nn.Linear:
    """A margin three times the true one, and a bias."""
    net = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        net.weight.zero_()
        net.weight[1, 0] = STEEP
    return net


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    score, group = rng.normal(-0.7, 1.5, size=4000), rng.integers(2, size=4000)
    y = (rng.random(4000) < expit(score)).astype(int)
    return np.column_stack([score, np.eye(2)[group]]).astype(np.float32), y, group


def fit(rows, method, **parameters):
    X, y, group = rows
    editor = load("promises").GroupShifter(
        network(),
        tolerance=0.3,
        shift_probabilities=False,
        calibrate=method,
        validation=PredefinedSplit(np.where(np.arange(len(y)) < 2000, -1, 0)),
        random_state=0,
        **parameters,
    )
    return editor.fit(X, y, sensitive_features=group)


@pytest.fixture(scope="module")
def fits(rows):
    return {method: fit(rows, method) for method in (None, "temperature", "isotonic")}


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_decisions_and_order_stay_and_the_threshold_moves_along(fits, rows, method):
    X = rows[0]
    plain, editor = fits[None], fits[method]
    share, before = editor.predict_proba(X)[:, 1], plain.predict_proba(X)[:, 1]
    np.testing.assert_array_equal(editor.predict(X), plain.predict(X))
    np.testing.assert_array_equal(editor.decision_function(X), plain.decision_function(X))
    np.testing.assert_array_equal(share > editor.threshold_, editor.predict(X) == 1)
    assert editor.threshold_ != pytest.approx(plain.threshold_, abs=1e-3)
    np.testing.assert_array_equal(rankdata(share), rankdata(before))
    assert editor.set_params(output="probabilities").transform(X)[:, 1].tolist() == share.tolist()
    editor.set_params(output="features")


def test_a_temperature_undoes_that_of_the_network(fits, rows):
    X, y, _ = rows
    editor, plain = fits["temperature"], fits[None]
    margins = logit(plain.predict_proba(X)[:, 1])
    factor = logit(editor.predict_proba(X)[0, 1]) / margins[0]
    assert factor == pytest.approx(1 / STEEP, rel=0.15)
    held = slice(2000, None)
    loss = [
        log_loss(y[held], expit(k * margins[held])) for k in (0.98 * factor, factor, 1.02 * factor)
    ]
    assert loss[1] < min(loss[0], loss[2])
    assert f"a temperature of {1 / factor:.3g}" in " ".join(editor.report_.notes)


def test_isotonic_values_are_those_of_scikit_learn(fits, rows):
    X, y, _ = rows
    before = fits[None].predict_proba(X)[:, 1]
    wanted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    wanted.fit(before[2000:], y[2000:])
    found = fits["isotonic"].predict_proba(X)[:, 1]
    np.testing.assert_allclose(found, wanted.predict(before), atol=1.1e-6)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_the_report_shows_the_calibration_of_rows_the_map_has_not_seen(fits, rows, method):
    X, y, _ = rows
    report, plain = fits[method].report_, fits[None].report_
    error = report.measures.loc[("calibration_error", "overall")]
    assert error["before"] == plain.measures.loc[("calibration_error", "overall"), "before"] > 0.1
    assert error["after"] < 0.03
    # The map's own rows would show a smaller loss than this; others a larger one.
    shown = report.measures.loc[("brier", "overall"), "after"]
    share = fits[method].predict_proba(X)[:, 1]
    assert (
        ((share - y)[2000:] ** 2).mean() < shown < plain.measures.loc[("brier", "overall"), "after"]
    )
    order = report.measures.loc[("auc", "overall"), "after"]
    assert order == pytest.approx(roc_auc_score(y[2000:], share[2000:]), abs=1e-12)
    assert "cross-fitted" in " ".join(report.notes)


def test_weights_count_in_the_map():
    rng = np.random.default_rng(1)
    margin = rng.normal(size=300)
    logits = np.column_stack([np.zeros(300), 2 * margin])
    y = (rng.random(300) < expit(margin)).astype(int)
    weights = rng.integers(0, 3, size=300)
    again = np.repeat(np.arange(300), weights)
    for method in ("temperature", "isotonic"):
        weighted = CalibrationMap.fit(method, logits, y, weights.astype(float)).shares(logits)
        repeated = CalibrationMap.fit(method, logits[again], y[again], None).shares(logits)
        np.testing.assert_allclose(weighted[again], repeated[again], atol=1e-6)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_saved_and_exported_with_the_map(fits, rows, method, tmp_path):
    X, editor = rows[0], fits[method]
    fairsvd.save(editor, tmp_path / "model.fairsvd")
    again = fairsvd.load(tmp_path / "model.fairsvd", trusted=[type(editor)])
    np.testing.assert_array_equal(again.predict_proba(X), editor.predict_proba(X))
    assert again.threshold_ == editor.threshold_
    module = editor.to_module(calibrated=True)
    with torch.no_grad():
        shares = module(torch.as_tensor(X)).numpy()
    np.testing.assert_allclose(shares, editor.predict_proba(X), atol=1e-9)
    np.testing.assert_array_equal(shares[:, 1] > editor.threshold_, editor.predict(X))
    plain = editor.to_module()(torch.as_tensor(X)).argmax(dim=1).numpy()
    np.testing.assert_array_equal(plain, editor.predict(X))


def test_the_page_predicts_as_the_editor_does(fits, rows):
    X, y, group = rows
    report = FairnessReport(fits["temperature"], X, y, group).table
    all_rows = report[(report["group"] == "all rows") & (report["state"] == "after")]
    predicted = fits["temperature"].predict(X)
    assert all_rows["selection_rate"].item() == pytest.approx(predicted.mean())
    assert predicted.mean() != pytest.approx(
        (fits["temperature"].predict_proba(X)[:, 1] > 0.5).mean(), abs=1e-3
    )


def test_what_cannot_be_is_refused(rows, fits):
    X, y, group = rows
    shifter = load("promises").GroupShifter
    with pytest.raises(ValueError, match="needs shift_probabilities=False"):
        shifter(network(), calibrate="isotonic").fit(X, y, sensitive_features=group)
    with pytest.raises(ValueError, match=r"calibrate.*must be a str among"):
        shifter(network(), calibrate="platt").fit(X, y, sensitive_features=group)
    with pytest.raises(ValueError, match="fitted with calibrate="):
        fits[None].to_module(calibrated=True)
    with pytest.raises(ValueError, match="is for two classes, got 3"):
        shifter(nn.Linear(3, 3), calibrate="isotonic", shift_probabilities=False).fit(
            X, y + (X[:, 0] > 1), sensitive_features=group
        )
    changed = fits["isotonic"]
    try:
        with pytest.raises(ValueError, match="was set after fit, which ran with 'isotonic'"):
            changed.set_params(calibrate="temperature").predict(X)
    finally:
        changed.set_params(calibrate="isotonic")
    few = np.concatenate([np.flatnonzero(y == 0)[:60], np.flatnonzero(y == 1)[:41]])
    folds = PredefinedSplit(np.where(np.arange(101) < 100, np.arange(101) % 2 - 1, 0))
    folds.test_fold[60:100] = -1
    with pytest.raises(ValueError, match="at least 2 validation rows of every class"):
        shifter(
            network(), calibrate="temperature", shift_probabilities=False, validation=folds
        ).fit(X[few], y[few], sensitive_features=group[few])
