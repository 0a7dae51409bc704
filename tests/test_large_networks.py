"""What is done to hold fewer copies of a large network's weights changes no bit of a result."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

import fairsvd.phases
from editors import CONFIGURATIONS, make
from fairsvd.masks import packed
from helpers import IGNORE_SMALL_DATA, fingerprint, mlp, table, trained

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

ROWS = table(60)
NETWORK = trained(mlp(), ROWS)


def outcome(name):
    editor = make(name, NETWORK).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    return fingerprint(editor.module_), editor.history_.to_json(), editor.threshold_


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_weights_updated_one_by_one_get_the_same_bits(name, monkeypatch):
    wanted = outcome(name)
    monkeypatch.setattr("fairsvd.training._tune.LARGE_BYTES", 0)
    assert outcome(name) == wanted


MASKED = {
    "teacher": {"objective": "teacher", "gap_weight": None},
    "teacher, capped": {"objective": "teacher", "gap_weight": None, "sparsity": 0.02},
    "soft gap": {"objective": "soft_gap", "gap_weight": 1.0},
    "soft gap, budget": {"objective": "soft_gap", "max_epochs": 6, "sparsity": 0.1},
}


def masked(name, settings):
    editor = make(name, NETWORK, max_steps=6, random_state=0, **settings)
    editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    masks = [array.tobytes() for _, array in sorted(flat(editor.masks_))]
    return fingerprint(editor.module_), editor.history_.to_json(), editor.threshold_, masks


def flat(masks):
    for name, value in masks.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        yield from ((f"{name}/{side}", array) for side, array in inner)


@pytest.mark.parametrize("name", ["FairLRFTransformer", "FairPruner"])
@pytest.mark.parametrize("settings", MASKED)
def test_masks_kept_as_bits_give_the_same_bits(name, settings, monkeypatch):
    wanted = masked(name, MASKED[settings])
    monkeypatch.setattr("fairsvd.masks._packed.FEW_ENTRIES", 0)
    assert masked(name, MASKED[settings]) == wanted


@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (3, 5), (2, 4, 9)])
def test_a_packed_mask_is_an_eighth_and_comes_back(shape, monkeypatch):
    monkeypatch.setattr("fairsvd.masks._packed.FEW_ENTRIES", 0)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.5
    kept = packed({"a": mask, "b": ~mask})
    assert list(kept) == ["a", "b"]
    assert torch.equal(kept["a"], mask)
    assert torch.equal(kept["b"], ~mask)
    assert kept.bits["a"].nbytes == -(-mask.numel() // 8)


def test_a_vast_network_of_a_table_is_taught_by_a_small_one(monkeypatch):
    taught = []
    found = fairsvd.phases.train_cells

    def noted(*args):
        networks = found(*args)
        taught.extend(type(network.network).__name__ for network in networks)
        return networks

    monkeypatch.setattr("fairsvd.phases._teacher.train_cells", noted)
    masked("FairLRFTransformer", MASKED["teacher"])
    assert set(taught) == {"Sequential"}
    taught.clear()
    monkeypatch.setattr("fairsvd.phases._cells.VAST_BYTES", 0)
    masked("FairLRFTransformer", MASKED["teacher"])
    assert set(taught) == {"MLP"}


def fit(network, **settings):
    editor = make("GapFineTuner", network, objective="soft_gap", **settings)
    return editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


@pytest.mark.parametrize("interrupt", ["raise", "keep"])
def test_the_fitted_network_has_weights_of_its_own(interrupt):
    before = fingerprint(NETWORK)
    fitted = fit(NETWORK, on_interrupt=interrupt)
    with torch.no_grad():
        for parameter in fitted.module_.parameters():
            parameter.fill_(7.0)
    assert fingerprint(NETWORK) == before


class Shrinking(nn.Sequential):
    """Changes its own weights in every pass, behind the back of torch's version counters."""

    def forward(self, X):
        for parameter in self.parameters():
            parameter.data.mul_(0.999)
        return super().forward(X)


def test_a_network_that_changes_its_own_weights_keeps_them():
    network = Shrinking(*mlp())
    before = fingerprint(network)
    fit(network)
    assert fingerprint(network) == before


def test_gradients_that_a_network_came_with_are_neither_copied_nor_taken():
    network = mlp()
    network(torch.ones(3, 6)).sum().backward()
    before = fingerprint(network)
    fitted = fit(network)
    assert all(parameter.grad is None for parameter in fitted.module_.parameters())
    assert fingerprint(network) == before


# The size of the layer occurs nowhere else, so that its copies are told by it.
WIDTH, OUT = 47, 43


def count_copies():
    """Count the distinct memories of tensors as large as the layer's weight, made since freeze."""
    found = set()
    for value in gc.get_objects():
        if issubclass(type(value), torch.Tensor):
            for each in (value, value.grad if value.is_leaf else None):
                if each is not None and each.is_floating_point() and each.numel() == WIDTH * OUT:
                    found.add(each.data_ptr())
    return len(found)


class Watched(nn.Sequential):
    """Counts copies in every pass; all copies of the network share the note."""

    most = 0

    def forward(self, X):
        Watched.most = max(Watched.most, count_copies())
        return super().forward(X)


@pytest.fixture
def counted(monkeypatch):
    """Count in every pass, and before every update, beside which the gradients are held."""
    for kind in (torch.optim.Adam, torch.optim.SGD):
        step = kind.step

        def counted_step(self, *args, step=step, **kwargs):
            Watched.most = max(Watched.most, count_copies())
            return step(self, *args, **kwargs)

        monkeypatch.setattr(kind, "step", counted_step)
    gc.collect()
    gc.freeze()
    Watched.most = 0
    yield
    gc.unfreeze()


# Copies of the weight beside the user's own. To tune it takes four (the weight, its gradient and
# two moments); the best so far and the start of the next phase may be one each. A teacher has two
# networks of the same architecture.
MOST = {
    "AdversarialDebiasing": 5,
    "AdversarialFineTuner": 5,
    "BMFT": 5,
    "FairPruner, curvature": 3,
    "GapFineTuner": 6,
    "LayerwiseOptimizer": 1,
    "RandomPerturbation": 5,
}


@pytest.mark.parametrize("name", MOST)
def test_a_fit_holds_few_copies_of_a_large_weight(name, counted):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(6, WIDTH), nn.ReLU(), nn.Linear(WIDTH, OUT), nn.ReLU()]
        network = Watched(*layers, nn.Linear(OUT, 2))
    settings = {"objective": "soft_gap", "max_steps": 8} if name == "GapFineTuner" else {}
    make(name, network, **settings).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    assert 1 <= Watched.most - 1 <= MOST[name]
