"""Reports made of counts."""

from __future__ import annotations

import numpy as np

from fairsvd.base._report_data import ReportData
from fairsvd.objective import (
    Constraint,
    Moves,
    Verdict,
    count_moves,
)

CONSTRAINT = Constraint("equalized_odds", 0.1, 0.4, "balanced_accuracy", None, 1, "classes")
FEASIBLE = Verdict(0.0, 0.8, 0.03, True, 0.8)
INFEASIBLE = Verdict(0.0, 0.8, 0.2, False, 0.65)

# [group, true, predicted]; every cell has 1,000 rows.
FAIR = np.array([[[800, 200], [200, 800]], [[800, 200], [200, 800]]])


def rows(seed, n_groups=3, n_classes=2, n=900):
    rng = np.random.default_rng(seed)
    y, groups = rng.integers(n_classes, size=n), rng.integers(n_groups, size=n)
    stays = rng.random(n) < 0.5 + 0.15 * groups
    return y, np.where(stays, y, rng.integers(n_classes, size=n)), groups


def unchanged(counts):
    """The moves of an edit that changed nothing."""
    zeros = np.zeros((3, *counts.shape[:1], 1), dtype=np.int64)
    return Moves(zeros, zeros, zeros)


def codes_of(counts):
    """Rows (y, predicted, group) of a table, sorted by group and label."""
    group, y, predicted = (
        np.repeat(code.ravel(), counts.ravel()) for code in np.indices(counts.shape)
    )
    return y, predicted, group


def make_report(before, after, *, labels=None, constraint=CONSTRAINT, verdict=FEASIBLE, **options):
    """The report of tables; equal cells are taken to be the same rows, predicted in order."""
    labels = tuple(range(len(after))) if labels is None else labels
    sizes = after.shape[-1], len(after)
    moves = unchanged(after)
    if np.array_equal(before.sum(axis=2), after.sum(axis=2)):
        (y, old, group), (_, new, _) = codes_of(before), codes_of(after)
        moves = count_moves(y, (old, new), group, sizes, constraint.pos)
    options = {"moves": moves, "threshold_only": before, **options}
    classes = np.arange(sizes[0])
    return ReportData(before, after, labels, constraint, verdict, classes, 0, **options)
