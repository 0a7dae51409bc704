"""``on_interrupt="keep"``: an interrupted search ends with the best that it has so far."""

from __future__ import annotations

import itertools
import warnings
from functools import cache

import numpy as np
import pytest
import torch
from joblib import parallel_config

from editors import CONFIGURATIONS, TEMPLATES, make
from fairsvd import FairLRFTransformerCV, GapFineTuner, RandomPerturbation
from fairsvd._warn import categories_of
from fairsvd.base import _choice, _editor, _prepare
from fairsvd.exceptions import (
    FairsvdWarning,
    InterruptedFitWarning,
    MissingSensitiveFeaturesWarning,
)
from fairsvd.networks import _default
from fairsvd.objective import Judge
from fairsvd.report import chosen_candidate
from helpers import IGNORE_SMALL_DATA, fingerprint, global_state, mlp, table, told, trained

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

ROWS = table()
NETWORK = trained(mlp(), ROWS)

some_editors = pytest.mark.parametrize("name", TEMPLATES)
every_editor = pytest.mark.parametrize("name", CONFIGURATIONS)


def fit(editor):
    return editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


def kept(editor):
    with pytest.warns(InterruptedFitWarning) as caught:
        fit(editor)
    texts = told(caught, InterruptedFitWarning)
    assert len(texts) == 1
    assert {w.filename for w in caught if issubclass(w.category, FairsvdWarning)} == {__file__}
    assert f" {len(editor.history_)} candidate" in texts[0]
    assert texts[0] in editor.report_.notes
    return editor


def interrupting(call, n_calls, instead=True):
    """Let a call work so often; the next one is interrupted, before or after it has worked."""
    count = itertools.count(1)

    def wrapped(*args, **kwargs):
        last = next(count) == n_calls + 1
        if last and instead:
            raise KeyboardInterrupt
        result = call(*args, **kwargs)
        if last:
            raise KeyboardInterrupt
        return result

    return wrapped


def ending_after(kind, k):
    """Make an editor's search end by itself after so many candidates."""
    edit = kind._edit
    return lambda self, *args: itertools.islice(edit(self, *args), k)


def assert_same(one, other):
    assert one.history_.equals(other.history_)
    assert one.threshold_ == other.threshold_
    assert fingerprint(one.module_) == fingerprint(other.module_)
    assert np.array_equal(one.predict_proba(ROWS.X), other.predict_proba(ROWS.X))
    assert one.report_.groups.equals(other.report_.groups)


@cache
def whole(name):
    """Fit without an interrupt."""
    return fit(make(name, NETWORK))


@cache
def ended_after(name, k):
    """Fit with a search that ends by itself after so many candidates."""
    editor = make(name, NETWORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(editor), "_edit", ending_after(type(editor), k))
        return fit(editor)


def assert_the_first(name, editor):
    """An interrupted fit is one whose search had ended there, bit for bit."""
    k = len(editor.history_)
    assert 1 <= k < len(whole(name).history_)
    frames = [each.history_.drop(columns="chosen") for each in (whole(name), editor)]
    pair = [frame.iloc[:k].dropna(axis=1) for frame in frames]
    assert pair[0].equals(pair[1])
    expected = ended_after(name, k)
    assert_same(editor, expected)
    chosen = expected.history_.iloc[chosen_candidate(expected.history_)]
    assert editor.threshold_ == pytest.approx(chosen["threshold"])


@pytest.mark.parametrize(
    ("name", "k"), [*((name, 2) for name in CONFIGURATIONS), *((name, 1) for name in TEMPLATES)]
)
def test_interrupted_between_candidates(monkeypatch, name, k):
    state = global_state()
    with monkeypatch.context() as patch:
        patch.setattr(_choice, "_record", interrupting(_choice._record, k))
        editor = kept(make(name, NETWORK, on_interrupt="keep"))
    assert len(editor.history_) == k
    assert set(editor.predict(ROWS.X)) <= {0, 1}
    assert global_state() == state
    assert_the_first(name, editor)


@some_editors
def test_interrupted_in_a_judgement(monkeypatch, name):
    with monkeypatch.context() as patch:
        patch.setattr(Judge, "__call__", interrupting(Judge.__call__, 2))
        editor = kept(make(name, NETWORK, on_interrupt="keep"))
    assert_the_first(name, editor)


# Where no optimizer makes a step, nothing is ever half trained.
UNTRAINED = {
    "FairPruner, curvature",
    "FairPruner, units",
    "LayerwiseOptimizer",
    "RandomPerturbation",
    "AttentionTemper",
}


@every_editor
def test_nothing_half_trained_is_kept(monkeypatch, name):
    """The parameters have moved since the last candidate."""
    editor = make(name, NETWORK, on_interrupt="keep")
    with monkeypatch.context() as patch:
        for kind in (torch.optim.Adam, torch.optim.SGD):
            patch.setattr(kind, "step", interrupting(kind.step, 2, instead=False))
        if name in UNTRAINED:
            fit(editor)  # no interrupt, whose warning would be an error
            return
        kept(editor)
    assert_the_first(name, editor)


@some_editors
def test_raise_is_the_default_and_leaves_everything(monkeypatch, name):
    editor = whole(name)
    before = {key: id(value) for key, value in vars(editor).items()}
    network, state = fingerprint(editor.module_), global_state()
    with monkeypatch.context() as patch:
        patch.setattr(_choice, "_record", interrupting(_choice._record, 2))
        with pytest.raises(KeyboardInterrupt):
            fit(editor)
    assert {key: id(value) for key, value in vars(editor).items()} == before
    assert (fingerprint(editor.module_), global_state()) == (network, state)


@some_editors
def test_side_by_side_paths(monkeypatch, name):
    """The candidates of the paths that came back count; the others' workers are let go."""
    with parallel_config("threading"), monkeypatch.context() as patch:
        patch.setattr(_choice, "_record", interrupting(_choice._record, 2))
        editor = kept(make(name, NETWORK, on_interrupt="keep", n_jobs=2))
    assert_the_first(name, editor)


@pytest.mark.parametrize("name", ["GapFineTuner", "RandomPerturbation"])
def test_paths_in_other_processes(monkeypatch, name):
    settings = {"n_trials": 60} if name == "RandomPerturbation" else {}
    with monkeypatch.context() as patch:
        patch.setattr(_choice, "_record", interrupting(_choice._record, 3))
        editor = kept(make(name, NETWORK, on_interrupt="keep", n_jobs=2, **settings))
    uninterrupted = fit(make(name, NETWORK, n_jobs=2, **settings))
    kept_rows, first_rows = (
        each.history_.iloc[:3].drop(columns="chosen") for each in (editor, uninterrupted)
    )
    assert kept_rows.equals(first_rows)


# Where an interrupt is raised whatever is asked for: before the first candidate, and afterwards.
PLACES = {
    "reading": (_editor, "read_fit_inputs"),
    "the base network's training": (_default, "fit_net"),
    "the first judgement": (_prepare, "make_data"),
    "the untouched network's record": (_choice, "_record"),
    "writing the result": (_editor, "apply_candidate"),
    "the report": (_editor, "describe"),
}


@pytest.mark.parametrize("place", PLACES)
def test_before_and_after_the_search_an_interrupt_is_raised(monkeypatch, place):
    where, name = PLACES[place]
    editor = RandomPerturbation(n_trials=3, on_interrupt="keep", random_state=0)
    new, state = vars(editor).copy(), global_state()
    with monkeypatch.context() as patch:
        patch.setattr(where, name, interrupting(getattr(where, name), 0))
        with pytest.raises(KeyboardInterrupt):
            fit(editor)
    assert vars(editor) == new
    assert global_state() == state


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), SystemExit(1)])
def test_other_errors_are_raised(monkeypatch, error):
    def fails(*args):
        raise error

    editor = make("GapFineTuner", NETWORK, on_interrupt="keep")
    new = vars(editor).copy()
    with monkeypatch.context() as patch:
        patch.setattr(Judge, "__call__", fails)
        with pytest.raises(type(error)):
            fit(editor)
    assert vars(editor) == new


def test_an_interrupt_that_leaves_the_network_half_swapped(monkeypatch):
    """What an edit is tried on is not what is kept."""
    from fairsvd.base import EditData

    def spoils(self, module, state, rows=None):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.zero_()
        raise KeyboardInterrupt

    editor = make("LayerwiseOptimizer", NETWORK, on_interrupt="keep")
    with monkeypatch.context() as patch:
        patch.setattr(EditData, "logits", spoils)
        kept(editor)
    for before, after in zip(NETWORK.parameters(), editor.module_.parameters(), strict=True):
        assert torch.equal(before, after)


def test_the_progress_bar_is_closed(monkeypatch, capsys):
    from tqdm import auto

    bars = []

    class Bar(auto.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            bars.append(self)

    with monkeypatch.context() as patch:
        patch.setattr(auto, "tqdm", Bar)
        patch.setattr(_choice, "_record", interrupting(_choice._record, 3))
        editor = kept(make("RandomPerturbation", NETWORK, on_interrupt="keep", verbose=1))
    assert len(bars) == 1
    assert bars[0].n == len(editor.history_) == 3
    assert bars[0].disable  # what close() leaves
    assert f"(3/{1 + editor.n_trials} candidates)" in capsys.readouterr().err


def test_an_interrupt_without_sensitive_features(monkeypatch):
    editor = make("GapFineTuner", NETWORK, on_interrupt="keep")
    with monkeypatch.context() as patch, pytest.warns() as caught:
        patch.setattr(_choice, "_record", interrupting(_choice._record, 2))
        editor.fit(ROWS.X, ROWS.y)
    (merged,) = [w.category for w in caught if issubclass(w.category, FairsvdWarning)]
    assert set(categories_of(merged)) == {MissingSensitiveFeaturesWarning, InterruptedFitWarning}
    assert len(editor.history_) == 2


def test_a_warning_made_an_error_loses_the_fit(monkeypatch):
    editor = make("GapFineTuner", NETWORK, on_interrupt="keep")
    new = vars(editor).copy()
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error", InterruptedFitWarning)
        patch.setattr(_choice, "_record", interrupting(_choice._record, 2))
        with pytest.raises(InterruptedFitWarning):
            fit(editor)
    assert vars(editor) == new


def test_the_search_over_folds_is_not_kept(monkeypatch):
    grid = {"ranks": [1.0], "sparsities": [0.0, 0.1], "cv": 2, "max_steps": 3}
    search = FairLRFTransformerCV(NETWORK, **grid, on_interrupt="keep", random_state=0)
    new = vars(search).copy()
    with monkeypatch.context() as patch:
        patch.setattr(_choice, "_record", interrupting(_choice._record, 2))
        with pytest.raises(KeyboardInterrupt):
            fit(search)
    assert vars(search) == new


def test_an_unknown_value_is_named():
    with pytest.raises(ValueError, match=r"on_interrupt.*'keep'.*'stop'"):
        fit(GapFineTuner(NETWORK, on_interrupt="stop"))
