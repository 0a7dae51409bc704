"""The two steps of bias-mask fine-tuning against a plain loop, and what they are run with."""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile

import numpy as np
import pytest
import torch
from torch.func import functional_call

from fairsvd import BiasMaskFineTuner
from fairsvd.masking._bias_plan import Plan
from fairsvd.masking._importance import Operating, batch_importance, row_importance
from fairsvd.masking._steps import Optimizer, Path, Step, run_path
from fairsvd.objective import edit_loss
from fairsvd.phases import make_batches
from tasks import CONSTRAINT, small_task

HEAD = ("4.weight", "4.bias")
ADAM = Optimizer("adam", momentum=0.9, weight_decay=0.0, rows=32, patience=None)
SGD = Optimizer("sgd", momentum=0.8, weight_decay=0.1, rows=20, patience=None)


def path_for(
    at_threshold=True,
    resets=(),
    mask="hard",
    optimizer=ADAM,
    tolerance=0.05,
    layers="02",
    **options,
):
    task = small_task(margin=0.9, constraint=replace(CONSTRAINT, tolerance=tolerance))
    own, generator = task.module.state_dict(), torch.Generator().manual_seed(2)
    shares = {
        n: torch.rand(own[n].shape, generator=generator) for n in (f"{k}.weight" for k in layers)
    }
    masks = {n: v > 0.5 if mask == "hard" else v for n, v in shares.items()}
    half = torch.tensor([[True], [False]]).expand(2, 4)
    rate = 0.05 if optimizer.name == "adam" else 0.5
    defaults = {
        "masks": masks,
        "resets": {n: half if n == "4.weight" else torch.ones(2).bool() for n in resets},
        "impair": Step("impair", 0.4, 1.5, "cells", rate, 24, 4),
        "repair": Step("repair", 0.9, 0.2, "classes", rate / 2, 12, 3),
        "optimizer": optimizer,
        "at_threshold": at_threshold,
        "record": {"gap_weight": 1.5},
        "attributes": {"balance_": None},
        "seed": np.random.SeedSequence(4),
    }
    return Path.of(task, **{**defaults, **options})


def plain_step(path, step, start, names, margin, rng):
    """Tune with torch's own optimiser; an update is multiplied by its mask, if it has one."""
    own, how = path.module.state_dict(), path.optimizer
    leaves = {n: start.get(n, own[n]).clone().requires_grad_() for n in names}
    optimizer = (
        torch.optim.Adam(leaves.values(), lr=step.learning_rate, weight_decay=how.weight_decay)
        if how.name == "adam"
        else torch.optim.SGD(
            leaves.values(),
            lr=step.learning_rate,
            momentum=how.momentum,
            weight_decay=how.weight_decay,
        )
    )
    batches = make_batches(path.data, step.balance, rng, size=how.rows)
    for number, batch in zip(range(1, step.n_steps + 1), batches, strict=False):
        before = {n: v.detach().clone() for n, v in leaves.items()}
        optimizer.zero_grad()
        logits = functional_call(path.module, {**start, **leaves}, (batch.X,))
        settings = {"gap_weight": step.gap_weight, "share": step.share, "margin": margin}
        sharpness = 4.0 if path.at_threshold else 1.0
        loss = edit_loss(
            logits, batch, path.constraint, n_groups=2, sharpness=sharpness, **settings
        )
        loss.backward()
        optimizer.step()
        if step.name == "impair":
            for n, v in leaves.items():
                v.data = before[n] + path.masks[n] * (v.data - before[n])
        if number % step.every == 0:
            yield number, {**start, **{n: v.detach().clone() for n, v in leaves.items()}}


def owned(candidates):
    """Copy what the next step would change, as run_paths does."""
    return [candidate.owned() for candidate in candidates]


def plain_path(path):
    """Run both steps; gives every candidate and what the second step started from."""
    data, judge = path.data, path.data.judge
    rngs = [np.random.default_rng(seed) for seed in np.random.SeedSequence(4).spawn(2)]
    margin = data.margin if path.at_threshold else 0.0
    first = list(plain_step(path, path.impair, {}, list(path.masks), margin, rngs[0]))
    ranks = [
        judge(data.logits(path.module, s), 0.6 * path.constraint.tolerance).rank for _, s in first
    ]
    chosen = max(range(len(ranks)), key=lambda k: (ranks[k], -k)) if path.at_threshold else -1
    start = dict(first[chosen][1])
    own = path.module.state_dict()
    for name, mask in path.resets.items():
        start[name] = torch.where(mask, torch.zeros(()), own[name])
    margin = 0.0
    if path.at_threshold and not path.resets:
        margin = judge.for_utility(data.logits(path.module, start)).margin
    second = list(plain_step(path, path.repair, start, HEAD, margin, rngs[1]))
    return first, second, chosen, margin


KINDS = {
    "ours": {},
    "ours, soft": {"mask": "soft", "optimizer": SGD},
    "ours, all layers": {"layers": "024"},
    "ours, the head anew": {"resets": HEAD},
    "the papers'": {"at_threshold": False, "resets": ("4.weight",), "optimizer": SGD},
    "the papers', soft": {"at_threshold": False, "mask": "soft", "resets": HEAD},
}


@pytest.mark.parametrize("kind", KINDS)
def test_both_steps_are_those_of_a_plain_loop(kind):
    path = path_for(**KINDS[kind])
    first, second, chosen, margin = plain_path(path)
    found = owned(run_path(path))
    names = ["impair"] * 6 + ["repair"] * 4
    assert [c.params["stage"] for c in found] == names
    assert [c.params["step"] for c in found] == [4, 8, 12, 16, 20, 24, 3, 6, 9, 12]
    for candidate, (_, state) in zip(found, first + second, strict=True):
        assert candidate.params["gap_weight"] == 1.5
        assert candidate.attributes == {"balance_": None}
        assert set(candidate.state) == set(state)
        for name, value in state.items():
            torch.testing.assert_close(candidate.state[name], value, rtol=1e-4, atol=1e-5)
        assert candidate.verdict == path.data.judge(path.data.logits(path.module, candidate.state))
    if path.at_threshold:
        assert chosen not in (0, 5)  # neither the first nor the last
        assert (margin == 0) == bool(path.resets)
    if kind == "ours":
        # Under the whole tolerance another one would be the best.
        ranks = [path.data.judge(path.data.logits(path.module, s)).rank for _, s in first]
        assert ranks[chosen] < max(ranks)
    assert all(
        torch.equal(own, v)
        for own, v in zip(
            path.module.state_dict().values(),
            small_task(margin=0.9).module.state_dict().values(),
            strict=True,
        )
    )


def test_patience_counts_candidates_without_a_better_one_anew_in_each_step():
    wild = {"impair": Step("impair", 1.0, 1.0, "cells", 0.3, 40, 1)}
    wild["repair"] = Step("repair", 1.0, 1.0, "cells", 0.3, 40, 1)
    path = path_for(at_threshold=False, **wild)
    whole = owned(run_path(path))
    ranks = [c.verdict.rank for c in whole if c.params["stage"] == "impair"]

    def stop(patience):
        best, waiting = None, 0
        for number, rank in enumerate(ranks, start=1):
            waiting = 0 if best is None or rank > best else waiting + 1
            best = rank if best is None else max(rank, best)
            if waiting == patience:
                return number
        return len(ranks)

    assert len({stop(1), stop(2), stop(3)}) == 3
    # A better one sets the count back: the third that is not better does not end it by itself.
    worse = [k for k in range(1, len(ranks)) if ranks[k] <= max(ranks[:k])]
    assert stop(3) > 1 + worse[2]
    for patience in (1, 2, 3):
        patient = replace(ADAM, patience=patience)
        found = owned(run_path(path_for(at_threshold=False, optimizer=patient, **wild)))
        impaired = list(takewhile(lambda c: c.params["stage"] == "impair", found))
        assert len(impaired) == stop(patience)
        assert len(found) - len(impaired) >= patience + 1
        for one, other in zip(impaired, whole, strict=False):
            assert all(torch.equal(v, other.state[n]) for n, v in one.state.items())


def test_what_no_mask_lets_move_is_no_leaf_and_a_step_of_no_epochs_is_left_out():
    path = path_for()
    masks = {**path.masks, "0.weight": torch.zeros(6, 5, dtype=torch.bool)}
    found = owned(run_path(replace(path, masks=masks, seed=np.random.SeedSequence(4))))
    assert set(found[0].state) == {"2.weight"}
    only = replace(path, impair=replace(path.impair, n_steps=0), seed=np.random.SeedSequence(4))
    found = owned(run_path(only))
    assert [c.params["stage"] for c in found] == ["repair"] * 4
    assert set(found[0].state) == set(HEAD)


def plan(task=None, **parameters):
    return Plan.of(small_task() if task is None else task, editor=BiasMaskFineTuner(**parameters))


def steps(made):
    (path, *_) = made.paths({}, {}, {}, None, np.random.SeedSequence(0))
    return [(s.share, pytest.approx(s.gap_weight)) for s in (path.impair, path.repair)]


PARITY = replace(CONSTRAINT, gap="demographic_parity")


@pytest.mark.parametrize(
    ("loss", "weight", "gap", "wanted"),
    [
        ("penalty", 0.7, "odds", [(1, 0.7), (1, 0.7)]),
        ("penalty", 0.7, "parity", [(1, 0.7), (1, 0.7)]),
        # Average odds are half the sum of two gaps, in the papers and not in the soft gap.
        ("bmft", 0.2, "odds", [(0, 0.5), (1, 0.1)]),
        ("bmft", 0.2, "parity", [(0, 1.0), (1, 0.2)]),
        ("swift", 0.2, "odds", [(0.2, 0.4), (0.8, 0.1)]),
        ("swift", 0.2, "parity", [(0.2, 0.8), (0.8, 0.2)]),
    ],
)
def test_the_losses_of_both_steps(loss, weight, gap, wanted):
    task = small_task(constraint=CONSTRAINT if gap == "odds" else PARITY)
    assert steps(plan(task, loss=loss, gap_weight=weight)) == wanted
    alone = replace(task, data=replace(task.data, group_labels=()))
    assert steps(plan(alone, loss=loss, gap_weight=weight)) == [(1, 0), (1, 0)]


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [
        # 90 rows in steps of 64 are 2 an epoch; at least min(300, max(30, 90)) updates.
        ({}, [(90, 9), (90, 9)]),
        ({"min_steps": 0}, [(20, 2), (20, 2)]),
        ({"min_steps": 40, "impair_epochs": 3, "repair_epochs": 0}, [(40, 13), (0, 1)]),
        # The papers' batches hold batch_size rows: 6 an epoch.
        ({"loss": "bmft", "min_steps": 0, "impair_epochs": 1}, [(6, 6), (60, 6)]),
    ],
)
def test_updates_and_candidates_of_both_steps(parameters, wanted):
    made = plan(**parameters, learning_rate=0.1, head_learning_rate=0.2, patience=3)
    for path in made.paths({}, {}, {}, None, np.random.SeedSequence(0)):
        both = path.impair, path.repair
        assert [(s.n_steps, s.every) for s in both] == wanted
        assert [(s.name, s.learning_rate) for s in both] == [("impair", 0.1), ("repair", 0.2)]
        ours = "loss" not in parameters
        assert {s.balance for s in both} == {"classes" if ours else "cells"}
        assert path.at_threshold == ours
        assert path.optimizer.rows == (64 if ours else 16)
        assert path.optimizer.patience == 3


def test_every_weight_has_a_path_and_a_seed_of_its_own():
    for loss, wanted in (("penalty", [0.3, 1.0, 3.0]), ("swift", [0.03, 0.1, 0.3])):
        paths = plan(loss=loss).paths({}, {}, {}, None, np.random.SeedSequence(0))
        assert [p.record["gap_weight"] for p in paths] == wanted
        assert len({np.random.default_rng(p.seed).integers(2**40) for p in paths}) == 3
        assert len({id(p.module) for p in paths}) == 1


@pytest.mark.parametrize("how", ["fisher", "batch_gradient"])
@pytest.mark.parametrize("change", ["margin", "batch_size", "gap", "loss", "layers", "seed"])
def test_importance_is_taken_at_the_operating_point_and_kept_under_its_own_key(how, change):
    task, first = small_task(), np.random.SeedSequence(3)
    data = replace(task.data, cache=task.data.cache.for_one_task())
    plan(replace(task, data=data), importance=how).importance(first)
    fields = {"margin": {"margin": 0.8}, "batch_size": {"batch_size": 24}}.get(change, {})
    data = replace(data, **fields)
    own = replace(task, data=data, constraint=PARITY if change == "gap" else CONSTRAINT)
    editor = {"loss": {"loss": "bmft"}, "layers": {"layers": ["2"]}}.get(change, {})
    seed = np.random.SeedSequence(9) if change == "seed" else first
    found = plan(own, importance=how, **editor).importance(seed)
    at = Operating(0.0, 1.0) if change == "loss" else Operating(data.margin, 4.0)
    layers = ["2", "4"] if change == "layers" else ["0", "2", "4"]
    wanted = (
        row_importance(own, layers, at, max_memory=2**20)
        if how == "fisher"
        else batch_importance(own, layers, at, np.random.default_rng(seed))
    )
    for one, other in zip(found, wanted, strict=True):
        assert set(one) == set(other) == {f"{layer}.weight" for layer in layers}
        assert all(torch.equal(v, other[n]) for n, v in one.items())


def test_random_masks_are_the_measured_ones_dealt_out_anew():
    task, seed = small_task(), np.random.SeedSequence(5)
    importance = plan(task).importance(seed)
    measured = plan(task).masks(importance, seed)
    dealt = plan(task, importance="random").masks(importance, seed)
    for name, mask in measured.items():
        assert int(dealt[name].sum()) == int(mask.sum())
    assert any(not torch.equal(dealt[n], measured[n]) for n in dealt)
    again = plan(task, importance="random").masks(importance, np.random.SeedSequence(6))
    assert any(not torch.equal(dealt[n], again[n]) for n in dealt)


def test_candidates_come_path_by_path_after_the_untouched_network():
    editor = BiasMaskFineTuner(impair_epochs=2, repair_epochs=1, min_steps=0, objective="soft_gap")
    found = list(editor._edit(small_task(), np.random.default_rng(0)))
    assert found[0].params == {"stage": "untouched"}
    assert not found[0].state
    labels = [(c.params["gap_weight"], c.params["stage"]) for c in found[1:]]
    stages = ("impair", "impair", "repair")
    assert labels == [(w, stage) for w in (0.3, 1.0, 3.0) for stage in stages]


def test_batch_importance_is_the_mean_square_of_batches_gradients():
    task, at = small_task(), Operating(0.4, 2.0)
    bias, prediction = batch_importance(task, ["0", "4"], at, np.random.default_rng(1))
    batches = make_batches(task.data, "classes", np.random.default_rng(1), size=16)
    sums = {"bias": 0.0, "prediction": 0.0}
    for _, batch in zip(range(6), batches, strict=False):  # 90 rows in batches of 16
        for kind, weights in (("bias", (0.0, 1.0)), ("prediction", (1.0, 0.0))):
            leaf = task.module[0].weight.clone().requires_grad_()
            logits = functional_call(task.module, {"0.weight": leaf}, (batch.X,))
            share, gap_weight = weights
            settings = {"share": share, "gap_weight": gap_weight, "sharpness": 2.0}
            edit_loss(logits, batch, CONSTRAINT, margin=0.4, n_groups=2, **settings).backward()
            sums[kind] = sums[kind] + leaf.grad.square() / 6
    torch.testing.assert_close(bias["0.weight"], sums["bias"], rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(prediction["0.weight"], sums["prediction"], rtol=1e-4, atol=1e-9)
    alone = replace(task, data=replace(task.data, group_labels=()))
    assert not batch_importance(alone, ["0"], at, np.random.default_rng(1))[0]["0.weight"].any()


def test_what_of_the_output_layer_is_set_to_zero():
    task = small_task()
    importance = plan(task).importance(np.random.SeedSequence(0))
    assert plan(task, head_reset="none").resets(importance) == {}
    whole = plan(task, head_reset="zero").resets(importance)
    assert {n: m.all().item() for n, m in whole.items()} == dict.fromkeys(HEAD, True)
    for granularity in ("weight", "unit", "layer"):
        partial = plan(task, head_reset="partial", granularity=granularity).resets(importance)
        assert set(partial) == {"4.weight"}
        b, p = (part["4.weight"] for part in importance)
        scaled = [(v - v.min()) / (v.max() - v.min()) for v in (b, p)]
        soft = torch.tanh(scaled[0] / (scaled[1] + 1e-10))
        assert torch.equal(partial["4.weight"], soft > soft.mean())
