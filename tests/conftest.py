"""Fixtures that every test file may use."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import sklearn
import torch
from hypothesis import settings

import simulated_cuda

# No deadline: the first call of a torch function is slow. Derandomised: a failure must come back.
settings.register_profile("fairsvd", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("fairsvd")


def pytest_configure() -> None:
    """Where FAIRSVD_SIMULATED_CUDA is set, let tests that need a CUDA device have one.

    Before any test is collected, since `skipif` asks for the device then.
    """
    if not os.environ.get("FAIRSVD_SIMULATED_CUDA") or torch.cuda.is_available():
        return
    reason = simulated_cuda.why_not()
    if reason is not None:
        pytest.exit(f"skipped: CUDA cannot be simulated: {reason}", returncode=0)
    simulated_cuda.install()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give each test the same global generators, in any order and on any worker.

    A hook and not a fixture, since it must come before fixtures of modules and of the session too.
    """
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


class BiasedArrays(NamedTuple):
    """Rows of a binary task on which one group is labelled positive far more often."""

    X: np.ndarray  # (n, 6) float32; column 1 gives the group away
    y: np.ndarray  # (n,) int64 in {0, 1}
    group: np.ndarray  # (n,) int64 in {0, 1}


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real data sets: the folder that FAIRSVD_DATA names."""
    folder = os.environ.get("FAIRSVD_DATA")
    if not folder:
        pytest.skip("needs real data: FAIRSVD_DATA is not set")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"FAIRSVD_DATA={folder!r} is not a folder")
    return path


@pytest.fixture
def routing() -> Iterator[None]:
    """Switch scikit-learn's metadata routing on for one test."""
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.fixture
def no_edit_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every candidate keep its network, also where an earlier one was better."""
    monkeypatch.setattr("fairsvd.phases._path.forget_beaten", lambda candidate, best: candidate)


@pytest.fixture
def biased_arrays() -> BiasedArrays:
    """Draw 400 rows whose label leans on the group; the same rows every time, the caller's own."""
    rng = np.random.default_rng(20260)
    n_rows = 400
    group = rng.integers(2, size=n_rows)
    X = rng.normal(size=(n_rows, 6))
    X[:, 1] += 1.5 * group
    y = (X[:, 0] + 1.2 * (group - 0.5) + 0.6 * rng.normal(size=n_rows) > 0).astype(np.int64)
    return BiasedArrays(X.astype(np.float32), y, group)
