"""The workers of a search take one GPU each, where there are several."""

from __future__ import annotations

import multiprocessing
from types import SimpleNamespace

import pytest
import torch

from fairsvd.base import as_device
from fairsvd.base._request import gpu_of_worker


@pytest.mark.parametrize(
    ("process", "n_devices", "found"),
    [
        ("LokyProcess-1", 4, "cuda:0"),
        ("LokyProcess-4", 4, "cuda:3"),
        ("LokyProcess-6", 4, "cuda:1"),
        ("SpawnPoolWorker-2", 2, "cuda:1"),
        ("LokyProcess-2", 1, "cuda"),
        ("MainProcess", 4, "cuda"),
        ("Dask Worker process (from Nanny)", 4, "cuda"),
    ],
)
def test_gpu_of_a_process(process, n_devices, found):
    assert gpu_of_worker(process, n_devices) == found


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, None),
        ("cpu", "cpu"),
        ("cuda", "cuda:2"),
        (torch.device("cuda"), "cuda:2"),
        # Who names a device gets it.
        ("cuda:1", "cuda:1"),
    ],
)
def test_a_worker_s_device(given, found, monkeypatch):
    made = []

    def empty(_, device):
        made.append(device)
        return SimpleNamespace(is_meta=False)

    monkeypatch.setattr(multiprocessing.current_process(), "_name", "LokyProcess-3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch, "empty", empty)
    assert as_device(given) == found
    # The other GPUs are not started.
    assert made == ([] if found is None else [found])
