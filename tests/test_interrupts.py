"""A fit that fails or is interrupted half-way leaves the estimator and the process as they were."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest
import torch
from joblib import parallel_config

from fairsvd import FairLRFTransformer
from fairsvd.base import _editor, _prepare, _report
from fairsvd.exceptions import FairsvdWarning, NetworkError, SmallCellWarning
from fairsvd.networks import _default
from fairsvd.phases import _loss
from helpers import (
    IGNORE_SMALL_DATA,
    fingerprint,
    global_state,
    images,
    mlp,
    quick,
    skorch_net,
    table,
    trained,
)

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]

ROWS, OTHER = table(), table(90, n_classes=3, n_groups=3, seed=1)


def after(n_calls, call, error):
    """Let a function work ``n_calls`` times, then raise instead."""
    made = []

    def wrapped(*args, **kwargs):
        made.append(args)
        if len(made) > n_calls:
            raise error
        return call(*args, **kwargs)

    return wrapped


# Where a fit may be cut off: module, attribute, calls that still work.
PLACES = {
    "reading": (_editor, "read_fit_inputs", 0),
    "splitting": (_prepare, "make_parts", 0),
    "the default network's training": (_default, "fit_net", 0),
    "the first judgement": (_prepare, "make_data", 0),
    "the first candidate": (_loss, "edit_loss", 0),
    "the middle of the edit": (_loss, "edit_loss", 5),
    "the choice": (_editor, "choose", 0),
    "writing the result": (_editor, "apply_candidate", 0),
    "the tables of the report": (_report, "count_table", 1),
    "the report's warnings": (_editor, "excess_fit", 0),
}
ERRORS = (KeyboardInterrupt(), RuntimeError("out of memory"), SystemExit(1))


def contents(editor):
    """Everything an estimator holds, by identity."""
    return {name: id(value) for name, value in vars(editor).items()}


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("place", PLACES)
def test_a_fit_that_is_cut_off_leaves_no_trace(monkeypatch, place, error):
    where, name, n_calls = PLACES[place]
    editor = quick(None, rank=0.5)
    new, process = contents(editor), global_state()
    with monkeypatch.context() as patch:
        patch.setattr(where, name, after(n_calls, getattr(where, name), error))
        with pytest.raises(type(error)):
            editor.fit(OTHER.X, OTHER.y, sensitive_features=OTHER.group)
    assert contents(editor) == new
    assert global_state() == process


@pytest.fixture(scope="module")
def fitted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairsvdWarning)
        return quick(None).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("place", PLACES)
def test_a_refit_that_is_cut_off_restores_the_old_state(monkeypatch, fitted, place, error):
    where, name, n_calls = PLACES[place]
    before, shares = contents(fitted), fitted.predict_proba(ROWS.X)
    network, process = fingerprint(fitted.module_), global_state()
    with monkeypatch.context() as patch:
        patch.setattr(where, name, after(n_calls, getattr(where, name), error))
        with pytest.raises(type(error)):
            fitted.fit(OTHER.X, OTHER.y, sensitive_features=OTHER.group)
    assert contents(fitted) == before
    assert fingerprint(fitted.module_) == network
    assert fitted.classes_.tolist() == [0, 1]
    assert np.array_equal(fitted.predict_proba(ROWS.X), shares)
    assert fitted.report_.gaps.shape[0] == 6
    assert global_state() == process


def test_a_refit_that_succeeds_does_replace_the_state(fitted):
    """The tests above compare what a fit does change."""
    again = quick(None).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    before = contents(again)
    again.fit(OTHER.X, OTHER.y, sensitive_features=OTHER.group)
    changed = {name for name, value in contents(again).items() if before.get(name) != value}
    assert {"classes_", "groups_", "module_", "threshold_", "offset_"} <= changed
    assert set(FairLRFTransformer().get_params()) & changed == set()


def test_a_warning_made_an_error_restores_the_old_state(fitted):
    before = contents(fitted)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SmallCellWarning)  # the last thing that a fit does
        with pytest.raises(SmallCellWarning):
            fitted.fit(OTHER.X, OTHER.y, sensitive_features=OTHER.group)
    assert contents(fitted) == before


def test_parallel_paths_that_fail_restore_the_old_state(monkeypatch, fitted):
    before = contents(fitted)
    fitted.set_params(network=Stubborn(), n_jobs=2, gap_weight=None)
    changed = contents(fitted)
    try:
        with parallel_config("threading"), pytest.raises(NetworkError, match="no gradient here"):
            fitted.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
        assert contents(fitted) == changed
    finally:
        fitted.set_params(network=None, n_jobs=None, gap_weight=1.0)
    assert set(contents(fitted)) == set(before)


class Stubborn(torch.nn.Module):
    """Answers, but cannot be tuned."""

    def __init__(self):
        super().__init__()
        self.inner = trained(mlp(), ROWS)

    def forward(self, X):
        # A first look has 32 rows.
        if torch.is_grad_enabled() and len(X) != 32:
            raise RuntimeError("no gradient here")
        return self.inner(X)


def test_a_lock_is_free_after_an_interrupt():
    """The next fit of a user's net, in another thread too, does not wait for ever."""

    class Interrupting(type(mlp())):
        def forward(self, X):
            if self.training:
                raise KeyboardInterrupt
            return super().forward(X)

    with pytest.raises(KeyboardInterrupt):
        editor = quick(skorch_net(Interrupting(*mlp())))
        editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    done = []

    def fit_another():
        net = skorch_net(mlp())
        done.append(quick(net).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group))

    thread = threading.Thread(target=fit_another, daemon=True)
    thread.start()
    thread.join(60)
    assert len(done) == 1


def test_sensitive_features_of_a_fit_are_forgotten_by_the_next():
    """A refit is no continuation: nothing of the first one shows in the second."""
    editor = quick(trained(mlp(), ROWS))
    editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    fresh = quick(trained(mlp(), ROWS))
    pictures = images()
    with pytest.raises(ValueError, match="network"):
        editor.fit(pictures.X, pictures.y, sensitive_features=pictures.group)
    for each in (editor, fresh):
        each.fit(ROWS.X[:80], ROWS.y[:80], sensitive_features=1 - ROWS.group[:80])
    assert np.array_equal(editor.predict_proba(ROWS.X), fresh.predict_proba(ROWS.X))
    assert editor.report_.groups.equals(fresh.report_.groups)
    assert set(vars(editor)) == set(vars(fresh))
