"""Bases that turn beside the singular values: exact rotations, what they contain and gain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import fairsvd
from fairsvd import FairLRFTransformer
from fairsvd.base import Task
from fairsvd.low_rank._bases import MOST_TURNED, TurnedEdit, cayley
from fairsvd.low_rank._factor_edit import keep_all
from fairsvd.low_rank._fairlrf import factors_of
from fairsvd.masks import mask_variables
from helpers import IGNORE_SMALL_DATA, LastWins, convolutions, images, mlp, quick, table, trained
from shortcuts import shortcut_rows, worst_cell
from tasks import small_task

pytestmark = [
    # Networks are trained.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]


@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
def test_rotations_are_orthogonal_and_cayleys(size):
    generator = torch.Generator().manual_seed(0)
    turns = size * torch.randn(2, 64, 64, generator=generator)
    found = cayley(turns).double()
    one = torch.eye(64, dtype=torch.float64)
    assert float((found @ found.mT - one).abs().max()) < 1e-6
    assert torch.linalg.det(found).sub(1).abs().max() < 1e-4
    lower = np.tril(turns.double().numpy(), -1) / 8
    skew = lower - lower.transpose(0, 2, 1)
    expected = np.linalg.inv(one.numpy() - skew) @ (one.numpy() + skew)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert torch.equal(cayley(torch.zeros(1, 5, 5)), torch.eye(5).expand(1, 5, 5))


def edits(task: Task):
    """The edit that keeps all of two layers, as it is and with bases that may turn."""
    factors = factors_of(task.module, {"0": 4, "2": 4}, "full", task.data.cache)
    plain = keep_all({name: f.truncated(4) for name, f in factors.items()}, compress=False)
    return plain, TurnedEdit.of(plain)


def test_without_turns_it_is_the_spectrum():
    task = small_task()
    plain, turned = edits(task)
    for masks in ({}, {n: torch.rand(v.shape) > 0.3 for n, v in plain.entries().items()}):
        removed = [each.remove(masks) if masks else each for each in (plain, turned)]
        loose = [each.loosen({})[0].state() for each in removed]
        assert all(torch.equal(loose[0][name], loose[1][name]) for name in loose[0])
    leaves = turned.loosen({})[1]
    assert [tuple(leaf.shape) for leaf in leaves] == [(1, 4), (1, 4)] + [(1, 4, 4)] * 4


def test_turns_and_masks_have_the_gradients_of_the_written_out_weight():
    task = small_task()
    _, turned = edits(task)
    edit, leaves = turned.loosen({})
    with torch.no_grad():
        for leaf in leaves:
            leaf += 0.3 * torch.randn(leaf.shape, generator=torch.Generator().manual_seed(1))
    masks = mask_variables(edit.units())
    weight = edit.masked_state(masks)["0.weight"]
    weight.square().sum().backward(retain_graph=True)
    weight.sum().backward()
    f = edit.stored["0"]
    parts = [leaves[0].detach(), *(edit.turns[f"0/{side}"].detach() for side in "UV")]
    own = [part.clone().requires_grad_() for part in parts]

    def rotation(value):
        lower = torch.tril(value[0], -1) / 2
        skew = lower - lower.T
        return torch.linalg.inv(torch.eye(4) - skew) @ (torch.eye(4) + skew)

    written = f.U[0] @ rotation(own[1]) @ torch.diag(own[0][0]) @ rotation(own[2]).T @ f.V[0].T
    torch.testing.assert_close(weight, written, rtol=1e-5, atol=1e-6)
    (written.square().sum() + written.sum()).backward()
    torch.testing.assert_close(edit.stored["0"].S.grad, own[0].grad, rtol=1e-4, atol=1e-5)
    for side, value in zip("UV", own[1:], strict=True):
        found = edit.turns[f"0/{side}"].grad
        torch.testing.assert_close(found, value.grad, rtol=1e-4, atol=1e-5)
        assert float(found.abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["table", "images"])
@pytest.mark.parametrize("sparsity", [0.0, 0.2])
def test_the_weight_is_that_of_masks_and_rotations(kind, sparsity):
    rows, network = (table(), mlp()) if kind == "table" else (images(), convolutions())
    network = trained(network, rows)
    settings = {"refine": "bases", "criterion": "magnitude", "sparsity": sparsity, "max_steps": 9}
    editor = quick(network, LastWins, **settings)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert set(editor.rotations_) == {"0", "2"}
    for name, sides in editor.rotations_.items():
        before = network.get_submodule(name).weight.detach().flatten(1)
        after = editor.module_.get_submodule(name).weight.detach().flatten(1).double().numpy()
        U, _, Vh = torch.linalg.svd(before.double(), full_matrices=False)
        k = len(sides["U"])
        assert k == min(*before.shape, MOST_TURNED)
        for side in "UV":
            gram = sides[side].astype(np.float64) @ sides[side].T.astype(np.float64)
            np.testing.assert_allclose(gram, np.eye(k), atol=1e-6)
        left, right = (
            (basis.numpy() * editor.masks_[name][side]) @ sides[side]
            for side, basis in (("U", U), ("V", Vh.T))
        )
        # What is between the two is diagonal; pseudo-inverses, since masks may lower the rank.
        core = np.linalg.pinv(left) @ after @ np.linalg.pinv(right).T
        np.testing.assert_allclose(left @ core @ right.T, after, atol=1e-4)
        if editor.removed_fraction_ == 0:
            np.testing.assert_allclose(core, np.diag(np.diag(core)), atol=1e-4)
        assert np.abs(sides["U"] - np.eye(k)).max() > 1e-3


def test_it_is_compressed_saved_and_counted(tmp_path):
    rows = table()
    settings = {"refine": "bases", "compress": True, "rank": 2, "criterion": "magnitude"}
    editor = quick(trained(mlp(), rows), LastWins, sparsity=0.1, **settings)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    thin = [m for m in editor.module_.modules() if type(m).__name__ == "LowRankLinear"]
    assert len(thin) == 2
    dense = quick(editor.network, LastWins, sparsity=0.1, **{**settings, "compress": False})
    dense.fit(rows.X, rows.y, sensitive_features=rows.group)
    found, expected = (e.predict_proba(rows.X) for e in (editor, dense))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    fairsvd.save(editor, tmp_path / "model")
    again = fairsvd.load(tmp_path / "model", trusted=("helpers.LastWins",))
    np.testing.assert_array_equal(again.predict_proba(rows.X), editor.predict_proba(rows.X))
    assert again.rotations_.keys() == editor.rotations_.keys()


def test_untouched_networks_have_no_rotations_and_a_spectrum_none_at_all():
    rows = table()
    network = trained(mlp(), rows)
    for refine, has in (("bases", True), ("spectrum", False)):
        settings = {"criterion": "magnitude", "sparsity": 0.0, "tolerance": 1.0}
        editor = quick(network, refine=refine, utility=lambda y, p: 1.0, **settings)
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
        assert hasattr(editor, "rotations_") == has
    assert editor.history_["chosen"].tolist()[0]


def test_where_singular_values_cannot_help_the_worst_cell_gains_by_the_bases():
    """One singular vector holds the columns of label and group, which no scale takes apart."""
    network = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network[0].weight[0, :3] = torch.tensor([1.0, 1.0, 2.5])
        network[1].weight[1, 0] = 1
    rows, new = shortcut_rows(1200, 0.95, seed=2), shortcut_rows(4000, 0.5, seed=3)
    settings = {"criterion": "magnitude", "sparsity": 0.0, "objective": "soft_gap"}
    found = {}
    for refine in ("spectrum", "bases"):
        own = {"gap_weight": 3.0, "max_steps": 80, "random_state": 0, "refine": refine}
        editor = FairLRFTransformer(network.eval(), **settings, **own)
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
        found[refine] = worst_cell(editor, new)
    assert found["bases"] >= found["spectrum"] + 0.05
