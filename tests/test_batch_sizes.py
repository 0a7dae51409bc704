"""No step of a fit uses more rows than there are, whatever ``batch_size`` asks for."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from editors import CONFIGURATIONS, make
from helpers import IGNORE_SMALL_DATA, mlp, table, trained

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]

ROWS = table(40)
NETWORK = trained(mlp(), ROWS)


class Counted(nn.Module):
    """Notes the rows of every pass with gradients; all copies share the note."""

    def __init__(self, network, seen):
        super().__init__()
        self.network, self.seen = network, seen

    def __deepcopy__(self, memo):
        return Counted(copy.deepcopy(self.network, memo), self.seen)

    def forward(self, X):
        if torch.is_grad_enabled():
            self.seen.append(len(X))
        return self.network(X)


# What takes no step on rows of X, or runs layer by layer.
GRADIENT_FREE = (
    "AttentionTemper",
    "BlindPostProcessor",
    "LayerwiseOptimizer",
    "RandomPerturbation",
)


@pytest.mark.parametrize("name", [n for n in CONFIGURATIONS if n not in GRADIENT_FREE])
def test_no_pass_has_more_rows_than_there_are(name):
    seen = []
    many = {"batch_size": 10**18}
    kind, quick, _ = CONFIGURATIONS[name]
    parameters = kind().get_params()
    if "critic_rows" in parameters:
        many["critic_rows"] = 10**18
    if "objective" in parameters and "objective" not in quick:
        many["objective"] = "soft_gap"  # those that imitate are configurations of their own
    editor = make(name, Counted(NETWORK, seen), **many)
    editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    assert max(seen) <= len(ROWS.y)


@pytest.mark.parametrize("name", ["FairLRFTransformer", "BiasMaskFineTuner"])
def test_more_rows_than_there_are_is_all_of_them(name):
    editing = 30  # three quarters of 40
    found = [
        make(name, NETWORK, batch_size=size)
        .fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
        .predict_proba(ROWS.X)
        for size in (editing, 10**18)
    ]
    assert np.array_equal(*found)


def test_the_default_network_takes_any_batch_size():
    editor = make("GapFineTuner", batch_size=10**18)
    editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    assert len(editor.to_skorch().history) == 30  # a step an epoch, as many steps as rows
