"""BiasMaskFineTuner as a whole: every configuration, every kind of data, and planted bias."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn

from bias_masks import LastWins, quick
from fairsvd import BiasMaskFineTuner, JointStratifiedKFold, best_under_gap, fairness_scorer
from fairsvd.datasets import make_biased_classification
from fairsvd.masking._ratio import (
    bias_ratio,
    make_hard_masks,
)
from helpers import (
    IGNORE_SMALL_DATA,
    Rows,
    convolutions,
    fingerprint,
    global_state,
    images,
    mlp,
    table,
    trained,
)
from work import NOTHING, count_work

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]


CONFIGURATIONS = {
    "default": {"gap_weight": None},
    "soft": {"mask": "soft"},
    "unit": {"granularity": "unit"},
    "layer": {"granularity": "layer", "tuned_fraction": 0.5},
    "batch": {"importance": "batch_gradient", "batch_size": 32},
    "random": {"importance": "random"},
    "random layers": {"importance": "random", "granularity": "layer"},
    "bias only": {"rank_by": "bias"},
    "zero head": {"head_reset": "zero"},
    "partial head": {"head_reset": "partial"},
    "partial head, units": {"head_reset": "partial", "granularity": "unit"},
    "all layers": {"layers": "all"},
    "one layer": {"layers": ["2"], "tuned_fraction": 0.1},
    "impair alone": {"repair_epochs": 0},
    "repair alone": {"impair_epochs": 0},
    "everything": {"tuned_fraction": 1.0},
    "one weight": {"tuned_fraction": 1e-6},
    "patience": {"patience": 1},
    "demographic parity": {"constraint": "demographic_parity"},
    "accuracy parity": {"constraint": "accuracy_parity"},
    "fixed threshold": {"threshold": 0.3},
    "cells": {"balance": "cells"},
    "bmft": {"loss": "bmft", "gap_weight": 0.1},
    "swift": {"loss": "swift", "mask": "soft", "gap_weight": None},
    "mixed precision": {"precision": "mixed"},
}
DATA = {
    "plain": table,
    "three groups": lambda: table(150, n_groups=3),
    "five classes": lambda: table(150, n_classes=5),
    "images": images,
    "images, five classes": lambda: images(100, n_classes=5),
}


def check_promises(parameters, rows):
    n_classes = len(np.unique(rows.y))
    make = mlp(n_classes) if rows.X.ndim == 2 else convolutions(n_classes)
    network = trained(make, rows)
    before, state = fingerprint(network), global_state()
    editor = quick(network, LastWins, **parameters)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert (fingerprint(network), global_state()) == (before, state)
    assert fingerprint(editor.module_) != before
    predicted, shares = editor.predict(rows.X), editor.predict_proba(rows.X)
    assert np.array_equal(editor.classes_[shares.argmax(axis=1)], predicted)
    with torch.no_grad():
        exported = editor.to_module()(torch.tensor(rows.X)).argmax(dim=1).numpy()
    assert np.array_equal(editor.classes_[exported], predicted)
    assert np.array_equal(editor.to_skorch().predict(rows.X), exported)
    again = pickle.loads(pickle.dumps(editor))
    assert np.array_equal(again.predict_proba(rows.X), shares)
    assert not hasattr(clone(editor), "module_")
    assert editor.history_["stage"].iloc[0] == "untouched"
    for name, mask in editor.masks_.items():
        assert mask.shape == network.state_dict()[name].shape
        layer = name.rpartition(".")[0]
        assert editor.masked_fraction_[layer] == pytest.approx(float(mask.double().mean()))
    return editor


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_keeps_the_promises(name):
    check_promises(CONFIGURATIONS[name], table())


@pytest.mark.parametrize("importance", ["fisher", "batch_gradient"])
@pytest.mark.parametrize("name", DATA)
def test_every_kind_of_data_is_taken(name, importance):
    check_promises({"importance": importance}, DATA[name]())


def test_equal_seeds_give_equal_bits_whatever_the_jobs():
    rows = table()
    network = trained(mlp(), rows)
    editors = [quick(network, gap_weight=None, n_jobs=jobs) for jobs in (None, 2)]
    for editor in editors:
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert fingerprint(editors[0].module_) == fingerprint(editors[1].module_)
    assert editors[0].history_.equals(editors[1].history_)


def test_a_second_fit_finds_network_and_importance(tmp_path, monkeypatch):
    rows, work = table(), count_work(monkeypatch)
    first = quick(memory=str(tmp_path)).fit(rows.X, rows.y, sensitive_features=rows.group)
    assert work == {**NOTHING, "training": 1, "importance": 1}
    second = quick(memory=str(tmp_path), tuned_fraction=0.1)
    second.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert work == {**NOTHING, "training": 1, "importance": 1}
    assert sum(int(mask.sum()) for mask in second.masks_.values()) < sum(
        int(mask.sum()) for mask in first.masks_.values()
    )


def test_importance_on_request():
    rows = table()
    network = trained(mlp(), rows)
    editor = quick(network).fit(rows.X, rows.y, sensitive_features=rows.group)
    assert not hasattr(editor, "importance_")
    editor = quick(network, store_importance=True)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert set(editor.importance_) == {"0.weight", "2.weight", "4.weight"}
    bias, prediction = ({n: pair[k] for n, pair in editor.importance_.items()} for k in (0, 1))
    covered = ["0.weight", "2.weight"]
    ratio = bias_ratio({n: bias[n] for n in covered}, {n: prediction[n] for n in covered}, "weight")
    for name, mask in make_hard_masks(ratio, 0.5).items():
        assert torch.equal(mask, editor.masks_[name])


def test_a_mixture_of_losses_needs_a_share():
    rows = table()
    editor = BiasMaskFineTuner.swift(trained(mlp(), rows), gap_weight=2.0)
    with pytest.raises(ValueError, match=r"gap_weight=2\.0 with loss='swift'"):
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)


def test_without_sensitive_features_utility_alone():
    rows = table()
    editor = quick(trained(mlp(), rows), LastWins)
    with pytest.warns(match="sensitive"):
        editor.fit(rows.X, rows.y)
    assert editor.groups_ == []
    assert set(editor.history_["gap_weight"].dropna()) == {0.0}


def planted(seed):
    """Train on labels that go with the group, which one column of 30 tells.

    The bias then lies in the weights of the first layer that read this column.
    """
    settings = {"base_rate_gap": 0.6, "group_shift": 0.0, "random_state": seed}
    data = make_biased_classification(3000, n_features=29, **settings)
    noise = np.random.default_rng(seed).normal(0, 0.3, len(data.groups))
    X = np.column_stack([data.data, 2 * data.groups - 1 + noise]).astype(np.float32)
    rows = Rows(X, data.target, data.groups)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(30, 24), nn.ReLU(), nn.Linear(24, 2))
    network = trained(network, rows, 100)
    known = torch.zeros_like(network[0].weight, dtype=torch.bool)
    known[:, -1] = True
    return network, rows, known


@pytest.mark.parametrize("mask", ["hard", "soft"])
@pytest.mark.parametrize("importance", ["fisher", "batch_gradient"])
def test_planted_bias_is_found(importance, mask):
    precisions = []
    for seed in range(3):
        network, rows, known = planted(seed)
        settings = {"importance": importance, "mask": mask, "tuned_fraction": 1 / 30}
        editor = quick(network, impair_epochs=0, repair_epochs=0, **settings)
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
        found = editor.masks_["0.weight"].double()
        precisions.append(float((found * known).sum() / found.sum()))
        if mask == "hard":
            assert int(found.sum()) == int(known.sum())
    if mask == "hard":
        # One weight in 30 is a planted one.
        assert np.mean(precisions) >= 5 / 30
    else:
        # Every weight has a share of a soft mask; the planted ones have the larger.
        assert np.mean(precisions) > 1.5 / 30


def test_a_random_mask_does_not_find_it():
    network, rows, known = planted(0)
    editor = quick(
        network, importance="random", tuned_fraction=1 / 30, impair_epochs=0, repair_epochs=0
    )
    found = editor.fit(rows.X, rows.y, sensitive_features=rows.group).masks_["0.weight"]
    assert float((found & known).sum() / found.sum()) < 3 / 30


@pytest.mark.slow
def test_the_default_lowers_the_gap_and_keeps_the_utility():
    kind = {"class_separation": 1.0, "group_shift": 3.0}
    task = make_biased_classification(2400, random_state=1, **kind)
    X, y, g = task.data, task.target, task.sensitive_features
    editor = BiasMaskFineTuner(random_state=0).fit(X[:1600], y[:1600], sensitive_features=g[:1600])
    gaps = editor.report_.gaps.loc["equalized_odds"]
    scorer = fairness_scorer("equalized_odds_difference")
    on_new_rows = -scorer(editor, X[1600:], y[1600:], sensitive_features=g[1600:])
    assert gaps["before"] > 0.1
    assert gaps["after"] < 0.5 * gaps["before"]
    assert on_new_rows < gaps["before"]
    assert np.mean(editor.predict(X[1600:]) == y[1600:]) > 0.6


def test_a_search_over_the_tuned_fraction(routing):
    rows, gap = table(200), fairness_scorer("equalized_odds_difference")
    search = GridSearchCV(
        quick(trained(mlp(), rows)),
        {"tuned_fraction": [0.1, 1.0]},
        scoring={
            "utility": "balanced_accuracy",
            "gap": gap,
        },
        cv=JointStratifiedKFold(2),
        refit=best_under_gap("utility", "gap", limit=0.5),
        error_score="raise",
    )
    search.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert search.best_params_["tuned_fraction"] in (0.1, 1.0)
    assert np.isfinite(search.cv_results_["mean_test_gap"]).all()
