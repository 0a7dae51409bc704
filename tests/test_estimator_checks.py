"""scikit-learn's checks of every registered editor."""

from __future__ import annotations

from pathlib import Path

import pytest
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from editors import registered
from expected_failures import fails

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


# How X is read is the template's: the first editor shows it.
READING = {
    "check_classifier_data_not_an_array",
    "check_dtype_object",
    "check_estimator_sparse_array",
    "check_estimator_sparse_matrix",
    "check_sample_weights_list",
    "check_sample_weights_not_an_array",
    "check_sample_weights_pandas_series",
    "check_transformer_data_not_an_array",
}


def of_other_editors():
    """Yield editors and checks, but for those of reading and of rows that cannot be written."""
    for editor in QUICK.values():
        # The check that is expected to fail fails in the first editor.
        for each, check in estimator_checks_generator(editor, mark=None):
            call = getattr(check, "func", check)
            read_only = getattr(check, "keywords", {}).get("readonly_memmap")
            name = call.__name__
            if name not in READING | fails(editor).keys() and not read_only:
                yield pytest.param(each, check, id=f"{type(editor).__name__}-{name}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("networks")


@parametrize_with_checks([FIRST], expected_failed_checks=fails)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize(("estimator", "check"), of_other_editors())
def test_scikit_learn_check_of_the_other_editors(estimator, check, folder):
    check(clone(estimator).set_params(memory=folder, random_state=0))


@pytest.mark.parametrize("name", sorted(EDITORS))
def test_an_editor_learns_with_its_default_parameters(name, folder):
    X, y = make_blobs(60, n_features=3, centers=3, random_state=0)
    few = EDITORS[name].quick if name == "LayerwiseOptimizer" else {}
    editor = EDITORS[name].kind(memory=folder, random_state=0, **few)
    assert editor.fit(X, y).score(X, y) > 0.9
