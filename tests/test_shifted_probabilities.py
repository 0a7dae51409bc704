"""Probabilities that a threshold shifts, or that it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import FixedThresholdClassifier

from benchmark_files import load
from fairsvd import fairness_score

pytestmark = [
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.LevellingDownWarning"),
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.SmallCellWarning"),
]


@pytest.fixture(scope="module")
def fitted():
    """An editor whose threshold is far from one half, and rows with calibrated scores."""
    promises = load("promises")
    rng = np.random.default_rng(0)
    X = rng.normal(-1, 1.5, size=3000)
    group = rng.integers(2, size=3000)
    y = (rng.random(3000) < expit(X)).astype(int)
    X = np.column_stack([X, np.eye(2)[group]]).astype(np.float32)
    means = np.zeros((2, 2))
    population = promises.Population(np.full(2, 0.5), np.full(2, 0.5), means)
    editor = promises.GroupShifter(
        promises.network(population), tolerance=0.3, validation=0.5, random_state=0
    )
    return editor.fit(X, y, sensitive_features=group), X, y, group


def test_without_the_shift_the_decision_is_by_the_threshold_alone(fitted):
    editor, X, y, _ = fitted
    shifted, predicted = editor.predict_proba(X), editor.predict(X)
    margin = editor.decision_function(X)
    assert abs(editor.offset_) > 0.3
    plain = editor.set_params(shift_probabilities=False).predict_proba(X)
    np.testing.assert_array_equal(editor.predict(X), predicted)
    np.testing.assert_array_equal(editor.decision_function(X), margin)
    np.testing.assert_array_equal(plain[:, 1] > editor.threshold_, predicted)
    np.testing.assert_allclose(logit(plain[:, 1]) - logit(shifted[:, 1]), editor.offset_)
    assert (plain.argmax(axis=1) != predicted).mean() > 0.05
    fixed = FixedThresholdClassifier(
        FrozenEstimator(editor), threshold=editor.threshold_, response_method="predict_proba"
    ).fit(X, y)
    np.testing.assert_array_equal(fixed.predict(X), predicted)
    np.testing.assert_array_equal(editor.set_params(output="probabilities").transform(X), plain)
    editor.set_params(output="features", shift_probabilities=True)
    np.testing.assert_array_equal(editor.predict_proba(X), shifted)


def test_the_report_has_the_calibration_of_what_is_shown(fitted):
    editor, X, y, group = fitted
    found = {}
    for shift in (True, False):
        editor.set_params(shift_probabilities=shift).fit(X, y, sensitive_features=group)
        found[shift] = editor.report_.measures.loc[("calibration_error", "overall")]
        assert "The calibration error of the probabilities was" in editor.report_.summary()
    assert found[True]["before"] == found[False]["before"] < 0.03
    assert found[False]["after"] < 0.06
    assert found[True]["after"] > found[False]["after"] + 0.03
    # Validation rows are 1,500; on all rows the same measure says about the same.
    value = fairness_score(
        "calibration_error_worst",
        y,
        None,
        sensitive_features=np.zeros(3000),
        y_score=editor.predict_proba(X)[:, 1],
    )
    assert value == pytest.approx(found[False]["after"], abs=0.03)
