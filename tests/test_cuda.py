"""A CUDA device gives what the CPU gives, up to rounding."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import zoo
from fairsvd.arrays import LabelledRows, as_batches, to_device
from fairsvd.curvature import group_curvature, group_weight_curvature
from fairsvd.layers import editable_layers, factorise, full_rank
from fairsvd.training import CellBatches
from helpers import IGNORE_SMALL_DATA, convolutions, images, mlp, quick, table, trained
from streams import FileArray, Items

DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    *(pytest.mark.filterwarnings(each) for each in IGNORE_SMALL_DATA),
]

# Rounding only: every comparison here is in full precision (see `full_precision`) unless it says
# otherwise, on networks of three layers.
CLOSE = {"rtol": 2e-3, "atol": 2e-4}


@pytest.fixture(autouse=True)
def full_precision():
    """Switch off TF32, which keeps 10 bits of a float32 in convolutions."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


KINDS = ("table", "images", "attention", "depthwise")


def untrained(kind):
    """Give rows of a table or images and a network for them."""
    if kind == "table":
        return table(400), mlp()
    if kind == "images":
        return images(240), convolutions()
    return zoo.small_images(240), zoo.build("ViT" if kind == "attention" else kind)


def task(kind):
    """Give rows and a network that was trained on them."""
    rows, module = untrained(kind)
    return rows, trained(module, rows)


def edited(module, rows, X=None, **settings):
    X = rows.X if X is None else X
    by_curvature = {"criterion": "curvature", "sparsity": 0.1, "refine": None}
    return quick(module, **{**by_curvature, **settings}).fit(
        X, rows.y, sensitive_features=rows.group
    )


def assert_same_edit(found, wanted, X):
    """Compare masks (a tie may fall the other way), probabilities and the record."""
    for name, sides in wanted.masks_.items():
        for side, mask in sides.items():
            assert (found.masks_[name][side] == mask).mean() > 0.98
    np.testing.assert_allclose(found.predict_proba(X), wanted.predict_proba(X), **CLOSE)
    np.testing.assert_allclose(found.transform(X), wanted.transform(X), **CLOSE)
    assert (found.predict(X) == wanted.predict(X)).mean() > 0.98
    assert found.history_["sparsity"].equals(wanted.history_["sparsity"])


def batches_of(rows, device, size=64):
    labelled = LabelledRows(as_batches(rows.X), torch.tensor(rows.y), torch.tensor(rows.group))
    return labelled.batches(size, torch.device(device))


def factors_of(module, device):
    weights = list(editable_layers(module).items())[:-1]
    factors = {n: factorise(weight, min(4, full_rank(weight))) for n, weight in weights}
    return {n: (f.U.to(device), f.S.to(device), f.V.to(device)) for n, f in factors.items()}


def assert_same_curvature(found, wanted):
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.device.type == DEVICE
        atol = 1e-5 * float(theirs.max())
        torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-3, atol=atol)


@pytest.mark.parametrize("hessian", ["fisher", "ggn"])
@pytest.mark.parametrize("kind", KINDS)
def test_curvature(kind, hessian):
    # Not trained: gradients of a network that is sure of everything are little but rounding.
    rows, module = untrained(kind)
    options = {"n_groups": 2, "to_logits": lambda output: output, "hessian": hessian}
    here, there = factors_of(module, "cpu"), factors_of(module, DEVICE)
    moved = copy.deepcopy(module).to(DEVICE)
    wanted = group_curvature(module, here, batches_of(rows, "cpu"), **options)
    found = group_curvature(moved, there, batches_of(rows, DEVICE), **options)
    for name, pair in wanted.items():
        assert_same_curvature(found[name], pair)
    names = list(wanted)
    wanted = group_weight_curvature(module, names, batches_of(rows, "cpu"), **options)
    found = group_weight_curvature(moved, names, batches_of(rows, DEVICE), **options)
    assert_same_curvature([found[n] for n in names], [wanted[n] for n in names])


def test_curvature_in_mixed_precision_sums_in_full():
    rows, module = images(240), convolutions().to(DEVICE)
    factors = factors_of(module, DEVICE)

    def measured(autocast):
        batches = batches_of(rows, DEVICE)
        options = {"n_groups": 2, "to_logits": lambda output: output, "autocast": autocast}
        return group_curvature(module, factors, batches, **options)

    full, mixed = measured(None), measured(torch.bfloat16)
    for name, pair in full.items():
        for half, whole in zip(mixed[name], pair, strict=True):
            assert half.dtype == torch.float32
            # Numbers of 8 bits, squared and averaged over rows.
            assert float((half - whole).abs().sum() / whole.abs().sum()) < 0.03


@pytest.mark.parametrize("solver", ["full", "randomized"])
def test_singular_values(solver):
    layer = torch.nn.Linear(200, 150)
    # A spectrum that falls fast, which the randomised solver finds to rounding.
    U, _, Vh = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    layer.weight.data = U @ torch.diag(0.7 ** torch.arange(150.0)) @ Vh
    wanted = factorise(layer, 12, solver)
    found = factorise(layer.to(DEVICE), 12, solver)
    assert found.U.device.type == found.S.device.type == found.V.device.type == DEVICE
    torch.testing.assert_close(found.S.cpu(), wanted.S, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.weight().cpu(), wanted.weight(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_edit_and_prediction(kind):
    rows, module = task(kind)
    wanted = edited(module, rows)
    found = edited(module, rows, device=DEVICE)
    assert_same_edit(found, wanted, rows.X)
    assert next(found.module_.parameters()).device.type == DEVICE
    assert next(module.parameters()).device.type == "cpu"  # the user's own stays where it is
    exported = found.to_module()
    with torch.no_grad():
        codes = exported(torch.tensor(rows.X, device=DEVICE)).argmax(dim=1).cpu().numpy()
    assert (codes == found.predict(rows.X)).all()


def test_a_network_that_lies_there_stays_there():
    rows, module = task("table")
    wanted = edited(module, rows)
    found = edited(module.to(DEVICE), rows)
    assert_same_edit(found, wanted, rows.X)
    assert next(found.module_.parameters()).device.type == DEVICE


@pytest.mark.parametrize("kind", KINDS)
def test_default_edit(kind):
    rows, module = task(kind)
    settings = {"criterion": "learned", "sparsity": None, "refine": "spectrum", "max_steps": 10}
    wanted = edited(module, rows, **settings)
    found = edited(module, rows, device=DEVICE, **settings)
    np.testing.assert_allclose(found.predict_proba(rows.X), wanted.predict_proba(rows.X), atol=0.05)
    assert found.history_["stage"].tolist() == wanted.history_["stage"].tolist()


def test_base_network_is_trained_there():
    rows, _ = task("table")
    found = edited(None, rows, device=DEVICE)
    wanted = edited(None, rows)
    assert next(found.module_.parameters()).device.type == DEVICE
    assert (found.predict(rows.X) == wanted.predict(rows.X)).mean() > 0.9


def test_a_row_is_predicted_alike_whatever_is_beside_it():
    rows, module = task("table")
    found = edited(module, rows, device=DEVICE)
    whole = found.predict_proba(rows.X)
    np.testing.assert_allclose(found.predict_proba(rows.X[37:41]), whole[37:41], rtol=1e-6)


@pytest.mark.parametrize("kind", ["images", "attention"])
def test_mixed_precision_edits_near_the_full_one_and_predicts_in_full(kind):
    rows, module = task(kind)
    full = edited(module, rows, device=DEVICE)
    mixed = edited(module, rows, device=DEVICE, precision="mixed")
    assert {p.dtype for p in mixed.module_.parameters()} == {torch.float32}
    probabilities = mixed.predict_proba(rows.X)
    np.testing.assert_allclose(probabilities, full.predict_proba(rows.X), atol=0.05)
    logits = mixed.module_(torch.tensor(rows.X, device=DEVICE)).detach().cpu().double()
    logits[:, 1] -= mixed.offset_
    np.testing.assert_allclose(probabilities, logits.softmax(dim=1), rtol=1e-4, atol=1e-5)


def test_n_jobs_does_not_change_the_result():
    rows, module = task("table")
    settings = {"criterion": "learned", "sparsity": None, "gap_weight": None, "device": DEVICE}
    one = edited(module, rows, **settings)
    two = edited(module, rows, n_jobs=2, **settings)
    np.testing.assert_allclose(two.predict_proba(rows.X), one.predict_proba(rows.X), **CLOSE)
    assert two.history_["stage"].tolist() == one.history_["stage"].tolist()


@pytest.mark.parametrize("kind", ["table", "images"])
def test_rows_may_come_from_anywhere(kind):
    rows, module = task(kind)
    wanted = edited(module, rows, device=DEVICE)
    there = TensorDataset(torch.tensor(rows.X, device=DEVICE))
    for X in (Items(rows.X), FileArray(rows.X, limit=len(rows.X)), there):
        found = edited(module, rows, X, device=DEVICE)
        assert_same_edit(found, wanted, X)
    with pytest.raises(ValueError, match="X has NaN or infinite values in row 9"):
        there.tensors[0][9] = torch.nan
        wanted.predict(there)


def test_copies_go_through_pinned_memory_and_arrive():
    for values in (torch.randn(500, 7), torch.arange(12), torch.randn(8, 6).T, torch.tensor(2.0)):
        moved = to_device(values, torch.device(DEVICE), torch.float64)
        assert moved.device.type == DEVICE
        assert torch.equal(moved.cpu(), values.double())
        assert to_device(moved, DEVICE) is moved
        assert torch.equal(to_device(moved, "cpu"), values.double())


def test_a_block_is_not_overwritten_while_it_is_copied():
    rows = table(4000)
    labelled = LabelledRows(as_batches(rows.X), torch.tensor(rows.y), torch.tensor(rows.group))
    arrived = list(labelled.batches(64, torch.device(DEVICE)))
    for column, wanted in zip(zip(*arrived, strict=True), rows, strict=True):
        np.testing.assert_array_equal(torch.cat(column).cpu(), wanted)


def test_training_batches_are_those_of_the_cpu():
    rows = table(300)
    labelled = LabelledRows(as_batches(rows.X), torch.tensor(rows.y), torch.tensor(rows.group))
    drawn = []
    for device in ("cpu", DEVICE):
        generator = torch.Generator().manual_seed(0)
        options = {"batch_size": 64, "balance": "cells", "generator": generator}
        batches = iter(CellBatches(labelled, 2, 2, device=torch.device(device), **options))
        drawn.append(next(batches))
    for name, value in vars(drawn[0]).items():
        there = getattr(drawn[1], name)
        if not isinstance(value, torch.Tensor):
            assert there == value
            continue
        assert there.device.type == DEVICE
        assert torch.equal(there.cpu(), value)
