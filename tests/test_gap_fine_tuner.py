"""Fine-tuning under the soft gap: what moves, what the loss is, and what it achieves."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch

from fairsvd import GapFineTuner, fairness_scorer
from fairsvd.datasets import make_biased_classification
from fairsvd.intraprocessing._gap import collect_values
from fairsvd.layers import editable_layers
from helpers import IGNORE_SMALL_DATA, convolutions, images, last_wins, mlp, table, trained

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]


class LastWins(last_wins(GapFineTuner)):
    """Chooses its last edit."""


def quick(network=None, kind=GapFineTuner, **parameters):
    return kind(network, **{"max_steps": 8, "random_state": 0, **parameters})


def fit(editor, rows):
    return editor.fit(rows.X, rows.y, sensitive_features=rows.group)


MOVES = {
    "all": {"0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"},
    "head": {"4.weight", "4.bias"},
    "spectrum": {"0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"},
    "bias": {"0.bias", "2.bias", "4.bias"},
}


@pytest.mark.parametrize("mode", ["penalty", "descent"])
@pytest.mark.parametrize("scope", MOVES)
def test_a_scope_moves_its_parameters_alone(scope, mode):
    rows = table()
    network = trained(mlp(), rows)
    editor = fit(quick(network, LastWins, scope=scope, mode=mode), rows)
    before, after = network.state_dict(), editor.module_.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == MOVES[scope]


def test_the_spectrum_keeps_the_singular_vectors():
    rows = table()
    network = trained(mlp(), rows)
    editor = fit(quick(network, LastWins, scope="spectrum"), rows)
    for name in editable_layers(network):
        untouched_weight = network.get_submodule(name).weight.detach().double()
        U, _, Vh = torch.linalg.svd(untouched_weight, full_matrices=False)
        weight = editor.module_.get_submodule(name).weight.detach().double()
        core = U.T @ weight @ Vh.T
        assert torch.allclose(core, torch.diag(core.diagonal()), atol=1e-4)


@pytest.mark.parametrize("scope", MOVES)
@pytest.mark.parametrize("make", [mlp, convolutions])
def test_the_start_is_the_untouched_network(scope, make):
    module = make()
    state = collect_values(module, "4" if make is mlp else "6", scope).state()
    current = module.state_dict()
    assert state
    for name, value in state.items():
        torch.testing.assert_close(value.reshape(current[name].shape), current[name])


class Watched(torch.nn.Sequential):
    """Notes the size of every gradient that a loss has in its logits, by class of network."""

    seen: ClassVar[list[torch.Tensor]] = []

    def forward(self, X):
        logits = super().forward(X)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self.seen.append(gradient.abs().sum(dim=0)))
        return logits


def test_descent_ignores_the_labels_utility():
    """In descent the loss is the soft gap alone; in penalty it holds the cross-entropy too."""
    rows, sums = table(), {}
    network = Watched(*trained(mlp(), rows))
    for mode, weight in (("descent", None), ("penalty", 0.0)):
        Watched.seen.clear()
        settings = {"mode": mode, "gap_weight": weight, "constraint": "demographic_parity"}
        fit(quick(network, **settings), rows)
        sums[mode] = torch.stack(Watched.seen).sum()
    # With weight 0 only the cross-entropy has a gradient; in descent only the gap.
    assert sums["descent"] > 0
    assert sums["penalty"] > 0
    assert not torch.isclose(sums["descent"], sums["penalty"])


def flat_network():
    """Make a network that answers alike for all rows: every gap is zero, the entropy is not."""
    network = mlp()
    with torch.no_grad():
        network[4].weight.zero_()
        network[4].bias.copy_(torch.tensor([0.0, 1.0]))
    return network


def test_descent_does_not_move_where_there_is_no_gap():
    rows, network = table(), flat_network()
    before = network.state_dict()
    for mode, moves in (("descent", False), ("penalty", True)):
        settings = {"mode": mode, "gap_weight": 1.0, "scope": "bias", "group_shift": "never"}
        # Means over powers of two rows are exact, so the gap is exactly zero.
        settings["batch_size"] = 16
        after = fit(quick(network, LastWins, **settings), rows).module_.state_dict()
        assert torch.equal(after["4.bias"], before["4.bias"]) != moves


def test_the_weight_is_chosen_or_given():
    rows = table()
    network = trained(mlp(), rows)
    searched = fit(quick(network, objective="soft_gap"), rows)
    assert set(searched.history_["gap_weight"].dropna()) == {0.3, 1.0, 3.0}
    # Each weight is tried for a third of the steps; that of the best candidate runs to the end.
    history = searched.history_.iloc[1:]
    n_tries = history["gap_weight"].tolist().index(1.0)
    tried = history.iloc[: 3 * n_tries]
    assert tried["gap_weight"].tolist() == [w for w in (0.3, 1.0, 3.0) for _ in range(n_tries)]
    best = tried.sort_values(["feasible", "value"], kind="stable", ascending=False).iloc[0]
    assert set(history.iloc[3 * n_tries :]["gap_weight"]) == {best["gap_weight"]}
    assert searched.gap_weight_ in (best["gap_weight"], None)
    assert fit(quick(network, LastWins, gap_weight=0.7), rows).gap_weight_ == 0.7
    stages = searched.history_["stage"].unique().tolist()
    assert stages == ["untouched", "tune", "settle"]


def test_no_bias_to_move_is_an_error():
    rows = images()
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 2, bias=False))
    with pytest.raises(ValueError, match="scope='bias'"):
        fit(quick(trained(network, rows), scope="bias"), rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Keep the networks that several fits train alike."""
    return tmp_path_factory.mktemp("networks")


@pytest.mark.slow
@pytest.mark.parametrize("constraint", ["equalized_odds", "demographic_parity"])
@pytest.mark.parametrize("settings", [{}, {"mode": "descent"}, {"scope": "spectrum"}])
def test_the_gap_falls_and_the_utility_stays(settings, constraint, folder):
    kind = {"class_separation": 1.0, "group_shift": 3.0}
    task = make_biased_classification(4000, random_state=1, **kind)
    X, y, g = task.data, task.target, task.sensitive_features
    editor = GapFineTuner(constraint=constraint, memory=folder, random_state=0, **settings)
    editor.fit(X[:3000], y[:3000], sensitive_features=g[:3000])
    gaps = editor.report_.gaps.loc[constraint]
    scorer = fairness_scorer(f"{constraint}_difference")
    on_new_rows = -scorer(editor, X[3000:], y[3000:], sensitive_features=g[3000:])
    assert gaps["before"] > 0.1
    assert gaps["after"] < 0.5 * gaps["before"]
    assert on_new_rows < gaps["before"]
    assert np.mean(editor.predict(X[3000:]) == y[3000:]) > 0.6
