"""The network that is trained where none is given: its inputs, layers and every step, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.model_selection import PredefinedSplit
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fairsvd import MLP, ConvNet
from fairsvd._rng import stage_rng, torch_generator
from fairsvd.arrays import LabelledRows, as_batches
from fairsvd.networks._default import channel_statistics, default_net
from helpers import IGNORE_SMALL_DATA, images, mlp, quick, table

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]

UNTOUCHED = {"sparsity": 0, "refine": None, "threshold": 0.5}


def labelled(X):
    zeros = torch.zeros(len(X), dtype=torch.int64)
    return LabelledRows(as_batches(X), zeros, zeros)


# Mean and scale of the inputs


@pytest.mark.parametrize("n_rows", [7, 1024, 2500])
def test_a_tables_statistics_are_numpys_over_however_many_blocks(n_rows):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, 4)) * [1, 10, 0.01, 1] + [0, -3, 5, 1e5]
    # The last block has other numbers than the first.
    X[n_rows // 2 :] *= 1.5
    mean, scale = channel_statistics(labelled(X))
    np.testing.assert_allclose(mean, X.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(scale, X.std(axis=0), rtol=1e-6)


def test_an_images_statistics_are_those_of_its_channels():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 3, 4, 5)) * np.array([1, 2, 5])[:, None, None] + 3
    X[20:, 1] += 9
    mean, scale = channel_statistics(labelled(X))
    np.testing.assert_allclose(mean, X.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(scale, X.std(axis=(0, 2, 3)), rtol=1e-9)


def test_a_column_that_is_constant_up_to_rounding_is_not_blown_up():
    """Of 1,000 a float32 keeps steps of about 1e-4: ten of them are 1.19e-3."""
    sign = np.where(np.arange(100) % 2, 1.0, -1.0)
    columns = [
        np.full(100, 7.0),
        np.zeros(100),
        1000 + 5e-4 * sign,
        1000 + 5e-3 * sign,
        1e-6 * sign,
    ]
    mean, scale = channel_statistics(labelled(np.column_stack(columns)))
    np.testing.assert_allclose(mean, [7, 0, 1000, 1000, 0], atol=1e-12)
    np.testing.assert_allclose(scale, [1, 1, 1, 5e-3, 1e-6], rtol=1e-6)


def test_the_network_scales_by_the_rows_that_it_is_trained_on():
    rows = table()
    X = rows.X * np.float32(3) + np.float32(2)
    held = np.arange(120) % 3 == 0
    X[held] += 50  # rows of validation, which training must not see
    editor = quick(None, validation=PredefinedSplit(np.where(held, 0, -1)), **UNTOUCHED)
    module = editor.fit(X, rows.y, sensitive_features=rows.group).module_
    np.testing.assert_allclose(module.mean, X[~held].mean(axis=0, dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(module.scale, X[~held].std(axis=0, dtype=np.float64), rtol=1e-5)


def test_nothing_is_said_of_bytes_which_it_scales_itself():
    rows = table()
    X = np.clip(rows.X * 40 + 120, 0, 255).astype(np.uint8)
    notes = []
    for network in (None, mlp()):
        editor = quick(network, **UNTOUCHED).fit(X, rows.y, sensitive_features=rows.group)
        notes.append([note for note in editor.report_.notes if "without scaling" in note])
    assert [len(each) for each in notes] == [0, 1]


# How it is trained


@pytest.mark.parametrize(
    ("n_rows", "batch_size", "epochs"),
    [
        (90, 256, 90),  # one step an epoch, as many steps as rows
        (90, 32, 30),  # 3 steps an epoch
        (100, 32, 25),  # 4 steps an epoch
        (90, 8, 20),  # 12 steps an epoch: 8 epochs would do, 20 are the least
        (1030, 256, 206),  # 5 steps an epoch, the last of 6 rows
        (4000, 256, 94),  # 16 steps an epoch; 1,500 steps and not 4,000
        (40000, 256, 20),
    ],
)
def test_it_is_trained_for_as_many_steps_as_rows_up_to_1500_and_20_epochs_at_least(
    n_rows, batch_size, epochs
):
    rows = labelled(np.zeros((n_rows, 2)))
    rng = np.random.default_rng(0)
    net = default_net(rows, np.arange(2), batch_size=batch_size, rng=rng, device="cpu")
    assert net.max_epochs == epochs
    assert net.batch_size == batch_size


def trained_by_hand(rows, network, seed, batch_size, epochs):
    """Train a network of ours in plain torch: Adam at 1e-3 over shuffled batches."""
    rng = stage_rng(seed, "base")
    X, y = torch.tensor(rows.X), torch.tensor(rows.y)
    axes = [0, *range(2, X.ndim)]
    mean = X.double().mean(axes)
    scale = X.double().var(axes, correction=0).sqrt()
    module = network(mean.float(), scale.float(), torch_generator(rng))
    data = DataLoader(
        TensorDataset(X, y), batch_size=batch_size, shuffle=True, generator=torch_generator(rng)
    )
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch, labels in data:
            optimizer.zero_grad()
            F.cross_entropy(module(batch), labels).backward()
            optimizer.step()
    return module


BY_HAND = {
    # rows, network, batch size, epochs
    "table": (lambda: table(), lambda m, s, g: MLP(6, 2, mean=m, scale=s, generator=g), 32, 30),
    "images": (
        lambda: images(48),
        lambda m, s, g: ConvNet(4, 2, mean=m, scale=s, generator=g),
        8,
        20,
    ),
}


@pytest.mark.parametrize("data", BY_HAND)
def test_every_weight_is_that_of_plain_torch_on_the_rows_to_edit(data):
    draw, network, batch_size, epochs = BY_HAND[data]
    rows = draw()
    held = np.arange(len(rows.y)) % 4 == 3
    seed, split = 5, PredefinedSplit(np.where(held, 0, -1))
    editor = quick(None, validation=split, random_state=seed, batch_size=batch_size, **UNTOUCHED)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    editing = type(rows)(*(part[~held] for part in rows))
    wanted = trained_by_hand(editing, network, seed, batch_size, epochs)
    found = editor.module_.state_dict()
    for name, value in wanted.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-5)
    assert len(editor.to_skorch().history) == epochs


class Counting(Dataset):
    """Notes under how many threads each row is read."""

    def __init__(self, X):
        self.X, self.threads = X, []

    def __len__(self):
        return len(self.X)

    def __getitem__(self, row):
        self.threads.append(torch.get_num_threads())
        return self.X[row]


def test_a_table_is_trained_on_under_one_thread():
    rows = table(40)
    data, before = Counting(rows.X), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        quick(None, **UNTOUCHED).fit(data, rows.y, sensitive_features=rows.group)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    n_editing = 40 - 4 * 3  # 3 of the 10 rows in each of the four cells are set apart
    # Training reads every row in each of its 28 epochs; what is looked at before is no pass.
    assert data.threads.count(1) >= n_editing * n_editing
    assert data.threads.count(2) < n_editing * n_editing


# The networks themselves


def test_the_table_network_computes_what_it_says():
    module = MLP(3, 2, (5, 4), mean=torch.tensor([1.0, 2, 3]), scale=torch.tensor([2.0, 4, 8]))
    X = torch.randn(7, 3)
    h = (X - torch.tensor([1.0, 2, 3])) / torch.tensor([2.0, 4, 8])
    for layer in (module.hidden[0], module.hidden[2]):
        h = (h @ layer.weight.T + layer.bias).clamp(min=0)
    torch.testing.assert_close(module(X), h @ module.output.weight.T + module.output.bias)
    assert [tuple(p.shape) for p in module.parameters()] == [
        (5, 3), (5,), (4, 5), (4,), (2, 4), (2,),
    ]  # fmt: skip


@pytest.mark.parametrize("size", [(28, 28), (9, 7), (1, 1)])
def test_the_image_network_computes_what_it_says(size):
    mean, scale = torch.tensor([1.0, -2.0]), torch.tensor([2.0, 0.5])
    module = ConvNet(2, 3, (4, 5), 6, mean=mean, scale=scale)
    X = torch.randn(3, 2, *size)
    h = (X - mean[:, None, None]) / scale[:, None, None]
    height, width = size
    for layer in (module.convolutions[0], module.convolutions[3]):
        h = F.conv2d(h, layer.weight, layer.bias, padding=1).clamp(min=0)
        h = F.max_pool2d(h, 2, ceil_mode=True)
        height, width = (height + 1) // 2, (width + 1) // 2
        assert h.shape[2:] == (height, width)  # an odd row or column is pooled on its own
    h = F.adaptive_avg_pool2d(h, 3).flatten(1)
    h = (h @ module.hidden[0].weight.T + module.hidden[0].bias).clamp(min=0)
    torch.testing.assert_close(module(X), h @ module.output.weight.T + module.output.bias)


def test_layers_of_images_start_as_torchs_do():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        reference = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(72, 16)
        torch.manual_seed(3)
        ours = ConvNet(3, 2, (8,), 16)
    for mine, theirs in zip((ours.convolutions[0], ours.hidden[0]), reference, strict=True):
        assert torch.equal(mine.weight, theirs.weight)
        assert torch.equal(mine.bias, theirs.bias)


def test_mean_and_scale_are_the_networks_own_copies():
    mean, scale = torch.zeros(3), torch.ones(3)
    module, X = MLP(3, 2, mean=mean, scale=scale), torch.randn(4, 3)
    before = module(X)
    mean += 5
    scale *= 5
    assert torch.equal(module(X), before)
    assert torch.equal(module.mean, torch.zeros(3))
