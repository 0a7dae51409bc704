"""What is asked of a fit, resolved: the gap and its limits, utility, and how rows are weighed."""

from __future__ import annotations

import numpy as np
import pytest

from fairsvd import FairLRFTransformer, PhiObjective
from helpers import IGNORE_SMALL_DATA, Rows, mlp, quick

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]


class Asked(FairLRFTransformer):
    """Keeps what its edit was asked for."""

    def _edit(self, task, rng):
        assert not task.module.training
        self.asked = task.data.judge.constraint, task.constraint
        return super()._edit(task, rng)


def drawn(cells):
    """Rows with that many in each (label, group) cell: label 0 in groups 0 and 1, then label 1."""
    cell = np.repeat(np.arange(4), cells)
    y, group = np.divmod(cell, 2)
    X = np.random.default_rng(0).normal(size=(len(y), 6)).astype(np.float32)
    return Rows(X, y, group)


EVEN, UNEVEN = (50, 50, 50, 50), (20, 80, 80, 20)


def asked(cells=EVEN, *, groups=True, y=None, **settings):
    rows = drawn(cells)
    editor = quick(mlp(), Asked, **{"sparsity": 0, "refine": None, **settings})
    features = {"sensitive_features": rows.group} if groups is True else groups or {}
    editor.fit(rows.X, rows.y if y is None else y, **features)
    judged, edited = editor.asked
    assert judged == edited
    return edited


def test_what_is_not_said_follows_from_how_label_and_group_go_together():
    even, uneven = asked(), asked(UNEVEN)
    assert (even.utility, even.balance) == ("balanced_accuracy", "classes")
    assert (uneven.utility, uneven.balance) == ("mean_and_worst_cell_accuracy", "cells")
    for found in (even, uneven):
        assert (found.gap, found.tolerance, found.threshold) == ("equalized_odds", 0.05, None)
        assert (found.pos, found.phi) == (1, None)


@pytest.mark.filterwarnings("ignore::fairsvd.exceptions.MissingSensitiveFeaturesWarning")
def test_without_groups_nothing_is_uneven():
    found = asked(UNEVEN, groups={})
    assert (found.utility, found.balance) == ("balanced_accuracy", "classes")


def test_rows_without_a_group_do_not_count_for_it():
    """Of uneven cells 20 rows each have a group: what is known is even."""
    rows = drawn(UNEVEN)
    groups = np.array(["a", "b"], dtype=object)[rows.group]
    for cell in range(4):
        groups[np.flatnonzero(2 * rows.y + rows.group == cell)[20:]] = None
    features = {"sensitive_features": groups}
    assert asked(UNEVEN, groups=features, missing_group="ignore").balance == "classes"
    # Rows of no group next to even cells, the other way round, do not hide uneven ones.
    rows = drawn(EVEN)
    groups = np.array(["a", "b"], dtype=object)[rows.group]
    for cell in (0, 3):
        groups[np.flatnonzero(2 * rows.y + rows.group == cell)[10:]] = None
    features = {"sensitive_features": groups}
    assert asked(EVEN, groups=features, missing_group="ignore").balance == "cells"


def test_what_is_said_stays():
    found = asked(
        UNEVEN,
        constraint="equal_opportunity",
        tolerance=0.2,
        tolerance_fraction=0.5,
        utility="accuracy",
        balance="classes",
        threshold=0.3,
        pos_label=0,
    )
    assert (found.gap, found.tolerance, found.fraction) == ("equal_opportunity", 0.2, 0.5)
    assert (found.utility, found.balance) == ("accuracy", "classes")
    assert (found.threshold, found.pos) == (0.3, 0)
    assert asked(balance=None).balance is None


def test_the_positive_code_is_the_labels_place_in_sorted_order():
    words = np.array(["yes", "no"])[drawn(EVEN).y]
    assert asked(y=words).pos == 1
    assert asked(y=words, pos_label="yes").pos == 1
    assert asked(y=words, pos_label="no").pos == 0


def test_phi_brings_its_own_limits_and_utility_is_balanced_accuracy_whatever_the_cells():
    objective = PhiObjective("demographic_parity", epsilon=0.1, slack=0.08, n_bootstrap=5)
    found = asked(UNEVEN, constraint=objective, tolerance=0.3, tolerance_fraction=0.9)
    assert (found.gap, found.utility) == ("demographic_parity", "balanced_accuracy")
    assert found.tolerance == 0.1
    assert found.fraction == pytest.approx(0.2)
    assert found.limit == pytest.approx(0.02)
    # What the user does with the object later is no part of this fit.
    assert found.phi is not objective
    assert found.phi.get_params() == objective.get_params()
    objective.set_params(epsilon=0.5)
    assert found.phi.epsilon == 0.1
