"""``memory=``: equal results, nothing computed twice, and no damaged entry ever used."""

from __future__ import annotations

import copy
import itertools
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from joblib import Parallel, delayed
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback
from torch import nn

from fairsvd import JointStratifiedKFold, best_under_gap, fairness_scorer
from fairsvd.caching import Cache, Entry, open_cache
from fairsvd.exceptions import CacheWarning
from helpers import (
    IGNORE_SMALL_DATA,
    binary_net,
    fingerprint,
    images,
    mlp,
    quick,
    skorch_net,
    table,
    told,
)
from work import NOTHING, count_work, spent

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(each) for each in IGNORE_SMALL_DATA),
]

work = pytest.fixture(count_work)

ROWS = table(80)
CURVATURE = {"criterion": "curvature", "refine": None}


def fit(rows=ROWS, network=None, **settings):
    return quick(network, **settings).fit(rows.X, rows.y, sensitive_features=rows.group)


def outcome(editor, rows=ROWS):
    """All that a fit came to."""
    return (
        fingerprint(editor.module_),
        editor.threshold_,
        editor.history_.to_json(),
        editor.report_.groups.to_json(),
        editor.report_.notes,
        editor.predict_proba(rows.X).tobytes(),
    )


SETTINGS = {
    "learned": {},
    "curvature": {**CURVATURE, "sparsity": 0.2},
    "curvature, then the spectrum": {"criterion": "curvature", "sparsity": 0.2},
    "several rounds": {**CURVATURE, "sparsity": 0.2, "n_rounds": 2},
    "a low rank": {**CURVATURE, "sparsity": 0.1, "rank": 0.5},
    "compressed": {"rank": 0.25, "compress": True},
}


# On images what differs there: convolutions in rounds of curvature, and compressed.
RUNS = [("table", name) for name in SETTINGS] + [
    ("images", name) for name in ("several rounds", "compressed")
]


@pytest.mark.parametrize(("kind", "name"), RUNS)
def test_results_are_those_without_it_on_the_first_fit_and_on_the_next(tmp_path, kind, name):
    data, settings = ROWS if kind == "table" else images(48), SETTINGS[name]
    wanted = outcome(fit(data, **settings), data)
    for _ in range(2):
        assert outcome(fit(data, memory=tmp_path, **settings), data) == wanted


def test_a_fit_that_differs_in_sparsity_computes_nothing_again(tmp_path, work):
    def run(**settings):
        return spent(work, lambda: fit(memory=tmp_path, **{**CURVATURE, **settings}))

    assert run(sparsity=0.1) == {**NOTHING, "training": 1, "svd": 2, "curvature": 1}
    changes = ({"sparsity": 0.3}, {"sparsity": None}, {"rank": 0.5})
    for change in (*changes, {"gap_weight": 0.5}, {"privileged_weight": 0.5}):
        assert run(**{"sparsity": 0.1, **change}) == NOTHING
    assert run(sparsity=0.1, hessian="ggn") == {**NOTHING, "curvature": 1}
    assert run(sparsity=0.1, layers="all") == {**NOTHING, "svd": 3, "curvature": 1}


def test_one_training_of_masks_serves_every_cap(tmp_path, work):
    assert spent(work, lambda: fit(memory=tmp_path))["masks"] == 1
    for cap in (0.05, 0.5):
        assert spent(work, lambda cap=cap: fit(memory=tmp_path, sparsity=cap)) == NOTHING
    assert spent(work, lambda: fit(memory=tmp_path, gap_weight=0.3)) == {**NOTHING, "masks": 1}


def changed_rows():
    X, y, group = (part.copy() for part in ROWS)
    X[-1, 0] += 1e-3
    yield "X", ROWS._replace(X=X)
    y[-1] = 1 - y[-1]
    yield "y", ROWS._replace(y=y)
    group[-1] = 1 - group[-1]
    yield "groups", ROWS._replace(group=group)
    yield "dtype", ROWS._replace(X=ROWS.X.astype(np.float64))


@pytest.mark.parametrize("rows", [r for _, r in changed_rows()], ids=[n for n, _ in changed_rows()])
def test_other_rows_are_another_entry(tmp_path, work, rows):
    settings = {**CURVATURE, "sparsity": 0.1, "memory": tmp_path}
    fit(**settings)
    assert spent(work, lambda: fit(rows, **settings))["training"] == 1
    assert outcome(fit(rows, **settings)) == outcome(fit(rows, **{**settings, "memory": None}))


@pytest.mark.parametrize("change", [{"random_state": 1}, {"batch_size": 32}, {"validation": 0.4}])
def test_what_the_training_depends_on_is_another_entry(tmp_path, work, change):
    fit(memory=tmp_path, **CURVATURE)
    found = spent(work, lambda: fit(memory=tmp_path, **{**CURVATURE, **change}))
    assert found["training"] == found["curvature"] == 1


def test_the_gap_that_is_asked_for_retrains_nothing(tmp_path, work):
    fit(memory=tmp_path, **CURVATURE)
    asked = {**CURVATURE, "constraint": "demographic_parity", "tolerance": 0.2}
    assert spent(work, lambda: fit(memory=tmp_path, **asked)) == NOTHING


@pytest.mark.parametrize(
    "network", [skorch_net(mlp()), binary_net(mlp(1)), skorch_net(mlp(), lr=0.1)], ids=range(3)
)
def test_a_users_net_is_trained_once_and_comes_back_whole(tmp_path, work, network):
    wanted = fit(network=network, **CURVATURE)
    assert spent(work, lambda: fit(network=network, memory=tmp_path, **CURVATURE))["training"] == 1
    found = []
    counts = spent(work, lambda: found.append(fit(network=network, memory=tmp_path, **CURVATURE)))
    assert counts == NOTHING
    assert outcome(found[0]) == outcome(wanted)
    nets = [editor.to_skorch() for editor in (found[0], wanted)]
    assert nets[0].history[:, "train_loss"] == nets[1].history[:, "train_loss"]
    assert len(nets[0].history) == 2
    assert np.array_equal(nets[0].predict(ROWS.X), nets[1].predict(ROWS.X))
    assert np.array_equal(nets[0].classes_, nets[1].classes_)
    nets[0].partial_fit(
        ROWS.X, ROWS.y.astype(np.float32) if nets[0].module_[-1].out_features == 1 else ROWS.y
    )


def test_a_net_of_other_settings_is_trained_anew(tmp_path, work):
    for lr in (0.1, 0.2):
        settings = {"network": skorch_net(mlp(), lr=lr), "memory": tmp_path, **CURVATURE}
        assert spent(work, lambda s=settings: fit(**s))["training"] == 1


def test_frozen_networks_are_told_apart_by_what_they_compute(tmp_path, work):
    tanh = mlp()
    tanh[1] = nn.Tanh()
    frozen = FrozenEstimator(skorch_net(mlp()).initialize())
    for network in (mlp(), tanh, frozen):
        settings = {"network": network, "memory": tmp_path, **CURVATURE}
        wanted = outcome(fit(**{**settings, "memory": None}))
        assert outcome(fit(**settings)) == wanted
        assert spent(work, lambda s=settings: fit(**s)) == NOTHING


class Opaque(Callback):
    """A callback that holds what nobody can tell the meaning of."""

    def __init__(self, rows=None):
        self.rows = rows


def test_a_net_that_cannot_be_told_is_trained_every_time_and_it_is_said(tmp_path, work):
    plain = fit(network=skorch_net(mlp()), **CURVATURE)
    for _ in range(2):
        network = skorch_net(mlp(), callbacks=[("opaque", Opaque(itertools.count()))])
        with pytest.warns(CacheWarning, match="count"):
            found = fit(network=network, memory=tmp_path, **CURVATURE)
        assert outcome(found) == outcome(plain)
    assert work["training"] == 3


class Recorder(Callback):
    """A callback that records something at the end of every epoch."""

    def __init__(self, value=None):
        self.value = value

    def on_epoch_end(self, net, **kwargs):
        net.history.record("value", self.value)


@pytest.mark.parametrize("value", [np.arange(3.0), {1: {2}}], ids=["array", "set"])
def test_a_net_whose_history_cannot_be_kept_is_trained_every_time(tmp_path, work, value):
    network = skorch_net(mlp(), callbacks=[("recorder", Recorder(value))])
    wanted = outcome(fit(network=network, **CURVATURE))
    for _ in range(2):
        with pytest.warns(CacheWarning, match="its history holds more"):
            assert outcome(fit(network=network, memory=tmp_path, **CURVATURE)) == wanted
    assert work["training"] == 3


def test_a_history_comes_back_with_what_callbacks_record(tmp_path):
    value = [None, "é", True, 2, float("inf"), {"a": [0.5]}]
    network = skorch_net(mlp(), callbacks=[("recorder", Recorder(value))])
    for _ in range(2):
        net = fit(network=network, memory=tmp_path, **CURVATURE).to_skorch()
        assert net.history[-1, "value"] == value


def test_no_seed_no_entry_and_it_is_said_once(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(memory=tmp_path, random_state=None, **CURVATURE)
    messages = told(caught, CacheWarning)
    assert len(messages) == 1
    assert "random_state" in messages[0]
    assert not entries(tmp_path)


@pytest.mark.parametrize("kind", [str, Path, joblib.Memory], ids=lambda k: k.__name__)
def test_every_form_of_the_parameter(tmp_path, work, kind):
    memory = joblib.Memory(str(tmp_path), verbose=0) if kind is joblib.Memory else kind(tmp_path)
    fit(memory=memory, **CURVATURE)
    assert spent(work, lambda: fit(memory=str(tmp_path), **CURVATURE)) == NOTHING


def test_a_memory_without_a_place_keeps_nothing(work):
    for _ in range(2):
        fit(memory=joblib.Memory(None), **CURVATURE)
    assert work["training"] == 2


def test_something_else_is_an_error():
    with pytest.raises(ValueError, match="memory"):
        fit(memory=3)


def entries(folder):
    return sorted(folder.rglob("*.entry"))


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flipped, cut, emptied], ids=lambda f: f.__name__)
def test_a_damaged_entry_is_computed_anew_with_one_warning(tmp_path, work, damage):
    settings = {**CURVATURE, "sparsity": 0.2, "memory": tmp_path}
    wanted = outcome(fit(**settings))
    found = entries(tmp_path)
    assert len(found) == 4  # the network, its judgement, its factors, its curvature
    for path in found:
        damage(path)
    with pytest.warns(CacheWarning, match="computed anew") as caught:
        assert outcome(fit(**settings)) == wanted
    assert len(told(caught, CacheWarning)) == 1
    # What was written again is whole.
    assert spent(work, lambda: fit(**settings)) == NOTHING


def test_tied_and_strided_tensors_come_back_equal(tmp_path):
    cache, base = open_cache(tmp_path), torch.arange(12.0).reshape(3, 4)
    tensors = {"tied": base, "again": base, "strided": base.T[1:], "none": base[:0]}
    for name, value in tensors.items():
        assert torch.equal(cache.fetch("thing", {}, lambda: Entry(tensors)).tensors[name], value)


def test_a_task_keeps_its_entries_and_only_the_latest():
    cache = Cache().for_one_task()
    made = []

    def get(number):
        def compute():
            made.append(number)
            return Entry({}, {"number": number})

        return cache.fetch("thing", {"number": number}, compute).facts["number"]

    assert [get(k) for k in (0, 1, 0, 1)] == [0, 1, 0, 1]
    assert made == [0, 1]
    assert [get(k) for k in range(10)] == list(range(10))
    assert get(0) == 0
    assert made.count(0) == 2


def fit_here(folder, sparsity):
    """For another process, whose warnings are its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", CacheWarning)
        return outcome(fit(memory=folder, **{**CURVATURE, "sparsity": sparsity}))


def test_processes_that_share_a_folder_agree(tmp_path, work):
    grid = [0.1, 0.2, 0.3] * 3
    shared = Parallel(n_jobs=2)(delayed(fit_here)(tmp_path, each) for each in grid)
    assert shared == [outcome(fit(**{**CURVATURE, "sparsity": each})) for each in grid]
    assert spent(work, lambda: fit_here(tmp_path, 0.4)) == NOTHING


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_grid_search_trains_once_a_fold_and_finds_the_same(tmp_path, n_jobs):
    def search(memory):
        editor = quick(None, **{**CURVATURE, "sensitive_columns": 5, "memory": memory})
        scoring = {
            "utility": "balanced_accuracy",
            "gap": fairness_scorer("equalized_odds_difference", sensitive_columns=5),
        }
        grid = {"rank": [0.5, 1.0], "sparsity": [0.0, 0.1, 0.3]}
        return GridSearchCV(
            editor,
            grid,
            scoring=scoring,
            cv=JointStratifiedKFold(2, sensitive_columns=5),
            refit=best_under_gap("utility", "gap", limit=0.5),
            n_jobs=n_jobs,
        ).fit(X, ROWS.y)

    X = ROWS.X.copy()
    X[:, 5] = ROWS.group
    found, wanted = search(tmp_path), search(None)
    for key, value in wanted.cv_results_.items():
        if "_test_" in key:
            assert np.array_equal(found.cv_results_[key], value), key
    assert found.best_params_ == wanted.best_params_
    assert outcome(found.best_estimator_, ROWS._replace(X=X)) == outcome(
        wanted.best_estimator_, ROWS._replace(X=X)
    )
    if n_jobs == 1:
        # Two folds and the final fit: a network, its judgement, its factors and, if it removes
        # anything, its curvature.
        made = 12 - (found.best_params_["sparsity"] == 0)
        assert len(entries(tmp_path)) == made
        search(tmp_path)
        assert len(entries(tmp_path)) == made


def test_the_estimator_can_be_copied_and_keeps_what_it_was_given(tmp_path):
    editor = fit(memory=tmp_path, **CURVATURE)
    assert editor.memory == tmp_path
    assert outcome(copy.deepcopy(editor)) == outcome(editor)
