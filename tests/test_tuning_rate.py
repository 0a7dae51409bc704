"""How fast masks, scales and spectra are tuned: slower where many layers change in a row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fairsvd import FairLRFTransformer, FairPruner
from helpers import last_wins

pytestmark = pytest.mark.filterwarnings("ignore::fairsvd.exceptions.FairsvdWarning")


def task(n_hidden):
    """Draw rows whose label leans on the group, and a network of so many hidden layers."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(120, 5, generator=generator).numpy()
    y, groups = (X[:, 0] > 0).astype(int), np.arange(120) % 2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [part for _ in range(n_hidden) for part in (nn.Linear(5, 5), nn.Tanh())]
        net = nn.Sequential(*layers, nn.Linear(5, 2))
    with torch.no_grad():
        for layer in net[:-1:2]:  # so that deep layers have gradients too
            layer.weight.add_(torch.eye(5))
    return net, X, y, groups


class LastFactors(last_wins(FairLRFTransformer)):
    """Chooses its last edit."""


class LastPruned(last_wins(FairPruner)):
    """Chooses its last edit."""


@pytest.mark.parametrize("kind", [LastFactors, LastPruned])
@pytest.mark.parametrize("n_hidden", [1, 4, 5, 20])
def test_the_first_step_of_a_tuning_is_the_rate_of_its_depth(kind, n_hidden):
    """Adam's first step is the rate itself, for every parameter that has a gradient."""
    net, X, y, groups = task(n_hidden)
    editor = kind(net, max_steps=1, sparsity=0, gap_weight=1.0, random_state=0)
    after = editor.fit(X, y, sensitive_features=groups).module_.state_dict()
    last = 2 * n_hidden - 2
    moved = (after[f"{last}.bias"] - net.state_dict()[f"{last}.bias"]).abs()
    # Up to four layers 1e-2, and in proportion less where more of them compound.
    rate = {1: 1e-2, 4: 1e-2, 5: 8e-3, 20: 2e-3}[n_hidden]
    np.testing.assert_allclose(moved, rate, rtol=2e-3)
    if kind is LastPruned:
        scale = after[f"{last}.weight"] / net.state_dict()[f"{last}.weight"]
        np.testing.assert_allclose((scale - 1).abs(), rate, rtol=0.05)


@pytest.mark.parametrize("kind", [FairLRFTransformer, FairPruner])
def test_a_mask_crosses_zero_after_17_steps(kind):
    """From 0.5 at 3e-2 a step, where the gradient keeps its sign and size."""
    net, X, y, groups = task(2)
    editor = kind(net, max_steps=25, gap_weight=1.0, refine=None, random_state=0)
    removed = editor.fit(X, y, sensitive_features=groups).history_.query("stage == 'masks'")
    removed = removed.set_index("step")["removed_fraction"]
    assert removed.loc[:15].max() == 0
    assert removed.loc[20] > 0
