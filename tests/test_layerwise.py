"""Layer-wise optimisation: one tensor, inside its box, and the best one of all."""

from __future__ import annotations

import pickle
import re

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.base import clone
from torch import nn

from fairsvd.datasets import make_biased_classification
from fairsvd.exceptions import NetworkError
from fairsvd.intraprocessing import LayerwiseOptimizer
from fairsvd.intraprocessing._layerwise import (
    expected_improvement,
    propose,
    score,
)
from fairsvd.objective import Verdict
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

pytestmark = [
    # Many short fits: together they take long.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

NAMES = ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"]


def quick(network=None, kind=LayerwiseOptimizer, **parameters):
    """Make an editor of few calls, one of them guided."""
    return kind(network, **{"n_calls": 4, "n_initial": 3, "random_state": 0, **parameters})


class LastWins(last_wins(LayerwiseOptimizer)):
    """Chooses the last edit whose state was kept."""


def searched(network, parameters):
    """Fit with a single call a tensor."""
    rows = table()
    editor = quick(network, parameters=parameters, n_calls=1)
    return editor.fit(rows.X, rows.y, sensitive_features=rows.group)


def changed(before, after):
    """Name the entries of the state that differ, and give by how much."""
    after = after.state_dict()
    moved = {name: after[name] - value for name, value in before.state_dict().items()}
    return {name: value for name, value in moved.items() if value.any()}


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        (1, NAMES[-1:]),
        (5, NAMES[1:]),
        (99, NAMES),
        (["4.bias", "0.weight"], ["0.weight", "4.bias"]),
        (["2"], NAMES[2:4]),
        (("2", "2.bias"), NAMES[2:4]),
        (re.compile("bias"), NAMES[1::2]),
    ],
)
def test_tensors_are_chosen_by_number_name_layer_or_pattern(parameters, found):
    editor = searched(mlp(), parameters)
    assert list(editor.searched_entries_) == found
    assert list(dict.fromkeys(editor.history_["parameter"][1:])) == found


def test_what_names_nothing_is_refused_with_the_nearest_names():
    with pytest.raises(NetworkError, match=r"names '4.wieght'.*it has .*Did you mean '4.weight'"):
        searched(mlp(), ["4.wieght"])
    for nothing in (re.compile("nowhere"), []):
        with pytest.raises(NetworkError, match="leaves nothing to search"):
            searched(mlp(), nothing)


def test_a_shared_tensor_is_searched_once():
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 2))
    network[2].weight = network[0].weight
    assert "2.weight" not in searched(network, 99).searched_entries_
    rows = table()
    network = trained(network, rows)
    editor = quick(network, LastWins, parameters=["0.weight"])
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert set(changed(network, editor.module_)) == {"0.weight", "2.weight"}
    assert editor.module_[0].weight is editor.module_[2].weight


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [0.5, 2.2])
def test_one_tensor_moves_inside_its_box(name, width):
    rows = table()
    network = trained(mlp(), rows)
    editor = quick(network, LastWins, parameters=[name], width=width)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert editor.edited_parameter_ == name
    moved = changed(network, editor.module_)
    assert set(moved) == {name}
    radius = width * float(network.state_dict()[name].std(correction=0))
    most = float(moved[name].abs().max())
    assert 0.4 * radius < most <= radius * (1 + 1e-5)
    assert editor.searched_entries_ == {name: moved[name].numel()}


def test_every_tensor_starts_from_the_original():
    rows = table()
    network = trained(mlp(), rows)
    editor = quick(network, LastWins, parameters=6)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert list(dict.fromkeys(editor.history_["parameter"][1:])) == NAMES
    assert set(changed(network, editor.module_)) == {editor.edited_parameter_}


def test_states_of_the_candidates_share_no_memory_and_do_not_change():
    rows = table()
    network = trained(mlp(), rows)
    kept = []

    class Watched(LastWins):
        def _edit(self, task, rng):
            live = {value.data_ptr() for value in task.module.state_dict().values()}
            for candidate in super()._edit(task, rng):
                for value in candidate.state.values():
                    assert value.data_ptr() not in live
                    live.add(value.data_ptr())
                    kept.append((value, value.clone()))
                yield candidate

    quick(network, Watched).fit(rows.X, rows.y, sensitive_features=rows.group)
    assert len(kept) >= 5
    assert all(torch.equal(value, copy) for value, copy in kept)


def test_of_a_large_tensor_some_entries_move():
    rows = table()
    network = trained(mlp(width=16), rows)
    editor = quick(network, LastWins, parameters=["2.weight"], max_entries=40)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert int(changed(network, editor.module_)["2.weight"].count_nonzero()) == 40
    assert editor.searched_entries_ == {"2.weight": 40}


def test_a_tensor_of_equal_entries_is_left_out():
    rows = table()
    network = trained(mlp(1), rows)
    editor = quick(network, parameters=2).fit(rows.X, rows.y, sensitive_features=rows.group)
    assert editor.searched_entries_ == {"4.weight": 8, "4.bias": 0}
    assert set(editor.history_["parameter"][1:]) == {"4.weight"}
    alone = quick(network, parameters=1).fit(rows.X, rows.y, sensitive_features=rows.group)
    assert alone.edited_parameter_ is None
    assert len(alone.history_) == 1


def test_the_record_of_the_calls():
    rows = table()
    network = trained(mlp(), rows)
    editor = quick(network, parameters=2).fit(rows.X, rows.y, sensitive_features=rows.group)
    history = editor.history_
    stages = ["random", "random", "random", "guided"]
    assert history["stage"].tolist() == ["untouched", *stages, *stages]
    assert history["call"].tolist() == [0, 1, 2, 3, 4, 1, 2, 3, 4]
    control = quick(network, parameters=2, surrogate="random")
    control.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert set(control.history_["stage"]) == {"untouched", "random"}
    first = history["stage"] == "random"
    assert history["value"][first].tolist() == control.history_["value"][first].tolist()


@given(
    st.lists(st.floats(-1, 2), min_size=1, max_size=9),
    st.floats(0.001, 1),
    st.floats(-1, 1),
)
def test_expected_improvement_is_the_mean_of_what_lies_above(middle, spread, best):
    middle = np.array(middle)
    found = expected_improvement(middle, np.full(len(middle), spread), best)
    grid = norm.ppf((np.arange(20000) + 0.5) / 20000)
    wanted = [np.maximum(0, m + spread * grid - best - 0.01).mean() for m in middle]
    np.testing.assert_allclose(found, wanted, atol=1e-3 * spread + 1e-9)


def test_without_spread_the_improvement_is_certain():
    found = expected_improvement(np.array([0.5, 1.5]), np.zeros(2), 1.0)
    np.testing.assert_allclose(found, [0.0, 0.49], atol=1e-9)


def test_the_surrogate_finds_the_good_corner():
    rng = np.random.default_rng(0)
    points = rng.random((40, 3), dtype=np.float32)
    scores = points[:, 1].astype(float)  # the others do nothing
    proposed = np.array([propose(points, scores, np.random.default_rng(s)) for s in range(5)])
    assert proposed.shape == (5, 3)
    assert proposed[:, 1].min() > 0.8


@pytest.mark.parametrize("width", [1, 7, 5000])
def test_points_of_any_dimension(width):
    rng = np.random.default_rng(0)
    point = propose(rng.random((5, width), dtype=np.float32), rng.random(5), rng)
    assert point.shape == (width,)
    assert 0 <= point.min() <= point.max() <= 1


def test_scores_order_verdicts_as_the_choice_does():
    verdicts = [
        Verdict(0.0, -np.inf, np.inf, False, -np.inf),  # logits that are not finite
        Verdict(0.0, 0.5, np.inf, False, -np.inf),  # a gap that cannot be measured
        Verdict(0.0, 0.5, 0.3, False, -np.inf),  # below the floor
        Verdict(0.0, 0.6, 0.3, False, -np.inf),
        Verdict(0.0, 0.7, 0.4, False, 0.32),
        Verdict(0.0, 0.9, 0.03, False, 0.89),
        Verdict(0.0, 0.7, 0.01, True, 0.7),
        Verdict(0.0, 0.8, 0.01, True, 0.8),
    ]
    scores = [score(verdict) for verdict in verdicts]
    assert np.isfinite(scores).all()
    assert scores == sorted(scores)
    assert len(set(scores)) == len(scores)
    assert sorted(verdicts, key=lambda v: v.rank)[-2:] == verdicts[-2:]


def test_a_network_that_overflows_is_survived():
    rows = table()
    network = trained(mlp(), rows)
    editor = quick(network, width=1e38).fit(rows.X, rows.y, sensitive_features=rows.group)
    assert editor.edited_parameter_ is None
    assert fingerprint(editor.module_) == fingerprint(network)


def planted(name_of_bias):
    """Add the group's column to a fair network by one tensor, which makes all of the gap.

    Another tensor does the same but lies near zero, where its box is too small to undo it.
    """

    class Planted(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(6, 2)
            self.first = nn.Parameter(torch.tensor([0.0, 1e-3]))
            self.second = nn.Parameter(torch.tensor([0.0, 1e-3]))
            with torch.no_grad():
                getattr(self, name_of_bias).copy_(torch.tensor([-0.5, 1.5]))

        def forward(self, X):
            return self.body(X[:, :6]) + X[:, 6:] * (self.first + self.second)

    data = make_biased_classification(
        1500, n_features=6, base_rate_gap=0.0, group_shift=0.0, random_state=0
    )
    X = np.column_stack([data.data, data.groups]).astype(np.float32)
    network, rows = Planted(), Rows(X, data.target, data.groups)
    fair = trained(nn.Linear(6, 2), rows._replace(X=X[:, :6]), 60)
    network.body.load_state_dict(fair.state_dict())
    return network.eval(), rows


@pytest.mark.parametrize("name", ["first", "second"])
def test_planted_bias_is_undone_wherever_it_sits(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, rows = planted(name)
    # The later tensor must not win by being later, nor the earlier one by being earlier.
    editor = quick(network, parameters=["first", "second"], n_calls=16, n_initial=10, tolerance=0.1)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    history = editor.history_
    assert editor.edited_parameter_ == name
    best = history.groupby("parameter")["value"].max()
    other = {"first": "second", "second": "first"}[name]
    assert best[name] > best[other]
    assert set(changed(network, editor.module_)) == {name}
    gaps = editor.report_.gaps.loc["equalized_odds"]
    assert gaps["after"] < 0.5 * gaps["before"]


def test_the_best_call_of_all_tensors_is_chosen():
    rows = table(600, seed=2)
    network = trained(mlp(), rows)
    editor = quick(network, n_calls=6, n_initial=4, tolerance=0.2)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    history = editor.history_.sort_values(
        ["feasible", "value"], ascending=False, kind="stable"
    ).iloc[0]
    chosen = history["parameter"] if history["call"] else None
    assert editor.edited_parameter_ == chosen
    assert editor.threshold_ == pytest.approx(history["threshold"])


def test_the_module_gives_the_logits_that_were_judged():
    rows = table()
    network = trained(mlp(), rows)
    seen = []

    class Watched(LastWins):
        def _edit(self, task, rng):
            for candidate in super()._edit(task, rng):
                seen.append((candidate, task.data.judged[:]))
                yield candidate

    editor = quick(network, Watched).fit(rows.X, rows.y, sensitive_features=rows.group)
    chosen, X = [pair for pair in seen if pair[0].state][-1]
    with torch.no_grad():
        torch.testing.assert_close(editor.module_(X), chosen.logits, rtol=1e-5, atol=1e-6)


def test_equal_seeds_give_equal_bits_whatever_the_jobs():
    rows = table()
    network = trained(mlp(), rows)
    editors = [quick(network, parameters=3, n_jobs=jobs) for jobs in (None, 2)]
    # Threads show whether two tasks touch one network, and start faster than processes.
    with joblib.parallel_config(backend="threading"):
        for editor in editors:
            editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert fingerprint(editors[0].module_) == fingerprint(editors[1].module_)
    assert editors[0].history_.equals(editors[1].history_)
    assert editors[0].edited_parameter_ == editors[1].edited_parameter_


CONFIGURATIONS = {
    "default": {"n_calls": 3, "n_initial": 2},
    "random": {"surrogate": "random"},
    "random alone": {"n_calls": 2, "n_initial": 5},
    "one call": {"n_calls": 1, "n_initial": 1},
    "one tensor": {"parameters": 1},
    "a pattern": {"parameters": re.compile("weight")},
    "few entries": {"max_entries": 3},
    "demographic parity": {"constraint": "demographic_parity"},
    "fixed threshold": {"threshold": 0.3},
    "worst cell": {"utility": "worst_cell_accuracy"},
    "mixed precision": {"precision": "mixed"},
}
DATA = {
    "plain": table,
    "three groups": lambda: table(150, n_groups=3),
    "five classes": lambda: table(150, n_classes=5),
    "images": images,
    "images, five classes": lambda: images(100, n_classes=5),
}


def check_promises(parameters, rows, network=None):
    n_classes = len(np.unique(rows.y))
    if network is None:
        make = mlp(n_classes) if rows.X.ndim == 2 else convolutions(n_classes)
        network = trained(make, rows)
    before, state = fingerprint(network), global_state()
    editor = quick(network, LastWins, **{"parameters": 2, **parameters})
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert (fingerprint(network), global_state()) == (before, state)
    assert set(changed(network, editor.module_)) == {editor.edited_parameter_}
    predicted, shares = editor.predict(rows.X), editor.predict_proba(rows.X)
    assert np.array_equal(editor.classes_[shares.argmax(axis=1)], predicted)
    again = pickle.loads(pickle.dumps(editor))
    assert np.array_equal(again.predict_proba(rows.X), shares)
    assert not hasattr(clone(editor), "module_")
    assert editor.history_["stage"].iloc[0] == "untouched"
    return editor


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_keeps_the_promises(name):
    check_promises(CONFIGURATIONS[name], table())


@pytest.mark.parametrize("name", DATA)
def test_every_kind_of_data_is_taken(name):
    check_promises({}, DATA[name]())


def test_one_logit_is_taken():
    rows = table()
    check_promises({"parameters": 3}, rows, trained(mlp(1), rows))


def test_without_sensitive_features_utility_alone():
    rows = table()
    with pytest.warns(match="sensitive"):
        editor = quick(trained(mlp(), rows), parameters=1).fit(rows.X, rows.y)
    assert editor.groups_ == []
    assert (editor.history_["gap"] == 0).all()


@pytest.mark.parametrize(
    "wrong", [{"parameters": 0}, {"parameters": "all"}, {"width": 0}, {"n_calls": 0}]
)
def test_bad_parameters_are_refused(wrong):
    rows = table()
    with pytest.raises(ValueError, match=next(iter(wrong))):
        quick(mlp(), **wrong).fit(rows.X, rows.y, sensitive_features=rows.group)
