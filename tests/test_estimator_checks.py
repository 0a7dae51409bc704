"""scikit-learn's checks of every registered editor."""

from __future__ import annotations

from pathlib import Path

import pytest
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.utils.estimator_checks import parametrize_with_checks

from editors import registered
from sklearn_checks import checks_of_edits, fails

# The checks know nothing of sensitive features; no other warning is allowed.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.MissingSensitiveFeaturesWarning"),
]

EDITORS = registered()
# More steps show no more.
QUICK = {name: row.kind(**row.quick) for name, row in sorted(EDITORS.items())}
# This one trains its base network in every fit; the others share each training.
FIRST = QUICK.pop("FairLRFTransformer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("networks")


@parametrize_with_checks([FIRST], expected_failed_checks=fails)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize(("estimator", "check"), checks_of_edits(QUICK.values()))
def test_scikit_learn_check_of_the_other_editors(estimator, check, folder):
    check(clone(estimator).set_params(memory=folder, random_state=0))


@pytest.mark.parametrize("name", sorted(EDITORS))
def test_an_editor_learns_with_its_default_parameters(name, folder):
    X, y = make_blobs(60, n_features=3, centers=3, random_state=0)
    few = EDITORS[name].quick if name == "LayerwiseOptimizer" else {}
    editor = EDITORS[name].kind(memory=folder, random_state=0, **few)
    assert editor.fit(X, y).score(X, y) > 0.9
