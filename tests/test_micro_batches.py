"""``micro_batch_size=``: a step's rows pass in parts, and its gradients stay those of all rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edit_data import constraint, edit_data
from editors import CONFIGURATIONS, make
from fairsvd.base import Task
from fairsvd.phases import make_batches, make_loss
from helpers import IGNORE_SMALL_DATA, mlp, table, trained

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

ROWS = table(60)
NETWORK = trained(mlp(), ROWS)
PART = 5


class Watched(nn.Module):
    """Notes the rows of every pass that gradients come back through."""

    def __init__(self, network):
        super().__init__()
        self.network, self.sizes = network, []

    def forward(self, X):
        if torch.is_grad_enabled():
            self.sizes.append(len(X))
        return self.network(X)


def gradients(micro_batch_size, dtype):
    """Compute the loss of a step and its gradients, with the soft gap."""
    torch.manual_seed(0)
    module = Watched(mlp().to(dtype))
    data = edit_data(ROWS, dtype=dtype, micro_batch_size=micro_batch_size)
    leaves = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
    loss = make_loss(
        Task(module, data, constraint()), lambda: leaves, margin=0.1, gap_weight=1.0, loyalty=0.5
    )
    rng = np.random.default_rng(0)
    value = loss(next(iter(make_batches(data, "classes", rng, size=48))))
    value.backward()
    return value.detach(), [leaf.grad for leaf in leaves.values()], module.sizes


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_the_gradients_are_those_of_the_whole_step(dtype, close):
    value, wanted, sizes = gradients(None, dtype)
    assert sizes == [48]
    found_value, found, parts = gradients(PART, dtype)
    # Ten parts of 4 or 5 rows, each of which passes twice.
    assert max(parts) == PART
    assert sum(parts) == 2 * 48
    torch.testing.assert_close(found_value, value, rtol=0, atol=close)
    for own, whole in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, whole, rtol=0, atol=close)
        assert whole.abs().max() > 1e-3


def test_a_part_as_large_as_the_step_changes_no_bit():
    value, wanted, _ = gradients(None, torch.float32)
    found_value, found, sizes = gradients(48, torch.float32)
    assert sizes == [48]
    assert torch.equal(found_value, value)
    assert all(torch.equal(own, whole) for own, whole in zip(found, wanted, strict=True))


def outcome(name, **settings):
    editor = make(name, NETWORK, random_state=0, **settings)
    editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    return torch.as_tensor(editor.predict_proba(ROWS.X)), editor.history_


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_editor_takes_it_and_makes_the_same_edit(name):
    wanted, history = outcome(name)
    found, again = outcome(name, micro_batch_size=PART)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    assert len(again) == len(history)
    assert (again["utility"] - history["utility"]).abs().max() < 0.03
