"""scikit-learn's checks of the default editor, and our own of a table of configurations."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from fairsvd import (
    AdversarialDebiasing,
    AdversarialFineTuner,
    BiasMaskFineTuner,
    FairLRFTransformer,
    FairPruner,
    GapFineTuner,
    LayerwiseOptimizer,
    RandomPerturbation,
    SelectiveFineTuner,
)

# The checks know nothing of sensitive features; no other warning is allowed.
pytestmark = pytest.mark.filterwarnings(
    "ignore::fairsvd.exceptions.MissingSensitiveFeaturesWarning"
)


OTHERS = [
    BiasMaskFineTuner(),
    FairPruner(),
    GapFineTuner(),
    AdversarialFineTuner(),
    AdversarialDebiasing(),
    RandomPerturbation(),
    SelectiveFineTuner(),
    # Each of its calls costs the same: fewer show as much.
    LayerwiseOptimizer(parameters=2, n_calls=12),
]


@parametrize_with_checks([FairLRFTransformer()])
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(OTHERS)
def test_scikit_learn_check_of_the_other_editors(estimator, check):
    check(estimator)
