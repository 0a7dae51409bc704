"""Selective fine-tuning as an editor: presets, statistics, where candidates are chosen, inputs."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from fairsvd import PhiObjective, SelectiveFineTuner
from fairsvd.exceptions import ConstraintNotMetWarning, MissingSensitiveFeaturesWarning
from helpers import (
    IGNORE_SMALL_DATA,
    convolutions,
    fingerprint,
    global_state,
    images,
    mlp,
    table,
    trained,
)
from selective_data import made_set, planted, quick, ready, worst_cell

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]


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
    assert round(preset.top_k * 62) == 55
    assert SelectiveFineTuner.aim_fair(top_k=40).top_k == 40
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
    "items": ({"top_k": 9, "granularity": "tensor", "synthetic": ready()}, "has 6 items"),
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
