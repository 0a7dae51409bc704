"""Every editor on a CUDA device: what it does on the CPU, from rows of either place."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from torch.utils.data import TensorDataset

from editors import CONFIGURATIONS, make
from helpers import IGNORE_SMALL_DATA, convolutions, images, mlp, skorch_net, table, trained

DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

# A few steps of training from the same draws; where candidates nearly tie, another may be chosen.
NEAR = 0.1


@pytest.fixture(params=CONFIGURATIONS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def tables():
    rows = table(120)
    return rows, trained(mlp(), rows)


@pytest.fixture(scope="module")
def pictures():
    rows = images(64)
    return rows, trained(convolutions(), rows)


def fit(name, network, rows, X=None, **settings):
    editor = make(name, network, **settings)
    return editor.fit(rows.X if X is None else X, rows.y, sensitive_features=rows.group)


def on_device(editor):
    return {parameter.device.type for parameter in editor.module_.parameters()} == {DEVICE}


def chosen(editor):
    """The stage of the chosen candidate, and its value."""
    best = editor.history_[editor.history_["chosen"]]
    return best["stage"].item(), best["value"].item()


def check_exports(editor, X):
    """The exported module, net and pickle predict what the editor does."""
    with torch.no_grad():
        output = editor.to_module()(torch.tensor(X, device=DEVICE)).cpu()
    codes = output.argmax(dim=1) if output.shape[1] > 1 else (output[:, 0] > 0).long()
    assert np.array_equal(editor.classes_[codes.numpy()], editor.predict(X))
    assert np.array_equal(editor.classes_[editor.to_skorch().predict(X)], editor.predict(X))
    again = pickle.loads(pickle.dumps(editor))
    assert np.array_equal(again.predict_proba(X), editor.predict_proba(X))


def test_a_table(name, tables):
    rows, network = tables
    wanted, found = fit(name, network, rows), fit(name, network, rows, device=DEVICE)
    assert on_device(found)
    assert next(network.parameters()).device.type == "cpu"
    assert found.history_["stage"].tolist() == wanted.history_["stage"].tolist()
    (here, value), (there, other) = (chosen(editor) for editor in (wanted, found))
    assert value == pytest.approx(other, abs=NEAR)
    if here == there:
        near = {"rtol": 1e-7, "atol": NEAR}
        np.testing.assert_allclose(
            found.predict_proba(rows.X), wanted.predict_proba(rows.X), **near
        )
    check_exports(found, rows.X)


def test_images_on_the_device_in_mixed_precision(name, pictures):
    rows, network = pictures
    X = TensorDataset(torch.tensor(rows.X, device=DEVICE))
    found = fit(name, network, rows, X, device=DEVICE, precision="mixed")
    assert on_device(found)
    assert {p.dtype for p in found.module_.parameters()} == {torch.float32}
    check_exports(found, rows.X)


@pytest.mark.slow
def test_a_cache(name, tables, tmp_path):
    rows, network = tables
    settings = {"device": DEVICE, "memory": tmp_path}
    first, second = (fit(name, network, rows, **settings) for _ in range(2))
    assert on_device(second)
    assert np.array_equal(first.predict_proba(rows.X), second.predict_proba(rows.X))


@pytest.mark.slow
def test_n_jobs(name, tables):
    rows, network = tables
    one, two = (fit(name, network, rows, device=DEVICE, n_jobs=jobs) for jobs in (None, 2))
    assert on_device(two)
    assert one.history_["stage"].tolist() == two.history_["stage"].tolist()
    np.testing.assert_allclose(two.predict_proba(rows.X), one.predict_proba(rows.X), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["net", "frozen net", "one logit"])
def test_forms_of_a_network(form, name, tables):
    rows, _ = tables
    network = {
        "net": lambda: skorch_net(mlp()),
        "frozen net": lambda: FrozenEstimator(skorch_net(mlp(), device=DEVICE).fit(rows.X, rows.y)),
        "one logit": lambda: trained(mlp(1), rows).to(DEVICE),
    }[form]()
    found = fit(name, network, rows, device=DEVICE if form == "net" else None)
    assert on_device(found)
    check_exports(found, rows.X)


def test_parts_of_a_step_give_the_edit_of_whole_steps_but_for_rounding():
    rows = table(200)
    network = trained(mlp(), rows)
    settings = {"device": DEVICE, "max_steps": 6, "objective": "soft_gap"}
    whole = fit("GapFineTuner", network, rows, rows.X, **settings)
    parts = fit("GapFineTuner", network, rows, rows.X, micro_batch_size=16, **settings)
    np.testing.assert_allclose(
        parts.predict_proba(rows.X), whole.predict_proba(rows.X), rtol=2e-3, atol=2e-4
    )
