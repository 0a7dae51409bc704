"""Classifiers of conformance constraints, and the logistic regressions that they are made of."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit

from benchmarks.fairness.context import Context, Method, Outcome
from benchmarks.fairness.protocol import pool
from benchmarks.tasks import Rows
from fairsvd import ConFairReweigher, DifFair

__all__ = ["CONFORMANCE", "fitting_rows", "logistic"]


def logistic() -> LogisticRegression:
    """Make the classifier that all of them are made of."""
    return LogisticRegression(max_iter=1000)


def fitting_rows(train: Rows, validation: Rows) -> tuple[Rows, PredefinedSplit]:
    """Stack training and validation rows, with the split that tells them apart."""
    where = np.repeat([-1, 0], [len(train.y), len(validation.y)])
    return pool([train, validation]), PredefinedSplit(where)


def fit(context: Context, constraint: str, kind: Any, **parameters: Any) -> Outcome:
    """Fit a classifier of weighted rows, or one a group; it chooses its own threshold."""
    rows, split = fitting_rows(context.train, context.validation)
    model = kind(
        logistic(),
        constraint=constraint,
        validation=split,
        random_state=context.seed,
        **parameters,
    ).fit(rows.X, rows.y, sensitive_features=rows.g)
    notes = {"alpha": getattr(model, "alpha_", None)}
    return Outcome(np.asarray(model.predict(context.test_X)), notes)


def plain(context: Context, constraint: str) -> Outcome:
    """Fit a logistic regression; the selection rule sets its threshold."""
    model = logistic().fit(context.train.X, context.train.y)
    return context.select([model.decision_function], constraint, first=1)[0]


CONFORMANCE = {
    "logistic": Method(plain, False, "logistic regression, one threshold under the gap"),
    "kamiran-calders": Method(
        partial(fit, kind=ConFairReweigher, alpha=0.0), False, "ConFair without its constraints"
    ),
    "confair": Method(partial(fit, kind=ConFairReweigher), False, "ConFair (default)"),
    "diffair": Method(partial(fit, kind=DifFair), False, "DifFair (default)"),
}
