"""The cache by itself: what its keys are made of, what it keeps, and how states come back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import PredefinedSplit
from torch import nn

from fairsvd.caching import Cache, Entry, open_cache
from fairsvd.exceptions import CacheWarning
from helpers import (
    IGNORE_SMALL_DATA,
    binary_net,
    fingerprint,
    global_state,
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

ROWS = table(160)


class Made:
    """Computes numbered entries and notes which."""

    def __init__(self):
        self.numbers = []

    def fetch(self, cache, number, name="thing", **parts):
        def compute():
            self.numbers.append(number)
            return Entry({}, {"number": number})

        return cache.fetch(name, parts, compute).facts["number"]


def test_scope_name_and_parts_each_make_another_key(tmp_path):
    cache, made = open_cache(tmp_path), Made()
    asked = [
        (cache, "thing", {}),
        (cache, "other thing", {}),
        (cache, "thing", {"x": 1}),
        (cache.within("rows"), "thing", {}),
        (cache.within("other rows"), "thing", {}),
        (cache.within("rows").within("network"), "thing", {}),
        # The innermost scope alone does not make the key.
        (cache.within("other rows").within("network"), "thing", {}),
        (cache.within("network"), "thing", {}),
        (cache.within("rows", "network"), "thing", {}),
    ]
    for _ in range(2):
        for number, (scoped, name, parts) in enumerate(asked):
            assert made.fetch(scoped, number, name, **parts) == number
    assert made.numbers == list(range(len(asked)))


@pytest.mark.parametrize("name", ["torch.__version__", "fairsvd.caching._cache.__version__"])
def test_another_version_finds_nothing(tmp_path, monkeypatch, name):
    cache, made = open_cache(tmp_path), Made()
    assert made.fetch(cache, 1) == 1
    monkeypatch.setattr(name, "0.0.1")
    assert made.fetch(cache, 2) == 2
    monkeypatch.undo()
    assert made.fetch(cache, 3) == 1


def test_a_task_keeps_the_latest_four_of_each_name():
    cache, made = Cache().for_one_task(), Made()
    for number in range(4):
        made.fetch(cache, number, x=number)
        made.fetch(cache, 100 + number, "other", x=number)
    for number in range(4):  # all are there still
        assert made.fetch(cache, -1, x=number) == number
    assert made.fetch(cache, 4, x=4) == 4  # in the place of the oldest
    assert [made.fetch(cache, -1, x=number) for number in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert made.fetch(cache, 5, x=0) == 5
    assert [made.fetch(cache, -1, "other", x=n) for n in range(4)] == [100, 101, 102, 103]


def test_what_a_task_computes_lies_in_the_folder_behind_it(tmp_path):
    made = Made()
    behind = open_cache(tmp_path)
    assert made.fetch(behind.for_one_task(), 1) == 1
    assert made.fetch(behind, 2) == 1
    assert made.fetch(behind.for_one_task(), 3) == 1
    assert made.numbers == [1]


def test_without_a_folder_a_scope_costs_nothing_and_nothing_is_kept():
    def never():
        raise AssertionError("fingerprinted")

    class Unreadable:
        __dict__ = property(lambda self: never())

    assert Cache().within(Unreadable()) == Cache()
    task = Cache().for_one_task()
    assert task.keeps and task.within(Unreadable()) is task
    made = Made()
    assert [made.fetch(Cache(), n) for n in (1, 2)] == [1, 2]


@pytest.mark.parametrize("kept", [False, True], ids=["no store", "folder"])
def test_a_stream_gives_each_state_as_it_was_in_the_order_of_steps(kept, tmp_path):
    """Also where the steps write into one tensor, and where names hold a slash."""

    def steps():
        weight = torch.zeros(3, requires_grad=True)
        for step in (2, 9, 10, 100):
            with torch.no_grad():
                weight.fill_(step)
            yield step, {"a/b.weight": weight, "c": torch.tensor(-step)}

    cache = open_cache(tmp_path) if kept else Cache()
    for _ in range(2):
        seen = []
        for step, state in cache.stream("states", {"x": 1}, steps):
            seen.append((step, sorted(state), state["a/b.weight"].tolist(), int(state["c"])))
        assert seen == [(step, ["a/b.weight", "c"], [step] * 3, -step) for step in (2, 9, 10, 100)]


def test_streams_of_other_parts_are_apart(tmp_path):
    cache = open_cache(tmp_path)

    def states(number):
        return dict(cache.stream("states", {"n": number}, lambda: [(number, {"a": torch.ones(1)})]))

    assert [list(states(n)) for n in (1, 2, 1)] == [[1], [2], [1]]


# In fits: with a folder that holds another fit's entries a fit gives what it gives without one.


def fit(network=None, rows=ROWS, **settings):
    settings = {"criterion": "curvature", "refine": None, "sparsity": 0.2, **settings}
    return quick(network, **settings).fit(rows.X, rows.y, sensitive_features=rows.group)


def outcome(editor):
    return (
        fingerprint(editor.module_),
        editor.offset_,
        editor.history_.to_json(),
        editor.report_.gaps.to_json(),
    )


class Split:
    """Editing and validation rows, of which there may be others besides."""

    def __init__(self, held):
        self.held = np.asarray(held)

    def split(self, X, y=None, groups=None):
        yield np.arange(90), self.held


class Two(nn.Module):
    """Two heads over one body."""

    def __init__(self):
        super().__init__()
        self.body, self.first, self.second = mlp(8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, X):
        h = self.body(X).relu()
        return self.first(h), self.second(h)


def two_heads():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Two()


FIXED = PredefinedSplit(np.where(np.arange(160) % 4 == 0, 0, -1))
SIGMOID = trained(mlp(1, nn.Sigmoid()), ROWS)


def by(criterion):
    return FrozenEstimator(binary_net(SIGMOID, criterion=criterion).initialize())


# A fit and what it is to be told from, on the same rows.
TOLD_APART = {
    "the constraint": (
        lambda: {"constraint": "demographic_parity", "tolerance": 0.3, "network": mlp()},
        lambda: {"constraint": "equal_opportunity", "tolerance": 0.01, "network": mlp()},
    ),
    "the utility": (
        lambda: {"utility": "accuracy", "network": mlp()},
        lambda: {"utility": "worst_cell_accuracy", "network": mlp()},
    ),
    "the threshold": (
        lambda: {"threshold": 0.5, "network": mlp()},
        lambda: {"threshold": 0.2, "network": mlp()},
    ),
    "validation rows": (
        lambda: {"validation": Split(np.arange(90, 140)), "network": mlp()},
        lambda: {"validation": Split(np.arange(110, 160)), "network": mlp()},
    ),
    "the number of rounds": (
        lambda: {"n_rounds": 1, "network": trained(mlp(), ROWS)},
        lambda: {"n_rounds": 3, "network": trained(mlp(), ROWS)},
    ),
    "the seed of the default network": (
        lambda: {"validation": FIXED, "random_state": 0},
        lambda: {"validation": FIXED, "random_state": 1},
    ),
    "the seed of the user's net": (
        lambda: {"validation": FIXED, "random_state": 0, "network": skorch_net(Shell)},
        lambda: {"validation": FIXED, "random_state": 1, "network": skorch_net(Shell)},
    ),
    "the settings of the user's net": (
        lambda: {"network": skorch_net(Shell, lr=0.1)},
        lambda: {"network": skorch_net(Shell, lr=0.5)},
    ),
    "the precision": (
        lambda: {"precision": "full", "network": trained(mlp(), ROWS)},
        lambda: {"precision": "mixed", "network": trained(mlp(), ROWS)},
    ),
    "the kind of output": (
        lambda: {"network": by(nn.BCELoss)},
        lambda: {"network": by(nn.BCEWithLogitsLoss)},
    ),
    "the output's key": (
        lambda: {"network": two_heads(), "output_key": 0, "layers": "all"},
        lambda: {"network": two_heads(), "output_key": 1, "layers": "all"},
    ),
    "a hook before a layer": (
        lambda: {"network": mlp()},
        lambda: {"network": hooked()},
    ),
}


class Shell(nn.Module):
    """A class for skorch to instantiate: its weights are drawn then."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, X):
        return self.layers(X)


def negated(layer, inputs):
    return (-inputs[0],)


def hooked():
    module = mlp()
    module[2].register_forward_pre_hook(negated)
    return module


@pytest.mark.parametrize("what", TOLD_APART)
def test_fits_that_differ_in_it_never_share_a_result(what, tmp_path):
    first, second = TOLD_APART[what]
    wanted = outcome(fit(**first())), outcome(fit(**second()))
    assert wanted[0] != wanted[1]
    assert outcome(fit(**first(), memory=tmp_path)) == wanted[0]
    assert outcome(fit(**second(), memory=tmp_path)) == wanted[1]
    assert outcome(fit(**first(), memory=tmp_path)) == wanted[0]


def test_a_net_that_is_filled_in_moves_no_global_generator(tmp_path):
    """Its weights are drawn when it is built, before those that were kept take their place."""
    settings = {"network": skorch_net(Shell), "memory": tmp_path}
    first = outcome(fit(**settings))
    before = global_state()
    assert outcome(fit(**settings)) == first
    assert global_state() == before


def test_without_a_seed_the_warning_comes_from_memory_alone(tmp_path):
    with pytest.warns(CacheWarning, match="random_state=None"):
        fit(mlp(), random_state=None, memory=tmp_path)
    assert not list(tmp_path.rglob("*.entry"))
