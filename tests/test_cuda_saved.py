"""An editor that was fitted on a CUDA device is loaded on a machine without one."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator

import fairsvd
from helpers import IGNORE_SMALL_DATA, convolutions, images, mlp, quick, skorch_net, table, trained

DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    *(pytest.mark.filterwarnings(each) for each in IGNORE_SMALL_DATA),
]

# What a process without a device does with a file: predictions go back in another file.
LOADED = """
import joblib, numpy, skorch, sys, torch, warnings
assert not torch.cuda.is_available()
warnings.filterwarnings("error")
# skorch says what it does instead.
warnings.simplefilter("ignore", skorch.exceptions.DeviceWarning)
folder = sys.argv[1]
X, results = numpy.load(f"{folder}/X.npy"), {}
for name in sys.argv[2:]:
    model = joblib.load(f"{folder}/{name}.joblib")
    results[name] = model.predict_proba(X)
    if hasattr(model, "to_skorch"):
        results[f"{name}, as net"] = model.to_skorch().predict_proba(X)
numpy.savez(f"{folder}/results.npz", **results)
"""

# Rounding of another device's products.
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


def without_device():
    """Environment of a process that finds neither a real device nor the simulated one."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = [path for path in paths if path and not (Path(path) / "sitecustomize.py").exists()]
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(kept)}


def edited(network, rows, **settings):
    by_curvature = {"criterion": "curvature", "sparsity": 0.1, "refine": None}
    editor = quick(network, **{**by_curvature, **settings})
    return editor.fit(rows.X, rows.y, sensitive_features=rows.group)


NETWORKS = {
    "none": lambda rows: None,
    "module": lambda rows: trained(mlp(), rows),
    "module there": lambda rows: trained(mlp(), rows).to(DEVICE),
    "net": lambda rows: skorch_net(mlp()),
    "frozen net": lambda rows: FrozenEstimator(
        skorch_net(mlp(), device=DEVICE).fit(rows.X, rows.y)
    ),
}


def test_what_was_fitted_there_predicts_without_a_device(tmp_path):
    rows, wanted = table(), {}
    np.save(tmp_path / "X.npy", rows.X)
    for name, make in NETWORKS.items():
        editor = edited(make(rows), rows, device=DEVICE)
        wanted[name] = editor.predict_proba(rows.X)
        joblib.dump(editor, tmp_path / f"{name}.joblib")
        net = editor.to_skorch()
        wanted[f"{name}, as net"] = wanted[f"exported {name}"] = net.predict_proba(rows.X)
        joblib.dump(net, tmp_path / f"exported {name}.joblib")
    files = [path.stem for path in tmp_path.glob("*.joblib")]
    command = [sys.executable, "-c", LOADED, str(tmp_path), *files]
    run = subprocess.run(command, env=without_device(), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = np.load(tmp_path / "results.npz")
    assert sorted(found) == sorted(wanted)
    for name, probabilities in wanted.items():
        np.testing.assert_allclose(found[name], probabilities, **CLOSE)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_pickle_comes_back_to_the_device(name):
    rows = table()
    editor = edited(NETWORKS[name](rows), rows, device=DEVICE)
    again = pickle.loads(pickle.dumps(editor))
    assert {p.device.type for p in again.module_.parameters()} == {DEVICE}
    assert {p.device.type for p in editor.module_.parameters()} == {DEVICE}
    assert np.array_equal(again.predict_proba(rows.X), editor.predict_proba(rows.X))
    assert again.report_.gaps.equals(editor.report_.gaps)
    if name == "module there":
        assert next(again.network.parameters()).device.type == DEVICE


@pytest.mark.parametrize("device", ["cpu", DEVICE])
def test_a_pickle_of_a_network_that_keeps_an_activation(device):
    rows = table()
    network = trained(mlp(), rows).to(device)
    network.kept = torch.ones(3, device=device, requires_grad=True) * 2
    editor = edited(network, rows)
    again = pickle.loads(pickle.dumps(editor))
    assert (again.network.kept.device.type, again.network.kept.tolist()) == (device, [2, 2, 2])
    assert np.array_equal(again.predict_proba(rows.X), editor.predict_proba(rows.X))


@pytest.mark.parametrize("name", ["module there", "net"])
def test_moved_to_the_cpu_and_back(name):
    rows = table()
    network = NETWORKS[name](rows)
    editor = edited(network, rows, device=DEVICE)
    there, net_there = editor.predict_proba(rows.X), editor.to_skorch().predict_proba(rows.X)
    assert editor.to("cpu") is editor
    assert {p.device.type for p in editor.module_.parameters()} == {"cpu"}
    # Nothing of it is left there but the user's own.
    kept = [editor._untouched.module, editor._adopted.module]
    kept += [] if editor._adopted.net is None else [editor._adopted.net.module_]
    assert {p.device.type for part in kept for p in part.parameters()} <= {"cpu"}
    np.testing.assert_allclose(editor.predict_proba(rows.X), there, **CLOSE)
    net = editor.to_skorch()
    assert next(net.module_.parameters()).device.type == "cpu"
    np.testing.assert_allclose(net.predict_proba(rows.X), net_there, **CLOSE)
    if name == "module there":
        assert next(network.parameters()).device.type == DEVICE
    assert next(editor.to(torch.device(DEVICE)).module_.parameters()).is_cuda
    np.testing.assert_allclose(editor.predict_proba(rows.X), there, **CLOSE)


def test_moved_to_a_device_that_is_not_here():
    rows = table()
    editor = edited(trained(mlp(), rows), rows)
    with pytest.raises(ValueError, match="device='cuda:63' cannot be used here"):
        editor.to("cuda:63")
    assert next(editor.module_.parameters()).device.type == "cpu"


def test_a_file_of_fairsvd_is_read_to_the_cpu(tmp_path):
    rows = images()
    editor = edited(trained(convolutions(), rows), rows, device=DEVICE)
    fairsvd.save(editor, tmp_path / "editor.fairsvd")
    loaded = fairsvd.load(tmp_path / "editor.fairsvd")
    assert {p.device.type for p in loaded.module_.parameters()} == {"cpu"}
    np.testing.assert_allclose(loaded.predict_proba(rows.X), editor.predict_proba(rows.X), **CLOSE)
    again = loaded.to(DEVICE)
    np.testing.assert_allclose(again.predict_proba(rows.X), editor.predict_proba(rows.X), **CLOSE)


@pytest.mark.parametrize("network", ["none", "net", "module"])
def test_a_cache_that_was_filled_there_serves_there(network, tmp_path):
    rows = table()
    settings = {"device": DEVICE, "memory": tmp_path}
    first, second = (edited(NETWORKS[network](rows), rows, **settings) for _ in range(2))
    assert next(second.module_.parameters()).is_cuda
    assert np.array_equal(first.predict_proba(rows.X), second.predict_proba(rows.X))
