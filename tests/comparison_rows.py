"""A quick comparison, and its rows."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from fairsvd import (
    GapFineTuner,
    compare,
)

QUICK = GapFineTuner(max_steps=3, n_teachers=1)


class Stub(ClassifierMixin, BaseEstimator):
    """Predicts 1 where a column is above 0; remembers nothing."""

    def __init__(self, column=0, random_state=None):
        self.column = column
        self.random_state = random_state

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return self.classes_[(np.asarray(X)[:, self.column] > 0).astype(int)]


def compared(methods, rows, **settings):
    settings = {"cv": 2, "random_state": 0, **settings}
    return compare(methods, rows.X, rows.y, rows.group, **settings)


def rows_of(found, method):
    return found[found["method"] == method]


# Names


PEERS = ["ThresholdOptimizer", "ExponentiatedGradient", "Reweighing", "EqOddsPostprocessing"]
