"""A fitted trigger and its network leave as one module for torch.export and ONNX."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from fairsvd import FairReprogrammer
from helpers import IGNORE_SMALL_DATA, convolutions, images, last_wins, mlp, table, trained

pytestmark = [
    # An export takes a second.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
    # torch's own tree utilities are used by its exporter in a way that it has deprecated (2.13).
    pytest.mark.filterwarnings(
        r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"
    ),
]

BATCHES = (1, 2, 40)
TRIGGERS = {
    "added to a table": (table, {}),
    "columns of a table": (table, {"trigger": "patch", "columns": [4, 1]}),
    "added to an image": (images, {"trigger": "additive"}),
    "patch": (images, {"trigger": "patch", "size": 2}),
    "border": (images, {"trigger": "border"}),
}


class LastWins(last_wins(FairReprogrammer)):
    """Chooses its last edit."""


@cache
def fitted(name):
    """An editor with a trigger, the module that leaves, the network, and rows."""
    make, parameters = TRIGGERS[name]
    rows = make()
    network = trained(mlp() if rows.X.ndim == 2 else convolutions(), rows)
    settings = {"max_steps": 6, "objective": "soft_gap", "gap_weight": 1.0, "random_state": 0}
    editor = LastWins(network, threshold=0.3, **settings, **parameters)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    return editor, editor.to_module(), network, rows.X[: max(BATCHES)]


def scores(module, X):
    with torch.no_grad():
        return module(torch.from_numpy(X)).numpy()


def check(found, name, n_rows):
    """The exported scores are the module's, and tell the editor's classes by themselves."""
    editor, module, _, X = fitted(name)
    np.testing.assert_allclose(found, scores(module, X[:n_rows]), rtol=1e-5, atol=1e-5)
    assert np.array_equal(editor.classes_[found.argmax(axis=1)], editor.predict(X[:n_rows]))


@pytest.mark.parametrize("name", TRIGGERS)
def test_torch_export_computes_the_same(name):
    _, module, network, X = fitted(name)
    rows = ({0: torch.export.Dim("rows")},)
    exported = torch.export.export(module, (torch.from_numpy(X[:7]),), dynamic_shapes=rows)
    for n_rows in BATCHES:
        check(scores(exported.module(), X[:n_rows]), name, n_rows)
    # The trigger is part of what left.
    assert np.abs(scores(exported.module(), X) - scores(network, X)).max() > 1e-2


# Seconds for each: an addition, a choice by place, and a resizing.
@pytest.mark.parametrize("name", ["added to an image", "columns of a table", "border"])
def test_onnx_computes_the_same(name, tmp_path):
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    import onnxruntime

    _, module, _, X = fitted(name)
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
        check(session.run(None, {entry: X[:n_rows]})[0], name, n_rows)
