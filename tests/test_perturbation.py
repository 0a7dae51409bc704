"""Random perturbation: what a trial is, that both ways of running it agree, and what is kept."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from torch import nn

from edit_data import edit_data
from fairsvd.base import EditData, Task
from fairsvd.intraprocessing import RandomPerturbation
from fairsvd.intraprocessing import _perturbation as trials_module
from fairsvd.intraprocessing._perturbation import (
    Trials,
    can_stack,
    perturb,
    run_trials,
    stacked_logits,
)
from fairsvd.phases import float_parameters, run_paths
from helpers import (
    IGNORE_SMALL_DATA,
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


def quick(network=None, kind=RandomPerturbation, **parameters):
    """Make an editor of a few trials."""
    return kind(network, **{"n_trials": 5, "random_state": 0, **parameters})


class LastWins(last_wins(RandomPerturbation)):
    """Chooses the last trial whose state was kept."""


def task_data(rows, n_classes=2, kind="logits"):
    return edit_data(rows, 2, n_classes, dtype=torch.float32, kind=kind, margin=0.0)


def task_of(network, data):
    return Task(network, data, data.judge.constraint)


def trials(network, data, scale, n, *, stacked):
    """Make the first trials of a fit, to run together or one by one."""
    numbers, seeds = tuple(range(1, n + 1)), tuple(np.random.SeedSequence(3).spawn(n))
    task = task_of(network, data)
    return Trials.of(task, scale=scale, numbers=numbers, seeds=seeds, stacked=stacked)


def with_normalisation():
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    return trained(network, table())


@given(st.floats(0, 2), st.integers(0, 2**32))
def test_a_trial_is_the_parameters_times_one_plus_noise(scale, entropy):
    network = mlp().double()
    parameters = float_parameters(network)
    seed = np.random.SeedSequence(entropy)
    found = perturb(parameters, scale, seed)
    number = int(np.random.default_rng(np.random.SeedSequence(entropy)).integers(2**63 - 1))
    generator = torch.Generator().manual_seed(number)
    for name, value in network.named_parameters():
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(found[name], (value * (1 + scale * noise)).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_noise_has_the_scale_and_zeros_stay(dtype):
    values = torch.ones(300, 300, dtype=dtype)
    values[:10] = 0
    made = perturb({"w": values}, 0.1, np.random.SeedSequence(1))["w"]
    assert made.dtype == dtype
    assert not made[:10].any()
    assert float(made[10:].double().mean()) == pytest.approx(1.0, abs=2e-3)
    assert float(made[10:].double().std()) == pytest.approx(0.1, rel=0.02)


def test_trials_differ_and_the_first_do_not_depend_on_their_number():
    rows, network = table(), trained(mlp(), table())
    few, many = (
        quick(network, n_trials=n).fit(rows.X, rows.y, sensitive_features=rows.group).history_
        for n in (3, 40)
    )
    np.testing.assert_allclose(few["utility"], many["utility"][:4], atol=1e-12)
    assert many["threshold"].nunique() > 20
    assert many["trial"].tolist() == list(range(41))


def test_buffers_and_the_original_stay():
    network, rows = with_normalisation(), table()
    before = fingerprint(network)
    editor = quick(network, LastWins).fit(rows.X, rows.y, sensitive_features=rows.group)
    assert fingerprint(network) == before
    after = editor.module_.state_dict()
    parameters = dict(network.named_parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(value, after[name]) == (name not in parameters)


@pytest.mark.parametrize(
    ("network", "n_classes", "kind"),
    [
        (mlp(), 2, "logits"),
        (mlp(5), 5, "logits"),
        (mlp(1), 2, "one_logit"),
        (mlp(2, nn.Softmax(dim=1)), 2, "probabilities"),
        (mlp(1, nn.Flatten(0)), 2, "one_logit"),
        (with_normalisation(), 2, "logits"),
    ],
)
def test_one_pass_over_many_trials_equals_one_after_another(network, n_classes, kind):
    rows = table(n_classes=n_classes)
    data, network = task_data(rows, n_classes, kind=kind), network.eval()
    task = trials(network, data, 0.1, 7, stacked=True)
    states = list(task.states())
    found = stacked_logits(task, states, data.judged)
    for state, logits in zip(states, found, strict=True):
        with torch.no_grad():
            wanted = data.logits(network, state)
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)
    one_by_one = list(run_trials(trials(network, data, 0.1, 7, stacked=False)))
    together = list(run_trials(task))
    for mine, other in zip(one_by_one, together, strict=True):
        assert mine.verdict.utility == pytest.approx(other.verdict.utility, abs=0.02)
        assert set(mine.state) == set(other.state)


def test_what_is_stacked_depends_on_network_and_rows(monkeypatch):
    small = task_of(mlp().eval(), task_data(table()))
    assert can_stack(small)
    assert not can_stack(task_of(convolutions().eval(), task_data(images())))
    monkeypatch.setattr(trials_module, "MOST_WORK", 1000)
    assert not can_stack(small)


class Branches(nn.Module):
    """Runs one way or another by what it sees: nothing that can be batched."""

    def __init__(self):
        super().__init__()
        self.body = mlp()

    def forward(self, X):
        logits = self.body(X)
        return logits if float(logits.detach().sum()) > 0 else logits + 1


class Warns(Branches):
    """Says something whenever it runs."""

    def forward(self, X):
        warnings.warn("noted", UserWarning, stacklevel=1)
        return self.body(X)


@pytest.mark.parametrize("kind", [Branches, Warns])
def test_a_network_that_cannot_be_stacked_runs_one_by_one(kind):
    rows, network = table(), kind().eval()
    assert not can_stack(task_of(network, task_data(rows)))
    if kind is Branches:
        editor = quick(network).fit(rows.X, rows.y, sensitive_features=rows.group)
        assert len(editor.history_) == 6


def test_only_the_better_ones_keep_their_state():
    rows = table()
    network = trained(mlp(), rows)
    task = trials(network, task_data(rows), 0.3, 40, stacked=True)
    best = None
    for candidate in run_paths([task], run_trials):
        better = best is None or candidate.verdict.rank > best
        assert bool(candidate.state) == better
        best = candidate.verdict.rank if better else best


@pytest.mark.parametrize("stacked", [True, False])
def test_equal_seeds_give_equal_bits_whatever_the_jobs(stacked, monkeypatch):
    if not stacked:
        monkeypatch.setattr(trials_module, "MOST_WORK", 0)
    rows = table()
    network = trained(mlp(), rows)
    editors = [quick(network, n_trials=40, scale=0.3, n_jobs=jobs) for jobs in (None, 2)]
    for editor in editors:
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert fingerprint(editors[0].module_) == fingerprint(editors[1].module_)
    assert editors[0].history_.equals(editors[1].history_)
    assert editors[0].trial_ == editors[1].trial_


@pytest.mark.parametrize(("held_bytes", "most"), [(2**24, 8), (4000, 2), (0, 1)])
def test_how_many_run_before_they_are_judged_changes_nothing(held_bytes, most, monkeypatch):
    rows = table()
    network, data = trained(mlp(), rows), task_data(rows)
    events = []

    class Watched(EditData):
        def logits(self, *args):
            events.append("pass")
            return super().logits(*args)

    def run():
        watched = Watched(**{f.name: getattr(data, f.name) for f in fields(EditData)})
        for candidate in run_trials(trials(network, watched, 0.3, 19, stacked=False)):
            events.append("judged")
            yield candidate

    monkeypatch.setattr(trials_module, "AT_ONCE", 1)
    alone = list(run())
    monkeypatch.undo()
    monkeypatch.setattr(trials_module, "HELD_BYTES", held_bytes)
    events.clear()
    together = list(run())
    assert events.index("judged") == most
    assert events.count("pass") == events.count("judged") == 19
    for mine, other in zip(alone, together, strict=True):
        assert (mine.verdict, mine.params) == (other.verdict, other.params)
        assert mine.state.keys() == other.state.keys()
        assert all(torch.equal(mine.state[name], other.state[name]) for name in mine.state)


def test_the_chosen_trial_is_the_best_and_can_be_made_again():
    rows = table(400)
    network = trained(mlp(), rows, 5)
    editor = quick(network, n_trials=60, scale=0.3, tolerance=0.5)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    history = editor.history_.sort_values(
        ["feasible", "value"], ascending=False, kind="stable"
    ).iloc[0]
    assert editor.trial_ == history["trial"] > 0
    assert editor.threshold_ == pytest.approx(history["threshold"])
    before, after = network.state_dict(), editor.module_.state_dict()
    factors = torch.cat([(after[name] / before[name]).flatten() for name in before])
    assert float(factors.mean()) == pytest.approx(1.0, abs=0.1)
    assert float(factors.std()) == pytest.approx(0.3, rel=0.3)


def test_nothing_better_leaves_the_network_as_it_was():
    rows = table()
    network = trained(mlp(), rows)
    editor = quick(network, scale=0.0).fit(rows.X, rows.y, sensitive_features=rows.group)
    assert editor.trial_ is None
    assert fingerprint(editor.module_) == fingerprint(network)


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
    assert editor.trial_ == chosen.params["trial"]


CONFIGURATIONS = {
    "default": {},
    "large": {"scale": 1.0},
    "demographic parity": {"constraint": "demographic_parity"},
    "accuracy parity": {"constraint": "accuracy_parity"},
    "fixed threshold": {"threshold": 0.3},
    "worst cell": {"utility": "worst_cell_accuracy"},
    "several tasks": {"n_trials": 20},
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
    editor = quick(network, LastWins, **parameters)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert (fingerprint(network), global_state()) == (before, state)
    assert fingerprint(editor.module_) != before
    predicted, shares = editor.predict(rows.X), editor.predict_proba(rows.X)
    assert np.array_equal(editor.classes_[shares.argmax(axis=1)], predicted)
    again = pickle.loads(pickle.dumps(editor))
    assert np.array_equal(again.predict_proba(rows.X), shares)
    assert not hasattr(clone(editor), "module_")
    assert editor.history_["stage"].iloc[0] == "untouched"
    assert 1 <= editor.trial_ <= editor.n_trials
    return editor


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_keeps_the_promises(name):
    check_promises(CONFIGURATIONS[name], table())


@pytest.mark.parametrize("name", DATA)
def test_every_kind_of_data_is_taken(name):
    check_promises({}, DATA[name]())


def test_one_logit_is_taken():
    rows = table()
    check_promises({}, rows, trained(mlp(1), rows))


def test_without_sensitive_features_utility_alone():
    rows = table()
    with pytest.warns(match="sensitive"):
        editor = quick(trained(mlp(), rows)).fit(rows.X, rows.y)
    assert editor.groups_ == []
    assert (editor.history_["gap"] == 0).all()


@pytest.mark.parametrize("wrong", [{"n_trials": 0}, {"scale": -0.1}, {"n_trials": 2.5}])
def test_bad_parameters_are_refused(wrong):
    rows = table()
    with pytest.raises(ValueError, match=next(iter(wrong))):
        quick(mlp(), **wrong).fit(rows.X, rows.y, sensitive_features=rows.group)


def test_trials_lower_a_gap_that_can_be_lowered():
    rows = table(1500, seed=1)
    editor = RandomPerturbation(trained(mlp(), rows), scale=0.3, tolerance=0.1, random_state=0)
    history = editor.fit(rows.X, rows.y, sensitive_features=rows.group).history_
    best = history.iloc[editor.trial_ or 0]
    assert (best["feasible"], best["value"]) >= (
        history["feasible"].iloc[0],
        history["value"].iloc[0],
    )
    assert editor.trial_ is not None
