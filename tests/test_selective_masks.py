"""Selective fine-tuning: which parameters may move, and that no other does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import PredefinedSplit
from torch import nn

from fairsvd.selective._scores import count_needed, pool, select_items
from helpers import IGNORE_SMALL_DATA, mlp, table, trained
from selective_data import biased_rows, made_set, quick

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]


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
        top_k=k,
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
            top_k=0.8,
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
