"""Phases of an edit: against plain loops of torch, and by hand where choices are made."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from joblib import parallel_config
from torch.func import functional_call

from fairsvd.base import Candidate
from fairsvd.caching import fingerprint
from fairsvd.masking._pruner import keep_all
from fairsvd.objective import Verdict, edit_loss
from fairsvd.phases import (
    Best,
    MaskingPath,
    TuningPath,
    make_batches,
    make_loss,
    run_paths,
    run_phases,
)
from fairsvd.phases._masking import learn_masks, tune_rest, tune_whole
from tasks import small_task

HIDDEN = ("0.weight", "2.weight")
BIASES = ("0.bias", "2.bias", "4.bias")


def path_for(task=None, **options):
    task = small_task() if task is None else task
    defaults = {"gap_weight": 0.7, "max_removed": None, "n_steps": 20, "attributes": {}}
    own = {**defaults, "seed": np.random.SeedSequence(0), **options}
    return MaskingPath.of(task, whole=keep_all(task.module, ["0", "2"], units=False), **own)


def reference_steps(path, leaves, state, margin, rate, rng, after=None):
    """Minimise the loss of an edit with torch's own Adam; yield after every step."""
    optimizer = torch.optim.Adam(leaves, lr=rate)
    batches = make_batches(path.data, path.constraint.balance, rng)
    for _, batch in zip(range(path.n_steps), batches, strict=False):
        optimizer.zero_grad()
        logits = functional_call(path.module, state(), (batch.X,))
        settings = {"margin": margin, "gap_weight": path.gap_weight, "n_groups": 2}
        edit_loss(logits, batch, path.constraint, **settings).backward()
        optimizer.step()
        if after is not None:
            after()
        yield


def test_masks_are_learned_as_in_a_plain_loop():
    task = small_task()
    cache = task.data.cache.for_one_task()
    path = path_for(replace(task, data=replace(task.data, cache=cache)), n_steps=40)
    own = path.module.state_dict()
    variables = {n: torch.full_like(own[n], 0.5).requires_grad_() for n in HIDDEN}

    def state():
        hard = {n: (v.detach() > 0).float() + v - v.detach() for n, v in variables.items()}
        return {n: own[n] * hard[n] for n in HIDDEN}

    def clamp():
        for v in variables.values():
            v.data.clamp_(-1, 1)

    steps = reference_steps(
        path, variables.values(), state, path.data.margin, 3e-2, np.random.default_rng(5), clamp
    )
    found = learn_masks(path, np.random.default_rng(5))
    step, edit = next(found)
    kept = dict(cache.stream("masks", path.key(), lambda: iter([])))  # the variables themselves
    for number, _ in enumerate(steps, start=1):
        if number % 4 == 0:
            step, edit = (step, edit) if number == 4 else next(found)
            assert step == number
            for name, v in variables.items():
                torch.testing.assert_close(kept[step][name], v.detach(), rtol=0, atol=1e-5)
                assert torch.equal(edit.masks[name], v > 0)
                assert torch.equal(edit.state()[name], own[name] * (v > 0))
    assert next(found, None) is None
    # Some have fallen, some have been pushed against the bound.
    assert any(bool((v < 0).any()) for v in variables.values())
    assert any(bool((v == 1).any()) for v in variables.values())


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_left_is_tuned_as_in_a_plain_loop(whole):
    path = path_for()
    own = path.module.state_dict()
    generator = torch.Generator().manual_seed(1)
    masks = {n: torch.rand(own[n].shape, generator=generator) > 0.4 for n in HIDDEN}
    start = path.whole.remove(masks)
    kept = {n: torch.ones_like(own[n]) if whole else masks[n] for n in HIDDEN}
    plain = [*BIASES, "4.weight"] if whole else list(BIASES)
    leaves = {n: torch.ones(len(own[n])).requires_grad_() for n in HIDDEN}
    leaves |= {n: own[n].clone().requires_grad_() for n in plain}

    def state():
        rows = {n: own[n] * kept[n] * leaves[n][:, None] for n in HIDDEN}
        return {**rows, **{n: leaves[n] for n in plain}}

    # The threshold at which the start, not the untouched network, is worth most.
    begun = {n: own[n] * kept[n] for n in HIDDEN}
    logits = path.data.logits(path.module, begun)
    margin = path.data.judge.for_utility(logits).margin
    assert margin != path.data.margin
    rng = np.random.default_rng(3)
    steps = reference_steps(path, leaves.values(), state, margin, 1e-2, rng)
    rng = np.random.default_rng(3)
    found = tune_whole(path, rng) if whole else tune_rest(path, start, rng)
    found = [(step, edit.detached()) for step, edit in found]
    assert [step for step, _ in found] == list(range(2, 21, 2))
    for number, _ in enumerate(steps, start=1):
        if number % 2 == 0:
            edit = found[number // 2 - 1][1].state()
            assert set(edit) == {*HIDDEN, *plain}
            for name, value in state().items():
                torch.testing.assert_close(edit[name], value.detach(), rtol=1e-5, atol=1e-6)
                assert not edit[name].requires_grad
    assert all(torch.equal(own[n], v) for n, v in path.module.state_dict().items())


def test_the_loss_has_every_term_that_is_asked_for():
    task = small_task()
    batch = next(iter(make_batches(task.data, "cells", np.random.default_rng(0))))
    bias = torch.tensor([0.2, -0.4])
    logits = functional_call(task.module, {"4.bias": bias}, (batch.X,))
    asked = {"margin": 0.8, "gap_weight": 2.0, "share": 0.25, "sharpness": 1.5}

    def extra(entries, found, of):
        assert found.shape == (len(of.X), 2)
        return 10 * entries["4.bias"].abs().sum() + found.mean()

    loss = make_loss(task, lambda: {"4.bias": bias}, extra=extra, **asked)(batch)
    wanted = edit_loss(logits, batch, task.constraint, n_groups=2, **asked)
    assert float(loss) == pytest.approx(float(wanted + 6 + logits.mean()), rel=1e-6)
    path = TuningPath.of(
        task, gap_weight=2.0, n_steps=1, seed=None, attributes={}, share=0.0, extra_loss=extra
    )
    leaf = bias.clone().requires_grad_()
    assert list(path.steps(lambda: {"4.bias": leaf}, [leaf], 0.8, np.random.default_rng(0), 0.1))
    # Ten times the size outweighs the gap: both entries shrink by the rate.
    torch.testing.assert_close(leaf.detach(), torch.tensor([0.1, -0.3]), rtol=1e-4, atol=0)
    # Without any term nothing moves.
    still = replace(path, gap_weight=0.0, extra_loss=None)
    list(still.steps(lambda: {"4.bias": leaf}, [leaf], 0.8, np.random.default_rng(0), 0.1))
    torch.testing.assert_close(leaf.detach(), torch.tensor([0.1, -0.3]), rtol=1e-4, atol=0)


def test_a_brief_path_also_holds_on_to_what_the_untouched_network_says():
    task = small_task()
    batch = next(iter(make_batches(task.data, None, np.random.default_rng(0))))
    bias = torch.tensor([0.4, -0.9])
    asked = {"margin": 0.8, "gap_weight": 2.0, "share": 0.5}
    loss = make_loss(task, lambda: {"4.bias": bias}, loyalty=0.25, **asked)(batch)
    without = make_loss(task, lambda: {"4.bias": bias}, **asked)(batch)
    with torch.no_grad():
        given = task.module(batch.X).double().softmax(dim=1)
        edited = task.data.forward(task.module, {"4.bias": bias}, batch.X).double().softmax(dim=1)
    apart = (given * (given / edited).log()).sum(dim=1).mean()
    assert apart > 0.01
    assert float(loss - without) == pytest.approx(0.25 * float(apart), rel=1e-4)


@pytest.mark.parametrize("rows", [16, None])
def test_only_a_path_under_a_budget_is_loyal_and_to_a_good_network_more(rows):
    task = small_task()
    moving, followed = (torch.tensor([0.4, -0.9], requires_grad=True) for _ in range(2))
    fields = {"n_steps": 5, "gap_weight": 0.0, "share": 0.8, "seed": None, "attributes": {}}
    path = TuningPath.of(task, rows=rows, **fields)
    value = task.data.judge.steady(task.data.untouched, path.margin).value
    assert 0.1 < value < 0.9
    loyalty = 0.0 if rows is None else 0.45 * 0.8 * value
    list(path.steps(lambda: {"4.bias": moving}, [moving], 0.0, np.random.default_rng(0), 0.02))
    optimizer = torch.optim.Adam([followed], lr=0.02)
    batches = make_batches(task.data, path.constraint.balance, np.random.default_rng(0), size=rows)
    terms = {"margin": 0.0, "share": 0.8, "loyalty": loyalty}
    if rows is not None:
        terms["sharpness"] = 1.0
    loss = make_loss(task, lambda: {"4.bias": followed}, **terms)
    for _, batch in zip(range(5), batches, strict=False):
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()
    torch.testing.assert_close(moving, followed, rtol=1e-5, atol=1e-7)


def test_a_phase_leaves_ten_candidates():
    every = {n: path_for(n_steps=n).every for n in (1, 9, 20, 45, 95, 300)}
    assert every == {1: 1, 9: 1, 20: 2, 45: 4, 95: 9, 300: 30}


class Pair(tuple):
    """An edit that is a (utility, gap) pair, which no step changes."""

    def detached(self):
        return self


class Ranked(SimpleNamespace):
    """A path whose edits are (utility, gap) pairs, judged as they say."""

    def measure(self, edit):
        return "logits", edit

    def candidate(self, edit, stage, step, logits, curves):
        return stage, step, edit


def ranked(tolerance=0.1):
    """Make the path, and the starts and generators that its later phases were given."""
    data = SimpleNamespace(
        judge=lambda edit, limit: SimpleNamespace(rank=(edit[1] <= limit, edit[0]))
    )
    seed, constraint = np.random.SeedSequence(1), SimpleNamespace(tolerance=tolerance)
    given = {}

    def first(path, rng):
        given["first"] = rng.integers(2**40)
        pairs = [(0.9, 0.07), (0.8, 0.055), (0.8, 0.05), (0.7, 0.01)]
        yield from enumerate(map(Pair, pairs), start=1)

    def second(path, start, rng):
        given["second"], given["start"] = rng.integers(2**40), start
        yield 1, (0.5, 0.0)

    def beside(path, rng):
        given["beside"] = rng.integers(2**40)
        yield 1, (0.6, 0.0)

    phases = {"first": ("one", first), "second": ("two", second), "beside": ("three", beside)}
    parts = {"data": data, "judge": data.judge, "seed": seed, "constraint": constraint}
    return Ranked(**parts), phases, given


def test_a_second_phase_starts_from_the_best_under_three_fifths_of_the_tolerance():
    path, phases, given = ranked()
    found = list(run_phases(path, **phases))
    assert [stage for stage, _, _ in found] == ["one"] * 4 + ["two", "three"]
    # A gap of 0.07 is within the tolerance, not within 0.06; of two equal ones the first counts.
    assert given["start"] == (0.8, 0.055)
    draws = [np.random.default_rng(each) for each in np.random.SeedSequence(1).spawn(3)]
    wanted = [rng.integers(2**40) for rng in draws]
    assert [given[name] for name in ("first", "second", "beside")] == wanted


def test_a_start_takes_the_place_of_the_first_phase_and_nothing_runs_beside_it():
    path, phases, given = ranked()
    found = list(run_phases(path, **phases, start=(0.1, 0.9)))
    assert found == [("two", 1, (0.5, 0.0))]
    assert given["start"] == (0.1, 0.9)
    again, phases, other = ranked()
    list(run_phases(again, **phases))
    assert given["second"] == other["second"]  # its draws do not depend on who went before
    path, phases, given = ranked()
    assert [s for s, _, _ in run_phases(path, phases["first"], None)] == ["one"] * 4


def test_the_best_is_the_first_of_equals():
    best = Best()
    offers = [(False, 9.0), (True, 1.0), (True, 1.0), (False, 99.0), (True, 1.5)]
    assert [best.offer(rank, k) for k, rank in enumerate(offers)] == [1, 1, 0, 0, 1]
    assert (best.value, best.rank) == (4, (True, 1.5))
    assert Best("start").value == "start"


def candidates_of(values):
    for value in values:
        verdict = None if value is None else Verdict(0.0, value, 0.0, True, value)
        parts = {"state": {"w": torch.zeros(1)}, "attributes": {"a": value}, "params": {"p": value}}
        yield Candidate(**parts, finish=len, verdict=verdict, logits=torch.ones(1))


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_a_beaten_candidate_is_left_out_but_for_its_record(n_jobs):
    """An earlier one of its own path ranks as high: what it changed can never be chosen."""
    paths = [[1.0, 0.5, 1.0, 2.0], [0.1, None, 0.1]]
    with parallel_config("threading"):
        found = list(run_paths(paths, candidates_of, n_jobs))
    assert [c.params["p"] for c in found] == [1.0, 0.5, 1.0, 2.0, 0.1, None, 0.1]
    kept = [bool(c.state) for c in found]
    assert kept == [True, False, False, True, True, True, False]
    for candidate, whole in zip(found, kept, strict=True):
        assert (candidate.attributes != {}) == (candidate.finish is not None) == whole
        assert (candidate.logits is not None) == whole
        assert candidate.verdict is not None or candidate.params["p"] is None


def test_paths_run_under_one_torch_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (seen,) = run_paths([None], lambda path: iter([Candidate({}, {"n": thread_count()})]))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen.params["n"] == 1


def thread_count():
    return torch.get_num_threads()


KEYED = {
    "gap_weight": 0.8,
    "n_steps": 21,
    "seed": np.random.SeedSequence(1),
}


@pytest.mark.parametrize(
    "name", [*KEYED, "margin", "gap", "spawn", "shape", "values", "batch_size"]
)
def test_masks_under_other_settings_have_another_key(name):
    path = path_for()
    if name in KEYED:
        other = replace(path, **{name: KEYED[name]})
    elif name == "spawn":
        other = replace(path, seed=path.seed.spawn(2)[1])
    elif name == "gap":
        other = replace(path, constraint=replace(path.constraint, gap="demographic_parity"))
    elif name == "values":
        # Factors of another solver, say.
        values = {n: 1.01 * w for n, w in path.whole.originals.items()}
        other = replace(path, whole=replace(path.whole, originals=values))
    elif name == "shape":
        other = replace(path, whole=keep_all(path.module, ["0"], units=False))
    else:
        other = replace(path, data=replace(path.data, **{name: {"margin": 0.2}.get(name, 8)}))
    key = fingerprint(path.key())
    assert fingerprint(other.key()) != key
    assert fingerprint(replace(path, max_removed=0.2).key()) == key
    assert fingerprint(replace(path, attributes={"a": 1}).key()) == key


def test_one_training_of_masks_serves_every_cap_as_without_a_cache():
    task = small_task()
    kept = replace(task, data=replace(task.data, cache=task.data.cache.for_one_task()))
    counts = []
    for cap in (None, 0.0, 0.1):
        pair = [
            list(learn_masks(path_for(each, n_steps=60, max_removed=cap), np.random.default_rng(0)))
            for each in (task, kept)
        ]
        for (step, plain), (again, cached) in zip(*pair, strict=True):
            assert step == again
            assert all(torch.equal(m, cached.masks[n]) for n, m in plain.masks.items())
        counts.append(sum(int((~m).sum()) for m in pair[0][-1][1].masks.values()))
    # 54 weights: a tenth of them is five.
    assert counts[0] > 5
    assert counts[1:] == [0, 5]
