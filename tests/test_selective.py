"""Selective fine-tuning: the mask, what moves and what does not, where candidates are chosen."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import PredefinedSplit
from torch import nn

from fairsvd import PhiObjective, SelectiveFineTuner
from fairsvd.exceptions import ConstraintNotMetWarning, MissingSensitiveFeaturesWarning
from fairsvd.selective._scores import count_needed, pool, select_items
from helpers import (
    IGNORE_SMALL_DATA,
    Rows,
    convolutions,
    fingerprint,
    global_state,
    images,
    last_wins,
    mlp,
    table,
    trained,
)

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]


class LastWins(last_wins(SelectiveFineTuner)):
    """Chooses its last edit."""


def quick(network=None, kind=LastWins, **parameters):
    """Make an editor of a few updates and one mask."""
    defaults = {"epochs": 1, "min_steps": 5, "keep": 0.5, "random_state": 0}
    return kind(network, **{**defaults, **parameters})


def made_set(rows, n_per_cell=20, shift=0.5, seed=0):
    """Draw balanced rows around the means of the cells, off by the shift."""
    rng = np.random.default_rng(seed)
    cells = [(k, g) for k in np.unique(rows.y) for g in np.unique(rows.group)]
    parts = [
        rows.X[(rows.y == k) & (rows.group == g)].mean(axis=0)
        + rng.normal(size=(n_per_cell, *rows.X.shape[1:]))
        for k, g in cells
    ]
    labels = np.repeat(cells, n_per_cell, axis=0)
    X = (np.concatenate(parts) + shift).astype(np.float32)
    return X, labels[:, 0], labels[:, 1]


def mean_by_batches(module, X, y, size=10):
    """Average a batch's mean gradient over batches, as the paper's code does; float64."""
    assert len(y) % size == 0
    total = None
    for start in range(0, len(y), size):
        loss = nn.functional.cross_entropy(
            module(torch.tensor(X[start : start + size], dtype=torch.float64)),
            torch.tensor(y[start : start + size]),
        )
        found = torch.autograd.grad(loss, list(module.parameters()))
        total = found if total is None else [a + b for a, b in zip(total, found, strict=True)]
    return [g / (len(y) // size) for g in total]


def pooled_by_hand(values, granularity):
    if granularity == "tensor":
        return np.array([values.mean()])
    if granularity == "unit" and values.ndim > 1:
        return np.array([row.mean() for row in values])
    return values.reshape(-1)


def masks_by_hand(module, real, biased, balanced, granularity, k):
    """Three passes, absolute differences, two sorted lists and their common items."""
    means = [mean_by_batches(module, X, y) for X, y in (real, biased, balanced)]
    scores = []
    for one, other in ((0, 1), (1, 2)):
        gaps = [(a - b).abs().numpy() for a, b in zip(means[one], means[other], strict=True)]
        scores.append(np.concatenate([pooled_by_hand(gap, granularity) for gap in gaps]))
    least = set(np.argsort(scores[0])[:k].tolist())
    most = set(np.argsort(-scores[1])[:k].tolist())
    chosen, masks, start = least & most, {}, 0
    for name, value in module.named_parameters():
        n = {"element": value.numel(), "unit": len(value), "tensor": 1}[granularity]
        flat = np.array([start + i in chosen for i in range(n)])
        shape = (len(value), *([1] * (value.ndim - 1))) if granularity == "unit" else None
        flat = flat.reshape(value.shape if granularity == "element" else shape or [1] * value.ndim)
        masks[name] = np.broadcast_to(flat, value.shape)
        start += n
    return chosen, masks


def biased_rows(shape, counts, seed=0):
    """Draw rows with given counts of the cells, in cells' order."""
    rng = np.random.default_rng(seed)
    cells = [(k, g) for k in range(shape[0]) for g in range(shape[1])]
    labels = np.repeat(cells, counts, axis=0)
    X = rng.normal(size=(len(labels), 6)) + 0.8 * labels[:, :1] - 0.5 * labels[:, 1:]
    return Rows(X.astype(np.float32), labels[:, 0], labels[:, 1])


@pytest.mark.parametrize("granularity", ["element", "unit", "tensor"])
@pytest.mark.parametrize("shape", [(2, 2), (2, 3), (3, 2)])
def test_masks_equal_a_loop_over_batches_in_float64(shape, granularity):
    n_cells = shape[0] * shape[1]
    counts = np.array([10, 30, 40, 20, 60, 40])[:n_cells] // (2 if n_cells == 4 else 1)
    rows, held = biased_rows(shape, counts), biased_rows(shape, np.full(n_cells, 5), seed=1)
    rng = np.random.default_rng(3)
    module = trained(mlp(shape[0]), rows).double()
    X, y, g = made_set(rows, n_per_cell=int(counts.max()))
    order = rng.permutation(len(y))
    # The biased set: as many of a cell's synthetic rows as it has real ones, each once or oftener.
    taken = np.concatenate(
        [
            np.resize(np.flatnonzero((y == k) & (g == j)), n * counts.max())
            for n, (k, j) in zip(counts, np.ndindex(shape), strict=True)
        ]
    )
    items = sum(
        {"element": p.numel(), "unit": len(p), "tensor": 1}[granularity]
        for p in module.parameters()
    )
    k = items - 1 if granularity == "tensor" else int(0.6 * items)
    chosen, wanted = masks_by_hand(
        module,
        (rows.X, rows.y),
        (X[taken], y[taken]),
        (X[order], y[order]),
        granularity,
        k,
    )
    assert 0 < len(chosen) < items
    fold = PredefinedSplit(np.repeat([-1, 0], [len(rows.y), len(held.y)]))
    editor = quick(
        module,
        synthetic=(X[order], y[order], g[order]),
        granularity=granularity,
        keep=k,
        threshold=0.5,
        validation=fold,
        batch_size=32,
        store_scores=True,
    )
    together = [np.concatenate(pair) for pair in zip(rows, held, strict=True)]
    editor.fit(together[0], together[1], sensitive_features=together[2])
    assert set(editor.masks_) == set(wanted)
    for name, mask in editor.masks_.items():
        assert np.array_equal(mask.numpy(), wanted[name]), name
    assert editor.top_k_ == k
    assert list(editor.cell_shares_.values()) == pytest.approx(counts / counts.sum())
    assert sum(value[0].numel() for value in editor.scores_.values()) == items


VALUES = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30)


@given(st.data(), st.integers(1, 30))
def test_the_mask_is_the_intersection_of_both_sets(data, count):
    domain = torch.tensor(data.draw(VALUES))
    n = len(domain)
    bias = torch.tensor(data.draw(st.lists(st.floats(0, 1, width=32), min_size=n, max_size=n)))
    count = min(count, n)
    needed = count_needed({"a": domain}, {"a": bias})
    mask = select_items(needed, count, {"a": domain.shape}, {"a": domain})["a"]

    def both(k):
        least = sorted(range(n), key=lambda i: domain[i].item())[:k]
        most = sorted(range(n), key=lambda i: -bias[i].item())[:k]
        return set(least) & set(most)

    while not both(count):
        count += 1
    assert set(torch.nonzero(mask).flatten().tolist()) == both(count)


def test_what_is_chosen_as_one():
    weight, bias = torch.arange(6.0).reshape(2, 3), torch.tensor([1.0, 3.0])
    assert pool(weight, "unit").tolist() == [[1.0], [4.0]]
    assert pool(bias, "unit").tolist() == [1.0, 3.0]
    assert pool(weight, "tensor").tolist() == [[2.5]]
    assert pool(bias, "tensor").tolist() == [2.0]
    assert pool(torch.tensor(3.0), "tensor").item() == 3.0


OPTIMISERS = {
    "adam": {},
    "sgd": {"optimizer": "sgd", "weight_decay": 0.1, "learning_rate": 0.1},
    "adam, decay": {"weight_decay": 0.1},
}


@pytest.mark.parametrize("how", OPTIMISERS)
@pytest.mark.parametrize("granularity", ["element", "unit", "tensor"])
def test_what_is_not_in_the_mask_keeps_its_bits(how, granularity):
    rows = table()
    network = trained(mlp(), rows)
    editor = quick(network, granularity=granularity, synthetic=made_set(rows), **OPTIMISERS[how])
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    before, after = network.state_dict(), editor.module_.state_dict()
    assert set(editor.masks_) == set(before)
    for name, mask in editor.masks_.items():
        assert mask.dtype == torch.bool
        assert torch.equal(before[name][~mask], after[name][~mask])
    moved = torch.cat([before[n][m] != after[n][m] for n, m in editor.masks_.items()])
    assert 0 < len(moved) < sum(value.numel() for value in before.values())
    assert moved.float().mean() > 0.5
    total = sum(value.numel() for value in before.values())
    assert editor.tuned_fraction_ == pytest.approx(len(moved) / total)


def test_masks_that_measure_nothing():
    rows = table()
    network = trained(mlp(), rows)

    def moved(**parameters):
        editor = quick(network, synthetic=made_set(rows), **parameters)
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
        after = editor.module_.state_dict()
        names = {n for n, v in network.state_dict().items() if not torch.equal(v, after[n])}
        return names, editor

    assert moved(mask="all")[0] == set(network.state_dict())
    head, editor = moved(mask="head")
    assert head == {"4.weight", "4.bias"}
    assert (editor.top_k_, editor.block_, editor.cell_shares_) == (None, None, None)
    last, editor = moved(mask="blocks")
    assert (last, editor.block_) == ({"4.weight", "4.bias"}, "4")
    assert editor.history_["block"].dropna().unique().tolist() == ["0", "2", "4"]
    assert moved(mask="blocks", blocks=["0", "2"])[0] == {
        f"{k}.{part}" for k in (0, 2) for part in ("weight", "bias")
    }
    with pytest.raises(ValueError, match="'5', which is no submodule"):
        moved(mask="blocks", blocks=["5"])


@pytest.mark.parametrize("granularity", ["element", "unit", "tensor"])
def test_random_masks_have_as_many_items_elsewhere(granularity):
    rows = table()
    network = trained(mlp(), rows)
    masks = []
    for kind, seed in (("selective", 0), ("random", 0), ("random", 1)):
        editor = quick(
            network,
            mask=kind,
            granularity=granularity,
            keep=0.8,
            synthetic=made_set(rows),
            random_state=seed,
            validation=PredefinedSplit(np.arange(120) % 3 // 2 - 1),
        )
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
        masks.append(editor.masks_)
    if granularity == "tensor":
        counts = [sum(bool(m.all()) for m in each.values()) for each in masks]
    elif granularity == "unit":
        counts = [
            sum(int(m.reshape(len(m), -1).any(dim=1).sum()) for m in each.values())
            for each in masks
        ]
    else:
        counts = [sum(int(m.sum()) for m in each.values()) for each in masks]
    assert counts[0] == counts[1] == counts[2] > 0
    pairs = ((0, 1), (1, 2)) if granularity != "tensor" else ()
    for one, other in pairs:
        assert any(not torch.equal(masks[one][name], masks[other][name]) for name in masks[0])


def test_the_preset_has_the_papers_values_and_runs_its_epochs():
    preset = SelectiveFineTuner.aim_fair(random_state=0)
    wanted = {
        "granularity": "tensor",
        "epochs": 10,
        "learning_rate": 0.06,
        "optimizer": "sgd",
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "batch_size": 128,
        "freeze_norm_stats": False,
        "threshold": 0.5,
    }
    assert {name: preset.get_params()[name] for name in wanted} == wanted
    assert round(preset.keep * 62) == 55
    assert SelectiveFineTuner.aim_fair(keep=40).keep == 40
    rows = table()
    preset.set_params(network=trained(mlp(), rows), synthetic=made_set(rows, n_per_cell=50))
    history = preset.fit(rows.X, rows.y, sensitive_features=rows.group).history_
    # 200 synthetic rows are two batches of 128: ten epochs are 20 updates, one candidate each.
    assert history["step"].dropna().tolist() == list(range(2, 21, 2))
    assert preset.threshold_ == pytest.approx(0.5)


def normalised_network(rows):
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), *convolutions()[1:])
    network[3] = nn.Conv2d(8, 8, 3, padding=1)
    return trained(network, rows)


def test_normalisation_stays_in_evaluation_mode():
    rows = images()
    network = normalised_network(rows)
    editor = quick(network, mask="head", synthetic=made_set(rows))
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    for name, value in network[1].state_dict().items():
        assert torch.equal(value, editor.module_[1].state_dict()[name])
    assert not any(part.training for part in editor.module_.modules())


def test_running_statistics_follow_the_synthetic_rows_where_that_is_asked_for():
    rows = images()
    network = normalised_network(rows)
    before = fingerprint(network)
    editor = quick(network, mask="head", synthetic=made_set(rows), freeze_norm_stats=False)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    old, new = network[1].state_dict(), editor.module_[1].state_dict()
    assert fingerprint(network) == before
    for name in ("running_mean", "running_var"):
        assert not torch.equal(old[name], new[name])
    steps = int(editor.history_["step"].max())
    assert int(new["num_batches_tracked"] - old["num_batches_tracked"]) == steps
    for name in ("weight", "bias"):  # in a layer that is frozen
        assert torch.equal(old[name], new[name])
    assert not any(part.training for part in editor.module_.modules())
    # What it predicts is what was judged.
    assert editor.history_["utility"].iloc[-1] > 0


def planted(n_rows=1200, seed=0):
    """Biased rows (cells of 5/45/45/5 %), balanced test rows, a network that took the shortcut."""

    def draw(counts, rng):
        y, g = (np.repeat(codes, counts) for codes in ((0, 0, 1, 1), (0, 1, 0, 1)))
        X = rng.normal(size=(len(y), 6))
        X[:, :3] += 0.6 * (2 * y - 1)[:, None]
        X[:, 3:5] += 0.9 * (2 * g - 1)[:, None]
        return Rows(X.astype(np.float32), y, g)

    rng = np.random.default_rng(seed)
    rows = draw([int(n_rows * share) for share in (0.05, 0.45, 0.45, 0.05)], rng)
    return rows, draw([500] * 4, rng), draw([400] * 4, rng), trained(mlp(), rows, n_steps=150)


def worst_cell(predictions, rows):
    right = predictions == rows.y
    return min(right[(rows.y == k) & (rows.group == g)].mean() for k in (0, 1) for g in (0, 1))


def test_groups_of_real_rows_are_not_needed_with_a_ready_set():
    rows, test, other, network = planted()
    ready = (other.X + np.float32(0.2), other.y, np.array(["f", "m"])[other.group])
    settings = {"epochs": 5, "min_steps": 100, "learning_rate": 1e-2}
    editor = quick(network, SelectiveFineTuner, synthetic=ready, **settings)
    with warnings.catch_warnings():
        # No word about missing sensitive features.
        warnings.simplefilter("error", MissingSensitiveFeaturesWarning)
        editor.fit(rows.X, rows.y)
    assert editor.groups_ == []
    assert editor.synthetic_groups_ == ["f", "m"]
    assert editor.chosen_on_ == "synthetic rows"
    before = network(torch.tensor(test.X)).argmax(1).numpy()
    assert worst_cell(editor.predict(test.X), test) > worst_cell(before, test) + 0.1
    # Two shares of the same class: the minority's cells are found to be small.
    shares = editor.cell_shares_
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[0, "f"] == pytest.approx(0.05, abs=0.04)
    assert shares[1, "m"] == pytest.approx(0.05, abs=0.04)


def test_the_untouched_network_is_judged_on_the_same_rows_as_the_others():
    rows, _, other, network = planted(600)
    editor = quick(network, SelectiveFineTuner, synthetic=other, epochs=0, threshold=0.5)
    with pytest.warns(ConstraintNotMetWarning, match="on the synthetic rows"):
        editor.fit(rows.X, rows.y)
    assert len(editor.history_) == 1
    # On balanced rows the shortcut does not pay; on the real ones it does.
    right = network(torch.tensor(rows.X)).argmax(1).numpy() == rows.y
    assert editor.history_["utility"].iloc[0] < right.mean() - 0.1
    assert editor.history_["gap"].iloc[0] > 0.2
    assert (editor.tuned_fraction_, editor.top_k_) == (0.0, None)


def test_phi_chooses_on_synthetic_rows_too():
    """The value of every candidate is phi of the synthetic rows, not our own rule's."""
    rows, _, other, network = planted(600)
    phi = PhiObjective("demographic_parity", epsilon=0.15, n_bootstrap=5)
    settings = {"epochs": 3, "min_steps": 30, "threshold": 0.5, "validation": 0.5}
    editor = quick(network, SelectiveFineTuner, synthetic=other, constraint=phi, **settings)
    editor.fit(rows.X, rows.y)
    assert editor.chosen_on_ == "synthetic rows"
    history = editor.history_
    assert history["gap"].iloc[0] > 0.2
    assert history["value"].iloc[0] == 0
    met = history[history["feasible"]]
    # The utility counts in some of the five resamples, and is nearly the same in each of them.
    assert len(met)
    resamples = 5 * met["value"] / met["utility"]
    assert np.allclose(resamples, resamples.round(), atol=0.2)
    assert (resamples.round() < 5).any()


@pytest.mark.parametrize("named", ["shares", "biased set"])
def test_what_the_user_knows_of_the_cells_is_used(named):
    rows, _, other, network = planted(600)
    shares = {(k, g): 0.45 if k != g else 0.05 for k in (0, 1) for g in (0, 1)}
    known = {"cell_shares": {key: 10 * value for key, value in shares.items()}}
    if named == "biased set":
        known = {"synthetic_biased": (other.X[400:1200], other.y[400:1200])}
    editor = quick(network, synthetic=other, **known).fit(rows.X, rows.y)
    plain = quick(network, synthetic=other).fit(rows.X, rows.y)
    if named == "shares":
        assert editor.cell_shares_ == pytest.approx(shares)
    else:
        assert editor.cell_shares_ is None
    assert any(not torch.equal(m, plain.masks_[n]) for n, m in editor.masks_.items())


def ready(**changes):
    rows = table()
    parts = dict(zip(("X", "y", "g"), made_set(rows), strict=True))
    parts.update(changes)
    return tuple(parts.values())


BAD = {
    "no tuple": ({"synthetic": [1]}, "of 1 entries: pass .X, y, sensitive_features."),
    "width": ({"synthetic": ready(X=np.zeros((80, 5), np.float32))}, "synthetic: X has 5 features"),
    "NaN": ({"synthetic": ready(X=np.full((80, 6), np.nan))}, "synthetic: Input X contains NaN"),
    "length": ({"synthetic": ready(y=np.zeros(79, int))}, r"80 rows and labels of shape \(79,\)"),
    "label": ({"synthetic": ready(y=np.full(80, 7))}, "labels 7, y has"),
    "groups' length": ({"synthetic": ready(g=np.arange(79))}, "synthetic: sensitive_features"),
    "unknown group": ({"synthetic": ready(g=np.arange(80) % 3)}, r"the groups \[2\]"),
    "no groups": ({"synthetic": ready()[:2]}, "without groups"),
    "one group": ({"synthetic": ready(g=np.zeros(80))}, "single group"),
    "empty cell": (
        {"synthetic": ready(g=np.where(ready()[1] == 0, 0, ready()[2]))},
        "no rows in .label 0, group 1.: a balanced set",
    ),
    "biased alone": ({"synthetic_biased": ready()[:2]}, "without synthetic"),
    "shares' keys": ({"cell_shares": {(0, 0): 1.0}}, "exactly the keys"),
    "shares below 0": (
        {"cell_shares": {(k, g): -1.0 for k in (0, 1) for g in (0, 1)}},
        "at least 0",
    ),
    "items": ({"keep": 9, "granularity": "tensor", "synthetic": ready()}, "has 6 items"),
    "no block": ({"mask": "blocks", "blocks": [], "synthetic": ready()}, "blocks is empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    parameters, match = BAD[name]
    rows = table()
    with pytest.raises(ValueError, match=match):
        quick(trained(mlp(), rows), **parameters).fit(rows.X, rows.y, sensitive_features=rows.group)


def test_a_set_that_does_not_fit_is_found_before_a_network_is_trained(monkeypatch):
    rows = table()
    trainings = []
    monkeypatch.setattr("fairsvd.base._prepare.adopt", lambda *args, **kw: trainings.append(1))
    with pytest.raises(ValueError, match="without groups"):
        quick(None, synthetic=ready()[:2]).fit(rows.X, rows.y, sensitive_features=rows.group)
    assert trainings == []


def test_nothing_else_is_moved():
    rows = images()
    network, ready_set = trained(convolutions(), rows), made_set(rows)
    held, state = [part.copy() for part in ready_set], global_state()
    before = fingerprint(network)
    for parameters in ({"synthetic": ready_set}, {"generator": "smoothed"}):
        editor = quick(network, **parameters)
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
        assert "_given" not in vars(editor)
    assert (fingerprint(network), global_state()) == (before, state)
    assert all(np.array_equal(a, b) for a, b in zip(held, ready_set, strict=True))
