"""How fast scales and spectra are tuned: slower where many layers change one after the other."""

import numpy as np
import pytest
import torch
from torch import nn

from fairsvd import FairLRFTransformer, FairPruner
from fairsvd.base import _phase_steps as steps

pytestmark = pytest.mark.filterwarnings("ignore::fairsvd.exceptions.FairsvdWarning")


def test_many_layers_share_the_rate_of_a_few():
    rates = [steps.layered_rate(n) for n in (0, 1, 2, 4)]
    assert rates == [steps.TUNING_RATE] * 4
    for n in (5, 20, 100):
        assert n * steps.layered_rate(n) == pytest.approx(4 * steps.TUNING_RATE)


@pytest.mark.parametrize("editor", [FairLRFTransformer, FairPruner])
@pytest.mark.parametrize("n_hidden", [2, 8])
def test_edits_are_tuned_at_the_rate_of_their_depth(monkeypatch, editor, n_hidden):
    found = []

    def spy(*args, learning_rate, **options):
        found.append(learning_rate)
        return tune(*args, learning_rate=learning_rate, **options)

    tune = steps.tune
    monkeypatch.setattr(steps, "tune", spy)
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(120, 5, generator=generator).numpy()
    y, groups = (X[:, 0] > 0).astype(int), np.arange(120) % 2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [part for _ in range(n_hidden) for part in (nn.Linear(5, 5), nn.ReLU())]
        net = nn.Sequential(*layers, nn.Linear(5, 2))
    fit = editor(net, max_steps=2, gap_weight=1.0, random_state=0).fit
    fit(X, y, sensitive_features=groups)
    # Masks, then the tuning after them, then the one with nothing removed.
    assert found == [steps.MASK_RATE, *[steps.layered_rate(n_hidden)] * 2]
