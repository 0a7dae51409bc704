"""FairLRFTransformer from end to end on a network with a planted bias."""

from __future__ import annotations

import copy
import functools
from typing import NamedTuple

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from fairsvd import FairLRFTransformer
from fairsvd.datasets import make_biased_classification
from fairsvd.layers import LowRankLinear, factorise
from fairsvd.objective import count_table, gap

# What fit has to say has tests of its own; here it would stop a fit that is about something else.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.FairsvdWarning"),
]


class Task(NamedTuple):
    X: np.ndarray
    y: np.ndarray
    groups: np.ndarray

    def part(self, start, stop=None):
        return Task(*(values[start:stop] for values in self))


@functools.cache
def rows():
    bunch = make_biased_classification(
        9000, n_features=6, base_rate_gap=0.6, group_shift=3.0, random_state=0
    )
    return Task(bunch.data.astype(np.float32), bunch.target, bunch.groups)


def training():
    return rows().part(0, 2000)


def editing():
    return rows().part(2000, 3600)


def fresh():
    return rows().part(4000)


@functools.cache
def trained():
    """A small network, trained on rows that no test edits or judges on."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)
        )
    X, y = torch.as_tensor(training().X), torch.as_tensor(training().y)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(X), y).backward()
        optimizer.step()
    return net.eval()


@functools.cache
def fitted(**options):
    X, y, groups = editing()
    options = {"max_steps": 60, "random_state": 0, **options}
    return FairLRFTransformer(trained(), **options).fit(X, y, sensitive_features=groups)


def quality(predicted, name="equalized_odds"):
    """Balanced accuracy and gap on rows that nobody has seen."""
    _, y, groups = fresh()
    counts = count_table(y, predicted, groups, 2, 2)
    return balanced_accuracy_score(y, predicted), float(gap(counts, name, 1))


def untouched_predictions():
    return trained()(torch.as_tensor(fresh().X)).argmax(dim=1).numpy()


def rebuilt(name, editor, net=None):
    """The weight that the masks stand for."""
    layer = (net or trained()).get_submodule(name)
    factors = factorise(layer, editor.ranks_[name])
    masks = [torch.as_tensor(editor.masks_[name][side])[None] for side in "UV"]
    return factors.masked(*masks).weight()


def test_the_default_edit_closes_most_of_the_gap_on_fresh_rows():
    before, after = quality(untouched_predictions()), quality(fitted().predict(fresh().X))
    assert before[1] > 0.25  # the bias is there to be removed
    assert after[1] < 0.4 * before[1]
    assert after[0] > 0.72  # chance is 0.5
    assert 0.02 < fitted(refine=None).removed_fraction_ < 0.8


def test_the_default_edit_imitates_and_then_settles():
    history = fitted().history_
    assert history["stage"].tolist() == ["untouched"] + ["masks"] * 4 + ["settle"] * 3
    assert not history["feasible"].iloc[0]
    assert history["feasible"].any()


def test_an_edit_under_the_soft_gap_needs_its_masks_and_its_spectrum():
    """Ten candidates a phase; three weights are tried for a third of the first one."""
    history = fitted(objective="soft_gap").history_
    phases = ("masks", "spectrum", "nothing removed")
    wanted = ["untouched"] + ["masks"] * 3 * 4 + [name for name in phases for _ in range(10)]
    assert history["stage"].tolist() == wanted
    assert history["gap_weight"].dropna().nunique() == 3
    assert history["gap_weight"].iloc[13:].nunique() == 1
    assert history["feasible"].any()


@pytest.mark.parametrize("layers", ["hidden", "all"])
def test_beside_learned_masks_the_network_is_tuned_with_nothing_removed(layers):
    settings = {"layers": layers, "objective": "soft_gap"}
    tuned = fitted(**settings).history_.query("stage == 'nothing removed'")
    assert (tuned["removed_fraction"] == 0).all()
    assert tuned["gap_weight"].value_counts().tolist() == [10]
    # Without a removal a tuning closes the gap too: it has moved something.
    assert tuned["gap"].min() < fitted().history_["gap"].iloc[0] / 2
    assert tuned["utility"].nunique() > 5


@pytest.mark.parametrize(
    "options", [{"criterion": "random"}, {"refine": None}, {"sparsity": 0}], ids=str
)
def test_nothing_else_is_tuned_with_nothing_removed(options):
    assert "nothing removed" not in set(fitted(**options).history_["stage"])


def test_learned_removal_beats_random_removal_of_as_much():
    share = fitted(refine=None).removed_fraction_
    scores = []
    for options in ({}, {"criterion": "random", "sparsity": share}):
        bacc, found = quality(fitted(refine=None, **options).predict(fresh().X))
        scores.append(bacc - max(0, found - 0.05))
    assert scores[0] > scores[1] + 0.04


@pytest.mark.parametrize("criterion", ["learned", "curvature", "magnitude", "random"])
@pytest.mark.parametrize("refine", [None, "spectrum"])
def test_sparsity_0_removes_nothing(criterion, refine):
    editor = fitted(criterion=criterion, sparsity=0, refine=refine, threshold=0.5, max_steps=30)
    assert editor.removed_fraction_ == 0
    assert all(m.all() for sides in editor.masks_.values() for m in sides.values())
    assert (editor.history_.get("removed_fraction", np.zeros(1)) > 0).sum() == 0
    if refine is None:  # the identity edit
        logits = trained()(torch.as_tensor(fresh().X)).detach()
        expected = logits.double().softmax(dim=1).numpy()
        np.testing.assert_allclose(editor.predict_proba(fresh().X), expected, atol=1e-6, rtol=0)


def test_masks_describe_the_weights():
    for options in ({}, {"criterion": "curvature"}, {"rank": 0.5, "gap_weight": 1.0}):
        editor = fitted(refine=None, **options)
        assert editor.removed_fraction_ > 0
        for name in ("0", "2"):
            weight = editor.module_.get_submodule(name).weight.detach()
            torch.testing.assert_close(weight, rebuilt(name, editor), rtol=0, atol=1e-6)
            assert not torch.allclose(weight, trained().get_submodule(name).weight, atol=1e-3)
        sides = [m for both in editor.masks_.values() for m in both.values()]
        gone = sum((~m).sum() for m in sides) / sum(m.size for m in sides)
        assert editor.removed_fraction_ == pytest.approx(gone)


def test_the_spectrum_changes_singular_values_and_biases_only():
    refined = fitted(criterion="random", sparsity=0.05, objective="soft_gap")
    for name in ("0", "2"):
        # In the masked bases U and V the edited weight is diagonal, with other values than S.
        f = factorise(trained().get_submodule(name), refined.ranks_[name])
        masks = [torch.as_tensor(refined.masks_[name][side])[None] for side in "UV"]
        m = f.masked(*masks)
        weight = refined.module_.get_submodule(name).weight.detach()
        basis = torch.einsum("mr,nr->rmn", m.U[0], m.V[0]).flatten(1).double()
        values = torch.linalg.lstsq(basis.T, weight.flatten().double()[:, None]).solution
        left = basis.T @ values - weight.flatten()[:, None]
        assert float(left.abs().max()) < 1e-5
        assert float((values[:, 0] - f.S[0]).abs().max()) > 1e-2
    assert torch.equal(refined.module_[4].weight, trained()[4].weight)
    assert not torch.equal(refined.module_[4].bias, trained()[4].bias)


def test_keys_stay_and_layers_that_were_not_chosen_are_bit_identical():
    before = copy.deepcopy(trained().state_dict())
    editor = fitted(layers=("2",), refine=None)
    after = editor.module_.state_dict()
    assert list(after) == list(before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"2.weight"}
    assert all(torch.equal(trained().state_dict()[name], before[name]) for name in before)
    assert set(editor.ranks_) == set(editor.masks_) == {"2"}


@pytest.mark.parametrize("cap", [0.02, 0.1])
def test_a_cap_on_learned_removal_holds(cap):
    removed = fitted(refine=None, sparsity=cap, gap_weight=1.0).history_["removed_fraction"]
    assert removed.max() <= cap
    assert removed.max() > 0.8 * cap
    assert fitted(refine=None).history_["removed_fraction"].max() > 0.15  # without one


@pytest.mark.parametrize("criterion", ["curvature", "magnitude", "random"])
def test_removal_by_a_score_has_the_share_asked_for(criterion):
    options = {"criterion": criterion, "refine": None}
    one = fitted(sparsity=0.2, **options).history_["removed_fraction"].iloc[1:]
    # Rounded down in each layer: 132 and 512 entries.
    assert (one == (26 + 102) / 644).all()
    searched = fitted(**options).history_["sparsity"].dropna().unique()
    assert sorted(searched) == [0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5]


def test_compression_predicts_as_the_written_back_weights_do():
    options = {"rank": 0.25, "sparsity": 0.3, "gap_weight": 1.0}
    dense, thin = fitted(**options), fitted(compress=True, **options)
    assert dense.ranks_ == thin.ranks_ == {"0": 2, "2": 4}
    assert thin.removed_fraction_ > 0
    assert [isinstance(thin.module_[k], LowRankLinear) for k in (0, 2, 4)] == [True, True, False]
    X = fresh().X
    np.testing.assert_allclose(thin.predict_proba(X), dense.predict_proba(X), rtol=0, atol=1e-5)
    for k in (0, 2):
        torch.testing.assert_close(thin.module_[k].weight, dense.module_[k].weight)
    sizes = [sum(p.numel() for p in e.module_.parameters()) for e in (thin, dense)]
    assert sizes[0] < 0.8 * sizes[1]


def test_fitted_attributes_say_what_was_done():
    _, y, groups = editing()
    # At a fixed threshold the operating point is known, and all editing rows are looked at.
    editor = fitted(criterion="curvature", refine=None, threshold=0.5)
    assert editor.balance_ == "cells"  # .6 between the base rates leaves cells nearly empty
    predicted = trained()(torch.as_tensor(editing().X)).argmax(dim=1).numpy()
    recalls = [balanced_accuracy_score(y[groups == g], predicted[groups == g]) for g in (0, 1)]
    assert editor.privileged_group_ == int(np.argmax(recalls))
    assert editor.threshold_ == 0.5


def test_no_global_state_is_moved():
    X, y, groups = (values[:300] for values in editing())
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads()
    for options in ({"compress": True, "rank": 2}, {"criterion": "random"}):
        FairLRFTransformer(trained(), max_steps=30, random_state=0, **options).fit(
            X, y, sensitive_features=groups
        )
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.get_num_threads() == before[2]


def test_a_network_of_a_single_layer_and_tied_weights():
    X, y, groups = (values[:400] for values in editing())
    tied = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    tied[2].weight = tied[0].weight
    for net, layers, names in ((nn.Linear(6, 2), "all", [""]), (tied, "hidden", ["0"])):
        options = {"layers": layers, "refine": None, "criterion": "magnitude", "sparsity": 0.3}
        editor = FairLRFTransformer(net, tolerance=1.0, tolerance_fraction=1.0, **options)
        editor.set_params(random_state=0).fit(X, y, sensitive_features=groups)
        assert list(editor.ranks_) == names
        assert editor.predict(X).shape == (400,)
        if net is tied:
            assert editor.module_[0].weight is editor.module_[2].weight
