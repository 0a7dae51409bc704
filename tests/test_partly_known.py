"""Rows whose group is not known, kept for what needs no group."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone

from edit_data import edit_data
from fairsvd import BlindPostProcessor, FairLRFTransformer, FairLRFTransformerCV
from fairsvd.arrays import LabelledRows, as_batches
from fairsvd.base import Task
from fairsvd.phases import train_cells
from fairsvd.phases._cell_network import cell_loss, partial_loss
from fairsvd.training import Batch
from helpers import IGNORE_SMALL_DATA, fingerprint, mlp, skorch_net, table, trained

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]

ROWS = table(240)
UNKNOWN = np.random.default_rng(0).random(240) < 0.5
GROUPS = np.where(UNKNOWN, None, ROWS.group.astype(object))
POSTPROCESSOR = BlindPostProcessor(joint="head", n_teachers=1, random_state=0)


def fitted(editor, rows=ROWS, groups=GROUPS, **settings):
    editor = clone(editor).set_params(**settings)
    return editor.fit(rows.X, rows.y, sensitive_features=groups)


def test_the_network_is_trained_on_all_rows_and_judged_on_those_with_a_group():
    editor = FairLRFTransformer(
        skorch_net(mlp(), max_epochs=4), sparsity=0, refine=None, threshold=0.5, random_state=0
    )
    kept, ignored = (fitted(editor, missing_group=how) for how in ("keep", "ignore"))
    plain = fitted(editor, groups=ROWS.group)
    assert fingerprint(kept.module_) != fingerprint(ignored.module_)
    assert fingerprint(kept.module_) != fingerprint(plain.module_)
    assert kept.report_.groups.iloc[0, 0] == ignored.report_.groups.iloc[0, 0]
    assert kept.group_counts_.tolist() == np.bincount(ROWS.group[~UNKNOWN]).tolist()
    assert f"{UNKNOWN.sum()} of 240 rows have no group" in kept.report_.notes[0]


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA], ids=["None", "NaN", "NA"])
def test_every_kind_of_missing_value(missing):
    groups = pd.Series(ROWS.group.astype(object))
    groups[UNKNOWN] = missing
    one, other = (
        fitted(POSTPROCESSOR, groups=each, network=trained(mlp(), ROWS), missing_group="keep")
        for each in (groups, GROUPS)
    )
    assert one.history_.equals(other.history_)


def test_without_missing_groups_it_changes_nothing():
    network = trained(mlp(), ROWS)
    kept, raised = (
        fitted(POSTPROCESSOR, groups=ROWS.group, network=network, missing_group=how)
        for how in ("keep", "raise")
    )
    assert kept.history_.equals(raised.history_)
    assert fingerprint(kept.module_) == fingerprint(raised.module_)


def cell_task(groups):
    """Rows whose group is one column and whose label is another, of which some are unknown."""
    rng = np.random.default_rng(0)
    y, group = rng.integers(2, size=600), rng.integers(2, size=600)
    X = rng.normal(size=(600, 6)).astype(np.float32)
    X[:, 0] += 3 * y
    X[:, 1] += 6 * group
    rows = ROWS._replace(X=X, y=y, group=group)
    data = edit_data(rows, dtype=torch.float32)
    known = np.flatnonzero(groups(group) >= 0)
    partly = LabelledRows(as_batches(X), torch.tensor(y), torch.tensor(groups(group)))
    # What stops the training are rows that it sees, which does not matter here.
    data = replace(data, editing=partly.subset(known), partly=partly)
    return Task(trained(mlp(), rows), data, data.judge.constraint), X, y, group


def test_a_cell_network_learns_labels_from_all_rows_and_groups_from_those_that_have_one():
    def mostly_unknown(group):
        return np.where(np.arange(600) % 3 == 0, group, -1)

    task, X, y, group = cell_task(mostly_unknown)
    (network,) = train_cells(task, "refit", [np.random.SeedSequence(0)])
    with torch.no_grad():
        shares = torch.softmax(network(torch.tensor(X)), dim=1).numpy().reshape(-1, 2, 2)
    assert ((shares.sum(axis=2)[:, 1] > 0.5) == y).mean() > 0.9
    assert ((shares.sum(axis=1)[:, 1] > 0.5) == group).mean() > 0.85
    alone = replace(task.data, partly=None)
    (few,) = train_cells(replace(task, data=alone), "refit", [np.random.SeedSequence(0)])
    assert fingerprint(few) != fingerprint(network)


def test_a_row_without_a_group_costs_the_probability_of_its_label():
    shares = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
    y, groups, ones = torch.tensor([1, 0]), torch.tensor([-1, 1]), torch.ones(2)
    loss = partial_loss(torch.log, 2, ones, Batch(shares, y, groups, ones, ones))
    assert np.isclose(float(loss), -(np.log(0.7) + np.log(0.3)) / 2)


def test_known_groups_stand_for_the_unknown_ones_of_their_label():
    """The loss is on average that of rows whose groups are all known."""
    rng = np.random.default_rng(0)
    n = 20_000
    shares = torch.tensor(rng.dirichlet(np.ones(4), size=n))
    y, group = (torch.tensor(rng.integers(2, size=n)) for _ in range(2))
    ones = torch.ones(n)
    every = Batch(shares, y, group, ones, ones)
    whole = float(partial_loss(torch.log, 2, torch.ones(2), every))
    assert np.isclose(whole, float(cell_loss(torch.log, 2, every)))
    # Positive rows have a group one time in four, negative ones nine times in ten.
    known = torch.tensor(rng.random(n)) < torch.where(y == 1, 0.25, 0.9)
    batch = Batch(shares, y, torch.where(known, group, -1), ones, ones)
    partly = LabelledRows(as_batches(np.zeros((n, 1), np.float32)), y, batch.groups)
    rows = partly.subset(np.flatnonzero(known.numpy()))
    times = replace(cell_task(lambda g: g)[0].data, editing=rows, partly=partly).rows_a_group
    np.testing.assert_allclose(times, [1 / 0.9, 4.0], rtol=0.05)
    assert abs(float(partial_loss(torch.log, 2, times, batch)) - whole) < 0.03
    assert float(partial_loss(torch.log, 2, torch.ones(2), batch)) < whole - 0.3


def test_shares_of_cells_take_labels_from_all_rows():
    """Unknown groups are those of positive rows, which must not make positive labels rare."""
    task, _, y, group = cell_task(lambda g: g)
    hidden = (y == 1) & (np.arange(600) % 4 > 0)
    partly = replace(task.data.partly, groups=torch.tensor(np.where(hidden, -1, group)))
    data = replace(task.data, partly=partly, editing=partly.subset(np.flatnonzero(~hidden)))
    counts = data.count_cells()
    assert np.allclose(counts.sum(axis=1), np.bincount(y))
    shares = counts / counts.sum(axis=1, keepdims=True)
    assert np.allclose(
        shares, data.editing.count_cells(2, 2).numpy() / np.bincount(y[~hidden])[:, None]
    )


def test_validation_holds_rows_without_a_group_of_every_label():
    lone = np.where(np.arange(240) < 200, None, ROWS.group.astype(object))
    editor = fitted(POSTPROCESSOR, groups=lone, network=skorch_net(mlp()), missing_group="keep")
    assert editor.report_.groups.iloc[-2, 0] == pytest.approx(10, abs=2)


def test_a_search_keeps_them_in_training_and_out_of_the_scores():
    settings = {"ranks": [1.0], "sparsities": [0.1], "cv": 2, "criterion": "magnitude"}
    editor = FairLRFTransformerCV(
        skorch_net(mlp(), max_epochs=30, lr=0.1), refine=None, random_state=0, **settings
    )
    kept, ignored = (fitted(editor, missing_group=how) for how in ("keep", "ignore"))
    assert np.isfinite(kept.cv_results_["mean_test_gap"]).all()
    assert not np.array_equal(
        kept.cv_results_["mean_test_utility"], ignored.cv_results_["mean_test_utility"]
    )


def test_what_takes_no_such_rows_refuses():
    from fairsvd import CellSampler

    with pytest.raises(ValueError, match="missing_group"):
        CellSampler(missing_group="keep").fit(ROWS.X, ROWS.y, sensitive_features=GROUPS)
    with pytest.raises(ValueError, match="missing_group='keep'"):
        fitted(POSTPROCESSOR, network=trained(mlp(), ROWS))
