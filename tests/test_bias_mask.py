"""Bias-mask fine-tuning: importances, masks, and what moves and what does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bias_masks import LastWins, quick
from fairsvd import BiasMaskFineTuner
from fairsvd.arrays import LabelledRows, as_batches
from fairsvd.base import EditData, Task
from fairsvd.masking._importance import Operating, batch_importance, row_importance
from fairsvd.masking._ratio import (
    bias_ratio,
    make_hard_masks,
    make_soft_masks,
    normalise,
    reset_mask,
    shuffle,
)
from fairsvd.objective import Constraint, make_judge, soft_gap
from helpers import (
    IGNORE_SMALL_DATA,
    convolutions,
    images,
    mlp,
    table,
    trained,
)

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

CONSTRAINT = Constraint("equalized_odds", 0.05, 0.4, "balanced_accuracy", None, 1, "classes")


def edit_data(rows, n_groups, n_classes, batch_size=16, dtype=torch.float64):
    y, groups = torch.tensor(rows.y), torch.tensor(rows.group)
    X = as_batches(rows.X.astype(np.float64))
    judge = make_judge(
        rows.y, rows.group, np.zeros(len(rows.y), dtype=int), n_classes, n_groups, CONSTRAINT
    )
    return EditData(
        editing=LabelledRows(X, y, groups),
        judged=X,
        judge=judge,
        untouched=torch.zeros(len(y), n_classes),
        kind="logits",
        output_layer="4",
        n_classes=n_classes,
        n_groups=n_groups,
        group_labels=tuple(range(n_groups)),
        margin=0.3 if n_classes == 2 else 0.0,
        batch_size=batch_size,
        device=torch.device("cpu"),
        dtype=dtype,
    )


def importance_by_hand(module, data, at):
    """One row at a time, in float64, by autograd alone."""
    X, y, g = data.editing.X[:].double(), data.editing.y, data.editing.groups
    shift = torch.zeros(data.n_classes, dtype=torch.float64)
    if data.n_classes == 2:
        shift[1] = at.margin
    weights = [module.get_submodule(name).weight for name in ("0", "2", "4")]
    class_weight = len(y) / (len(torch.unique(y)) * torch.bincount(y).double())

    def probabilities(rows):
        return torch.softmax(at.sharpness * (module(rows) - shift), dim=1)

    leaf = probabilities(X).detach().requires_grad_()
    gap = soft_gap(leaf, y, g, None, "equalized_odds", 1, data.n_groups)
    (slopes,) = torch.autograd.grad(gap, leaf)
    found = []
    for kind in ("bias", "prediction"):
        gradients = []
        for i in range(len(y)):
            row = X[i : i + 1]
            if kind == "bias":
                loss = len(y) * (slopes[i] * probabilities(row)[0]).sum()
            else:
                loss = class_weight[y[i]] * nn.functional.cross_entropy(
                    module(row) - shift, y[i : i + 1]
                )
            gradients.append(torch.autograd.grad(loss, weights))
        columns = [torch.stack(column) for column in zip(*gradients, strict=True)]
        share = 1 / data.batch_size
        found.append(
            [(1 - share) * c.mean(0).square() + share * c.square().mean(0) for c in columns]
        )
    return found


@pytest.mark.parametrize(("n_classes", "n_groups"), [(2, 2), (2, 3), (3, 2)])
def test_importance_equals_a_loop_over_single_rows(n_classes, n_groups):
    rows = table(90, n_classes=n_classes, n_groups=n_groups)
    data = edit_data(rows, n_groups, n_classes)
    module = trained(mlp(n_classes), rows).double()
    at = Operating(data.margin, 4.0)
    found = row_importance(Task(module, data, CONSTRAINT), ["0", "2", "4"], at, max_memory=2**20)
    for mine, wanted in zip(found, importance_by_hand(module, data, at), strict=True):
        for value, reference in zip(mine.values(), wanted, strict=True):
            torch.testing.assert_close(value, reference, rtol=1e-8, atol=1e-14)


def test_importance_is_the_mean_over_random_batches():
    rows = table(800)
    data = edit_data(rows, 2, 2, batch_size=400)
    module = trained(mlp(), rows).double()
    task, at = Task(module, data, CONSTRAINT), Operating(0.0, 1.0)
    exact = row_importance(task, ["0"], at, max_memory=2**20)
    drawn = [batch_importance(task, ["0"], at, np.random.default_rng(seed)) for seed in range(40)]
    for side in (0, 1):
        mean = torch.stack([each[side]["0.weight"] for each in drawn]).mean(0)
        pair = torch.stack([mean.flatten(), exact[side]["0.weight"].flatten()])
        # Not equal: the batches are stratified, and in a small one the gap's sign may turn.
        assert torch.corrcoef(pair.log())[0, 1] > 0.95
        assert 0.5 < float(pair[0].sum() / pair[1].sum()) < 2


RATIOS = st.lists(st.floats(0, 10, width=32), min_size=1, max_size=40)


@given(RATIOS, RATIOS, st.floats(0.01, 1))
def test_a_hard_mask_marks_the_largest_ratios(one, other, keep):
    ratio = {"a": torch.tensor(one), "b": torch.tensor(other)}
    masks = make_hard_masks(ratio, keep)
    total = len(one) + len(other)
    marked = sum(int(mask.sum()) for mask in masks.values())
    assert marked == max(1, int(np.floor(keep * total + 1e-6)))
    inside = torch.cat([ratio[name][mask] for name, mask in masks.items()])
    outside = torch.cat([ratio[name][~mask] for name, mask in masks.items()])
    assert not len(outside) or inside.min() >= outside.max()


def test_a_hard_mask_of_one_half_is_the_papers_percentile():
    rng = np.random.default_rng(0)
    bias, prediction = ({n: torch.tensor(rng.random((6, 7))) for n in "ab"} for _ in range(2))
    scaled = [
        {n: (v - v.min()) / (v.max() - v.min()) for n, v in part.items()}
        for part in (bias, prediction)
    ]
    ratio = {n: (scaled[0][n] / (scaled[1][n] + 1e-10)).numpy() for n in "ab"}
    cut = np.percentile(np.concatenate([r.ravel() for r in ratio.values()]), 50)
    masks = make_hard_masks(bias_ratio(bias, prediction, "weight"), 0.5)
    for name, mask in masks.items():
        assert np.array_equal(mask.numpy(), ratio[name] > cut)


def test_soft_masks_normalisation_and_resets():
    values = torch.tensor([1.0, 3.0, 2.0])
    assert normalise(values).tolist() == [0.0, 1.0, 0.5]
    assert normalise(torch.full((3,), 7.0)).tolist() == [7.0] * 3
    ratio = {"a": torch.tensor([[0.0, 1.0], [1e10, 3.0]])}
    soft = make_soft_masks(ratio)["a"]
    np.testing.assert_allclose(soft, np.tanh(ratio["a"].numpy()), rtol=1e-6)
    assert reset_mask(ratio["a"]).tolist() == [[False, True], [True, True]]
    # A single number is its own mean: it is kept, as in SWiFT's code.
    assert reset_mask(torch.tensor([2.0])).tolist() == [False]


@pytest.mark.parametrize("granularity", ["unit", "layer"])
def test_what_is_masked_as_one_is_averaged(granularity):
    bias = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, 2, 1, 1)}
    ones = {name: torch.ones_like(value) for name, value in bias.items()}
    ratio = bias_ratio(bias, ones, granularity, bias_only=True)
    if granularity == "unit":
        assert ratio["a"].tolist() == [[0.0], [1.0]]  # the means 1 and 4, normalised
        assert ratio["b"].shape == (2, 1, 1, 1)
    else:
        assert [float(v) for v in ratio.values()] == [2.5, 1.0]


def test_random_masks_hold_the_same_values_elsewhere():
    ratio = {"a": torch.rand(30, 20), "b": torch.rand(7)}
    dealt = shuffle(ratio, torch.Generator().manual_seed(0))
    for name, values in ratio.items():
        assert torch.equal(dealt[name].flatten().sort().values, values.flatten().sort().values)
    assert not torch.equal(dealt["a"], ratio["a"])
    layers = {"a": torch.tensor([[1.0]]), "b": torch.tensor([2.0]), "c": torch.tensor([3.0])}
    orders = {
        tuple(float(v) for v in shuffle(layers, torch.Generator().manual_seed(k)).values())
        for k in range(20)
    }
    assert len(orders) > 1
    assert all(sorted(order) == [1.0, 2.0, 3.0] for order in orders)


PUBLISHED = {
    "tuned_fraction": 0.5,
    "granularity": "weight",
    "importance": "batch_gradient",
    "gap_weight": 0.1,
    "impair_epochs": 10,
    "repair_epochs": 10,
    "learning_rate": 1e-4,
    "head_learning_rate": 1e-3,
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "batch_size": 64,
}


def test_presets_have_the_papers_values():
    bmft, swift = BiasMaskFineTuner.bmft(), BiasMaskFineTuner.swift(random_state=3)
    for editor, own in (
        (bmft, {"mask": "hard", "head_reset": "zero", "loss": "bmft"}),
        (swift, {"mask": "soft", "head_reset": "partial", "loss": "swift", "random_state": 3}),
    ):
        parameters = editor.get_params()
        for name, value in {**PUBLISHED, **own}.items():
            assert parameters[name] == value
    network = mlp()
    assert BiasMaskFineTuner.bmft(network, tuned_fraction=0.1).get_params()["tuned_fraction"] == 0.1
    assert BiasMaskFineTuner.swift(network).network is network


def test_presets_run_their_epochs_of_the_papers_losses():
    rows = table()
    for preset in (BiasMaskFineTuner.bmft, BiasMaskFineTuner.swift):
        editor = preset(trained(mlp(), rows), random_state=0)
        history = editor.fit(rows.X, rows.y, sensitive_features=rows.group).history_
        steps = history.groupby("stage")["step"].max()
        # 90 editing rows are two batches of 64: ten epochs are 20 updates, one candidate each.
        assert steps["impair"] == steps["repair"] == 20
        assert (history["stage"] == "repair").sum() == 10


OPTIMISERS = {
    "adam": {},
    "sgd": {"optimizer": "sgd", "weight_decay": 0.1, "learning_rate": 0.1},
    "adam, decay": {"weight_decay": 0.1},
}


@pytest.mark.parametrize("how", OPTIMISERS)
@pytest.mark.parametrize("granularity", ["weight", "unit", "layer"])
def test_weights_outside_the_mask_keep_their_bits(how, granularity):
    rows = table()
    network = trained(mlp(), rows)
    editor = quick(network, LastWins, granularity=granularity, min_steps=30, **OPTIMISERS[how])
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    before, after = network.state_dict(), editor.module_.state_dict()
    for name, mask in editor.masks_.items():
        assert mask.dtype == torch.bool
        assert torch.equal(before[name][~mask], after[name][~mask])
    moved = [before[n][m] != after[n][m] for n, m in editor.masks_.items()]
    assert torch.cat(moved).float().mean() > 0.5
    for name in ("0.bias", "2.bias"):
        assert torch.equal(before[name], after[name])


def test_the_second_step_moves_the_output_layer_alone():
    rows = table()
    network = trained(mlp(), rows)
    editor = quick(network, LastWins, impair_epochs=0)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    after = editor.module_.state_dict()
    changed = {n for n, v in network.state_dict().items() if not torch.equal(v, after[n])}
    assert changed == {"4.weight", "4.bias"}


def test_normalisation_stays_as_it_is():
    rows = images()
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), *convolutions()[1:])
    network[3] = nn.Conv2d(8, 8, 3, padding=1)
    network = trained(network, rows)
    editor = quick(network, LastWins).fit(rows.X, rows.y, sensitive_features=rows.group)
    for name, value in network[1].state_dict().items():
        assert torch.equal(value, editor.module_[1].state_dict()[name])
    assert not any(part.training for part in editor.module_.modules())


def test_a_soft_mask_scales_every_update():
    rows = table()
    network = trained(mlp(), rows)
    # One epoch of one batch, so that both make the same single update from the same gradient.
    settings = {"optimizer": "sgd", "momentum": 0.0, "min_steps": 0, "repair_epochs": 0}
    settings |= {"impair_epochs": 1, "learning_rate": 1.0, "batch_size": 90}
    soft = quick(network, LastWins, mask="soft", **settings)
    full = quick(network, LastWins, tuned_fraction=1.0, **settings)
    for editor in (soft, full):
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    for name, mask in soft.masks_.items():
        assert 0 <= mask.min() <= mask.max() <= 1
        start = network.state_dict()[name]
        moved = [editor.module_.state_dict()[name] - start for editor in (soft, full)]
        assert soft.history_["step"].max() > 1 or torch.allclose(
            moved[0], mask * moved[1], atol=1e-6
        )
    assert soft.history_["step"].max() >= 1
