"""Scores, masks and removal in rounds: the pure parts of the low-rank edits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fairsvd.arrays import LabelledRows, as_batches
from fairsvd.base import EditData
from fairsvd.layers import chosen_weights, factorise, full_rank
from fairsvd.low_rank._factor_edit import entries_of, keep_all, untouched_attributes
from fairsvd.low_rank._fairlrf import Removal, layer_of
from fairsvd.masks import (
    curvature_scores,
    lowest_masks,
    magnitude_scores,
    random_scores,
    removed_fraction,
    share_of,
)
from fairsvd.objective import Constraint, make_judge
from fairsvd.phases import MaskingPath, privileged_group
from fairsvd.phases._masking import tune_whole

CONSTRAINT = Constraint("equalized_odds", 0.05, 0.4, "balanced_accuracy", None, 1, "classes")


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 2)
        ).requires_grad_(False)


def edit_data(n=200, n_groups=2, margin=0.3):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 5))
    y, groups = rng.integers(2, size=n), rng.integers(n_groups, size=n)
    rows = LabelledRows(as_batches(X), torch.as_tensor(y), torch.as_tensor(groups))
    return EditData(
        editing=rows,
        judged=rows.X,
        judge=make_judge(y, groups, np.zeros_like(y), 2, n_groups, CONSTRAINT),
        untouched=network()(torch.as_tensor(X, dtype=torch.float32)),
        kind="logits",
        output_layer="4",
        n_classes=2,
        n_groups=n_groups,
        group_labels=tuple(range(n_groups)),
        margin=margin,
        batch_size=64,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def removal(rank=4, **options):
    net = network()
    weights = chosen_weights(net, "02")
    measured = {n: factorise(weight, full_rank(weight)) for n, weight in weights.items()}
    defaults = {
        "module": net,
        "data": edit_data(),
        "constraint": CONSTRAINT,
        "whole": keep_all({n: f.truncated(rank) for n, f in measured.items()}, compress=False),
        "measured": measured,
        "criterion": "curvature",
        "sparsities": (0.1, 0.3),
        "privileged_weight": None,
        "hessian": "fisher",
        "n_rounds": 1,
        "max_memory": 2**28,
        "privileged": 1,
        "rng": np.random.default_rng(0),
        "attributes": {},
    }
    return Removal(**{**defaults, **options})


SCORES = {
    "a/U": torch.arange(12.0).reshape(1, 4, 3),
    "a/V": torch.arange(12.0, 0, -2).reshape(1, 2, 3),
    "b/U": torch.full((2, 2, 2), -5.0),
    "b/V": torch.full((2, 3, 2), -4.0),
}


def test_the_lowest_scores_of_each_layer_go_its_sides_ranked_together():
    masks = lowest_masks(SCORES, 0.25, block_of=layer_of)
    # Of layer a the four lowest of 18 are 0, 1 and 2 in U and 2 in V.
    assert masks["a/U"].flatten().tolist() == [False] * 3 + [True] * 9
    assert masks["a/V"].flatten().tolist() == [True] * 5 + [False]
    # Layer b loses as large a share, although every score of it is lower than those of a.
    assert int((~masks["b/U"]).sum()) == 5
    assert masks["b/V"].all()
    assert all(masks[key].shape == SCORES[key].shape for key in SCORES)


@given(st.integers(0, 99), st.floats(0, 1), st.floats(0, 1))
def test_the_count_is_exact_and_masks_are_nested(seed, one, other):
    values = {key: s.clone() for key, s in SCORES.items()}
    scores = random_scores(values, torch.Generator().manual_seed(seed))
    few, many = (
        lowest_masks(scores, fraction, block_of=layer_of) for fraction in sorted([one, other])
    )
    for masks, fraction in ((few, min(one, other)), (many, max(one, other))):
        for layer, size in (("a", 18), ("b", 20)):
            gone = sum(int((~masks[f"{layer}/{side}"]).sum()) for side in "UV")
            assert gone == share_of(fraction, size)
    assert all(not bool((~few[key] & many[key]).any()) for key in few)


@given(st.integers(0, 99), st.floats(0, 1), st.floats(0, 1))
def test_what_was_removed_before_stays_removed_and_counts(seed, one, other):
    first, second = (
        random_scores(SCORES, torch.Generator().manual_seed(seed + k)) for k in (0, 1000)
    )
    low, high = sorted([one, other])
    kept = lowest_masks(first, low, block_of=layer_of)
    masks = lowest_masks(second, high, kept, layer_of)
    assert all(not bool((masks[key] & ~kept[key]).any()) for key in masks)
    assert sum(int((~masks[f"a/{side}"]).sum()) for side in "UV") == share_of(high, 18)


@given(st.lists(st.sampled_from([-torch.inf, -1.0, 0.0, 0.0, 2.0]), min_size=1), st.floats(0, 1))
def test_of_equal_scores_the_first_go(values, fraction):
    scores = {"a/U": torch.tensor(values)[None], "a/V": torch.tensor([])}
    masks = lowest_masks(scores, fraction, block_of=layer_of)
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    gone = set(order[: share_of(fraction, len(values))])
    assert [i not in gone for i in range(len(values))] == masks["a/U"][0].tolist()


def test_curvature_scores_equal_a_loop():
    generator = torch.Generator().manual_seed(0)
    values, protect, sacrifice = (
        {key: torch.rand(s.shape, generator=generator) for key, s in SCORES.items()}
        for _ in range(3)
    )
    scores = curvature_scores(values, protect, sacrifice, 0.4)
    for key in SCORES:
        flat = [d[key].flatten().tolist() for d in (values, protect, sacrifice, scores)]
        for u, own, others, score in zip(*flat, strict=True):
            assert score == pytest.approx(0.5 * u * u * (own - 0.4 * others), rel=1e-5, abs=1e-7)
    assert any(bool((s < 0).any()) for s in scores.values())


def test_the_controls_score_size_and_nothing():
    values = {"a/U": torch.tensor([-3.0, 1.0, -2.0])}
    assert magnitude_scores(values)["a/U"].tolist() == [3.0, 1.0, 2.0]
    draws = [random_scores(SCORES, torch.Generator().manual_seed(k)) for k in (0, 0, 1)]
    assert all(torch.equal(draws[0][key], draws[1][key]) for key in SCORES)
    assert not torch.equal(draws[0]["a/U"], draws[2]["a/U"])


def test_the_privileged_group_leads_most_in_recall_over_the_rest_pooled():
    y = np.tile([0, 0, 0, 0, 1, 1], 3)
    groups = np.repeat([0, 1, 2], 6)
    predicted = y.copy()
    predicted[:6] = [0, 0, 0, 0, 0, 0]  # recalls 1 and 0
    predicted[12:] = [1, 0, 0, 0, 1, 1]  # recalls 3/4 and 1
    assert privileged_group(y, predicted, groups, 3) == 1
    assert privileged_group(y, predicted, np.array([2, 0, 1])[groups], 3) == 0  # relabelled
    # By accuracy group 0 of these two would lead; by the mean recall it does not.
    y = np.array([0] * 9 + [1] + [0, 1] * 5)
    predicted = np.array([0] * 10 + [0, 1, 0, 1, 0, 1, 0, 1, 1, 0])
    assert privileged_group(y, predicted, np.repeat([0, 1], 10), 2) == 1
    assert privileged_group(y, predicted, np.zeros(20, dtype=np.int64), 2) == 0


@pytest.mark.parametrize("criterion", ["curvature", "magnitude", "random"])
@pytest.mark.parametrize("n_rounds", [1, 4])
def test_every_removal_has_its_exact_share_in_every_layer(criterion, n_rounds):
    task = removal(criterion=criterion, n_rounds=n_rounds, sparsities=(0.0, 0.1, 0.29, 1.0))
    sizes = {name: f.U.numel() + f.V.numel() for name, f in task.whole.factors.items()}
    found = list(task.edits())
    assert len(found) == 4 * (4 if criterion == "curvature" else 1)
    for params, edit in found:
        for name, size in sizes.items():
            gone = sum(int((~edit.masks[f"{name}/{side}"]).sum()) for side in "UV")
            assert gone == share_of(params["sparsity"], size)
            assert torch.equal(
                edit.factors[name].U, task.whole.factors[name].U * edit.masks[f"{name}/U"]
            )
            assert torch.equal(
                edit.factors[name].V, task.whole.factors[name].V * edit.masks[f"{name}/V"]
            )
            assert torch.equal(edit.factors[name].S, task.whole.factors[name].S)


def test_the_forms_of_the_score():
    def tried(**options):
        return {(p["privileged_weight"], p["protects"]) for p, _ in removal(**options).edits()}

    both = {(t, side) for t in (1 / 3, 1.0) for side in ("privileged", "unprivileged")}
    assert tried() == both
    assert tried(privileged_weight=0.7) == {(0.7, "unprivileged")}
    assert tried(privileged=None) == {(0.0, "all")}


def curvature_by_hand(task, factors):
    """Mean squared gradient of the loss at the operating threshold, row by row, by side."""
    data, out = task.data, {}
    rows = next(data.editing_batches(len(data.editing)))
    for i in range(len(data.editing)):
        X, y, group = (part[i : i + 1] for part in rows)
        leaves = {
            (n, side): getattr(f, side).double().clone().requires_grad_()
            for n, f in factors.items()
            for side in "UV"
        }
        state = {
            f"{n}.weight": ((leaves[n, "U"] * f.S.double()[:, None]) @ leaves[n, "V"].mT)[0]
            for n, f in factors.items()
        }
        logits = data.forward(network().double(), state, X.double())
        logits = logits - torch.tensor([0.0, data.margin])
        nn.functional.cross_entropy(logits, y).backward()
        side_of = "privileged" if int(group) == task.privileged else "unprivileged"
        for (n, side), leaf in leaves.items():
            out.setdefault((side_of, f"{n}/{side}"), []).append(leaf.grad.square())
    return {key: torch.stack(values).mean(dim=0) for key, values in out.items()}


@pytest.mark.parametrize("protects", ["unprivileged", "privileged"])
@pytest.mark.parametrize("n_rounds", [1, 3])
def test_removal_by_curvature_equals_a_plain_loop(n_rounds, protects):
    task = removal(n_rounds=n_rounds, sparsities=(0.3,), data=edit_data(n_groups=3))
    masks = None
    factors = task.whole.factors
    for round_ in range(1, n_rounds + 1):
        # First the untouched network's, then that of what is left.
        h = curvature_by_hand(task, task.measured if round_ == 1 else factors)
        h = {(side, key): value[..., :4] for (side, key), value in h.items()}
        other = {"privileged": "unprivileged", "unprivileged": "privileged"}[protects]
        scores = {
            key: 0.5 * u.double().square() * (h[protects, key] - h[other, key] / 3)
            for key, u in entries_of(factors).items()
        }
        masks = lowest_masks(scores, 0.3 * round_ / n_rounds, masks, layer_of)
        factors = task.whole.remove(masks).factors
    wanted = {"privileged_weight": 1 / 3, "protects": protects, "sparsity": 0.3}
    edit = next(edit for params, edit in task.edits() if params == wanted)
    assert removed_fraction(masks) > 0.25
    for key, mask in masks.items():
        assert torch.equal(edit.masks[key], mask)


def test_rounds_score_again_with_what_is_left():
    seen = []

    class Noting(Removal):
        """Notes how many entries are zero whenever a curvature is measured."""

        def first_curvature(self):
            seen.append(0)
            return super().first_curvature()

        def curvature(self, edit):
            seen.append(sum(int((part == 0).sum()) for part in edit.entries().values()))
            return super().curvature(edit)

    def edits(n_rounds):
        task = removal(n_rounds=n_rounds, sparsities=(0.3,), privileged_weight=1.0, rank=7)
        ((_, edit),) = Noting(**vars(task)).edits()
        return task, edit

    task, in_rounds = edits(3)
    sizes = [f.U.numel() + f.V.numel() for f in task.whole.factors.values()]
    assert seen == [sum(share_of(k / 10, size) for size in sizes) for k in range(3)]
    seen.clear()
    _, at_once = edits(1)
    assert seen == [0]
    assert any(not torch.equal(in_rounds.masks[k], at_once.masks[k]) for k in at_once.masks)


def test_attributes_of_an_editor_that_edited_nothing():
    net = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Linear(5, 7))
    full = {name: full_rank(net.get_submodule(name)) for name in "01"}
    factors = {name: factorise(net.get_submodule(name), 2) for name in "01"}
    attributes = untouched_attributes(factors, full)
    assert attributes["ranks_"] == {"0": 3, "1": 5}
    assert attributes["removed_fraction_"] == 0
    shapes = {n: {s: m.shape for s, m in both.items()} for n, both in attributes["masks_"].items()}
    assert shapes == {
        "0": {"U": (2, 3, 3), "V": (2, 18, 3)},
        "1": {"U": (7, 5), "V": (5, 5)},
    }
    assert all(m.all() for both in attributes["masks_"].values() for m in both.values())


@pytest.mark.parametrize("layers", ["02", "024"])
def test_with_nothing_removed_the_output_layer_is_tuned_too(layers):
    net = network()
    weights = chosen_weights(net, layers)
    factors = {n: factorise(weight, full_rank(weight)) for n, weight in weights.items()}
    path = MaskingPath(
        module=net,
        data=edit_data(),
        constraint=CONSTRAINT,
        whole=keep_all(factors, compress=False),
        gap_weight=1.0,
        max_removed=None,
        n_steps=30,
        seed=np.random.SeedSequence(0),
        attributes={},
    )
    before = {name: value.clone() for name, value in net.state_dict().items()}
    *_, (step, edit) = tune_whole(path, np.random.default_rng(0))
    state = edit.state()
    assert step == 30
    assert set(state) == set(before)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert float((state["4.weight"] - before["4.weight"]).abs().max()) > 1e-2
    assert all(bool(mask.all()) for mask in edit.masks.values())
    for name in layers:
        # Between the network's own singular vectors the weight is still diagonal.
        f = factors[name]
        inner = f.U[0].T @ state[f"{name}.weight"] @ f.V[0]
        assert float((inner - torch.diag(inner.diagonal())).abs().max()) < 1e-5
        assert float((inner.diagonal() - f.S[0]).abs().max()) > 1e-2
