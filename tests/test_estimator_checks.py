"""scikit-learn's checks of every registered editor, with its default parameters."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from editors import registered

# The checks know nothing of sensitive features; no other warning is allowed.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.MissingSensitiveFeaturesWarning"),
]

# Each call of the search costs the same: fewer show as much.
FEWER = {"LayerwiseOptimizer"}
DEFAULTS = {
    name: row.kind(**(row.quick if name in FEWER else {}))
    for name, row in sorted(registered().items())
}
# One stands for all in the short run.
FIRST = DEFAULTS.pop("FairLRFTransformer")


@parametrize_with_checks([FIRST])
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(list(DEFAULTS.values()))
def test_scikit_learn_check_of_the_other_editors(estimator, check):
    check(estimator)
