"""The end of a brief edit: the output layer alone, tuned for the worst cell on kept features."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edit_data import constraint, edit_data
from fairsvd import FairLRFTransformer, GapFineTuner
from fairsvd.base import Task
from fairsvd.phases import TuningPath, has_free_head
from fairsvd.phases._brief_head import tune_head, worst_cell
from fairsvd.training import Batch
from helpers import Rows


def planted(n: int = 400, seed: int = 0) -> Rows:
    """Draw rows in which one number tells the class, and another mirrors it for group 1."""
    rng = np.random.default_rng(seed)
    y, g = rng.integers(2, size=n), (rng.random(n) < 0.25).astype(np.int64)
    X = rng.normal(size=(n, 4))
    X[:, 0] += 3.0 * (y - 0.5)
    X[:, 1] += 3.0 * (y - 0.5) * np.where(g == 1, -1.0, 1.0)
    return Rows(X, y, g)


def network(*end: nn.Module) -> nn.Sequential:
    """Make a network whose output layer relies on the number that is mirrored."""
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2), *end).double()
    with torch.no_grad():
        module[0].weight.copy_(torch.eye(4))
        module[0].bias.zero_()
        module[1].weight.copy_(torch.tensor([[0.0, 0, 0, 0], [0.5, 1.5, 0, 0]]))
        module[1].bias.zero_()
    return module.requires_grad_(False)


def path_of(module: nn.Module, rows: Rows, **changes: Any) -> TuningPath[Any]:
    """Make a path under a budget whose output layer is the second one."""
    data = edit_data(rows, output_layer="1", margin=0.0, **changes)
    seed = np.random.SeedSequence(0)
    settings = {"n_steps": 1, "seed": seed, "attributes": {}, "gap_weight": 1.0, "head": True}
    return TuningPath[Any].of(Task(module, data, constraint()), **settings)


def tuned(path: TuningPath[Any]) -> dict[str, torch.Tensor] | None:
    return tune_head(path, dict(path.module.state_dict()), np.random.default_rng(0))


def cell_accuracies(weight: torch.Tensor, bias: torch.Tensor, rows: Rows) -> np.ndarray:
    """Compute the accuracy of every (label, group) cell."""
    right = (rows.X @ weight.numpy().T + bias.numpy()).argmax(axis=1) == rows.y
    cells = [right[(rows.y == y) & (rows.group == g)] for y in (0, 1) for g in (0, 1)]
    return np.array([cell.mean() for cell in cells])


def test_worst_cell_is_the_smallest_mean_over_cells_with_rows_enough() -> None:
    # 30 rows of three cells each and 3 of the fourth, which is worse but too small to tell.
    y = torch.tensor([0] * 60 + [1] * 33)
    groups = torch.tensor([0] * 30 + [1] * 30 + [0] * 30 + [1] * 3)
    margins = torch.tensor([-1.0] * 30 + [-0.2] * 30 + [0.5] * 30 + [-3.0] * 3)
    logits = torch.stack([torch.zeros_like(margins), margins], dim=1).double()
    one = torch.ones(93, dtype=torch.float64)
    batch = Batch(logits, y, groups, one, one)
    expected = 1 / (1 + np.exp(-4 * 0.2))
    assert float(worst_cell(logits, batch, 2)) == pytest.approx(expected, abs=1e-6)
    few = Batch(logits[-5:], y[-5:], groups[-5:], one[-5:], one[-5:])
    assert float(worst_cell(logits[-5:], few, 2)) == pytest.approx(1 / (1 + np.exp(12)), rel=1e-4)


def test_worst_cell_leaves_rows_of_unknown_group_out_and_weighs_the_others() -> None:
    margins = torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64)
    logits = torch.stack([torch.zeros(3, dtype=torch.float64), margins], dim=1)
    y, groups = torch.tensor([1, 1, 1]), torch.tensor([0, 0, -1])
    batch = Batch(logits, y, groups, torch.ones(3), torch.tensor([3.0, 1.0, 5.0]).double())
    sure = 1 / (1 + np.exp(-4.0))
    assert float(worst_cell(logits, batch, 1)) == pytest.approx((3 * sure + (1 - sure)) / 4)


def test_the_tuned_layer_serves_the_worst_cell() -> None:
    rows, new = planted(), planted(4000, seed=1)
    module = network()
    found = tuned(path_of(module, rows))
    assert found is not None and set(found) == {"1.weight", "1.bias"}
    before = cell_accuracies(module[1].weight, module[1].bias, new)
    after = cell_accuracies(found["1.weight"], found["1.bias"], new)
    # Group 1 was decided by what is mirrored for it.
    assert before.min() < 0.3
    assert after.min() > before.min() + 0.4


def test_a_row_of_weight_two_is_the_row_twice() -> None:
    rows, weights = planted(120), np.tile([1, 2, 1, 1], 30)
    twice = Rows(*(np.repeat(column, weights, axis=0) for column in rows))
    weighted = path_of(network(), rows)
    editing = replace(weighted.data.editing, weights=torch.as_tensor(weights).double())
    weighted = replace(weighted, data=replace(weighted.data, editing=editing))
    found, expected = tuned(weighted), tuned(path_of(network(), twice))
    assert found is not None and expected is not None
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


class Halved(nn.Module):
    """Follows the output layer unseen by its kind of output."""

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits / 2


def test_a_layer_that_something_follows_is_left_alone() -> None:
    assert tuned(path_of(network(Halved()), planted(60))) is None


def test_a_softmax_after_the_layer_changes_nothing() -> None:
    rows = planted(60)
    found = tuned(path_of(network(nn.Softmax(dim=1)), rows, kind="probabilities"))
    assert found is not None
    torch.testing.assert_close(found, tuned(path_of(network(), rows)), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("module", "edited", "groups", "free"),
    [
        (network(), (), (0, 1), True),
        (network(), ("0.weight",), (0, 1), True),
        (network(), ("1.weight",), (0, 1), False),
        (nn.Sequential(nn.Linear(4, 4), nn.Bilinear(4, 4, 2)), (), (0, 1), False),
        (network(), (), (), False),
    ],
)
def test_which_output_layers_are_free(
    module: nn.Module, edited: tuple[str, ...], groups: tuple[int, ...], free: bool
) -> None:
    data = edit_data(planted(60), output_layer="1")
    task = Task(module, replace(data, group_labels=groups), constraint())
    assert has_free_head(task, edited) is free


@pytest.mark.parametrize("kind", [FairLRFTransformer, GapFineTuner])
def test_edits_of_images_end_with_the_output_layer(kind: Any) -> None:
    """A layer that is factored, or beyond the scope, is not tuned alone."""
    rows = planted(240)
    X = rows.X.astype(np.float32)[:, None, :, None]
    module = nn.Sequential(nn.Flatten(), *network().float())
    whole = {"layers": "all"} if kind is FairLRFTransformer else {"scope": "bias"}
    worst = []
    for settings in ({}, whole):
        editor = kind(module, random_state=0, max_epochs=4, tolerance=0.1, **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            editor.fit(X, rows.y, sensitive_features=rows.group)
        head = editor.module_[2]
        worst.append(cell_accuracies(head.weight.detach(), head.bias.detach(), rows).min())
    assert worst[0] > worst[1] + 0.2
