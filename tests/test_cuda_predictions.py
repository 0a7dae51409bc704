"""Predictions on a CUDA device: large blocks of one size, and one wait at the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import simulated_cuda
from fairsvd.arrays import LabelledRows, as_batches
from fairsvd.networks import all_features, all_logits, laid_out
from fairsvd.networks._inference import block_rows
from helpers import convolutions, images, mlp, table

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
counted = pytest.mark.skipif(
    not simulated_cuda.installed(), reason="counts events of the simulated device"
)

CLOSE = {"rtol": 1e-3, "atol": 1e-4}


def network(kind):
    return (mlp() if kind == "table" else convolutions()).eval()


def rows_of(kind, n_rows):
    rows = table(n_rows) if kind == "table" else images(n_rows)
    return as_batches(rows.X)


@pytest.mark.parametrize("kind", ["table", "images"])
def test_logits_and_features_are_those_of_the_cpu(kind):
    module, X = network(kind), rows_of(kind, 2100)
    layer = "4" if kind == "table" else "6"
    wanted = all_logits(module, X, "logits"), all_features(module, X, layer)
    module.to(DEVICE)
    found = all_logits(module, X, "logits"), all_features(module, X, layer)
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.device.type == "cpu"
        torch.testing.assert_close(mine, theirs, **CLOSE)


@pytest.mark.parametrize(
    ("shape", "n_rows"),
    [((6,), 1024), ((3, 32, 32), 1024), ((3, 224, 224), 111), ((3, 1024, 1024), 64)],
)
def test_blocks_fill_a_gpu_within_64_mib(shape, n_rows):
    module = network("table").to(DEVICE)
    assert block_rows(module, as_batches(np.zeros((1, *shape), dtype=np.float32))) == n_rows


@pytest.mark.parametrize("kind", ["table", "images"])
def test_a_row_s_result_does_not_depend_on_the_rows_beside_it(kind):
    module, X = network(kind).to(DEVICE), rows_of(kind, 1100)
    whole = all_logits(module, X, "logits")
    for part in (slice(1), slice(3), slice(1024, 1100)):
        assert torch.equal(all_logits(module, X.subset(part), "logits"), whole[part])


@counted
def test_one_copy_for_each_block_and_one_wait_for_all():
    module, X = network("images").to(DEVICE), rows_of("images", 2100)
    with simulated_cuda.count() as counts:
        all_logits(module, X, "logits")
    assert (counts.total["h2d"], counts.total["d2h"], counts.total["sync"]) == (3, 1, 1)
    assert counts.total["race"] == 0
    # Rows are padded there: what is sent is what there is.
    assert counts.bytes["h2d"] == 2100 * 4 * 6 * 6 * 4


@counted
def test_what_is_on_its_way_is_bounded(monkeypatch):
    monkeypatch.setattr("fairsvd.networks._inference.WAITING_BYTES", 2 * 1024 * 6 * 4)
    module, X = network("table").to(DEVICE), rows_of("table", 6000)
    with simulated_cuda.count() as counts:
        found = all_logits(module, X, "logits")
    # Two of six blocks at a time, with their logits.
    assert (counts.total["h2d"], counts.total["sync"]) == (6, 3)
    assert len(found) == 6000


def test_images_lie_with_their_channels_last_in_training_steps():
    module, X = network("images").to(DEVICE), rows_of("images", 64)
    turned = laid_out(module, X)
    assert turned.channels_last
    codes = torch.arange(64) % 2
    (batch, _, _), *_ = LabelledRows(turned, codes, codes).batches(32, torch.device(DEVICE))
    assert batch.is_cuda
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.cpu(), X[:32])
