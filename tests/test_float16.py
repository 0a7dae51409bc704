"""Edits in float16: gradients are scaled so that they do not vanish, and come out unscaled."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from editors import CONFIGURATIONS, make
from fairsvd.base._passes import run_pass
from helpers import IGNORE_SMALL_DATA, convolutions, images, mlp, quick, table, trained

pytestmark = [pytest.mark.filterwarnings(each) for each in IGNORE_SMALL_DATA]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def network(width):
    """Two layers; the gradient in the first is that in the logits times ``width``."""
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        module[0].weight.copy_(torch.eye(4))
        module[1].weight.copy_(width * torch.ones(2, 4))
    return module.to(DEVICE).requires_grad_(False)


def gradient_of_first(module, dtype, factor, *, alone=True, state=None):
    """Gradient of a loss that is the sum of the logits times a factor."""
    X = torch.ones(3, 4, device=DEVICE)
    leaf = module[0].weight.detach().clone().requires_grad_()

    def run(entries, dtype):
        with torch.autocast(DEVICE, dtype=dtype, enabled=dtype is not None):
            return torch.func.functional_call(module, dict(entries), (X,)).float()

    entries = {"0.weight": leaf} if state is None else state
    logits = run_pass(run, module, entries, dtype, alone=alone)
    loss = (factor * logits).sum()
    return torch.autograd.grad(loss, leaf)[0].cpu()


@pytest.mark.parametrize("factor", [1.0, 1e-5, 1e-9, 1e-20, 1e6])
def test_gradients_that_float16_cannot_hold_are_those_of_full_precision(factor):
    module = network(2.0**-6)
    wanted = gradient_of_first(module, None, factor)
    found = gradient_of_first(module, torch.float16, factor)
    # Rounded to 11 bits.
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=0)
    # Of two logits and three rows.
    torch.testing.assert_close(wanted, torch.full((4, 4), 6 * 2.0**-6 * factor))


def test_without_a_scale_they_vanish():
    module = network(2.0**-6)
    leaf = module[0].weight.detach().clone().requires_grad_()
    with torch.autocast(DEVICE, dtype=torch.float16):
        X = torch.ones(3, 4, device=DEVICE)
        logits = torch.func.functional_call(module, {"0.weight": leaf}, (X,)).float()
    assert not torch.autograd.grad((1e-9 * logits).sum(), leaf)[0].any()


def test_one_that_overflows_is_0_and_no_gradient_is_0():
    # Scaled to 256 in the logits, it is 2^9 times 2^10 in the first layer.
    assert not gradient_of_first(network(2.0**10), torch.float16, 1.0).any()
    assert not gradient_of_first(network(1.0), torch.float16, 0.0).any()


def test_the_scale_is_set_anew_for_each_backward_pass():
    module = network(1.0)
    leaf = module[0].weight.detach().clone().requires_grad_()

    def run(entries, dtype):
        with torch.autocast(DEVICE, dtype=dtype):
            X = torch.ones(3, 4, device=DEVICE)
            return torch.func.functional_call(module, dict(entries), (X,)).float()

    logits = run_pass(run, module, {"0.weight": leaf}, torch.float16, alone=True)
    for factor in (1e-12, 1.0, 1e4):
        (found,) = torch.autograd.grad((factor * logits).sum(), leaf, retain_graph=True)
        wanted = torch.full((4, 4), 6.0 * factor)
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-3, atol=0)


@pytest.mark.parametrize("why", ["tapped", "elsewhere"])
def test_a_pass_whose_gradients_pass_by_the_scale_is_in_full_precision(why):
    module, seen = network(1.0), []
    module.register_forward_hook(lambda _m, _x, output: seen.append(output.dtype))
    if why == "elsewhere":
        module[1].weight.requires_grad_()
    gradient_of_first(module, torch.float16, 1.0, alone=why != "tapped")
    assert seen == [torch.float32]


def test_a_pass_without_gradients_is_in_float16():
    module, seen = network(1.0), []
    module.register_forward_hook(lambda _m, _x, output: seen.append(output.dtype))

    def run(entries, dtype):
        with torch.autocast(DEVICE, dtype=dtype):
            return module(torch.ones(3, 4, device=DEVICE)).float()

    with torch.no_grad():
        run_pass(run, module, {}, torch.float16, alone=True)
    run_pass(run, module, {}, torch.float16, alone=True)
    assert seen == [torch.float16, torch.float16]


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_editor_edits_near_full_precision(name):
    rows = table()
    network = trained(mlp(), rows)
    full, half = (
        make(name, network, precision=precision, device=DEVICE).fit(
            rows.X, rows.y, sensitive_features=rows.group
        )
        for precision in ("full", "mixed_float16")
    )
    assert {p.dtype for p in half.module_.parameters()} == {torch.float32}
    assert half.history_["stage"].tolist() == full.history_["stage"].tolist()
    assert np.isfinite(half.history_["gap"]).all()


@pytest.mark.slow
def test_images_and_parallel_paths():
    rows = images()
    settings = {"gap_weight": None, "precision": "mixed_float16", "device": DEVICE}
    network = trained(convolutions(), rows)
    one, two = (
        quick(network, n_jobs=jobs, **settings).fit(rows.X, rows.y, sensitive_features=rows.group)
        for jobs in (None, 2)
    )
    assert np.array_equal(one.predict_proba(rows.X), two.predict_proba(rows.X))
    full = quick(network, **{**settings, "precision": "full"})
    full.fit(rows.X, rows.y, sensitive_features=rows.group)
    np.testing.assert_allclose(one.predict_proba(rows.X), full.predict_proba(rows.X), atol=0.1)
    again = pickle.loads(pickle.dumps(one))
    assert np.array_equal(again.predict_proba(rows.X), one.predict_proba(rows.X))
