"""Generators that train a network do so on a CUDA device and draw what they draw on the CPU."""

from __future__ import annotations

import pickle
from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator
from torch.utils.data import TensorDataset

import simulated_cuda
from fairsvd import CellSampler, HyperGenerator, SelectiveFineTuner
from helpers import IGNORE_SMALL_DATA, images, mlp, table, trained

DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    *(pytest.mark.filterwarnings(each) for each in IGNORE_SMALL_DATA),
]

# Rounding of ten steps of training.
CLOSE = {"rtol": 1e-2, "atol": 1e-2}


def hyper(**settings):
    return HyperGenerator(**{"n_steps": 10, "n_draws": 2, "random_state": 0, **settings})


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("table", {"generator": "gaussian"}),
        ("table", {"generator": "mixture", "normalize": "scale"}),
        ("table", {"generator": "vae", "normalize": "table"}),
        ("images", {"generator": "vae"}),
    ],
)
def test_hypernetwork(kind, settings):
    rows = table() if kind == "table" else images()
    given = {"X": rows.X, "y": rows.y, "sensitive_features": rows.group}
    wanted, found = hyper(**settings).fit(**given), hyper(device=DEVICE, **settings).fit(**given)
    np.testing.assert_allclose(found.loss_curve_, wanted.loss_curve_, **CLOSE)
    for key, weights in wanted.weights_.items():
        for name, value in weights.items():
            np.testing.assert_allclose(found.weights_[key][name], value, **CLOSE)
    np.testing.assert_allclose(found.sample(8), wanted.sample(8), rtol=0.05, atol=0.05)
    # It can be loaded anywhere.
    assert {p.device.type for p in found.hypernetwork_.parameters()} == {"cpu"}
    assert np.array_equal(pickle.loads(pickle.dumps(found)).sample(8), found.sample(8))


@pytest.mark.skipif(not simulated_cuda.installed(), reason="counts what runs on the device")
def test_hypernetwork_trains_there():
    rows = table()
    with simulated_cuda.count() as counts:
        hyper(device=DEVICE).fit(rows.X, rows.y, sensitive_features=rows.group)
    # Forward, backward and a step of ten steps; nothing of it is left to the CPU.
    assert counts.total["launch"] > 10 * 100


class Remembers(BaseEstimator):
    """A generator that repeats rows, and tells on which device it was fitted."""

    seen: ClassVar[list[str]] = []

    def __init__(self, device=None, random_state=None):
        self.device, self.random_state = device, random_state

    def fit(self, X, y=None):
        self.rows_ = X
        self.seen.append(self.device)
        return self

    def sample(self, n):
        return self.rows_[np.arange(n) % len(self.rows_)]


@pytest.mark.parametrize(
    ("own", "device", "found"),
    [(None, None, None), (None, DEVICE, DEVICE), ("cpu", DEVICE, "cpu")],
)
def test_the_sampler_s_device_is_that_of_a_generator_without_one(own, device, found):
    rows = table()
    sampler = CellSampler(generator=Remembers(own), device=device, random_state=0)
    sampler.fit_resample(rows.X, rows.y, sensitive_features=rows.group)
    assert {each.device for each in sampler.generator_.values()} == {found}
    assert sampler.generator.device == own


def test_the_sampler_s_device_may_suit_no_generator():
    rows = table()
    sampler = CellSampler(device=DEVICE, random_state=0)
    X, _ = sampler.fit_resample(rows.X, rows.y, sensitive_features=rows.group)
    plain = CellSampler(random_state=0)
    assert np.array_equal(X, plain.fit_resample(rows.X, rows.y, sensitive_features=rows.group)[0])


@pytest.mark.parametrize("make", [CellSampler, hyper])
def test_a_device_that_is_not_here(make):
    rows = table()
    with pytest.raises(ValueError, match="device='cuda:63' cannot be used here"):
        model = make(device="cuda:63")
        getattr(model, "fit_resample", getattr(model, "fit", None))(
            rows.X, rows.y, sensitive_features=rows.group
        )


@pytest.mark.parametrize("there", [False, True])
def test_selective_fine_tuner_s_generator_trains_where_the_edit_runs(there):
    rows = table()
    settings = {"epochs": 1, "min_steps": 2, "top_k": 0.5, "random_state": 0}
    generator = Remembers()
    Remembers.seen.clear()
    tuner = SelectiveFineTuner(trained(mlp(), rows), generator=generator, device=DEVICE, **settings)
    X = TensorDataset(torch.tensor(rows.X, device=DEVICE)) if there else rows.X
    tuner.fit(X, rows.y, sensitive_features=rows.group)
    assert next(tuner.module_.parameters()).is_cuda
    assert set(Remembers.seen) == {"cuda:0"}
    assert generator.device is None
