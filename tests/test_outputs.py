"""How networks are read and exported: rows alone, folded thresholds, datasets, features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset

from fairsvd import MLP, ConvNet
from fairsvd.arrays import as_batches
from fairsvd.networks import (
    ShiftedNetwork,
    all_features,
    all_logits,
    fast_logits,
    fold_offset,
    raw_output,
    to_logits,
)
from helpers import (
    IGNORE_SMALL_DATA,
    convolutions,
    global_state,
    images,
    mlp,
    quick,
    table,
    trained,
)

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]


def without_bias(n_outputs, *end):
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, n_outputs, bias=False), *end)


class Tuple(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = mlp(2)

    def forward(self, X):
        return self.inner(X), X


class Vector(nn.Module):
    def __init__(self, *end):
        super().__init__()
        self.inner = mlp(1, *end)

    def forward(self, X):
        return self.inner(X).squeeze(1)


def convolutional_head():
    return nn.Sequential(nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


FOLDED = {  # network, kind of its output
    "logits": (lambda: mlp(2), "logits"),
    "logits, no bias": (lambda: without_bias(2), "logits"),
    "logits in a tuple": (Tuple, "logits"),
    "float64": (lambda: mlp(2).double(), "logits"),
    "one logit": (lambda: mlp(1), "one_logit"),
    "one logit, no bias": (lambda: without_bias(1), "one_logit"),
    "one logit, vector": (Vector, "one_logit"),
    "softmax": (lambda: mlp(2, nn.Softmax(dim=1)), "probabilities"),
    "sigmoid": (lambda: mlp(1, nn.Sigmoid()), "one_probability"),
    "sigmoid, vector": (lambda: Vector(nn.Sigmoid()), "one_probability"),
}


class Tripled(nn.Module):
    """Between the output layer and the output: a bias would count three times."""

    def forward(self, X):
        return 3 * X


SHIFTED = {  # the same kinds where no bias will do
    "logits": (lambda: mlp(2, Tripled()), "logits"),
    "one logit": (lambda: mlp(1, Tripled()), "one_logit"),
    "softmax": (lambda: mlp(2, Tripled(), nn.Softmax(dim=1)), "probabilities"),
    "sigmoid": (lambda: mlp(1, Tripled(), nn.Sigmoid()), "one_probability"),
    "float64": (lambda: mlp(2, Tripled()).double(), "logits"),
    "convolution": (convolutional_head, "logits"),
}


def margin(module, kind, X):
    with torch.no_grad():
        logits = to_logits(raw_output(module, X), kind)
    return logits[:, 1] - logits[:, 0]


@pytest.mark.parametrize("offset", [-1.5, 0.7])
@pytest.mark.parametrize("name", FOLDED)
def test_the_offset_is_folded_into_the_output_bias(name, offset):
    make, kind = FOLDED[name]
    module, X = make(), torch.tensor(table().X)
    X = X.double() if name == "float64" else X
    before = margin(module, kind, X)
    folded = fold_offset(module, kind, offset, X[:32])
    assert type(folded) is type(module)
    precision = 1e-12 if name == "float64" else 2e-5
    assert torch.allclose(margin(folded, kind, X), before - offset, atol=precision, rtol=0)
    assert torch.equal(margin(module, kind, X), before)  # the network itself stays


@pytest.mark.parametrize("name", SHIFTED)
def test_where_no_bias_will_do_the_network_is_wrapped(name):
    make, kind = SHIFTED[name]
    X = torch.tensor((images() if name == "convolution" else table()).X)
    module, X = make(), X.double() if name == "float64" else X
    folded = fold_offset(module, kind, 0.4, X[:32])
    assert isinstance(folded, ShiftedNetwork)
    wanted = margin(module, kind, X) - 0.4
    precision = 1e-12 if name == "float64" else 2e-5
    assert torch.allclose(margin(folded, kind, X), wanted, atol=precision, rtol=0)
    with torch.no_grad():
        output = folded(X)
    assert output.shape == module(X).shape
    assert ((output >= 0) & (output <= 1)).all() or kind in ("logits", "one_logit")


def test_no_offset_is_a_plain_copy():
    module = mlp()
    folded = fold_offset(module, "logits", 0.0, torch.ones(2, 6))
    assert folded is not module
    assert all(map(torch.equal, folded.state_dict().values(), module.state_dict().values()))


NETWORKS = {
    "default": lambda: MLP(6, 3, generator=torch.Generator().manual_seed(0)),
    "default, images": lambda: ConvNet(4, 3, generator=torch.Generator().manual_seed(0)),
    "wide": lambda: mlp(2, width=256),
    "odd": lambda: mlp(2, width=257),
    "convolutions": lambda: convolutions(groups=4),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_row_does_not_depend_on_the_rows_beside_it(name):
    module = NETWORKS[name]()
    X = (images if name in ("convolutions", "default, images") else table)(150).X
    whole = all_logits(module, as_batches(X), "logits")
    rng = np.random.default_rng(0)
    others = X + rng.normal(size=X.shape).astype(np.float32)
    others[3::7] = X[3::7]
    assert torch.equal(all_logits(module, as_batches(others), "logits")[3::7], whole[3::7])
    for size in (1, 2, 63, 64, 65, 149):
        rows = rng.choice(len(X), size, replace=False)
        part = all_logits(module, as_batches(X[rows]), "logits")
        # Rows of 257 numbers are aligned otherwise in each place of a block.
        atol = 1e-6 if name == "odd" else 0
        assert torch.allclose(part, whole[rows], atol=atol, rtol=0)
    assert torch.allclose(fast_logits(module, as_batches(X)), whole, atol=1e-5)


def test_plain_passes_do_depend_on_the_rows_beside():
    """Why the blocks are there."""
    X, module = torch.tensor(table(150).X), mlp(2, width=257)
    with torch.no_grad():
        whole = module(X)
        alone = torch.cat([module(X[i : i + 1]) for i in range(len(X))])
    assert not torch.equal(alone, whole)
    assert torch.allclose(alone, whole, atol=1e-5)


@pytest.mark.parametrize("kind", [MLP, ConvNet])
def test_default_networks_draw_from_the_generator_only(kind):
    def build(seed):
        generator = torch.Generator().manual_seed(seed)
        return torch.cat([p.flatten() for p in kind(4, 2, generator=generator).parameters()])

    before = global_state()
    first, second, third = build(0), build(0), build(1)
    assert global_state() == before
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    kind(4, 2)
    assert global_state() != before  # without a generator it is torch's own that moves


def test_default_networks_start_as_torch_does():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        reference = nn.Linear(40, 30)
        torch.manual_seed(3)
        ours = MLP(40, 2, hidden=(30,))
    assert torch.equal(ours.hidden[0].weight, reference.weight)
    assert torch.equal(ours.hidden[0].bias, reference.bias)


def test_default_networks_scale_their_inputs():
    mean, scale = torch.arange(6.0), torch.arange(1.0, 7.0)
    X = torch.tensor(table().X)
    plain = MLP(6, 2, generator=torch.Generator().manual_seed(0))
    scaled = MLP(6, 2, mean=mean, scale=scale, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(scaled(X * scale + mean), plain(X), atol=1e-5)


@pytest.mark.parametrize("layer, wanted", [("0", 6), ("2", 8), ("4", 8)])
def test_features_are_what_enters_a_layer(layer, wanted):
    module, X = mlp(), torch.tensor(table(100).X)
    features = all_features(module, as_batches(X), layer)
    assert features.shape == (100, wanted)
    with torch.no_grad():
        assert torch.allclose(features, module[: int(layer)](X), atol=1e-6)
    assert not any(part._forward_pre_hooks for part in module.modules())


class Pairs(Dataset):
    """Items as torch datasets have them: a tuple of x and more."""

    def __init__(self, X, y):
        self.X, self.y = X, y

    def __len__(self):
        return len(self.X)

    def __getitem__(self, i):
        return torch.tensor(self.X[i]), int(self.y[i])


class Single(Pairs):
    def __getitem__(self, i):
        return torch.tensor(self.X[i])


DATASETS = {
    "TensorDataset": lambda X, y: TensorDataset(torch.tensor(X), torch.tensor(y)),
    "tuples": Pairs,
    "x alone": Single,
    "Subset": lambda X, y: Subset(TensorDataset(torch.tensor(X)), range(len(X))),
}


@pytest.mark.parametrize("data", [table, images])
@pytest.mark.parametrize("form", DATASETS)
def test_a_dataset_gives_what_an_array_gives(form, data):
    rows = data()
    module = trained(mlp() if data is table else convolutions(), rows)
    dataset = DATASETS[form](rows.X, rows.y)
    editors = [
        quick(module).fit(X, rows.y, sensitive_features=rows.group) for X in (rows.X, dataset)
    ]
    wanted = editors[0].predict_proba(rows.X)
    assert np.array_equal(editors[1].predict_proba(dataset), wanted)
    assert np.array_equal(editors[1].predict_proba(rows.X), wanted)
    assert np.array_equal(editors[0].transform(dataset), editors[1].transform(rows.X))
    assert editors[1].to_module()(torch.tensor(rows.X)).shape == (len(rows.X), 2)


def test_a_refit_on_a_dataset_forgets_the_columns_of_the_array():
    rows = table()
    editor = quick(trained(mlp(), rows)).fit(rows.X, rows.y, sensitive_features=rows.group)
    assert editor.n_features_in_ == 6
    im = images()
    editor.set_params(network=trained(convolutions(), im))
    editor.fit(TensorDataset(torch.tensor(im.X)), im.y, sensitive_features=im.group)
    assert editor.predict(im.X).shape == (len(im.X),)


@pytest.mark.parametrize("form", ["plain", "shifted", "compressed"])
def test_the_exported_module_survives_torch_export(form):
    rows = table()
    network = trained(mlp(2, *([Tripled()] if form == "shifted" else []), width=16), rows)
    settings = {"rank": 0.25, "compress": True, "max_steps": 30} if form == "compressed" else {}
    editor = quick(network, threshold=0.3, **settings)
    module = editor.fit(rows.X, rows.y, sensitive_features=rows.group).to_module()
    X = torch.tensor(rows.X)
    exported = torch.export.export(module, (X,)).module()
    with torch.no_grad():
        assert torch.allclose(exported(X), module(X), atol=1e-5)
        codes = exported(X).argmax(dim=1).numpy()
    assert np.array_equal(editor.classes_[codes], editor.predict(rows.X))


def test_features_of_a_convolution_that_makes_the_logits():
    rows, body = images(), list(convolutions())[:4]
    head = nn.Sequential(*body, nn.Conv2d(8, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    editor = quick(head).fit(rows.X, rows.y, sensitive_features=rows.group)
    assert editor.transform(rows.X).shape == (len(rows.X), 8 * 3 * 3)
    assert len(editor.get_feature_names_out()) == 8 * 3 * 3


def test_bytes_of_a_dataset_are_noted_as_those_of_an_array():
    rows = images()
    dataset = TensorDataset(torch.tensor(rows.X).mul(60).add(120).clamp(0, 255).to(torch.uint8))
    editor = quick(convolutions()).fit(dataset, rows.y, sensitive_features=rows.group)
    assert any("without scaling" in note for note in editor.report_.notes)
