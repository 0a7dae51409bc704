"""Edits of factors and removals by a score: tuned, cut, kept and judged as plain references are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from fairsvd import FairLRFTransformer, FairLRFTransformerCV, FairPruner
from fairsvd.caching import Cache
from fairsvd.curvature import group_curvature, group_weight_curvature
from fairsvd.layers import LowRankLinear, chosen_weights, factorise
from fairsvd.low_rank._factor_edit import keep_all
from fairsvd.low_rank._fairlrf import Removal, factors_of
from fairsvd.low_rank._grid import Point, path_frame, search_results
from fairsvd.masking import _pruner
from fairsvd.masking._pruner import Pruning
from fairsvd.objective import edit_loss
from fairsvd.phases import Best, MaskingPath, judge_removals, make_batches
from fairsvd.phases._masking import tune_rest, tune_whole
from helpers import last_wins, mlp, table, trained
from tasks import CONSTRAINT, small_task

pytestmark = pytest.mark.filterwarnings("ignore::fairsvd.exceptions.FairsvdWarning")

LAYERS = ("0", "2")


def factored(task, rank=3, compress=False):
    weights = chosen_weights(task.module, LAYERS)
    return keep_all({n: factorise(w, rank) for n, w in weights.items()}, compress)


def random_masks(edit, share=0.8):
    generator = torch.Generator().manual_seed(1)
    draws = {n: torch.rand(v.shape, generator=generator) for n, v in edit.entries().items()}
    return {n: d < share for n, d in draws.items()}


@pytest.mark.parametrize("whole", [False, True])
def test_singular_values_are_tuned_as_in_a_plain_loop(whole):
    task = small_task()
    edit = factored(task)
    masks = random_masks(edit)
    path = MaskingPath.of(
        task,
        gap_weight=0.7,
        max_removed=None,
        n_steps=10,
        seed=np.random.SeedSequence(0),
        attributes={},
        whole=edit,
    )
    start = edit if whole else edit.remove(masks)
    own = task.module.state_dict()
    plain = ["0.bias", "2.bias", "4.bias", *(["4.weight"] if whole else [])]
    leaves = {n: edit.factors[n].S.clone().requires_grad_() for n in LAYERS}
    leaves |= {n: own[n].clone().requires_grad_() for n in plain}

    def state():
        found = {n: leaves[n] for n in plain}
        for n in LAYERS:
            f = edit.factors[n]
            sides = [getattr(f, s)[0] * (1 if whole else masks[f"{n}/{s}"][0]) for s in "UV"]
            found[f"{n}.weight"] = sides[0] @ torch.diag(leaves[n][0]) @ sides[1].T
        return found

    begun = {n: v for n, v in state().items() if n not in plain}
    margin = task.data.judge.for_utility(task.data.logits(task.module, begun)).margin
    optimizer = torch.optim.Adam(leaves.values(), lr=1e-2)
    batches = make_batches(task.data, "classes", np.random.default_rng(3))
    rng = np.random.default_rng(3)
    found = list(tune_whole(path, rng) if whole else tune_rest(path, start, rng))
    for (step, tuned), number, batch in zip(found, range(1, 11), batches, strict=False):
        optimizer.zero_grad()
        logits = functional_call(task.module, state(), (batch.X,))
        edit_loss(logits, batch, CONSTRAINT, margin=margin, gap_weight=0.7, n_groups=2).backward()
        optimizer.step()
        assert step == number
        wanted, made = state(), tuned.state()
        assert set(made) == set(wanted)
        for name, value in wanted.items():
            torch.testing.assert_close(made[name], value.detach(), rtol=1e-4, atol=1e-5)
            assert not made[name].requires_grad
        assert tuned.masks is start.masks


def test_a_packed_edit_is_a_copy_with_its_own_attributes():
    task = small_task()
    edit = factored(task, compress=True)
    masks = random_masks(edit)
    removed = edit.remove(masks)
    singular = {n: f.S.clone() for n, f in removed.factors.items()}
    loose, leaves = removed.loosen({"4.bias": torch.zeros(2).requires_grad_()})
    packed = loose.pack({"step": 3}, {"balance_": "cells"}, None, None).owned()
    before = {n: v.clone() for n, v in packed.state.items()}
    kept = loose.detached()
    kept_before = {n: v.clone() for n, v in kept.state().items()}
    for leaf in leaves:
        leaf.data.add_(1)
    loose.plain["4.bias"].data.add_(1)
    assert all(torch.equal(v, before[n]) for n, v in packed.state.items())
    assert all(torch.equal(v, kept_before[n]) for n, v in kept.state().items())
    # Neither do the factors that it was made from, which other phases start from.
    for name, S in singular.items():
        assert torch.equal(removed.factors[name].S, S)
        assert not removed.factors[name].S.requires_grad
    total = sum(m.numel() for m in masks.values())
    share = sum(int((~m).sum()) for m in masks.values()) / total
    assert packed.params == {"step": 3, "removed_fraction": share}
    assert packed.attributes["balance_"] == "cells"
    assert packed.attributes["removed_fraction_"] == share
    assert packed.attributes["ranks_"] == {"0": 3, "2": 3}
    for name, mask in masks.items():
        layer, side = name.split("/")
        assert np.array_equal(packed.attributes["masks_"][layer][side], mask[0].numpy())
    assert factored(task).finish() is None
    module = nn.Sequential(*(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)))
    thin = factored(task, rank=1, compress=True).remove({n: m[..., :1] for n, m in masks.items()})
    module = thin.finish()(module)
    assert [type(module[k]) for k in (0, 2)] == [LowRankLinear] * 2
    for k in (0, 2):
        torch.testing.assert_close(module[k].weight, thin.weights()[f"{k}.weight"])


def test_one_decomposition_serves_every_rank_and_a_randomised_one_its_own():
    net = nn.Sequential(nn.Linear(40, 30))
    cache = Cache().for_one_task()
    for rank in (2, 5, 30):
        full = factors_of(net, {"0": rank}, "full", cache)["0"]
        assert full.S.shape == (1, 30)
        thin = factors_of(net, {"0": rank}, "randomized", cache)["0"]
        assert thin.S.shape == (1, rank)
        torch.testing.assert_close(thin.S, full.S[:, :rank], rtol=0.05, atol=0)
        wanted = factorise(net[0], rank, "randomized")
        assert torch.equal(thin.S, wanted.S)


def removal(kind=Removal, task=None, **options):
    task = small_task() if task is None else task
    whole = (
        factored(task)
        if kind is Removal
        else _pruner.keep_all(task.module, LAYERS, units=options.get("criterion") == "unit")
    )
    weights = chosen_weights(task.module, LAYERS)
    own = (
        {"measured": {n: factorise(w, min(w.value.shape)) for n, w in weights.items()}}
        if kind is Removal
        else {"layers": LAYERS, "ranking": "layer"}
    )
    defaults = {
        "whole": whole,
        "criterion": "curvature",
        "sparsities": (0.1, 0.3),
        "privileged_weight": 0.5,
        "hessian": "fisher",
        "n_rounds": 1,
        "max_memory": 2**28,
        "privileged": 1,
        "rng": np.random.default_rng(0),
        "attributes": {"balance_": None},
    }
    return kind.of(task, **{**defaults, **own, **options})


CHANGES = {
    "hessian": {"hessian": "ggn"},
    "margin": {"margin": 0.9},
    "privileged": {"privileged": 0},
    "gap": {"constraint": replace(CONSTRAINT, gap="demographic_parity")},
    "layers": {"layers": ("0",)},
    "rank": {"rank": 2},
}


def removal_under(kind, cache, criterion, constraint=CONSTRAINT, margin=0.3, **change):
    task = small_task(constraint=constraint)
    task = replace(task, data=replace(task.data, margin=margin, cache=cache))
    if "rank" in change:
        rank = change.pop("rank")
        change |= {"whole": factored(task, rank)} if kind is Removal else {}
    if "layers" in change:
        layers = change.pop("layers")
        whole = _pruner.keep_all(task.module, layers, units=criterion == "unit")
        change |= {"layers": layers, "whole": whole} if kind is Pruning else {}
    sparsities = (0.2, 0.4, 0.6, 0.8)
    return removal(kind, task, criterion=criterion, sparsities=sparsities, **change)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("kind", "criterion"), [(Removal, "curvature"), (Pruning, "curvature"), (Pruning, "unit")]
)
def test_what_is_measured_once_is_kept_under_everything_it_depends_on(kind, criterion, change):
    cache = Cache().for_one_task()
    list(removal_under(kind, cache, criterion).edits())
    found, wanted = (
        list(removal_under(kind, each, criterion, **CHANGES[change]).edits())
        for each in (cache, Cache())
    )
    assert len(found) == len(wanted) == 4
    for (_, cached), (_, plain) in zip(found, wanted, strict=True):
        assert cached.masks.keys() == plain.masks.keys()
        assert all(torch.equal(m, cached.masks[n]) for n, m in plain.masks.items())


@pytest.mark.parametrize("kind", [Removal, Pruning])
def test_every_removal_is_judged_and_the_best_under_three_fifths_is_offered(kind):
    shares = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
    for tolerance in (0.05, 0.1, 0.2, 0.4):
        task = small_task(constraint=replace(CONSTRAINT, tolerance=tolerance))
        made = removal(kind, task, criterion="random", sparsities=shares)
        start = Best()
        found = list(judge_removals(made, start))
        judge = task.data.judge
        ranks = []
        for candidate, share in zip(found, shares, strict=True):
            logits = task.data.logits(task.module, candidate.state)
            assert torch.equal(candidate.logits, logits)
            assert candidate.verdict == judge(logits)
            assert (candidate.params["stage"], candidate.params["sparsity"]) == ("removal", share)
            assert candidate.attributes["balance_"] is None
            ranks.append(judge(logits, 0.6 * tolerance).rank)
        best = max(range(len(ranks)), key=lambda k: (ranks[k], -k))
        assert start.rank == ranks[best]
        chosen = start.value.attributes()["removed_fraction_"]
        assert chosen == found[best].attributes["removed_fraction_"]


def test_rows_are_of_two_sides_at_the_operating_threshold():
    task = small_task(n_groups=3)
    groups = task.data.editing.groups
    for privileged, wanted in ((2, groups == 2), (0, groups == 0), (None, groups < 0)):
        sides = torch.cat(
            [side for _, _, side in removal(task=task, privileged=privileged).sides()]
        )
        assert sides.tolist() == wanted.long().tolist()
    logits = task.module(task.data.judged[:])
    moved = removal(task=task).pass_settings()["to_logits"](logits)
    torch.testing.assert_close(moved, logits - torch.tensor([0.0, 0.3]))


@pytest.mark.parametrize("hessian", ["fisher", "ggn"])
def test_the_curvature_is_of_the_kind_that_is_asked_for(hessian):
    task = small_task()
    X, y, groups = next(task.data.editing_batches(90))
    settings = {
        "n_groups": 2,
        "to_logits": lambda out: out - torch.tensor([0.0, 0.3]),
        "hessian": hessian,
    }
    rows = [(X, y, (groups == 1).long())]
    wanted = group_weight_curvature(task.module, LAYERS, rows, **settings)
    found = removal(Pruning, hessian=hessian).first_curvature()
    for layer, h in wanted.items():
        weight = found[f"{layer}.weight"]
        torch.testing.assert_close(weight, h.reshape(weight.shape), rtol=1e-4, atol=1e-9)
    made = removal(hessian=hessian)
    triples = {n: (f.U, f.S, f.V) for n, f in made.measured.items()}
    found = made.first_curvature()
    for layer, sides in group_curvature(task.module, triples, rows, **settings).items():
        for side, h in zip("UV", sides, strict=True):
            torch.testing.assert_close(found[f"{layer}/{side}"], h[..., :3], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("kind", [Removal, Pruning])
def test_a_weight_of_zero_is_a_weight_and_the_score_that_of_one_side(kind):
    task = small_task()
    ((params, edit),) = removal(kind, task, privileged_weight=0, sparsities=(0.3,)).edits()
    assert params == {"privileged_weight": 0, "protects": "unprivileged", "sparsity": 0.3}
    made = removal(kind, task)
    scores = {
        name: value.square() * made.first_curvature()[name][0]
        for name, value in made.whole.entries().items()
    }
    for layer in LAYERS:
        names = [name for name in scores if name.startswith(layer)]
        flat = torch.cat([scores[name].flatten() for name in names])
        gone = torch.cat([~edit.masks[name].flatten() for name in names])
        assert int(gone.sum()) == int(0.3 * len(flat))
        assert float(flat[gone].max()) <= float(flat[~gone].min())


def test_a_search_gives_each_weight_to_what_it_names():
    rows = table()
    settings = {"criterion": "curvature", "refine": None, "cv": 2, "random_state": 0}
    grid = {"ranks": [1.0], "sparsities": [0.1], "gap_weights": [2.0], "privileged_weights": [0.5]}
    search = FairLRFTransformerCV(trained(mlp(), rows), **settings, **grid)
    search.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert search.best_params_ == {
        "rank": 1.0,
        "sparsity": 0.1,
        "gap_weight": 2.0,
        "privileged_weight": 0.5,
    }
    assert search.history_["privileged_weight"].dropna().tolist() == [0.5]
    assert search.path_["gap_weight"].tolist() == [2.0, 2.0]


def test_random_removal_draws_from_the_generator_of_the_fit():
    def gone(seed):
        made = removal(criterion="random", rng=np.random.default_rng(seed))
        return [m.tolist() for _, e in made.edits() for m in e.masks.values()]

    assert gone(1) == gone(1) != gone(2)


def test_a_rank_alone_is_an_edit_and_full_rank_is_none():
    task = small_task()
    ((params, edit),) = removal(sparsities=(0,)).edits()
    assert params == {"sparsity": 0.0}
    assert {f.S.shape[1] for f in edit.factors.values()} == {3}
    measured = removal().measured
    assert list(removal(task=task, whole=keep_all(measured, False), sparsities=(0,)).edits()) == []
    # The removal of nothing is one of several all the same.
    assert [p["sparsity"] for p, _ in removal(sparsities=(0, 0.1)).edits()] == [0, 0.1]


class LastFactors(last_wins(FairLRFTransformer)):
    """Chooses its last edit."""


class LastPruned(last_wins(FairPruner)):
    """Chooses its last edit."""


@pytest.mark.parametrize("kind", [LastFactors, LastPruned])
def test_both_weights_do_what_their_names_say(kind):
    """The weight of the privileged group moves masks by curvature, that of the gap a tuning."""
    rows = table()
    network = trained(mlp(), rows)

    def fit(**settings):
        settings = {"criterion": "curvature", "sparsity": 0.3, "max_steps": 3, **settings}
        editor = kind(network, **settings, random_state=0)
        return editor.fit(rows.X, rows.y, sensitive_features=rows.group)

    def masks(editor):
        return repr(editor.masks_)

    one = fit(gap_weight=1.0, privileged_weight=0.5, refine=None)
    assert one.history_["privileged_weight"].dropna().unique().tolist() == [0.5]
    assert masks(fit(gap_weight=9.0, privileged_weight=0.5, refine=None)) == masks(one)
    assert masks(fit(gap_weight=1.0, privileged_weight=4.0, refine=None)) != masks(one)
    searched = fit(gap_weight=2.5).history_
    removals = searched.query("stage == 'removal'")
    assert removals["gap_weight"].isna().all()
    forms = list(zip(removals["protects"], removals["privileged_weight"], strict=True))
    sides = ("unprivileged", "privileged")
    assert forms == [(side, w) for side in sides for w in (1 / 3, 1.0)]
    tuned = searched.query("stage not in ('untouched', 'removal')")
    assert set(tuned["gap_weight"]) == {2.5}
    assert tuned["privileged_weight"].isna().all()


@pytest.mark.parametrize(
    ("kind", "stage"), [(FairLRFTransformer, "spectrum"), (FairPruner, "scale")]
)
@pytest.mark.parametrize("criterion", ["learned", "curvature", "magnitude", "random"])
def test_where_nothing_is_to_be_removed_the_network_is_tuned_as_it_is(kind, stage, criterion):
    rows = table()
    settings = {"criterion": criterion, "sparsity": 0, "max_steps": 2, "gap_weight": 1.0}
    editor = kind(trained(mlp(), rows, n_steps=5), **settings, random_state=0)
    history = editor.fit(rows.X, rows.y, sensitive_features=rows.group).history_
    assert history["stage"].tolist() == ["untouched", stage, stage]
    assert history["removed_fraction"].tolist() == [0.0] * 3


def points(split, pairs):
    settings = [{"rank": 0.5, "sparsity": None}, {"rank": 1.0, "sparsity": 0.1}]
    record = {"threshold": 0.4, "utility": 0.9, "gap": 0.05, "removed_fraction": 0.25}
    return [
        Point(split, k, settings[k % 2], utility, gap, record if k else {**record}, 2.0 + k, 1.0)
        for k, (utility, gap) in enumerate(pairs)
    ]


def test_results_of_a_search_by_hand():
    folds = [
        points(0, [(0.8, 0.1), (0.6, 0.0), (0.9, np.nan)]),
        points(1, [(0.6, 0.3), (0.8, 0.0), (0.7, 0.2)]),
    ]
    grid = [point.params for point in folds[0]]
    found = search_results(grid, folds)
    np.testing.assert_allclose(found["mean_test_utility"], [0.7, 0.7, 0.8])
    np.testing.assert_allclose(found["std_test_utility"], [0.1, 0.1, 0.1])
    np.testing.assert_allclose(found["mean_test_gap"], [-0.2, 0.0, np.nan])
    np.testing.assert_allclose(found["split1_test_gap"], [-0.3, 0.0, -0.2])
    np.testing.assert_allclose(found["split0_test_utility"], [0.8, 0.6, 0.9])
    assert found["rank_test_utility"].tolist() == [2, 2, 1]
    assert found["rank_test_gap"].tolist() == [2, 1, 3]
    assert found["mean_fit_time"].tolist() == [2.0, 3.0, 4.0]
    assert found["mean_score_time"].tolist() == [1.0, 1.0, 1.0]
    assert found["param_sparsity"].tolist() == [None, 0.1, None]
    assert found["params"] == grid
    frame = path_frame(folds)
    assert frame["split"].tolist() == [0, 0, 0, 1, 1, 1]
    assert frame["test_gap"].tolist()[3:] == [0.3, 0.0, 0.2]
    columns = ["validation_utility", "validation_gap", "threshold", "removed_fraction"]
    assert frame[columns].iloc[0].tolist() == [0.9, 0.05, 0.4, 0.25]
