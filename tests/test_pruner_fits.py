"""FairPruner from end to end: the promises of every editor, and a bias that was planted."""

from __future__ import annotations

import functools
import re
import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from torch import nn

from configurations import DATA, check_copies, check_transform, network_for
from fairsvd import FairPruner
from fairsvd.datasets import make_biased_classification
from fairsvd.exceptions import FairsvdWarning, MissingSensitiveFeaturesWarning, NetworkError
from helpers import (
    IGNORE_SMALL_DATA,
    Rows,
    binary_net,
    fingerprint,
    global_state,
    last_wins,
    mlp,
    quick,
    table,
    trained,
)
from work import count_work

pytestmark = [
    # Many short fits: together they take long.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]


class LastPruned(last_wins(FairPruner)):
    """Chooses its last edit, and looks after every edit whether the module is as it was."""

    def _edit(self, task, rng):
        before = fingerprint(task.module)
        yield from super()._edit(task, rng)
        assert fingerprint(task.module) == before


work = pytest.fixture(count_work)

CONFIGURATIONS = {
    "learned": {"max_steps": 30},
    "learned, capped": {"sparsity": 0.05, "max_steps": 30},
    "learned, masks only": {"refine": None, "max_steps": 30},
    "learned, three weights": {"gap_weight": None},
    "factors only": {"sparsity": 0},
    "curvature": {"criterion": "curvature"},
    "curvature, FairPrune's": {
        "criterion": "curvature",
        "ranking": "global",
        "refine": None,
        "sparsity": 0.35,
        "privileged_weight": 1 / 3,
        "n_rounds": 2,
    },
    "curvature, ggn": {"criterion": "curvature", "hessian": "ggn", "sparsity": 0.1},
    "unit": {"criterion": "unit", "sparsity": 0.3},
    "unit, searched": {"criterion": "unit", "refine": None},
    "unit, rounds, global": {
        "criterion": "unit",
        "n_rounds": 3,
        "ranking": "global",
        "sparsity": 0.4,
        "refine": None,
    },
    "unit, demographic parity": {
        "criterion": "unit",
        "sparsity": 0.3,
        "constraint": "demographic_parity",
    },
    "magnitude": {"criterion": "magnitude", "refine": None},
    "random, everything removed": {"criterion": "random", "sparsity": 1.0, "refine": None},
    "all layers": {"layers": "all", "criterion": "unit", "sparsity": 0.5},
    "layers by pattern": {"layers": re.compile("^[24]$"), "criterion": "magnitude"},
    "fixed threshold": {"threshold": 0.3},
    "no balance": {"balance": None, "constraint": "accuracy_parity"},
    "logits out": {"output": "logits"},
    "probabilities out": {"output": "probabilities"},
}
CRITERIA = ("learned", "curvature", "unit", "magnitude", "random")


def fit(network, rows, kind=LastPruned, **settings):
    return quick(network, kind=kind, **settings).fit(rows.X, rows.y, sensitive_features=rows.group)


def check_outputs(editor, X):
    """Labels, margins, probabilities, the exported module and the skorch net say the same."""
    predicted, shares = editor.predict(X), editor.predict_proba(X)
    margins, classes = editor.decision_function(X), editor.classes_
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    codes = (margins > 0).astype(int) if len(classes) == 2 else margins.argmax(axis=1)
    plain, net = torch.tensor(np.asarray(X, dtype=np.float32)), editor.to_skorch()
    with torch.no_grad():
        out = editor.to_module()(plain).reshape(len(plain), -1)
    exported = (out[:, 0] > 0).numpy() if out.shape[1] == 1 else out.argmax(dim=1).numpy()
    for found in (shares.argmax(axis=1), codes, exported, net.predict(plain)):
        assert np.array_equal(classes[np.asarray(found, dtype=int)], predicted)
    np.testing.assert_allclose(net.predict_proba(plain), shares, atol=1e-5)


def check_masks(editor, network):
    """Zeros where a mask says so, and the weight itself (times a row's factor) elsewhere."""
    own, edited = network.state_dict(), editor.module_.state_dict()
    assert list(own) == list(edited)
    gone = total = 0
    for name, mask in editor.masks_.items():
        assert mask.dtype == bool
        assert mask.shape == own[name].shape
        assert np.array_equal(edited[name][torch.tensor(~mask)], np.zeros((~mask).sum()))
        if editor.refine is None:
            assert np.array_equal(edited[name], np.where(mask, own[name], 0))
        if editor.criterion == "unit":
            rows = mask.reshape(len(mask), -1)
            assert np.array_equal(rows.all(axis=1), rows.any(axis=1))
            bias = edited[name.replace("weight", "bias")]
            assert not bias[torch.tensor(~rows.any(axis=1))].any()
        gone, total = gone + (~mask).sum(), total + mask.size
    assert editor.removed_fraction_ == pytest.approx(gone / total)
    if editor.sparsity is not None and editor.criterion != "unit":
        assert editor.removed_fraction_ <= editor.sparsity


def check_all(settings, rows, name=""):
    network = network_for(rows, name)
    before = fingerprint(network)
    editor = fit(network, rows, **settings)
    assert fingerprint(network) == before
    assert fingerprint(editor.module_) != before
    assert editor.privileged_group_ in editor.groups_
    assert editor.balance_ in ("cells", "classes", None)
    stages = editor.history_["stage"].tolist()
    assert stages[0] == "untouched"
    assert set(stages[1:]) <= {"removal", "masks", "scale", "settle", "nothing removed"}
    assert editor.history_["removed_fraction"].between(0, 1).all()
    check_outputs(editor, rows.X)
    check_masks(editor, network)
    check_transform(editor, rows.X)
    check_copies(editor, rows.X)


@pytest.mark.usefixtures("no_edit_left_out")
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_keeps_the_promises(name):
    check_all(CONFIGURATIONS[name], table())


TABLES = [name for name in DATA if "image" not in name and "convolution" not in name]
KINDS = [(name, criterion) for name in TABLES for criterion in ("learned", "unit")]
KINDS += [("grouped convolution", criterion) for criterion in ("learned", "curvature", "unit")]
KINDS += [("five classes", "curvature"), ("three groups", "curvature")]
KINDS += [("images, five classes", criterion) for criterion in ("curvature", "unit")]


@pytest.mark.usefixtures("no_edit_left_out")
@pytest.mark.parametrize(("name", "criterion"), KINDS)
def test_every_kind_of_data_is_taken(name, criterion):
    settings = {"criterion": criterion, "sparsity": None if criterion == "learned" else 0.3}
    check_all(settings, DATA[name](), name)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_without_sensitive_features_one_warning_and_utility_alone(criterion):
    rows = table()
    editor = quick(network_for(rows), kind=LastPruned, criterion=criterion, sparsity=0.2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        editor.fit(rows.X, rows.y)
    assert [w.category for w in caught] == [MissingSensitiveFeaturesWarning]
    assert issubclass(MissingSensitiveFeaturesWarning, FairsvdWarning)
    assert (editor.groups_, editor.privileged_group_) == ([], None)
    if criterion == "unit":
        assert editor.removed_fraction_ == 0
        assert set(editor.history_["stage"]) == {"untouched", "scale"}
    check_outputs(editor, rows.X)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_identity_edit(criterion):
    rows = table()
    network = network_for(rows)
    settings = {"criterion": criterion, "sparsity": 0, "refine": None, "threshold": 0.5}
    editor = fit(network, rows, **settings)
    with torch.no_grad():
        wanted = network(torch.tensor(rows.X)).softmax(dim=1).numpy()
    np.testing.assert_allclose(editor.predict_proba(rows.X), wanted, atol=1e-6)
    assert editor.removed_fraction_ == 0
    assert all(mask.all() for mask in editor.masks_.values())


class Tied(nn.Module):
    """Two layers of one weight and a bias each, and one logit."""

    def __init__(self):
        super().__init__()
        self.first, self.again = nn.Linear(6, 6), nn.Linear(6, 6)
        self.again.weight = self.first.weight
        self.out = nn.Linear(6, 1)

    def forward(self, X):
        return self.out(torch.tanh(self.again(torch.tanh(self.first(X)))))[:, 0]


@pytest.mark.usefixtures("no_edit_left_out")
@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_weight_of_two_layers_is_edited_once(criterion):
    rows = table()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = trained(Tied(), rows)
    editor = fit(network, rows, criterion=criterion, sparsity=0.34, max_steps=30)
    assert list(editor.masks_) == ["first.weight"]
    module = editor.module_
    assert module.again.weight is module.first.weight
    mask = torch.tensor(editor.masks_["first.weight"])
    assert not module.first.weight[~mask].any()
    if criterion == "unit":
        rows_gone = ~mask.any(dim=1)
        assert int(rows_gone.sum()) == 2
        assert not module.first.bias[rows_gone].any()
        assert not module.again.bias[rows_gone].any()
    check_outputs(editor, rows.X)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_a_network_of_one_layer(criterion, n_outputs):
    rows = table()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = trained(nn.Linear(6, n_outputs), rows)
    editor = fit(network, rows, criterion=criterion, layers="all", sparsity=0.5)
    assert list(editor.masks_) == ["weight"]
    assert list(editor.module_.state_dict()) == ["weight", "bias"]
    check_outputs(editor, rows.X)


def test_hidden_layers_only_unless_asked():
    rows = table()
    with pytest.raises(NetworkError, match="layers='all'"):
        fit(trained(nn.Linear(6, 2), rows), rows)
    with pytest.raises(NotFittedError):
        FairPruner().predict(rows.X)
    with pytest.raises(ValueError, match="ranking"):
        fit(None, rows, ranking="network")


def test_a_users_net_is_cloned_trained_and_edited():
    rows = table()
    editor = fit(binary_net(mlp(1)), rows, criterion="unit", sparsity=0.3)
    assert sorted(editor.masks_) == ["0.weight", "2.weight"]
    check_outputs(editor, rows.X)


def outcome(editor, rows):
    """All that a fit came to."""
    return (
        fingerprint(editor.module_),
        editor.threshold_,
        editor.history_.to_json(),
        {name: mask.tobytes() for name, mask in editor.masks_.items()},
        editor.predict_proba(rows.X).tobytes(),
    )


def test_equal_seeds_give_equal_bits_whatever_n_jobs():
    data = table()
    network = trained(mlp(), data)
    settings = {"kind": FairPruner, "gap_weight": None, "max_steps": 20}
    before = global_state()
    one = outcome(fit(network, data, **settings), data)
    assert outcome(fit(network, data, n_jobs=2, **settings), data) == one
    assert outcome(fit(network, data, random_state=1, **settings), data)[2] != one[2]
    assert global_state() == before


@pytest.mark.parametrize("criterion", ["learned", "curvature", "unit"])
def test_with_memory_a_later_fit_computes_nothing_anew(tmp_path, work, criterion):
    rows = table()
    settings = {"kind": FairPruner, "criterion": criterion, "sparsity": 0.2}
    wanted = outcome(fit(None, rows, **settings), rows)
    assert outcome(fit(None, rows, memory=tmp_path, **settings), rows) == wanted
    done = dict(work)
    assert sum(done.values()) == 4
    assert outcome(fit(None, rows, memory=tmp_path, **settings), rows) == wanted
    fit(None, rows, memory=tmp_path, **{**settings, "sparsity": 0.4, "ranking": "global"})
    assert work == done
    other = {"gap_weight": 0.5} if criterion == "learned" else {"layers": "all"}
    fit(None, rows, memory=tmp_path, **{**settings, **other})
    assert sum(work.values()) == 5


@functools.cache
def planted():
    """A network that was fair until two units of each hidden layer were made to carry the group.

    Returns the network, rows, and the weights that carry it, by parameter name.
    """
    rng = np.random.default_rng(0)
    group, X = rng.integers(2, size=1600), rng.normal(size=(1600, 6))
    y = (X[:, 0] + X[:, 1] + 0.5 * rng.normal(size=1600) > 0).astype(np.int64)
    X[:, 5] = 2 * group - 1 + 0.2 * rng.normal(size=1600)
    rows = Rows(X.astype(np.float32), y, group)
    network = trained(mlp(width=16), rows, n_steps=80)
    own = {name: value.detach() for name, value in network.named_parameters()}
    first = own["2.weight"].abs().sum(dim=0).topk(2, largest=False).indices
    second = (own["4.weight"][1] - own["4.weight"][0]).abs().topk(2, largest=False).indices
    own["0.weight"][first] = 0
    own["0.weight"][first, 5] = 1
    own["0.bias"][first] = own["2.bias"][second] = 0
    own["2.weight"][:, first] = own["2.weight"][second] = 0
    own["2.weight"][second[:, None], first] = 1
    own["4.weight"][:, second] = torch.tensor([[-0.5], [0.5]])
    carry = {name: np.zeros(own[name].shape, dtype=bool) for name in ("0.weight", "2.weight")}
    carry["0.weight"][first, 5] = True
    carry["2.weight"][np.ix_(second, first)] = True
    return network, rows, carry


def hit_rate(editor, carry):
    """Share of planted ones among the removed weights, and among all."""
    gone = np.concatenate([~mask.ravel() for mask in editor.masks_.values()])
    planted_ = np.concatenate([carry[name].ravel() for name in editor.masks_])
    return (gone & planted_).sum() / gone.sum(), planted_.mean()


def test_planted_units_go_first():
    network, rows, carry = planted()
    for ranking in ("layer", "global"):
        settings = {"criterion": "unit", "sparsity": 1 / 8, "refine": None, "ranking": ranking}
        editor = fit(network, rows, FairPruner, **settings)
        for name, mask in editor.masks_.items():
            assert np.array_equal(~mask.any(axis=1), carry[name].any(axis=1))
        gaps = editor.report_.gaps.loc["equalized_odds"]
        assert gaps["after"] < gaps["before"] / 3


@pytest.mark.parametrize("ranking", ["layer", "global"])
@pytest.mark.parametrize("criterion", ["learned", "curvature"])
def test_planted_weights_are_found_far_more_often_than_by_chance(criterion, ranking):
    network, rows, carry = planted()
    settings = {"criterion": criterion, "ranking": ranking, "sparsity": 0.02, "refine": None}
    editor = fit(
        network,
        rows,
        FairPruner,
        gap_weight=None,
        privileged_weight=None,
        max_steps=100,
        objective="soft_gap",
        **settings,
    )
    found, chance = hit_rate(editor, carry)
    assert found > 20 * chance
    gaps = editor.report_.gaps.loc["equalized_odds"]
    assert gaps["after"] < gaps["before"] / 3


def test_learned_masks_narrow_the_gap_and_the_factors_help():
    data = make_biased_classification(
        3000, n_features=6, base_rate_gap=0.6, group_shift=3.0, random_state=0
    )
    rows = Rows(data.data.astype(np.float32), data.target, data.groups)
    network = trained(mlp(width=16), rows, 100)
    settings = {"gap_weight": 1.0, "max_steps": 100, "kind": FairPruner}
    after = {}
    for refine in (None, "scale"):
        editor = fit(network, rows, **{**settings, "refine": refine})
        before, after[refine] = editor.report_.gaps.loc["equalized_odds", ["before", "after"]]
        assert after[refine] < before / 2
        assert 0 < editor.removed_fraction_ < 0.8
        assert editor.report_.gaps["met"].loc["equalized_odds"] or after[refine] < 0.1
