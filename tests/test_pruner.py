"""FairPruner's parts against plain references: scores, masks, rounds, units, learned masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fairsvd.arrays import LabelledRows, as_batches
from fairsvd.base import EditData
from fairsvd.masking._pruner import Pruning, keep_all
from fairsvd.masking._units import unit_biases, unit_effects
from fairsvd.masks import lowest_masks, removed_fraction, share_of
from fairsvd.objective import Constraint, make_judge, shift_logits, soft_gap
from fairsvd.phases import MaskingPath
from fairsvd.phases._masking import tune_rest, tune_whole
from helpers import convolutions, fingerprint, mlp

CONSTRAINT = Constraint("equalized_odds", 0.05, 0.4, "balanced_accuracy", None, 1, "classes")
SEVERAL = Constraint("equalized_odds", 0.05, 0.4, "balanced_accuracy", None, None, "classes")


class OneLogit(nn.Module):
    """A network without hidden layers behind another name."""

    def __init__(self):
        super().__init__()
        self.only = mlp()[0]
        self.head = nn.Linear(8, 1)

    def forward(self, X):
        return self.head(torch.tanh(self.only(X)))[:, 0]


def edit_data(net=None, n=120, n_classes=2, n_groups=2, margin=0.3, shape=(6,), kind="logits"):
    rng = np.random.default_rng(0)
    net = smooth() if net is None else net
    X = rng.normal(size=(n, *shape)).astype(np.float32)
    y, groups = np.arange(n) % n_classes, np.arange(n) // n_classes % n_groups
    X[:, 0] += (groups * 0.8 + y * 0.4).reshape(-1, *[1] * (len(shape) - 1))
    rows = LabelledRows(as_batches(X), torch.as_tensor(y), torch.as_tensor(groups))
    constraint = CONSTRAINT if n_classes == 2 else SEVERAL
    data = EditData(
        editing=rows,
        judged=rows.X,
        judge=make_judge(y, groups, np.zeros_like(y), n_classes, n_groups, constraint),
        untouched=torch.zeros(n, n_classes),
        kind=kind,
        output_layer="4",
        n_classes=n_classes,
        n_groups=n_groups,
        group_labels=tuple(range(n_groups)),
        margin=margin if n_classes == 2 else 0.0,
        batch_size=32,
        device=torch.device("cpu"),
        dtype=next(net.parameters()).dtype,
    )
    return data


def smooth(n_outputs=2):
    """A network whose gap has no kinks near a unit's removal, not trained."""
    net = mlp(n_outputs)
    net[1], net[3] = nn.Tanh(), nn.Tanh()
    return net.requires_grad_(False)


def pruning(net=None, data=None, **options):
    net = smooth() if net is None else net.requires_grad_(False)
    layers = options.get("layers", ["0", "2"])
    defaults = {
        "module": net,
        "whole": keep_all(net, layers, units=options.get("criterion") == "unit"),
        "data": edit_data(net) if data is None else data,
        "constraint": CONSTRAINT,
        "layers": layers,
        "criterion": "curvature",
        "ranking": "layer",
        "sparsities": (0.1, 0.3),
        "privileged_weight": None,
        "hessian": "fisher",
        "n_rounds": 1,
        "max_memory": 2**28,
        "privileged": 1,
        "rng": np.random.default_rng(0),
        "attributes": {},
    }
    return Pruning(**{**defaults, **options})


def curvature_by_hand(task, weights):
    """Mean squared gradient of the loss at the operating threshold, row by row, by side."""
    data, out = task.data, {}
    rows = next(data.editing_batches(len(data.editing)))
    double = smooth().double()
    for i in range(len(data.editing)):
        X, y, group = (part[i : i + 1] for part in rows)
        leaves = {name: w.double().clone().requires_grad_() for name, w in weights.items()}
        logits = torch.func.functional_call(double, leaves, (X.double(),))
        nn.functional.cross_entropy(shift_logits(logits, data.margin), y).backward()
        side = "privileged" if int(group) == task.privileged else "unprivileged"
        for name, leaf in leaves.items():
            out.setdefault((side, name), []).append(leaf.grad.square())
    return {key: torch.stack(values).mean(dim=0) for key, values in out.items()}


@pytest.mark.parametrize("ranking", ["layer", "global"])
@pytest.mark.parametrize(
    ("n_rounds", "protects"), [(1, "unprivileged"), (2, "unprivileged"), (1, "privileged")]
)
def test_removal_by_curvature_equals_a_plain_loop(n_rounds, ranking, protects):
    task = pruning(
        n_rounds=n_rounds, sparsities=(0.3,), ranking=ranking, data=edit_data(n_groups=3)
    )
    start = {name: w.double() for name, w in task.whole.originals.items()}
    weights, gone = start, {name: torch.zeros_like(w).bool() for name, w in start.items()}
    other = {"privileged": "unprivileged", "unprivileged": "privileged"}[protects]
    for round_ in range(1, n_rounds + 1):
        h = curvature_by_hand(task, weights)
        scores = {
            name: 0.5 * w.square() * (h[protects, name] - h[other, name] / 3)
            for name, w in weights.items()
        }
        blocks = [[name] for name in start] if ranking == "layer" else [list(start)]
        for names in blocks:
            flat = torch.cat([scores[n].masked_fill(gone[n], -torch.inf).flatten() for n in names])
            count = int(len(flat) * 0.3 * round_ / n_rounds + 1e-6)
            lowest = torch.zeros(len(flat), dtype=torch.bool)
            lowest[flat.argsort(stable=True)[:count]] = True
            for name, part in zip(
                names, lowest.split([start[n].numel() for n in names]), strict=True
            ):
                gone[name] = part.reshape(start[name].shape)
        weights = {name: w.masked_fill(gone[name], 0.0) for name, w in start.items()}
    wanted = {"privileged_weight": 1 / 3, "protects": protects, "sparsity": 0.3}
    edit = next(edit for params, edit in task.edits() if params == wanted)
    assert removed_fraction(edit.masks) > 0.28
    for name, mask in edit.masks.items():
        assert torch.equal(~mask, gone[name])
        assert torch.equal(edit.weights()[name], weights[name].float())


def test_rankings_and_rounds_differ():
    def masks(**options):
        return next(pruning(sparsities=(0.3,), privileged_weight=1.0, **options).edits())[1].masks

    one, both, rounds = masks(), masks(ranking="global"), masks(n_rounds=3)
    assert any(not torch.equal(one[name], both[name]) for name in one)
    assert any(not torch.equal(one[name], rounds[name]) for name in one)


def test_rounds_score_again_with_what_is_left():
    seen = []

    class Noting(Pruning):
        """Notes how many weights are zero whenever a curvature is measured."""

        def first_curvature(self):
            seen.append(0)
            return super().first_curvature()

        def curvature(self, edit):
            seen.append(sum(int((w == 0).sum()) for w in edit.weights().values()))
            return super().curvature(edit)

    task = pruning(n_rounds=3, sparsities=(0.3,), privileged_weight=1.0)
    before = fingerprint(task.module)
    assert len(list(Noting(**vars(task)).edits())) == 1
    assert seen == [sum(share_of(k / 10, size) for size in (48, 64)) for k in range(3)]
    assert fingerprint(task.module) == before


@pytest.mark.parametrize("criterion", ["curvature", "magnitude", "random", "unit"])
@pytest.mark.parametrize("ranking", ["layer", "global"])
@pytest.mark.parametrize("n_rounds", [1, 3])
def test_every_removal_has_its_exact_share(criterion, ranking, n_rounds):
    shares = (0.0, 0.1, 0.29, 1.0)
    task = pruning(criterion=criterion, ranking=ranking, n_rounds=n_rounds, sparsities=shares)
    found = list(task.edits())
    assert len(found) == 4 * (4 if criterion == "curvature" else 1)
    weights, before = task.whole.originals, task.module.state_dict()
    for params, edit in found:
        kept = {n: m.all(dim=1) if criterion == "unit" else m for n, m in edit.masks.items()}
        gone = {name: int((~mask).sum()) for name, mask in kept.items()}
        sizes = {name: mask.numel() for name, mask in kept.items()}
        if ranking == "layer":
            assert gone == {name: share_of(params["sparsity"], n) for name, n in sizes.items()}
        assert sum(gone.values()) <= share_of(params["sparsity"], sum(sizes.values()))
        if ranking == "global":
            assert sum(gone.values()) == share_of(params["sparsity"], sum(sizes.values()))
        state = edit.state()
        for name, w in weights.items():
            assert torch.equal(state[name], torch.where(edit.masks[name], w, 0.0))
            assert torch.equal(edit.masks[name].all(dim=1), edit.masks[name].any(dim=1)) or (
                criterion != "unit"
            )
        if criterion == "unit":
            for name in ("0", "2"):
                bias = torch.where(kept[f"{name}.weight"], before[f"{name}.bias"], 0.0)
                assert torch.equal(state[f"{name}.bias"], bias)
        else:
            assert set(state) == set(weights)


@given(st.integers(0, 50), st.floats(0, 1), st.floats(0, 1), st.sampled_from(["layer", "global"]))
def test_larger_shares_remove_more_of_the_same(seed, one, other, ranking):
    shares = tuple(sorted([one, other]))
    settings = {"criterion": "random", "ranking": ranking, "sparsities": shares}
    edits = [edit for _, edit in pruning(rng=np.random.default_rng(seed), **settings).edits()]
    if shares == (0, 0):
        shares = ()
    assert len(edits) in (0, 2)
    for share, edit in zip(shares, edits, strict=False):
        sizes = [mask.numel() for mask in edit.masks.values()]
        wanted = sum(sizes), sum(share_of(share, size) for size in sizes)
        gone = sum(int((~mask).sum()) for mask in edit.masks.values())
        assert gone == (share_of(share, wanted[0]) if ranking == "global" else wanted[1])
    if len(edits) == 2:
        few, many = (edit.masks for edit in edits)
        assert not any(bool((~few[name] & many[name]).any()) for name in few)


def test_the_forms_of_the_score():
    def tried(**options):
        return {(p["privileged_weight"], p["protects"]) for p, _ in pruning(**options).edits()}

    both = {(t, side) for t in (1 / 3, 1.0) for side in ("privileged", "unprivileged")}
    assert tried() == both
    assert tried(privileged_weight=0.7) == {(0.7, "unprivileged")}
    assert tried(privileged=None) == {(0.0, "all")}


def gap_with(net, data, constraint, state):
    """Soft gap of all rows at once, in float64."""
    X = next(data.editing_batches(len(data.editing)))[0].double()
    out = torch.func.functional_call(net.double(), state, (X,))
    if out.ndim == 1:
        out = torch.stack([torch.zeros_like(out), out], dim=1)
    return soft_gap(
        torch.softmax(4 * shift_logits(out, data.margin), dim=1),
        data.editing.y,
        data.editing.groups,
        None,
        constraint.gap,
        constraint.pos,
        data.n_groups,
    )


UNIT_TASKS = {
    "table": (smooth, {}),
    "three groups and classes": (lambda: smooth(3), {"n_classes": 3, "n_groups": 3}),
    "images": (convolutions, {"shape": (4, 6, 6)}),
    "grouped convolution": (lambda: convolutions(groups=4), {"shape": (4, 6, 6)}),
    "one logit": (OneLogit, {"kind": "one_logit"}),
}


@pytest.mark.parametrize("name", UNIT_TASKS)
def test_unit_scores_are_the_slope_of_the_gap_as_a_unit_fades(name):
    make, options = UNIT_TASKS[name]
    net = make().requires_grad_(False)
    data = edit_data(net, **options)
    constraint = CONSTRAINT if data.n_classes == 2 else SEVERAL
    layers = ["only"] if name == "one logit" else ["0", "2"]
    task = pruning(net, data, constraint=constraint, layers=layers, criterion="unit")
    found = unit_effects(task, task.whole.state(), unit_biases(net, layers))
    double, step = make().requires_grad_(False), 1e-6
    state = {key: value.double() for key, value in net.state_dict().items()}
    seen = 0.0
    for layer in layers:
        for unit in range(len(found[f"{layer}.weight"])):
            gaps = []
            for sign in (-1, 1):
                moved = {key: value.clone() for key, value in state.items()}
                for part in ("weight", "bias"):
                    # The unit's output times 1 - step, at every row and position.
                    moved[f"{layer}.{part}"][unit] *= 1 - sign * step
                gaps.append(float(gap_with(double, data, constraint, moved)))
            slope = (gaps[1] - gaps[0]) / (2 * step)
            assert float(found[f"{layer}.weight"][unit]) == pytest.approx(slope, abs=2e-5)
            seen = max(seen, abs(slope))
    assert seen > 1e-3


class Attention(nn.Module):
    """Attention over three positions of a table's columns, all projections in one or apart."""

    def __init__(self, packed):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            width = {} if packed else {"kdim": 2, "vdim": 2}
            self.first, self.head = nn.Linear(2, 4), nn.Linear(4, 2)
            self.attn = nn.MultiheadAttention(4, 2, batch_first=True, **width)
            nn.init.normal_(self.attn.in_proj_bias)
        self.packed = packed

    def forward(self, X):
        X = X.reshape(len(X), 3, 2)
        queries = self.first(X)
        keys = queries if self.packed else X
        return self.head(self.attn(queries, keys, keys)[0].mean(1))


@pytest.mark.parametrize("packed", [True, False])
def test_unit_scores_of_attention_are_slopes_of_the_gap(packed):
    """Where projections have weights of their own, their units' biases are parts of one vector."""
    net = Attention(packed).eval().requires_grad_(False)
    data = edit_data(net)
    layers = [
        f"attn.{name}" for name in (["in_proj"] if packed else ["q_proj", "k_proj", "v_proj"])
    ]
    task = pruning(net, data, layers=layers, criterion="unit")
    biases = unit_biases(net, layers)
    found = unit_effects(task, task.whole.state(), biases)
    double, step = Attention(packed).eval(), 1e-6
    state = {key: value.double() for key, value in net.state_dict().items()}
    seen = 0.0
    for weight, effects in found.items():
        ((bias, rows),) = biases[weight]
        assert rows == (
            slice(None) if packed else slice(*{"q": (0, 4), "k": (4, 8), "v": (8, 12)}[weight[5]])
        )
        for unit in range(len(effects)):
            gaps = []
            for sign in (-1, 1):
                moved = {key: value.clone() for key, value in state.items()}
                moved[weight][unit] *= 1 - sign * step
                moved[bias][rows][unit] *= 1 - sign * step
                gaps.append(float(gap_with(double, data, CONSTRAINT, moved)))
            slope = (gaps[1] - gaps[0]) / (2 * step)
            assert float(effects[unit]) == pytest.approx(slope, abs=2e-5)
            seen = max(seen, abs(slope))
    assert seen > 1e-3


def test_units_are_scored_again_with_what_is_left():
    task = pruning(criterion="unit", n_rounds=2, sparsities=(0.5,))
    biases = unit_biases(task.module, task.layers)
    masks = None
    for round_ in (1, 2):
        edit = task.whole if masks is None else task.whole.remove(masks)
        scores = unit_effects(task, edit.state(), biases)
        masks = lowest_masks(scores, round_ / 4, masks)
        # What has gone already has nothing left to lose.
        if round_ == 2:
            assert all(float(scores[n][~m].abs().sum()) == 0 for n, m in edit_units(edit).items())
    ((_, found),) = task.edits()
    for name, mask in edit_units(found).items():
        assert torch.equal(mask, masks[name])


def edit_units(edit):
    return {name: mask.all(dim=1) for name, mask in edit.masks.items()}


ALL = slice(None)


def test_biases_of_units_of_shared_and_bare_layers():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3, bias=False))
    net[1].weight = net[0].weight
    assert unit_biases(net, ["0", "2"]) == {
        "0.weight": [("0.bias", ALL), ("1.bias", ALL)],
        "2.weight": [],
    }
    net[1].bias = net[0].bias
    assert unit_biases(net, ["0"]) == {"0.weight": [("0.bias", ALL)]}
    assert unit_biases(nn.Linear(2, 2), [""]) == {"weight": [("bias", ALL)]}


def test_without_groups_no_unit_is_scored():
    data = edit_data(n_groups=1)
    data = EditData(**{**vars(data), "group_labels": ()})
    assert list(pruning(data=data, criterion="unit", privileged=None).edits()) == []


def test_a_share_of_zero_leaves_the_untouched_network_to_itself():
    for criterion in ("curvature", "magnitude", "random", "unit"):
        assert list(pruning(criterion=criterion, sparsities=(0.0,)).edits()) == []


def path_for(task, **options):
    defaults = {"gap_weight": 1.0, "max_removed": None, "n_steps": 20, "attributes": {}}
    return MaskingPath(
        module=task.module,
        data=task.data,
        constraint=CONSTRAINT,
        whole=task.whole,
        seed=np.random.SeedSequence(0),
        **{**defaults, **options},
    )


@pytest.mark.parametrize("criterion", ["random", "unit"])
def test_factors_and_biases_are_tuned_and_what_is_gone_stays_gone(criterion):
    task = pruning(criterion=criterion, sparsities=(0.3,))
    before = fingerprint(task.module)
    ((_, start),) = task.edits()
    *_, (_, edit) = tune_rest(path_for(task), start, np.random.default_rng(0))
    state, own = edit.state(), task.module.state_dict()
    assert set(state) == {"0.weight", "2.weight", "0.bias", "2.bias", "4.bias"}
    for name, mask in start.masks.items():
        assert bool((state[name][~mask] == 0).all())
        ratio = (state[name] / own[name]).where(mask, torch.nan)
        assert torch.allclose(
            ratio.nanmean(dim=1).nan_to_num(),
            edit.scales[name].where(mask.any(dim=1), 0.0),
            rtol=1e-4,
        )
        assert bool((edit.scales[name] - 1).abs().max() > 1e-3)
        if criterion == "unit":
            assert bool((state[name.replace("weight", "bias")][~mask.all(dim=1)] == 0).all())
    assert fingerprint(task.module) == before


def test_with_nothing_removed_the_output_layer_is_tuned_too():
    task = pruning()
    *_, (_, edit) = tune_whole(path_for(task), np.random.default_rng(0))
    state, own = edit.state(), task.module.state_dict()
    assert set(state) == set(own)
    assert all(bool(mask.all()) for mask in edit.masks.values())
    assert float((state["4.weight"] - own["4.weight"]).abs().max()) > 1e-2
    for name in edit.masks:
        # One factor a unit.
        ratio = state[name] / own[name]
        torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4, atol=0)


def test_attributes_of_an_editor_that_edited_nothing():
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Linear(5, 7))
    attributes = keep_all(net, ["0", "1"], units=False).attributes()
    assert attributes["removed_fraction_"] == 0
    shapes = {name: mask.shape for name, mask in attributes["masks_"].items()}
    assert shapes == {"0.weight": (6, 2, 3, 3), "1.weight": (7, 5)}
    assert all(mask.all() and mask.dtype == bool for mask in attributes["masks_"].values())
