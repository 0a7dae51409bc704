"""Edited networks leave for torch.export and ONNX: dense, compressed, the threshold folded in."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from fairsvd import LowRankConv2d, LowRankLinear
from fairsvd.networks import MLP, ConvNet, ShiftedNetwork
from helpers import IGNORE_SMALL_DATA, LastWins, convolutions, images, mlp, quick, table, trained

# torch's own tree utilities are used by its exporter in a way that it has deprecated (2.13).
LEAF_SPEC = r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"
pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(each) for each in [*IGNORE_SMALL_DATA, LEAF_SPEC]),
]

BATCHES = (1, 2, 7, 64)
THIN = (LowRankLinear, LowRankConv2d)


def default(kind, n_inputs, n_outputs, sizes):
    return kind(n_inputs, n_outputs, sizes, generator=torch.Generator().manual_seed(0))


# A saturating end hides the last bias from the output: the threshold cannot go into it.
FOLDED = {
    "MLP": (lambda: default(MLP, 6, 2, (16, 16)), table),
    "MLP, one logit": (lambda: default(MLP, 6, 1, (16, 16)), table),
    "ConvNet": (lambda: default(ConvNet, 4, 2, (8, 16)), images),
    "ConvNet, one logit": (lambda: default(ConvNet, 4, 1, (8, 16)), images),
    "Sequential": (mlp, table),
    "Sequential, vector": (lambda: mlp(1, nn.Flatten(0)), table),
    "convolutions, grouped, one logit": (lambda: convolutions(1, groups=2), images),
}
SHIFTED = {
    "logits": (lambda: mlp(2, nn.Tanh()), table),
    "one logit": (lambda: mlp(1, nn.Tanh()), table),
    "probabilities": (lambda: mlp(2, nn.Tanh(), nn.Softmax(1)), table),
    "one probability": (lambda: mlp(1, nn.Tanh(), nn.Sigmoid()), table),
}
CASES = FOLDED | SHIFTED


@cache
def edited(name, compress):
    """Edit a network; the editor, the module that leaves and rows for it."""
    build, draw = CASES[name]
    rows = draw()
    module = build() if "probabilit" in name else trained(build(), rows)
    editor = quick(module, kind=LastWins, rank=0.25, compress=compress, threshold=0.3)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    return editor, editor.to_module(), rows.X[: max(BATCHES)]


@pytest.fixture(params=[False, True], ids=["dense", "compressed"])
def compress(request):
    return request.param


@pytest.fixture(params=CASES)
def name(request):
    return request.param


def dynamic(module, X):
    """Export for any number of rows."""
    rows = {0: torch.export.Dim("rows")}
    return torch.export.export(module, (torch.from_numpy(X[:7]),), dynamic_shapes=(rows,))


def scores(module, X):
    with torch.no_grad():
        return module(torch.from_numpy(X)).numpy()


def codes(output, name):
    """Classes by the output alone, as someone without the editor would read them."""
    if output.ndim == 1 or output.shape[1] == 1:
        return (output.reshape(-1) > (0.5 if name == "one probability" else 0)).astype(int)
    return output.argmax(axis=1)


def test_the_networks_are_what_the_names_say(name, compress):
    editor, module, _ = edited(name, compress)
    assert isinstance(module, ShiftedNetwork) == (name in SHIFTED)
    assert any(isinstance(part, THIN) for part in module.modules()) == compress
    assert editor.offset_ != 0
    assert not any(part.training for part in module.modules())


def test_torch_export_computes_the_same(name, compress):
    editor, module, X = edited(name, compress)
    exported = dynamic(module, X).module()
    for n_rows in BATCHES:
        output = scores(exported, X[:n_rows])
        np.testing.assert_allclose(output, scores(module, X[:n_rows]), rtol=1e-6, atol=1e-6)
        assert np.array_equal(editor.classes_[codes(output, name)], editor.predict(X[:n_rows]))


def test_torch_export_travels_through_a_file(compress):
    _, module, X = edited("ConvNet", compress)
    file = io.BytesIO()
    torch.export.save(dynamic(module, X), file)
    file.seek(0)
    loaded = torch.export.load(file)
    assert set(loaded.state_dict) == set(module.state_dict())
    np.testing.assert_allclose(scores(loaded.module(), X), scores(module, X), rtol=1e-6, atol=1e-6)


# Several seconds for each network: the kinds that differ in what they run.
IN_ONNX = ["MLP", "MLP, one logit", "ConvNet", "convolutions, grouped, one logit", *SHIFTED]


# What is compressed and what is put around the network do not depend on each other.
COMPRESSED_IN_ONNX = ["MLP", "ConvNet", "convolutions, grouped, one logit", "one probability"]


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        *((name, False) for name in IN_ONNX),
        *((name, True) for name in COMPRESSED_IN_ONNX),
    ],
)
def test_onnx_computes_the_same(name, compress, tmp_path):
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    import onnxruntime

    editor, module, X = edited(name, compress)
    torch.onnx.export(
        module,
        (torch.from_numpy(X[:7]),),
        tmp_path / "network.onnx",
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("rows")},),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(
        tmp_path / "network.onnx", providers=["CPUExecutionProvider"]
    )
    entry = session.get_inputs()[0].name
    for n_rows in BATCHES:
        (output,) = session.run(None, {entry: X[:n_rows]})
        wanted = scores(module, X[:n_rows])
        np.testing.assert_allclose(output, wanted, rtol=0, atol=1e-5 * (1 + np.abs(wanted).max()))
        assert np.array_equal(editor.classes_[codes(output, name)], editor.predict(X[:n_rows]))
