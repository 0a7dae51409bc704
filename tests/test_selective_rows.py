"""Selective fine-tuning: where synthetic rows come from, in pipelines and searches."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from edit_data import edit_data, labelled
from fairsvd import JointStratifiedKFold, SelectiveFineTuner
from fairsvd.selective._generated import generate_rows
from fairsvd.selective._shares import estimate_shares
from helpers import IGNORE_SMALL_DATA, images, mlp, skorch_net, table, trained
from selective_data import LastWins, biased_rows, made_set, quick

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]


class Shifted(BaseEstimator):
    """A generator of one cell: rows around the mean, with what it was fitted on noted."""

    def __init__(self, by=0.0):
        self.by = by

    def fit(self, X):
        self.mean_, self.n_ = X.mean(axis=0), len(X)
        return self

    def sample(self, n):
        return np.tile(self.mean_ + self.by, (n, *[1] * self.mean_.ndim))


@pytest.mark.parametrize("generator", ["auto", "copula", "smoothed", "smote", Shifted(1.0)])
@pytest.mark.parametrize("kind", ["table", "images"])
def test_a_generator_fills_every_cell_alike(kind, generator):
    rows = table(120) if kind == "table" else images(120)
    if kind == "images" and generator == "smote":
        pytest.skip("a generator for tables")
    data = edit_data(rows, dtype=torch.float32)
    made = generate_rows(generator, data, 15, np.random.SeedSequence(0))
    again = generate_rows(generator, data, 15, np.random.SeedSequence(0))
    assert made.X.item_shape == rows.X.shape[1:]
    assert torch.equal(made.X[:], again.X[:])
    cells = made.y * 2 + made.groups
    assert torch.bincount(cells).tolist() == [15] * 4
    for cell in range(4):
        own = made.X[np.flatnonzero(cells == cell)].numpy().mean(axis=0)
        real = rows.X[(rows.y * 2 + rows.group) == cell].mean(axis=0)
        shift = 1.0 if isinstance(generator, Shifted) else 0.0
        if shift:
            np.testing.assert_allclose(own, real + shift, atol=1e-5)
        else:
            assert np.abs(own - real).mean() < 0.5


def test_as_many_rows_a_cell_as_the_largest_has_and_within_memory(monkeypatch):
    rows = biased_rows((2, 2), (10, 40, 40, 10))
    data = edit_data(rows)
    made = generate_rows("smoothed", data, None, np.random.SeedSequence(0))
    assert torch.bincount(made.y * 2 + made.groups).tolist() == [40] * 4
    # Room for 48 rows of 6 float32 numbers: 12 of every cell.
    monkeypatch.setattr("fairsvd.selective._generated.MOST_BYTES", 48 * 24)
    made = generate_rows(Shifted(), data, None, np.random.SeedSequence(0))
    assert torch.bincount(made.y * 2 + made.groups).tolist() == [12] * 4


def test_without_groups_cells_are_classes():
    rows = table()
    with pytest.warns(UserWarning, match="utility alone"):
        editor = quick(trained(mlp(), rows), generator="smoothed").fit(rows.X, rows.y)
    assert set(editor.cell_shares_) == {0, 1}
    assert (editor.synthetic_groups_, editor.chosen_on_) == ([], "real rows")


def test_a_generator_of_another_library_stays_as_it_was():
    rows = table()
    generator = GaussianMixture(1, covariance_type="diag", random_state=0)
    editor = quick(trained(mlp(), rows), generator=generator)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert editor.top_k_ == 0.5
    assert not hasattr(generator, "means_")


@pytest.mark.parametrize("n_groups", [2, 3])
def test_shares_of_the_cells_are_estimated(n_groups):
    counts = np.array([100, 900, 200, 900, 100, 400])[: 2 * n_groups]
    rows = biased_rows((2, n_groups), counts)
    made = labelled(biased_rows((2, n_groups), np.full(2 * n_groups, 500), seed=1))
    data = edit_data(rows, n_groups, 2, dtype=torch.float32)
    found = estimate_shares(trained(mlp(), rows), data, made, n_groups, 0)
    assert found.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.ravel(), counts / counts.sum(), atol=0.06)
    np.testing.assert_allclose(found.sum(axis=1), np.bincount(rows.y) / len(rows.y), atol=1e-6)


def test_a_clone_keeps_the_ready_set_and_every_fold_of_a_search_gets_it():
    rows = table(160)
    ready = made_set(rows)
    editor = quick(None, SelectiveFineTuner, synthetic=ready)
    for fresh in (clone(editor), clone(clone(Pipeline([("e", editor)])))["e"]):
        assert all(np.array_equal(a, b) for a, b in zip(fresh.synthetic, ready, strict=True))
    scaler = FrozenEstimator(StandardScaler().fit(rows.X))
    pipe = make_pipeline(scaler, clone(editor))
    # Behind a scaler the set has to be scaled as well.
    pipe.set_params(selectivefinetuner__synthetic=(scaler.transform(ready[0]), *ready[1:]))
    search = GridSearchCV(
        pipe,
        {"selectivefinetuner__granularity": ["element", "unit"]},
        cv=JointStratifiedKFold(2, sensitive_columns="sex"),
        error_score="raise",
    )
    labels = pd.Series(rows.y, index=pd.Index(rows.group, name="sex"))
    search.set_params(estimator__selectivefinetuner__sensitive_columns="sex").fit(rows.X, labels)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_[-1].groups_ == [0, 1]


def test_a_generator_is_fitted_behind_the_steps_of_a_pipeline():
    rows = table()
    X = 1000 + 50 * rows.X
    pipe = make_pipeline(StandardScaler(), quick(None, generator="smoothed", store_scores=True))
    pipe.fit(X, rows.y, lastwins__sensitive_features=rows.group)
    # On rows that were not scaled gradients would be a thousand times larger.
    domain = torch.cat([scores[0].flatten() for scores in pipe[-1].scores_.values()])
    assert 0 < float(domain.max()) < 10


@pytest.mark.parametrize("named", [True, False])
def test_a_sensitive_column_may_be_in_the_ready_set_or_not(named):
    rows = table()
    X, y, g = made_set(rows)
    frame = pd.DataFrame(rows.X, columns=list("abcdef"))
    made = pd.DataFrame(X, columns=list("abcdef"))
    if named:
        made = made.assign(sex=g)
    editor = quick(trained(mlp(), rows), synthetic=(made, y, g), sensitive_columns="sex")
    editor.fit(frame.assign(sex=rows.group), rows.y)
    plain = quick(trained(mlp(), rows), synthetic=(X, y, g))
    plain.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert np.array_equal(editor.predict_proba(frame), plain.predict_proba(rows.X))


def test_several_columns_make_the_cells():
    rows = table()
    both = pd.DataFrame({"sex": np.array(["f", "m"])[rows.group], "old": np.arange(120) // 2 % 2})
    codes = pd.MultiIndex.from_frame(both)
    assert len(codes.unique()) == 4
    ready = (rows.X, rows.y, both)
    editor = LastWins(
        trained(mlp(), rows), synthetic=ready, top_k=0.5, epochs=1, min_steps=3, random_state=0
    )
    editor.fit(rows.X, rows.y, sensitive_features=both)
    assert editor.synthetic_groups_ == editor.groups_
    assert (0, ("f", 1)) in editor.cell_shares_


def test_a_class_that_only_the_network_knows_needs_no_rows():
    rows = table(150, n_classes=3)
    net = FrozenEstimator(skorch_net(mlp(3)).fit(rows.X, rows.y))
    two = rows.y < 2
    X, y, g = rows.X[two], rows.y[two], rows.group[two]
    for groups in (g, None):
        editor = quick(net, synthetic=(X, y, g)).fit(X, y, sensitive_features=groups)
        assert editor.classes_.tolist() == [0, 1, 2]
        assert editor.cell_shares_[2, 0] == 0
