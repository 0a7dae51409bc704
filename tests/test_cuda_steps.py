"""What a training step and a candidate cost on a GPU: waits, copies and launches, counted.

The counts are of the simulated device (FAIRSVD_SIMULATED_CUDA=1), the same for every machine.
"""

from __future__ import annotations

import copy
import functools
import pickle
from collections import Counter
from dataclasses import replace
from statistics import median
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import TensorDataset

import simulated_cuda
from fairsvd import (
    AdapterFineTuner,
    AdversarialDebiasing,
    AdversarialFineTuner,
    BiasMaskFineTuner,
    FairLRFTransformer,
    FairPruner,
    GapFineTuner,
    InfluenceTuner,
    LayerwiseOptimizer,
    RandomPerturbation,
    SelectiveFineTuner,
)
from fairsvd.arrays import Batches, as_batches, hold_on, read_ahead, send_together
from helpers import IGNORE_SMALL_DATA, convolutions, images, mlp, table, trained

pytestmark = [
    pytest.mark.skipif(
        not simulated_cuda.installed(), reason="counts the events of the simulated device"
    ),
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(each) for each in IGNORE_SMALL_DATA),
]

DEVICE = torch.device("cuda", 0)
STEPS = {"max_steps": 33, "random_state": 0}
GAP = {"gap_weight": 1.0, **STEPS}
TEACHER = {"objective": "teacher", "n_teachers": 1, **STEPS}
EDITORS = {
    "masks": (FairLRFTransformer, {"refine": None, **GAP}),
    "masks and spectrum": (FairLRFTransformer, GAP),
    "masks in imitation": (FairLRFTransformer, TEACHER),
    "pruning": (FairPruner, GAP),
    "pruning in imitation": (FairPruner, TEACHER),
    "gap": (GapFineTuner, GAP),
    "gap of the spectrum": (GapFineTuner, {"scope": "spectrum", **GAP}),
    "imitation": (GapFineTuner, TEACHER),
    "bias mask": (
        BiasMaskFineTuner,
        {"gap_weight": 1.0, "impair_epochs": 1, "repair_epochs": 1, "min_steps": 33},
    ),
    "selective": (
        SelectiveFineTuner,
        {"generator": "smoothed", "epochs": 1, "min_steps": 33, "random_state": 0},
    ),
    "critic and actor": (
        AdversarialFineTuner,
        {"epochs": 1, "critic_steps": 33, "actor_steps": 33, "gap_weight": 9.0, "random_state": 0},
    ),
    "adapters": (AdapterFineTuner, {"strength": 1.0, "objective": "soft_gap", **STEPS}),
    "weighed rows": (InfluenceTuner, {"strength": 1.0, **STEPS}),
    "adversary": (AdversarialDebiasing, {"alpha": 1.0, "adversary_steps": 1, **STEPS}),
}
ROWS = {"table": (lambda: table(160), mlp), "images": (lambda: images(96), convolutions)}


class Fit(NamedTuple):
    """Events of a fit: of each step of an optimizer, and of all."""

    steps: list[Counter]
    total: Counter
    editor: object

    def of_steps(self, kind):
        """Count one kind of event in each step that has no candidate to wait for."""
        return [step[kind] for step in self.steps if not step["sync"]]

    def launches(self):
        """Give the median of a step's launches."""
        return median(self.of_steps("launch"))


def fit(kind, parameters, shape="table", X=None):
    """Fit an editor to a network on the device, and count."""
    make, network = ROWS[shape]
    rows = make()
    module = copy.deepcopy(trained(network(), rows)).to("cuda")
    steps, before = [], []
    with simulated_cuda.count() as counts:

        def after_step(*_):
            now = Counter(counts.total)
            if before:
                steps.append(now - before.pop())
            before.append(now)

        handle = register_optimizer_step_post_hook(after_step)
        try:
            editor = kind(module, **parameters)
            editor.fit(rows.X if X is None else X, rows.y, sensitive_features=rows.group)
        finally:
            handle.remove()
        return Fit(steps, Counter(counts.total), editor)


@pytest.fixture(autouse=True)
def short_training(monkeypatch):
    """Train the teacher's networks for two epochs."""
    monkeypatch.setattr("fairsvd.phases._cells.MAX_EPOCHS", 2)


@functools.cache
def fitted(name):
    """Fit an editor once for all tests of tables."""
    return fit(*EDITORS[name])


@pytest.mark.parametrize("name", EDITORS)
def test_no_step_waits_and_rows_are_not_sent_again(name):
    found = fitted(name)
    # What a step seems to wait for is the candidate between it and the one before it, or what comes
    # between two phases; the teacher's networks are looked at after each epoch, too.
    looks = 10 if "imitation" in name else 4
    assert sum(1 for step in found.steps if step["sync"]) <= len(found.editor.history_) + looks
    copies = found.of_steps("h2d")
    assert len(copies) >= 20
    assert median(copies) == 0
    # Draws of 32 steps travel together; a phase begins with its constants.
    assert sum(copies) <= len(copies) / 32 + 12


@pytest.mark.parametrize("name", ["masks", "gap", "imitation", "critic and actor"])
def test_rows_that_do_not_fit_are_the_only_copy_of_a_step(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (0, 2**34))
    copies = sorted(fit(*EDITORS[name]).of_steps("h2d"))
    assert copies[int(0.85 * len(copies))] <= 1


def test_steps_on_images():
    found = fit(*EDITORS["masks"], shape="images")
    assert median(found.of_steps("h2d")) == 0
    assert sum(1 for step in found.steps if step["sync"]) <= len(found.editor.history_) + 4


# Of a network of three layers, two of which are edited.
@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("masks", 82),
        ("masks and spectrum", 82),
        ("masks in imitation", 80),
        ("pruning", 75),
        ("gap", 66),
        ("gap of the spectrum", 82),
        ("bias mask", 66),
        ("adversary", 50),
    ],
)
def test_launches_of_a_step(name, most):
    assert fitted(name).launches() <= most


def test_a_candidate_is_waited_for_twice():
    """Once for how much it removes, once for its logits; masks of the chosen one alone are read."""
    found = fitted("masks")
    assert found.total["sync"] <= 2 * len(found.editor.history_) + 20


def test_rows_on_the_device_are_used_where_they_are():
    rows = ROWS["table"][0]()
    on_device = TensorDataset(torch.tensor(rows.X).cuda())
    found = fit(*EDITORS["gap"], X=on_device)
    assert sum(1 for step in found.steps if step["sync"]) <= len(found.editor.history_) + 6
    assert median(found.of_steps("h2d")) == 0


@pytest.mark.parametrize("shape", ROWS)
def test_a_trial_is_one_copy(shape):
    few, many = (
        fit(RandomPerturbation, {"n_trials": n, "random_state": 0}, shape) for n in (16, 32)
    )
    assert many.total["h2d"] - few.total["h2d"] <= 16 + 2
    assert many.total["sync"] - few.total["sync"] <= 16


def test_a_searched_tensor_sends_a_point_for_each_call():
    few, many = (
        fit(
            LayerwiseOptimizer,
            {"parameters": 1, "n_calls": n, "n_initial": n, "surrogate": "random"},
        )
        for n in (4, 14)
    )
    assert many.total["h2d"] - few.total["h2d"] == 10
    assert many.total["sync"] - few.total["sync"] == 10


def rows_read(numbers, dtype=torch.float32):
    """Make rows whose reads are noted, in an order of their own."""
    X = torch.arange(60, dtype=dtype).reshape(20, 3)
    read = []

    def fetch(rows):
        read.extend(rows.tolist())
        return X[torch.as_tensor(rows)]

    return Batches(fetch, np.array(numbers), torch.float32), X, read


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
def test_held_rows_are_the_rows_and_are_read_once(dtype):
    numbers = [7, 3, 3, 19, 0, 1, 2]
    plain, X, read = rows_read(numbers, dtype)
    held = hold_on(plain, DEVICE)
    some = held.subset(np.array([6, 0, 2]))
    for _ in range(2):
        assert torch.equal(held[:].cpu(), X[numbers].float())
        assert torch.equal(held[np.array([3, 3, 1])].cpu(), X[[19, 19, 3]].float())
        assert torch.equal(some[:].cpu(), X[[2, 7, 3]].float())
        assert held[2:4].device.type == "cuda"
    assert read[2:] == numbers  # the first one tells shape and type
    assert held.index is plain.index
    assert held.held() is held
    copied = held[4:7]
    copied.zero_()
    assert torch.equal(held[4:7].cpu(), X[[0, 1, 2]].float())


def test_held_rows_travel_without_their_values():
    X = torch.arange(3000.0).reshape(1000, 3)
    held = hold_on(as_batches(X.numpy()), DEVICE)
    assert held[:1].device.type == "cuda"
    size = len(pickle.dumps(as_batches(X.numpy())))
    sent = pickle.dumps(held)
    assert len(sent) < size + 20_000
    assert torch.equal(pickle.loads(sent)[:].cpu(), X)


def test_rows_are_held_where_a_quarter_of_the_free_memory_is_enough(monkeypatch):
    plain, _, _ = rows_read(range(20))
    for free, is_held in ((4 * 20 * 3 * 4, True), (4 * 20 * 3 * 4 - 4, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_, free=free: (free, 2**34))
        assert (hold_on(plain, DEVICE) is not plain) == is_held
    assert hold_on(plain, torch.device("cpu")) is plain


@pytest.mark.parametrize("augmented", [False, True])
def test_steps_read_ahead_what_they_would_read_one_by_one(augmented):
    plain, X, _ = rows_read(range(20))
    change = {"fetch_augmented": lambda rows, seed: X[torch.as_tensor(rows)] + seed}
    plain = replace(plain, **change) if augmented else plain
    positions, seeds = [torch.tensor([4, 1]), torch.tensor([0]), torch.tensor([19, 4])], [1, 2, 3]
    found = read_ahead(hold_on(plain, DEVICE), positions, seeds, DEVICE, torch.float32)
    for rows, at, seed in zip(found, positions, seeds, strict=True):
        assert torch.equal(rows.cpu(), X[at] + seed * augmented)


def test_tensors_travel_together_and_arrive_in_order():
    given = [torch.arange(4.0).reshape(2, 2), torch.ones(3), torch.ones(2, dtype=torch.int64)]
    given.append(torch.zeros(()))
    with simulated_cuda.count() as counts:
        found = list(send_together(given, DEVICE))
    assert counts.total["h2d"] == 3  # two floats, one integer, one float
    assert counts.total["sync"] == 0
    for mine, theirs in zip(found, given, strict=True):
        assert mine.device.type == "cuda"
        assert torch.equal(mine.cpu(), theirs)
    assert list(send_together(given, torch.device("cpu"))) == given
