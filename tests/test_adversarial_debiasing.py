"""Adversarial debiasing: the rule, what the adversary is told, and what the estimator achieves."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from joblib import parallel_config
from sklearn.base import clone
from torch import nn

from edit_data import constraint
from fairsvd import fairness_scorer
from fairsvd.datasets import make_biased_classification
from fairsvd.intraprocessing import AdversarialDebiasing
from fairsvd.intraprocessing._adversary import Adversary
from fairsvd.intraprocessing._debiasing import network_loss, project
from fairsvd.training import Batch
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

CPU = torch.device("cpu")


def quick(network=None, kind=AdversarialDebiasing, **parameters):
    """Make an editor of a few updates and one alpha."""
    return kind(network, **{"max_steps": 4, "alpha": 1.0, "random_state": 0, **parameters})


class LastWins(last_wins(AdversarialDebiasing)):
    """Chooses its last edit."""


def adversary(gap="equalized_odds", n_classes=2, n_groups=2, pos=1):
    settings = {"device": CPU, "dtype": torch.float64}
    return Adversary(constraint(gap, pos), n_classes, n_groups, **settings)


def batch_of(rows, dtype=torch.float64):
    y, groups = torch.tensor(rows.y), torch.tensor(rows.group)
    ones = torch.ones(len(y), dtype=dtype)
    return Batch(torch.tensor(rows.X, dtype=dtype), y, groups, ones, ones)


VECTORS = st.lists(st.floats(-100, 100, width=32), min_size=6, max_size=6)


@given(VECTORS, VECTORS, st.floats(0, 10))
def test_the_update_is_orthogonal_to_the_adversary_up_to_alpha(own, other, alpha):
    own, other = (torch.tensor(v, dtype=torch.float64).reshape(2, 3) for v in (own, other))
    update = project(own, other, alpha).numpy().ravel()
    a, b = own.numpy().ravel(), other.numpy().ravel()
    # An independent way to the same projection: least squares of one gradient on the other.
    slope = np.linalg.lstsq(b[:, None], a, rcond=None)[0][0] if b.any() else 0.0
    scale = 1 + np.abs(a).max() + alpha * np.abs(b).max()
    np.testing.assert_allclose(update, a - slope * b - alpha * b, atol=1e-9 * scale)
    inner = update @ b
    assert inner == pytest.approx(-alpha * b @ b, abs=1e-9 * scale * (1 + np.abs(b).max()))


def test_a_zero_or_tiny_gradient_of_the_adversary_does_no_harm():
    own = torch.tensor([1.0, -2.0, 3.0])
    assert torch.equal(project(own, torch.zeros(3), 1.0), own)
    tiny = torch.tensor([1e-30, 0.0, 0.0])
    torch.testing.assert_close(project(own, tiny, 1.0), torch.tensor([0.0, -2.0, 3.0]))


def lowered(logits, margin):
    return logits - torch.tensor([0.0, margin], dtype=logits.dtype)


class FixedGame:
    """Shows what is seen and learns nothing."""

    def __init__(self, adversary, margin):
        self.adversary, self.margin = adversary, margin

    def learn(self, logits, batch):
        return lowered(logits, self.margin)


class FakePath:
    """Just enough of a path for the loss of the network."""

    alpha = 0.7
    margin = 0.3

    def __init__(self, module):
        self.module, self.data = module, self

    def forward(self, module, state, X):
        return torch.func.functional_call(module, dict(state), (X,))

    def entropy(self, logits, batch):
        return nn.functional.cross_entropy(lowered(logits, self.margin), batch.y)


def test_the_gradient_of_the_loss_is_the_projected_update():
    rows = table()
    module, batch = trained(mlp(), rows).double(), batch_of(rows)
    rival = adversary()
    with torch.no_grad():
        for values in rival.parameters[:2]:
            values.copy_(torch.randn(values.shape, generator=torch.Generator().manual_seed(1)))
    path = FakePath(module.requires_grad_(False))
    leaves = {n: p.detach().clone().requires_grad_() for n, p in module.named_parameters()}
    network_loss(path, FixedGame(rival, path.margin), leaves)(batch).backward()
    assert all(p.grad is None for p in rival.parameters)

    logits = path.forward(module, leaves, batch.X)
    losses = (
        path.entropy(logits, batch),
        rival.loss(lowered(logits, path.margin), batch, training=False),
    )
    for leaf in leaves.values():
        own, other = (
            torch.autograd.grad(each, leaf, retain_graph=True)[0].numpy().ravel() for each in losses
        )
        assert np.abs(other).max() > 0
        wanted = own - (own @ other) / (other @ other) * other - path.alpha * other
        np.testing.assert_allclose(leaf.grad.numpy().ravel(), wanted, rtol=1e-9, atol=1e-12)


GAPS = (
    "demographic_parity",
    "equal_opportunity",
    "equalized_odds",
    "average_odds",
    "signed_average_odds",
    "accuracy_parity",
)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("gap", GAPS)
def test_what_the_adversary_is_told(gap, n_classes):
    rows = table(150, n_classes=n_classes, n_groups=3)
    batch, rival = batch_of(rows), adversary(gap, n_classes, 3)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for values in rival.parameters[:2]:
            values.copy_(torch.randn(values.shape, generator=generator))
    logits = torch.randn(len(rows.y), n_classes, generator=generator, dtype=torch.float64)
    scale = 1 + abs(float(rival.parameters[2].detach()))
    coefficients, intercepts = (v.detach().numpy() for v in rival.parameters[:2])
    total, weight = 0.0, 0
    for row, y, g in zip(logits.numpy(), rows.y, rows.group, strict=True):
        if gap == "equal_opportunity" and n_classes == 2 and y != 1:
            continue
        p = np.exp(scale * row) / np.exp(scale * row).sum()
        if gap in ("equal_opportunity", "accuracy_parity"):
            p = np.where(np.arange(n_classes) == y, p, 0.0)
        which = 0 if gap in ("demographic_parity", "accuracy_parity") else y
        scores = p @ coefficients[which] + intercepts[which]
        total += np.log(np.exp(scores).sum()) - scores[g]
        weight += 1
    assert float(rival.loss(logits, batch, training=False)) == pytest.approx(total / weight)


@pytest.mark.parametrize("gap", GAPS)
def test_the_blind_loss_is_what_intercepts_alone_can_reach(gap):
    rows = table(150, n_groups=3)
    batch, rival = batch_of(rows), adversary(gap, 2, 3)
    optimizer = torch.optim.Adam([rival.parameters[1]], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss = rival.loss(torch.zeros(150, 2, dtype=torch.float64), batch, training=True)
        loss.backward()
        optimizer.step()
    cells = torch.bincount(batch.y * 3 + batch.groups, minlength=6).reshape(2, 3)
    assert float(loss.detach()) == pytest.approx(rival.blind_loss(cells), abs=1e-5)


def test_a_batch_without_positives_gives_no_gradient():
    rows = table()
    batch = batch_of(rows._replace(y=np.zeros_like(rows.y)))
    logits = torch.randn(len(rows.y), 2, dtype=torch.float64).requires_grad_()
    loss = adversary("equal_opportunity").loss(logits, batch, training=False)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


CONFIGURATIONS = {
    "default": {"alpha": None},
    "projection alone": {"alpha": 0.0},
    "one step of the adversary": {"adversary_steps": 1},
    "demographic parity": {"constraint": "demographic_parity"},
    "equal opportunity": {"constraint": "equal_opportunity"},
    "average odds": {"constraint": "average_odds"},
    "accuracy parity": {"constraint": "accuracy_parity"},
    "first class positive": {"constraint": "equal_opportunity", "pos_label": 0},
    "fixed threshold": {"threshold": 0.3},
    "cells": {"balance": "cells"},
    "rows alike": {"balance": None},
    "small batches": {"batch_size": 3},
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
    assert np.isfinite(history["adversary_loss"].iloc[1:]).all()
    assert history["blind_loss"].nunique() == 1
    return editor


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_keeps_the_promises(name):
    check_promises(CONFIGURATIONS[name], table())


@pytest.mark.parametrize("gap", ["equalized_odds", "equal_opportunity"])
@pytest.mark.parametrize("name", DATA)
def test_every_kind_of_data_is_taken(name, gap):
    check_promises({"constraint": gap}, DATA[name]())


def test_one_logit():
    check_promises({}, table(), n_outputs=1)


def test_equal_seeds_give_equal_bits_whatever_the_jobs():
    rows = table()
    network = trained(mlp(), rows)
    editors = [quick(network, alpha=None, n_jobs=jobs) for jobs in (None, 2)]
    with parallel_config(backend="threading"):
        for editor in editors:
            editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert fingerprint(editors[0].module_) == fingerprint(editors[1].module_)
    assert editors[0].history_.equals(editors[1].history_)


def test_normalisation_keeps_its_statistics():
    rows = images()
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), *convolutions()[1:])
    network[3] = nn.Conv2d(8, 8, 3, padding=1)
    network = trained(network, rows)
    editor = quick(network, LastWins).fit(rows.X, rows.y, sensitive_features=rows.group)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(network[1], name), getattr(editor.module_[1], name))
    assert not any(part.training for part in editor.module_.modules())


def test_without_sensitive_features_plain_fine_tuning():
    rows = table()
    editor = quick(trained(mlp(), rows), LastWins, alpha=None)
    with pytest.warns(match="sensitive"):
        editor.fit(rows.X, rows.y)
    assert set(editor.history_["alpha"].dropna()) == {0.0}
    assert "adversary_loss" not in editor.history_


@pytest.fixture(scope="module")
def biased():
    """Draw labels that go with the group, which a column of its own tells."""
    data = make_biased_classification(3000, base_rate_gap=0.6, random_state=0)
    noise = np.random.default_rng(0).normal(0, 0.3, len(data.groups))
    X = np.column_stack([data.data, 2 * data.groups - 1 + noise]).astype(np.float32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(11, 24), nn.ReLU(), nn.Linear(24, 2))
    parts = [slice(0, 1000), slice(1000, 2000), slice(2000, 3000)]
    first, *others = (Rows(X[p], data.target[p], data.groups[p]) for p in parts)
    return trained(network, first, 60), *others


@pytest.mark.parametrize("gap", ["equalized_odds", "demographic_parity"])
def test_it_lowers_the_gap(biased, gap):
    network, rows, new = biased
    settings = {"alpha": 3.0, "utility": "balanced_accuracy", "balance": "classes"}
    editor = AdversarialDebiasing(network, constraint=gap, random_state=0, **settings)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    before = editor.report_.gaps.loc[gap, "before"]
    scorer = fairness_scorer(f"{gap}_difference")
    assert before > 0.2
    assert -scorer(editor, new.X, new.y, sensitive_features=new.group) < 0.5 * before
    assert editor.score(new.X, new.y) > 0.7
    # What the adversary can see becomes less.
    history = editor.history_.iloc[1:]
    seen = (history["blind_loss"] - history["adversary_loss"]).to_numpy()
    assert seen[0] > 0
    assert seen[-1] < 0.5 * seen[0]


def test_large_tensors_are_projected_alike(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    own, other = torch.rand(2, 6, 5, generator=generator)
    wanted = project(own, other, 0.7)
    monkeypatch.setattr("fairsvd.intraprocessing._debiasing.LARGE", 29)
    torch.testing.assert_close(project(own, other, 0.7), wanted)
