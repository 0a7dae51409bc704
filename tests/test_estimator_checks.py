"""scikit-learn's checks of the default editor, and our own of a table of configurations."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from fairsvd import BiasMaskFineTuner, FairLRFTransformer, FairPruner

# The checks know nothing of sensitive features; no other warning is allowed.
pytestmark = pytest.mark.filterwarnings(
    "ignore::fairsvd.exceptions.MissingSensitiveFeaturesWarning"
)


@parametrize_with_checks([FairLRFTransformer(), BiasMaskFineTuner(), FairPruner()])
def test_scikit_learn_check(estimator, check):
    check(estimator)
