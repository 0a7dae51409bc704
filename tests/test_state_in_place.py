"""Logits of a network with some entries of its state replaced: what it runs with, and after."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from fairsvd.arrays import as_batches
from fairsvd.base import EditData
from helpers import fingerprint

ROWS = np.random.default_rng(0).normal(size=(2500, 4)).astype(np.float32)  # three blocks


class Tied(nn.Module):
    """Uses one layer under two names, and a buffer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("shift", torch.ones(4))

    def forward(self, X):
        return self.second(self.first(X).relu() + self.shift)


def logits(module, state, rows=ROWS):
    data = SimpleNamespace(
        to_logits=lambda output: output,
        device=torch.device("cpu"),
        dtype=torch.float32,
        judged=as_batches(rows),
    )
    return EditData.logits(data, module, state)


@pytest.mark.parametrize(
    "names", [(), ("first.bias",), ("first.weight",), ("second.weight", "shift")]
)
def test_the_entries_are_those_given_and_tied_ones_follow(names):
    module = Tied()
    before = fingerprint(module)
    state = {name: torch.full_like(module.state_dict()[name], 0.25) for name in names}
    blocks = torch.from_numpy(ROWS).split(1024)
    with torch.no_grad():
        wanted = torch.cat([functional_call(module, state, (block,)) for block in blocks])
    assert torch.equal(logits(module, state), wanted)
    assert fingerprint(module) == before
    assert module.second.weight is module.first.weight


def test_a_network_that_fails_gets_its_own_entries_back():
    module = Tied()
    own = dict(module.named_parameters())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        logits(module, {"first.bias": torch.zeros(4)}, ROWS[:, :3])
    assert all(value is own[name] for name, value in module.named_parameters())
