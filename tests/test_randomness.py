"""Equal seeds give equal bits, and nothing process-wide moves, alone or in threads."""

from __future__ import annotations

import copy
import random
import threading

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed, parallel_config
from sklearn.frozen import FrozenEstimator
from torch import nn

from fairsvd._rng import one_torch_thread, resolve_seed, seeded_globally, stage_rng
from fairsvd.base import _prepare
from helpers import (
    IGNORE_SMALL_DATA,
    convolutions,
    fingerprint,
    global_state,
    images,
    mlp,
    quick,
    skorch_net,
    table,
    trained,
)

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

ROWS = table(80)
MODULE = trained(mlp(), ROWS)


@pytest.fixture
def two_threads():
    """As users have it; the tests themselves may run under one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Restless(nn.Module):
    """Draws from every global generator while it trains."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, X):
        if self.training:
            X = X + 0.1 * np.random.standard_normal() + 0.1 * random.random()
        return self.layers(X)


NETWORKS = {
    "default": lambda: None,
    "user's net": lambda: skorch_net(Restless, max_epochs=3, iterator_train__shuffle=True),
    "frozen net": lambda: FrozenEstimator(skorch_net(MODULE).initialize()),
    "module": lambda: copy.deepcopy(MODULE),
}


# Training under two torch threads is slow where other processes keep the cores busy.
TIMED = [pytest.param("default", marks=pytest.mark.slow), *list(NETWORKS)[1:]]


def fit(name="default", rows=ROWS, **settings):
    editor = quick(NETWORKS[name](), **settings)
    return editor.fit(rows.X, rows.y, sensitive_features=rows.group)


def outcome(editor):
    """Everything that a seed decides, to the bit."""
    history = editor.history_.drop(columns=[c for c in editor.history_ if "second" in c])
    return fingerprint(editor.module_), editor.offset_, history.to_csv(float_format="%r")


def new_thread_state():
    """What a thread that starts now finds."""
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found


@pytest.mark.parametrize(
    ("name", "criterion"),
    [
        pytest.param("default", "learned", marks=pytest.mark.slow),
        *((name, "learned") for name in list(NETWORKS)[1:]),
        ("module", "curvature"),
        ("module", "random"),
    ],
)
def test_a_fit_moves_nothing_global(two_threads, name, criterion):
    torch.manual_seed(7)
    before, elsewhere = global_state(), new_thread_state()
    editor = fit(name, criterion=criterion)
    editor.predict_proba(ROWS.X)
    editor.transform(ROWS.X)
    editor.to_module()
    assert editor.report_.gaps is not None
    assert editor.history_ is not None
    assert global_state() == before
    assert new_thread_state() == elsewhere


def test_the_users_net_alone_would_have_moved_it():
    before = global_state()
    skorch_net(Restless).fit(ROWS.X, ROWS.y)
    after = global_state()
    assert {k for k in before if before[k] != after[k]} == {"torch", "numpy", "python"}


@pytest.mark.parametrize("name", ["default", "module"])
def test_another_default_dtype_is_kept(name):
    torch.set_default_dtype(torch.float64)
    try:
        before = global_state()
        fit(name)
        assert global_state() == before
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_equal_seeds_equal_bits(name):
    first = outcome(fit(name, random_state=3))
    torch.manual_seed(99)
    np.random.seed(99)
    assert outcome(fit(name, random_state=3)) == first
    assert name in ("module", "frozen net") or outcome(fit(name, random_state=4)) != first


@pytest.mark.parametrize("name", TIMED)
def test_four_fits_in_threads_give_four_equal_networks(two_threads, name):
    alone = outcome(fit(name))
    torch.manual_seed(11)
    before, elsewhere = global_state(), new_thread_state()
    shared = NETWORKS[name]()
    network = fingerprint(shared) if name == "module" else None
    editors = [quick(shared) for _ in range(4)]
    Parallel(n_jobs=4, backend="threading")(
        delayed(e.fit)(ROWS.X, ROWS.y, sensitive_features=ROWS.group) for e in editors
    )
    assert [outcome(e) for e in editors] == [alone] * 4
    assert global_state() == before
    assert new_thread_state() == elsewhere
    assert network is None or fingerprint(shared) == network


def test_image_networks_in_threads_too(two_threads):
    rows, module = images(40), convolutions(groups=2)
    before, state = fingerprint(module), global_state()
    editors = [quick(module, gap_weight=None) for _ in range(5)]
    editors[0].fit(rows.X, rows.y, sensitive_features=rows.group)
    Parallel(n_jobs=4, backend="threading")(
        delayed(e.fit)(rows.X, rows.y, sensitive_features=rows.group) for e in editors[1:]
    )
    assert [outcome(e) for e in editors] == [outcome(editors[0])] * 5
    assert (fingerprint(module), global_state()) == (before, state)


@pytest.mark.parametrize("criterion", ["learned", "curvature", "random"])
def test_the_number_of_jobs_does_not_change_a_bit_in_threads(two_threads, criterion):
    settings = {"gap_weight": None, "criterion": criterion, "sparsity": 0.2}
    one = outcome(fit("module", n_jobs=1, **settings))
    before = global_state(), new_thread_state()
    with parallel_config("threading"):
        assert outcome(fit("module", n_jobs=2, **settings)) == one
        assert outcome(fit("module", n_jobs=3, **settings)) == one
    assert (global_state(), new_thread_state()) == before


@pytest.mark.slow
def test_the_number_of_jobs_does_not_change_a_bit_in_processes(two_threads):
    rows, module = images(), convolutions()
    settings = {"gap_weight": None, "max_steps": 20}
    for network, data in ((None, ROWS), (module, rows)):
        found = []
        for n_jobs in (1, 2):
            editor = quick(network, n_jobs=n_jobs, **settings)
            found.append(outcome(editor.fit(data.X, data.y, sensitive_features=data.group)))
        assert found[0] == found[1]


def base_networks(monkeypatch, settings):
    """Fit once for each setting and fingerprint the network before it was edited."""
    seen, adopt = [], _prepare.adopt

    def spy(*args, **kwargs):
        adopted = adopt(*args, **kwargs)
        seen.append(fingerprint(adopted.module))
        return adopted

    monkeypatch.setattr(_prepare, "adopt", spy)
    histories = [fit(**each).history_ for each in settings]
    return seen, histories


def test_the_base_network_depends_on_the_seed_alone(monkeypatch):
    changes = [
        {},
        {"sparsity": 0},
        {"rank": 0.5},
        {"criterion": "random"},
        {"max_steps": 6, "gap_weight": None},
        {"constraint": "demographic_parity", "threshold": 0.4},
    ]
    seen, histories = base_networks(monkeypatch, [*changes, {"random_state": 1}])
    assert len(set(seen[:-1])) == 1
    assert seen[-1] != seen[0]
    assert len({h.to_csv() for h in histories}) == len(histories)  # the edits do differ


def test_a_random_state_instance_is_drawn_from_once():
    results = [outcome(fit(random_state=np.random.RandomState(5))) for _ in range(2)]
    assert results[0] == results[1]
    shared = np.random.RandomState(5)
    assert outcome(fit(random_state=shared)) == results[0]
    drawn = np.random.RandomState(5)
    seed = resolve_seed(drawn)
    assert shared.randint(1000) == drawn.randint(1000)  # one number was taken, no more
    assert outcome(fit(random_state=seed)) == results[0]
    assert outcome(fit(random_state=shared)) != results[0]


def test_no_seed_draws_from_numpy():
    np.random.seed(0)
    first = outcome(fit(random_state=None))
    second = outcome(fit(random_state=None))
    np.random.seed(0)
    assert outcome(fit(random_state=None)) == first != second


def test_stages_have_streams_of_their_own():
    stages = ("split", "base", "edit", "bootstrap", "sample")
    draws = [stage_rng(0, stage).integers(2**62) for stage in stages]
    assert len(set(draws)) == len(stages)
    assert stage_rng(0, "edit").integers(2**62) == draws[2] != stage_rng(1, "edit").integers(2**62)


def test_reports_are_computed_with_the_seed():
    editor = fit()
    assert editor.report_.gaps.equals(editor.report_.gaps)


def test_global_generators_are_seeded_and_restored():
    before = global_state()
    draws = []
    for _ in range(2):
        with seeded_globally(3):
            draws.append((torch.rand(2).tolist(), np.random.random(2).tolist()))
    assert draws[0] == draws[1]
    with pytest.raises(KeyError), seeded_globally(4):
        torch.rand(1), np.random.random()
        raise KeyError
    assert global_state() == before


def test_one_thread_inside_and_the_old_number_outside(two_threads):
    """Also of a thread whose first use of torch falls into another's block."""
    ready, leave, seen = threading.Event(), threading.Event(), {}

    def late():
        seen["before"] = torch.get_num_threads()
        ready.set()
        leave.wait(30)
        with one_torch_thread():
            seen["inside"] = torch.get_num_threads()
        seen["after"] = torch.get_num_threads()

    thread = threading.Thread(target=late)
    with one_torch_thread():
        thread.start()
        ready.wait(30)
        with one_torch_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    leave.set()
    thread.join()
    assert seen == {"before": 2, "inside": 1, "after": 2}
    assert torch.get_num_threads() == 2
    assert new_thread_state() == [2]
    with pytest.raises(KeyError), one_torch_thread():
        raise KeyError
    assert torch.get_num_threads() == 2
