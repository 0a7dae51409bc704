"""Adversarial fine-tuning as an editor: what it promises, its preset, what it achieves."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.base import clone
from torch import nn

from fairsvd import fairness_scorer
from fairsvd.datasets import make_biased_classification
from fairsvd.intraprocessing import AdversarialFineTuner
from fairsvd.intraprocessing._critic import Critic
from helpers import (
    IGNORE_SMALL_DATA,
    Rows,
    convolutions,
    fingerprint,
    global_state,
    images,
    last_wins,
    mlp,
    table,
    trained,
)

pytestmark = [
    # Many short fits: together they take long.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]


def quick(network=None, kind=AdversarialFineTuner, **parameters):
    """Make an editor of a few updates and one weight."""
    steps = {"epochs": 2, "critic_steps": 3, "actor_steps": 3, "critic_rows": 16}
    return kind(network, **{**steps, "gap_weight": 5.0, "random_state": 0, **parameters})


class LastWins(last_wins(AdversarialFineTuner)):
    """Chooses its last edit."""


def test_the_critic_is_not_moved_by_the_networks_steps(monkeypatch):
    rows = table()
    seen = []
    original = Critic.__call__

    def spy(critic, features, *, training):
        seen.append((training, [p.detach().clone() for p in critic.parameters], critic))
        return original(critic, features, training=training)

    monkeypatch.setattr(Critic, "__call__", spy)
    editor = quick(trained(mlp(), rows), epochs=2)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    # An epoch: three steps of the critic, each a prediction and a training pass, then three of
    # the network, one prediction each.
    assert [training for training, *_ in seen] == [*[False, True] * 3, *[False] * 3] * 2
    first, last = seen[6][1], seen[9][1]
    assert all(torch.equal(a, b) for a, b in zip(first, last, strict=True))
    assert all(p.grad is None for p in seen[-1][2].parameters)


CONFIGURATIONS = {
    "default": {"gap_weight": None},
    "no weight": {"gap_weight": 0.0},
    "no slack": {"slack": 0.0},
    "slack above the tolerance": {"slack": 0.2},
    "fewer rows than cells": {"critic_rows": 3},
    "demographic parity": {"constraint": "demographic_parity"},
    "equal opportunity": {"constraint": "equal_opportunity"},
    "average odds": {"constraint": "average_odds"},
    "accuracy parity": {"constraint": "accuracy_parity"},
    "first class positive": {"constraint": "equal_opportunity", "pos_label": 0},
    "fixed threshold": {"threshold": 0.3},
    "cells": {"balance": "cells"},
    "rows alike": {"balance": None},
    "mixed precision": {"precision": "mixed"},
}
DATA = {
    "plain": table,
    "three groups": lambda: table(150, n_groups=3),
    "five classes": lambda: table(150, n_classes=5),
    "images": images,
    "images, five classes": lambda: images(100, n_classes=5),
}


def check_promises(parameters, rows, n_outputs=None):
    n_outputs = n_outputs or len(np.unique(rows.y))
    make = mlp(n_outputs) if rows.X.ndim == 2 else convolutions(n_outputs)
    network = trained(make, rows)
    before, state = fingerprint(network), global_state()
    editor = quick(network, LastWins, **parameters)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert (fingerprint(network), global_state()) == (before, state)
    assert fingerprint(editor.module_) != before
    predicted, shares = editor.predict(rows.X), editor.predict_proba(rows.X)
    assert np.array_equal(editor.classes_[shares.argmax(axis=1)], predicted)
    exported = editor.to_skorch().predict(rows.X)
    assert np.array_equal(editor.classes_[exported], predicted)
    again = pickle.loads(pickle.dumps(editor))
    assert np.array_equal(again.predict_proba(rows.X), shares)
    assert not hasattr(clone(editor), "module_")
    history = editor.history_
    assert history["stage"].iloc[0] == "untouched"
    assert (history["multiplier"].iloc[1:] >= 1).all()
    return editor


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_keeps_the_promises(name):
    check_promises(CONFIGURATIONS[name], table())


@pytest.mark.parametrize("name", DATA)
def test_every_kind_of_data_is_taken(name):
    history = check_promises({}, DATA[name]()).history_
    assert (history[["critic_loss", "target_variance"]].iloc[1:] >= 0).all(axis=None)


def test_one_logit():
    check_promises({}, table(), n_outputs=1)


def test_a_network_of_one_layer_is_tuned_by_its_cross_entropy():
    rows = table()
    network = trained(nn.Sequential(nn.Linear(6, 2)), rows)
    editor = quick(network, LastWins).fit(rows.X, rows.y, sensitive_features=rows.group)
    assert not torch.equal(network[0].weight, editor.module_[0].weight)


def test_equal_seeds_give_equal_bits_whatever_the_jobs():
    rows = table()
    network = trained(mlp(), rows)
    editors = [quick(network, gap_weight=None, n_jobs=jobs) for jobs in (None, 2)]
    with parallel_config(backend="threading"):
        for editor in editors:
            editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert fingerprint(editors[0].module_) == fingerprint(editors[1].module_)
    assert editors[0].history_.equals(editors[1].history_)


def test_dropout_and_normalisation_of_the_network_stay_in_evaluation_mode():
    rows = table()
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.9), *mlp()[1:])
    network[4] = nn.Linear(8, 8)
    network = trained(network, rows)
    editor = quick(network, LastWins).fit(rows.X, rows.y, sensitive_features=rows.group)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(network[1], name), getattr(editor.module_[1], name))
    assert not any(part.training for part in editor.module_.modules())


def test_without_sensitive_features_plain_fine_tuning():
    rows = table()
    editor = quick(trained(mlp(), rows), LastWins, gap_weight=None)
    with pytest.warns(match="sensitive"):
        editor.fit(rows.X, rows.y)
    assert set(editor.history_["gap_weight"].dropna()) == {0.0}
    assert "critic_loss" not in editor.history_


def test_the_preset_has_the_papers_values():
    found = AdversarialFineTuner.paper(random_state=3, slack=0.01).get_params()
    wanted = {
        "epochs": 32,
        "critic_steps": 201,
        "actor_steps": 301,
        "critic_rows": 64,
        "gap_weight": 0.75,
        "slack": 0.01,
        "tolerance": 0.05,
        "learning_rate": 1e-4,
        "critic_learning_rate": 1e-3,
        "critic_width": 32,
        "random_state": 3,
    }
    assert {name: found[name] for name in wanted} == wanted
    assert AdversarialFineTuner.paper().slack == 0.02


@pytest.mark.parametrize("gap", ["equalized_odds", "demographic_parity"])
def test_it_lowers_the_gap(gap):
    data = make_biased_classification(3000, base_rate_gap=0.4, random_state=0)
    noise = np.random.default_rng(0).normal(0, 0.3, len(data.groups))
    # The last column tells the group.
    X = np.column_stack([data.data, 2 * data.groups - 1 + noise]).astype(np.float32)
    y, g = data.target, data.groups
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(11, 24), nn.ReLU(), nn.Linear(24, 2))
    network = trained(network, Rows(X[:1000], y[:1000], g[:1000]), 60)
    settings = {"gap_weight": 20.0, "balance": "classes"}
    settings |= {"utility": "balanced_accuracy", "random_state": 0}
    editor = AdversarialFineTuner(network, constraint=gap, **settings)
    editor.fit(X[1000:2000], y[1000:2000], sensitive_features=g[1000:2000])
    before = editor.report_.gaps.loc[gap, "before"]
    scorer = fairness_scorer(f"{gap}_difference")
    assert before > 0.15
    assert -scorer(editor, X[2000:], y[2000:], sensitive_features=g[2000:]) < 0.5 * before
    assert editor.score(X[2000:], y[2000:]) > 0.6
