"""Selective fine-tuning against plain loops: updates, the choice on synthetic rows, shares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.model_selection import PredefinedSplit
from torch import nn

from edit_data import edit_data, labelled
from fairsvd import SelectiveFineTuner
from fairsvd.base import split_rows
from fairsvd.objective import GapJudge
from fairsvd.phases import make_batches
from fairsvd.selective._choice import Choice, synthetic_judge
from fairsvd.selective._generated import generate_rows
from fairsvd.selective._path import Optimizer, Path, run_path
from fairsvd.selective._scores import compute_mean_gradients
from fairsvd.selective._shares import estimate_shares
from helpers import IGNORE_SMALL_DATA, Rows, images, mlp, table, trained
from selective_data import LastWins, biased_rows, made_set, planted, quick, worst_cell

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]

OPTIMISERS = {
    "adam": (
        Optimizer("adam", 1e-2, 0.5, 0.2, 4, 2),
        lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=0.2),
    ),
    "sgd": (
        Optimizer("sgd", 1e-2, 0.5, 0.2, 4, 2),
        lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.5, weight_decay=0.2),
    ),
}


@pytest.mark.parametrize("how", OPTIMISERS)
def test_tuning_is_a_plain_loop_that_takes_back_what_the_mask_does_not_let_through(how):
    rows = biased_rows((2, 2), (10, 30, 40, 20))
    network = trained(mlp(), rows).double().requires_grad_(False)
    data, (optimizer, make) = edit_data(rows), OPTIMISERS[how]
    rng = np.random.default_rng(0)
    masks = {
        name: torch.tensor(rng.random(tuple(value.shape)) < 0.5)
        for name, value in network.named_parameters()
        if name != "0.bias"
    }
    task = Path(
        network,
        data,
        data.judge.constraint,
        choice=Choice(data),
        masks=masks,
        optimizer=optimizer,
        freeze_norm_stats=True,
        record={},
        attributes={},
        seed=np.random.SeedSequence(2),
    )
    found = [candidate.owned() for candidate in run_path(task)]
    assert [candidate.params["step"] for candidate in found] == [2, 4]

    start = network.state_dict()
    moving = {n: start[n].clone().requires_grad_() for n, mask in masks.items() if mask.any()}
    mine = make(list(moving.values()))
    # Every cell counts alike, whatever the constraint's own balance is.
    batches, states = iter(make_batches(data, "cells", np.random.default_rng(task.seed))), []
    for step in range(1, 5):
        batch, before = next(batches), {n: v.detach().clone() for n, v in moving.items()}
        assert batch.loss_weights.tolist() == [1.0] * len(batch.y)
        logits = torch.func.functional_call(network, moving, (batch.X,))
        logits = logits - torch.tensor([0.0, data.margin])
        mine.zero_grad()
        nn.functional.cross_entropy(logits, batch.y).backward()
        mine.step()
        with torch.no_grad():
            for name, value in moving.items():
                value[~masks[name]] = before[name][~masks[name]]
        if step % 2 == 0:
            states.append({n: v.detach().clone() for n, v in moving.items()})
    for candidate, state in zip(found, states, strict=True):
        assert set(candidate.state) == set(state)
        for name, value in state.items():
            torch.testing.assert_close(candidate.state[name], value)


def two_sided_choice():
    """Real rows without groups, held synthetic rows with them, and logits for both."""
    real = biased_rows((2, 2), (30, 50, 60, 20))
    made = biased_rows((2, 2), (25, 25, 25, 25), seed=1)
    made = made._replace(X=made.X + np.float32(0.8))
    network = trained(mlp(), real).double().requires_grad_(False)
    data = edit_data(real._replace(group=np.zeros(160, dtype=np.int64)), n_groups=1)
    data = replace(data, group_labels=())
    with torch.no_grad():
        logits, held = (network(torch.tensor(r.X).double()) for r in (real, made))
    data = replace(data, judge=data.judge.against(logits), untouched=logits)
    rows = labelled(made._replace(X=made.X.astype(np.float64)))
    judge = synthetic_judge(rows, held, 2, 2, data.judge.constraint)
    return network, data, rows, judge, (real, made, logits, held)


def recall_at(logits, y, margin):
    """Mean of both classes' recalls."""
    positive = (logits[:, 1] - logits[:, 0] > margin).numpy()
    return ((positive[y == 1]).mean() + (~positive[y == 0]).mean()) / 2


def test_synthetic_rows_judge_and_real_ones_set_the_threshold():
    network, data, rows, judge, (real, made, logits, held) = two_sided_choice()
    candidate = Choice(data, rows, judge).judge(network, {}, {}, {})
    alone = judge(held)
    assert (candidate.verdict.utility, candidate.verdict.gap) == (alone.utility, alone.gap)
    assert candidate.verdict.value == alone.value
    best = data.judge.for_utility(logits)
    assert candidate.verdict.margin == best.margin != alone.margin
    # No threshold does better on the real rows.
    margins = torch.diff(logits)[:, 0].numpy()
    reached = [recall_at(logits, real.y, m) for m in [*margins, margins.min() - 1]]
    assert recall_at(logits, real.y, best.margin) == pytest.approx(max(reached))
    assert recall_at(held, made.y, alone.margin) == pytest.approx(alone.utility)


def test_what_is_of_too_little_use_on_real_rows_is_turned_down():
    """Half of the lead over chance must stay: above it the synthetic rows decide, below nothing."""
    network, data, rows, judge, (_, _, logits, _) = two_sided_choice()
    lead = data.judge.for_utility(logits).utility
    assert data.judge.floor == pytest.approx((0.5 + lead) / 2)
    kept = Choice(data, rows, judge).judge(network, {}, {}, {}).verdict
    assert np.isfinite(kept.value)
    state = {"4.weight": network.state_dict()["4.weight"] * 0}
    turned = Choice(data, rows, judge).judge(network, state, {}, {}).verdict
    assert (turned.feasible, turned.value) == (False, -np.inf)
    # It is the real rows that turn it down, though the synthetic ones like it.
    lower = replace(data.judge, floor=1.01)
    strict = Choice(replace(data, judge=lower), rows, judge).judge(network, {}, {}, {}).verdict
    assert (strict.feasible, strict.value) == (False, -np.inf)
    assert (strict.utility, strict.gap) == (kept.utility, kept.gap)


def test_the_floor_is_held_against_the_use_on_real_rows_not_on_synthetic_ones():
    network, data, rows, judge, _ = two_sided_choice()
    start = network.state_dict()
    for seed in range(3):
        noise = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
        state = {"0.weight": start["0.weight"] + 0.1 * noise}
        X = data.editing.X[:], rows.X[:]
        real, made = (torch.func.functional_call(network, state, (x.double(),)) for x in X)
        use, other = data.judge.for_utility(real).utility, judge(made)
        floor = (use + other.utility) / 2
        assert use != other.utility
        held = Choice(replace(data, judge=replace(data.judge, floor=floor)), rows, judge)
        verdict = held.judge(network, state, {}, {}).verdict
        # What is judged is the edited network's.
        assert (verdict.utility, verdict.gap) == (other.utility, other.gap)
        assert np.isfinite(verdict.value) == (use >= floor and np.isfinite(other.value))


def test_the_synthetic_judge_has_the_untouched_network_s_floor():
    _, data, _, judge, (_, made, _, held) = two_sided_choice()
    plain = GapJudge(made.y, made.group, np.zeros(100, dtype=int), 2, 2, data.judge.constraint)
    best = plain.for_utility(held).utility
    assert judge.floor == pytest.approx((0.5 + best) / 2)
    state = torch.zeros_like(held)
    assert judge(state).value == -np.inf


def test_no_held_row_is_tuned_on_and_none_is_judged_that_was():
    """The split of the ready set, made again, gives history's first row."""
    rows, _, other, network = planted(600)
    # Cells of one hundred rows and of four hundred: their accuracies count alike all the same.
    uneven = Rows(*(part[300:] for part in other))
    kind = SelectiveFineTuner
    for validation, share in ((0.4, 0.4), (PredefinedSplit(np.arange(600) % 3 // 2 - 1), 0.25)):
        editor = quick(network, kind, synthetic=uneven, epochs=0, threshold=0.5, mask="all")
        editor.set_params(validation=validation, tolerance=1.0)
        seen = {}

        class Watched(kind):
            def _edit(self, task, rng, seen=seen):
                state = rng.bit_generator.state
                number = int(rng.integers(2**63 - 1))
                rng.bit_generator.state = state
                seen["seed"] = np.random.SeedSequence(number).spawn(4)[0]
                yield from super()._edit(task, rng)

        editor = Watched(**editor.get_params(deep=False)).fit(rows.X, rows.y)
        cells = uneven.y * 2 + uneven.group
        rng = np.random.default_rng(seen["seed"])
        tuned, held = split_rows(share, cells, uneven.y, rng)
        assert len(held) == round(share * len(cells))
        assert not set(tuned) & set(held)
        with torch.no_grad():
            predicted = network(torch.tensor(uneven.X[held])).argmax(1).numpy()
        right = predicted == uneven.y[held]
        by_cell = [right[cells[held] == cell].mean() for cell in range(4)]
        assert editor.history_["utility"].iloc[0] == pytest.approx(np.mean(by_cell))


def test_at_most_four_thousand_synthetic_rows_choose_and_the_others_tune():
    rows, _, other, network = planted(600)
    many = Rows(*(np.tile(part, (16, *[1] * (part.ndim - 1))) for part in other))
    assert len(many.y) == 25600
    settings = {"synthetic": many, "epochs": 1, "min_steps": 0, "batch_size": 1000, "mask": "head"}
    editor = quick(network, SelectiveFineTuner, **settings, tolerance=1.0).fit(rows.X, rows.y)
    # 21,600 rows are 22 batches of one epoch.
    assert editor.history_["step"].dropna().tolist() == [22]


def steps_of(network, rows, **parameters):
    editor = quick(network, SelectiveFineTuner, mask="head", **parameters)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    history = editor.history_
    return history["step"].dropna().tolist() if len(history) > 1 else []


def test_the_number_of_updates():
    rows = table()
    network, ready = trained(mlp(), rows), made_set(rows, n_per_cell=25)
    settings = {"synthetic": ready, "batch_size": 30}
    # 100 rows are four batches of 30, the last one short.
    assert steps_of(network, rows, epochs=3, min_steps=0, **settings) == [4, 8, 12]
    assert steps_of(network, rows, epochs=2, min_steps=50, **settings) == [25, 50]
    # At most as many as there are synthetic rows, where the epochs do not say more.
    assert steps_of(network, rows, epochs=2, min_steps=500, **settings) == [50, 100]
    assert steps_of(network, rows, epochs=0, min_steps=500, **settings) == []


def test_momentum_and_decay_are_the_editor_s():
    """Decay pulls the first step by rate x decay x value; momentum shows from the second on."""
    rows = table()
    network, ready = trained(mlp(), rows), made_set(rows)
    settings = {"optimizer": "sgd", "mask": "head", "synthetic": ready, "epochs": 1}
    settings |= {"batch_size": 80, "min_steps": 0, "learning_rate": 0.1}

    def moved(epochs=1, **own):
        editor = quick(network, **{**settings, "epochs": epochs, **own})
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
        return editor.module_[4].weight.detach()

    plain, decayed = (moved(weight_decay=decay, momentum=0.5) for decay in (0.0, 0.2))
    torch.testing.assert_close(plain - decayed, 0.1 * 0.2 * network[4].weight.detach())
    assert torch.equal(plain, moved(momentum=0.0))
    assert not torch.equal(moved(2, momentum=0.5), moved(2, momentum=0.0))
    assert not torch.equal(moved(2, momentum=0.5), moved(2, momentum=0.9))


def test_blocks_are_those_inside_the_only_module():
    rows = table()
    network = nn.Sequential(nn.Sequential(trained(mlp(), rows)))
    editor = quick(network, mask="blocks", synthetic=made_set(rows))
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert editor.history_["block"].dropna().unique().tolist() == ["0.0.0", "0.0.2", "0.0.4"]


@pytest.mark.parametrize("margin", [0.0, 0.7])
def test_mean_gradients_are_taken_at_the_threshold_and_weighted_row_by_row(margin):
    rows = table(50)
    network = trained(mlp(), rows).double()
    data = edit_data(rows, margin=margin, batch_size=16)
    rng = np.random.default_rng(0)
    weights = [torch.tensor(rng.random(50)) for _ in range(2)]
    found = compute_mean_gradients(network.requires_grad_(False), data, data.editing, weights)
    leaves = {n: p.detach().clone().requires_grad_() for n, p in network.named_parameters()}
    logits = torch.func.functional_call(network, leaves, (data.editing.X[:].double(),))
    logits = logits - torch.tensor([0.0, margin])
    losses = nn.functional.cross_entropy(logits, data.editing.y, reduction="none")
    for sums, weight in zip(found, weights, strict=True):
        wanted = torch.autograd.grad((losses * weight).sum(), leaves.values(), retain_graph=True)
        for (name, value), slope in zip(sums.items(), wanted, strict=True):
            assert name in leaves
            torch.testing.assert_close(value, slope)


def test_a_batch_s_statistics_are_used_and_kept_only_where_they_are_asked_for():
    rows = images()
    network = trained(
        nn.Sequential(
            nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 2)
        ),
        rows,
    )
    ready = made_set(rows)
    predictions, judged = {}, []

    class Watched(LastWins):
        def _edit(self, task, rng):
            for candidate in super()._edit(task, rng):
                if candidate.state:
                    judged.append((candidate, task.data.judged[:]))
                yield candidate

    for frozen in (True, False):
        settings = {"synthetic": ready, "freeze_norm_stats": frozen, "min_steps": 1}
        editor = quick(network, Watched, mask="head", **settings)
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
        predictions[frozen] = editor.module_
        # Candidates are judged as they predict, with the statistics and not the batch's.
        candidate, X = judged[-1]
        with torch.no_grad():
            logits = torch.func.functional_call(network, dict(candidate.state), (X,))
        torch.testing.assert_close(candidate.logits, logits, atol=1e-5, rtol=1e-4)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            same = torch.equal(
                editor.module_.state_dict()[f"1.{name}"], network.state_dict()[f"1.{name}"]
            )
            assert same == frozen
    # With frozen statistics the head sees what it sees when it predicts.
    assert not torch.equal(predictions[True][4].weight, predictions[False][4].weight)


def test_cells_of_a_ready_set_count_alike_however_many_rows_they_have():
    """Its rows weigh as in a set in which each cell's rows were repeated until all are as many."""
    rows = table()
    uneven = biased_rows((2, 2), (10, 20, 20, 40), seed=3)
    repeats = np.array([4, 2, 2, 1])[uneven.y * 2 + uneven.group]
    even = Rows(*(np.repeat(part, repeats, axis=0) for part in uneven))
    found = []
    for ready in (uneven, even):
        editor = quick(trained(mlp(), rows), synthetic=ready, store_scores=True)
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
        found.append(editor.scores_)
    for name, pair in found[0].items():
        for one, other in zip(pair, found[1][name], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_shares_of_cells_by_hand():
    """Group means at 0 and 1 along one feature: the real rows' mean is the second's share."""
    rng = np.random.default_rng(0)
    counts = {(0, 0): 300, (0, 1): 100, (1, 0): 30, (1, 1): 170}
    centres = {key: np.array([6.0 * key[0], 4.0 * key[1]]) for key in counts}

    def draw(numbers):
        keys = [key for key, n in numbers.items() for _ in range(n)]
        X = np.array([centres[key] for key in keys]) + 0.1 * rng.normal(size=(len(keys), 2))
        labels = np.array(keys)
        return Rows(X.astype(np.float32), labels[:, 0], labels[:, 1])

    network = nn.Sequential(nn.Linear(2, 2)).requires_grad_(False)
    real = draw(counts)
    data = edit_data(real, dtype=torch.float32, output_layer="0")
    found = estimate_shares(network, data, labelled(draw(dict.fromkeys(counts, 200))), 2, 0)
    wanted = np.array([[300, 100], [30, 170]]) / 600
    np.testing.assert_allclose(found, wanted, atol=0.003)
    np.testing.assert_allclose(found.sum(axis=1), [400 / 600, 200 / 600], atol=1e-9)


def test_shares_are_those_that_come_nearest_in_the_metric_of_the_spread_within_cells():
    """Real rows that lie beside the line between the groups: by the formula of one unknown."""
    rng = np.random.default_rng(1)
    y, g = np.repeat([0, 1], 400), np.tile(np.repeat([0, 1], 200), 2)
    noise = rng.normal(size=(800, 2)) @ np.array([[1.0, 0.8], [0.0, 0.3]])
    X = (noise + np.stack([6.0 * y + 2.0 * g, 1.0 * g], axis=1)).astype(np.float32)
    made = Rows(X, y, g)
    real = made._replace(X=X + np.array([0.3, 0.6], dtype=np.float32), group=0 * g)
    network = nn.Sequential(nn.Linear(2, 2)).requires_grad_(False)
    data = edit_data(real, dtype=torch.float32, output_layer="0")
    found = estimate_shares(network, data, labelled(made), 2, 0)
    X = X.astype(np.float64)
    means = {(k, j): X[(y == k) & (g == j)].mean(axis=0) for k in (0, 1) for j in (0, 1)}
    within = np.cov((X - np.array([means[key] for key in zip(y, g, strict=True)])).T)
    metric = np.linalg.inv(within + 1e-3 * np.trace(within) / 2 * np.eye(2))
    for k in (0, 1):
        way, target = means[k, 1] - means[k, 0], real.X[y == k].astype(float).mean(axis=0)
        second = (target - means[k, 0]) @ metric @ way / (way @ metric @ way)
        assert 0.1 < second < 0.9
        assert found[k, 1] == pytest.approx(second / 2, abs=1e-4)


def test_auto_is_the_copula_for_tables_and_the_smoothed_bootstrap_for_images():
    for rows, name in ((table(), "copula"), (images(), "smoothed")):
        data = edit_data(rows, dtype=torch.float32)
        auto, named = (generate_rows(n, data, 5, np.random.SeedSequence(0)) for n in ("auto", name))
        assert torch.equal(auto.X[:], named.X[:])


def test_generated_rows_come_from_their_own_cell_and_memory_limits_what_is_fitted(monkeypatch):
    """Cells far apart: a row's place tells which cell it was made from."""
    rows = biased_rows((2, 2), (12, 40, 30, 10))
    cell = rows.y * 2 + rows.group
    rows = rows._replace(X=rows.X + 100 * cell[:, None].astype(np.float32))
    data = edit_data(rows, dtype=torch.float32)
    for generator in ("smoothed", "smote"):
        made = generate_rows(generator, data, 7, np.random.SeedSequence(0))
        assert made.y.tolist() == [0] * 14 + [1] * 14
        assert made.groups.tolist() == ([0] * 7 + [1] * 7) * 2
        assert (
            np.rint(made.X[:].mean(dim=1).numpy() / 100).tolist()
            == [0] * 7 + [1] * 7 + [2] * 7 + [3] * 7
        )
    everything = generate_rows("smoothed", data, None, np.random.SeedSequence(0))
    assert torch.bincount(everything.y * 2 + everything.groups).tolist() == [40] * 4
    monkeypatch.setattr("fairsvd.selective._generated.MOST_BYTES", 40 * 24)

    seen = {}

    class Remembers:
        """Gives back what it was fitted on."""

        def fit(self, X):
            seen[round(float(X.mean()) / 100)] = self.X = X
            return self

        def sample(self, n):
            return np.resize(self.X, (n, self.X.shape[1]))

    generate_rows(Remembers(), data, None, np.random.SeedSequence(0))
    assert {k: len(X) for k, X in seen.items()} == {0: 10, 1: 10, 2: 10, 3: 10}
    # Drawn ones, not the first.
    assert not np.array_equal(seen[1], rows.X[cell == 1][:10])


def test_three_shares_are_tried_and_the_last_is_full_fine_tuning():
    rows = table()
    editor = quick(trained(mlp(), rows), synthetic=made_set(rows), top_k=None)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert editor.history_["top_k"].dropna().unique().tolist() == [0.3, 0.5, 1.0]
    assert (editor.top_k_, editor.tuned_fraction_) == (1.0, 1.0)


def test_worst_cells_by_hand():
    rows = Rows(np.zeros((4, 1)), np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    assert worst_cell(np.array([0, 0, 1, 1]), rows) == 1
    assert worst_cell(np.array([0, 0, 0, 1]), rows) == 0
