"""compare: every number of a row, and what other packages' methods are given, by references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import balanced_accuracy_score

from fairsvd import GapFineTuner, JointStratifiedKFold, compare
from fairsvd._rng import stage_rng
from fairsvd.base import split_rows
from fairsvd.comparison._fold import fold_seed
from fairsvd.metrics import rates_frame
from fairsvd.objective import (
    count_table,
    estimate_gaps,
    gap,
    resampled_counts,
    utility_from_counts,
)
from helpers import EXACT, IGNORE_SMALL_DATA, mlp, table, trained

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]

UNEVEN = np.array([0.5, 0.3, 0.9, 0.7])  # of each cell of the balanced table


class Given(ClassifierMixin, BaseEstimator):
    """Predicts what the last column of X holds."""

    def __init__(self, random_state=None):
        self.random_state = random_state

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return self.classes_[np.asarray(X)[:, -1].astype(int)]


def predicting(rows, predicted):
    """Put predictions into a column of their own; and a base network for that many columns."""
    X = np.column_stack([rows.X, predicted]).astype(np.float32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(7, 2))
    return X, trained(module, rows._replace(X=X))


@pytest.fixture(scope="module")
def task():
    """Rows of uneven cells, so that a class, a group and a cell weigh differently."""
    rows = table(600)
    keep = np.random.default_rng(1).random(600) < UNEVEN[2 * rows.y + rows.group]
    return type(rows)(*(part[keep] for part in rows))


@pytest.fixture(scope="module")
def base(task):
    return trained(mlp(), task)


def folds_of(rows, n=2, seed=0):
    """The default folds for a seed, and each fold's training and validation rows."""
    cv = JointStratifiedKFold(n, shuffle=True, random_state=seed)
    for number, (rest, test) in enumerate(cv.split(rows.X, rows.y, sensitive_features=rows.group)):
        rest, test = np.sort(rest), np.sort(test)
        cells = 2 * rows.y[rest] + rows.group[rest]
        own = fold_seed(seed, number)
        parts = split_rows(0.3, cells, rows.y[rest], stage_rng(own, "split"))
        yield own, rest[parts[0]], rest[parts[1]], test


def row_of(found, method, fold=0, constraint=None):
    mine = found[(found["method"] == method) & (found["fold"] == fold)]
    return (mine if constraint is None else mine[mine["constraint"] == constraint]).iloc[0]


def difference(found, y, predicted, group, pos=1):
    """Check a row's measures against the predictions that it should come from."""
    counts = count_table(y, predicted, group, 2, 2)
    wanted = {
        "accuracy": (predicted == y).mean(),
        "balanced_accuracy": balanced_accuracy_score(y, predicted),
        "gap": float(gap(counts, found["constraint"], pos)),
    }
    np.testing.assert_allclose(found[list(wanted)].astype(float), [*wanted.values()], **EXACT)


# What a row says


@pytest.mark.parametrize("name", ["demographic_parity", "equal_opportunity"])
def test_intervals_and_the_floor_are_of_that_gap_on_the_test_rows(task, name):
    predicted = ((task.X[:, 1] > 0.2) | (task.group == 1)).astype(int)
    X, base = predicting(task, predicted)
    found = compare(
        Given(), X, task.y, task.group, base=base, cv=2, constraints=name, tolerance=0.07,
        random_state=5,
    )  # fmt: skip
    for number, (seed, _, _, test) in enumerate(folds_of(task, seed=5)):
        row = row_of(found, "Given", number)
        counts = count_table(task.y[test], predicted[test], task.group[test], 2, 2)
        rng = stage_rng(seed, "bootstrap")
        bounds = estimate_gaps(counts, [name], 1, rng)[name]
        drawn = resampled_counts(counts, rng)
        gaps = gap(drawn, name, 1)
        worth = utility_from_counts(drawn, "balanced_accuracy") - np.maximum(0, gaps - 0.07)
        columns = ["gap_low", "gap_high", "gap_upper", "noise_floor", "psi_low", "psi_high"]
        wanted = [*bounds, *np.nanquantile(worth, (0.025, 0.975))]
        np.testing.assert_allclose(row[columns].astype(float), wanted, **EXACT)


def changes(counts):
    return rates_frame(counts, 1, (0, 1))[["tpr", "fpr"]].to_numpy()


@pytest.mark.parametrize(
    ("flipped", "harm"),
    [
        ([], 0.0),
        ([(1, 1)], 1.0),  # group 1 loses all its true positives
        ([(0, 0)], 1.0),  # group 0 loses all its true negatives
        ([(1, "up")], 0.0),  # what only gains is no harm
    ],
)
def test_harm_is_the_largest_fall_of_a_groups_true_positive_or_true_negative_rate(
    task, flipped, harm
):
    """The base network calls all rows right; the method is wrong in whole cells."""
    perfect = np.where(task.y == 1, 1, 0)
    predicted = perfect.copy()
    wrong_before = np.zeros(len(task.y), dtype=bool)
    for label, group in flipped:
        if group == "up":
            wrong_before = task.y == 1
        else:
            predicted[(task.y == label) & (task.group == group)] = 1 - label
    before = np.where(wrong_before, 0, perfect)
    X = np.column_stack([before, predicted]).astype(np.float32)
    base = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with torch.no_grad():
        base[0].weight.copy_(torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
        base[0].bias.copy_(torch.tensor([0.0, -1.0]))
    found = compare(Given(), X, task.y, task.group, base=base, cv=2, random_state=0)
    for fold in (0, 1):
        row = row_of(found, "Given", fold)
        assert row["harm"] == pytest.approx(harm, abs=1e-12)
        for label, group in flipped:
            if group == "up":
                assert row[["tpr_change_0", "tpr_change_1"]].tolist() == [1.0, 1.0]
            else:
                column = f"{'tpr' if label == 1 else 'fpr'}_change_{group}"
                assert row[column] == pytest.approx(-1.0 if label == 1 else 1.0, abs=1e-12)
        columns = [c for c in found if "_change_" in c]
        assert (row[columns] != 0).sum() == (2 if flipped == [(1, "up")] else len(flipped))


def test_phi_is_nothing_from_the_tolerance_on(task):
    """Half of group 1 is predicted positive and none of group 0: the gap is 0.5 in every fold."""
    predicted = np.zeros(80, dtype=int)
    y = np.tile([0, 0, 1, 1], 20)
    group = np.tile([0, 1], 40)
    predicted[(group == 1) & (np.arange(80) // 4 % 2 == 0)] = 1
    X = np.column_stack([np.zeros(80), predicted]).astype(np.float32)
    is_test = np.arange(80) < 40
    found = {}
    for tolerance in (0.5, 0.5000001):
        found[tolerance] = compare(
            Given(), X, y, group, base=torch.nn.Sequential(torch.nn.Linear(2, 2)),
            cv=[(~is_test, is_test)], constraints="demographic_parity", tolerance=tolerance,
            random_state=0,
        )  # fmt: skip
    for tolerance, table_ in found.items():
        row = row_of(table_, "Given")
        assert row["gap"] == 0.5
        assert row["balanced_accuracy"] == row["psi"] == 0.5
        assert row["phi"] == (0.0 if tolerance == 0.5 else 0.5)


def test_phi_and_psi_are_nan_where_the_gap_is(task):
    """No positive row of group 1 is among the test rows: its true positive rate is unknown."""
    test = np.flatnonzero((task.y == 0) | (task.group == 0))[:60]
    rest = np.setdiff1d(np.arange(len(task.y)), test)
    found = compare(
        "threshold", task.X, task.y, task.group, base=trained(mlp(), task),
        cv=[(rest, test)], constraints="equal_opportunity", random_state=0,
    )  # fmt: skip
    row = row_of(found, "untouched")
    assert row["error"] == ""
    assert np.isnan(row[["gap", "psi", "phi"]].astype(float)).all()
    assert np.isfinite(row["balanced_accuracy"])


# Folds


def test_five_folds_of_the_seed_are_the_default(task, base):
    X, base = predicting(task, task.group)
    found = compare(Given(), X, task.y, task.group, base=base, random_state=7)
    assert found["fold"].unique().tolist() == [0, 1, 2, 3, 4]
    for number, (*_, test) in enumerate(folds_of(task, 5, seed=7)):
        difference(row_of(found, "Given", number), task.y[test], task.group[test], task.group[test])


class Recording(GapFineTuner):
    """Notes what its fit is given."""

    seen: list[dict[str, object]] = []  # noqa: RUF012

    def fit(self, X, y, *, sensitive_features=None):
        (parts,) = self.validation.split(X)
        self.seen.append({"X": X, "parts": parts, **self.get_params()})
        return super().fit(X, y, sensitive_features=sensitive_features)


def test_each_fold_has_a_seed_of_its_own_and_validation_within_cells(task, base):
    Recording.seen.clear()
    compare(
        Recording(max_steps=1), task.X, task.y, task.group, base=base, cv=3, random_state=4,
        pos_label=0, tolerance=0.2,
    )  # fmt: skip
    seeds = [seen["random_state"] for seen in Recording.seen]
    assert seeds == [fold_seed(4, k) for k in range(3)]
    assert len(set(seeds)) == 3
    for seen, (_, training, validation, _) in zip(
        Recording.seen, folds_of(task, 3, seed=4), strict=True
    ):
        rest = np.sort(np.concatenate([training, validation]))
        assert np.array_equal(seen["X"], task.X[rest])
        assert rest[seen["parts"][0]].tolist() == training.tolist()
        assert rest[seen["parts"][1]].tolist() == validation.tolist()
        assert (seen["tolerance"], seen["pos_label"]) == (0.2, 0)
        for cell in range(4):
            here = 2 * task.y + task.group == cell
            n_all, n_held = here[rest].sum(), here[validation].sum()
            assert n_held == round(0.3 * n_all)
