"""Networks of other precisions, and those that behave otherwise on one row."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from editors import EDITORS, make
from fairsvd.exceptions import NetworkError
from helpers import IGNORE_SMALL_DATA, mlp, quick, skorch_net, table, trained

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

ROWS = table()
X = torch.tensor(ROWS.X)
UNTOUCHED = {"sparsity": 0, "refine": None, "threshold": 0.5}


def fit(network, **settings):
    return quick(network, **settings).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


PRECISIONS = [
    *((name, torch.bfloat16) for name in sorted(EDITORS)),
    *((name, torch.float64) for name in ("FairLRFTransformer", "BlindPostProcessor")),
    ("GapFineTuner", torch.float16),
]


@pytest.mark.parametrize(("name", "dtype"), PRECISIONS)
def test_every_editor_takes_every_precision(name, dtype):
    module = trained(mlp(), ROWS).to(dtype)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    editor = make(name, module, output="features")
    editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    own = np.float64 if dtype == torch.float64 else np.float32
    assert editor.transform(ROWS.X).dtype == own
    proba = editor.predict_proba(ROWS.X)
    assert proba.dtype == np.float64
    assert editor.set_params(output="logits").transform(ROWS.X).dtype == np.float64
    assert editor.set_params(output="probabilities").transform(ROWS.X).dtype == np.float64
    exported = editor.to_skorch().predict_proba(ROWS.X)
    np.testing.assert_allclose(exported, proba, atol=1e-5)
    noted = any("edited, predicts and is exported in float32" in n for n in editor.report_.notes)
    assert noted == (dtype != torch.float64)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_a_half_network_is_edited_in_single_precision_from_its_own_numbers():
    module = trained(mlp(), ROWS).half()
    wanted = copy.deepcopy(module).float()(X).softmax(dim=1).detach()
    editor = fit(module, **UNTOUCHED)
    np.testing.assert_allclose(editor.predict_proba(ROWS.X), wanted, atol=1e-6)


class Autocast(nn.Module):
    """Runs in half precision whatever its parameters are, and returns it."""

    def __init__(self):
        super().__init__()
        self.inner = trained(mlp(), ROWS)

    def forward(self, X):
        with torch.autocast("cpu", torch.bfloat16):
            return self.inner(X)


@pytest.mark.parametrize("name", ["FairLRFTransformer", "GapFineTuner", "BlindPostProcessor"])
def test_scores_in_half_precision_are_read_in_single(name):
    editor = make(name, Autocast()).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    assert editor.predict_proba(ROWS.X).dtype == np.float64
    assert editor.transform(ROWS.X).dtype == np.float32


def test_a_forward_that_converts_rows_itself_is_told_what_to_do():
    class Converts(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp().bfloat16()

        def forward(self, X):
            return self.inner(X.bfloat16())

    with pytest.raises(NetworkError, match=r"got \(32, 6\) bfloat16.*rows nowhere in its forward"):
        fit(Converts())


def test_rows_reach_a_double_network_in_double_precision():
    module = trained(mlp(), ROWS).double()
    rows = ROWS.X.astype(np.float64) + 1e-9
    with torch.no_grad():
        wanted = module(torch.tensor(rows))
    editor = quick(module, **UNTOUCHED, output="logits")
    editor.fit(rows, ROWS.y, sensitive_features=ROWS.group)
    np.testing.assert_allclose(editor.transform(rows), wanted, rtol=0, atol=1e-13)


def test_a_skorch_net_in_double_precision_is_trained_on_rows_like_it():
    editor = fit(skorch_net(mlp().double()))
    assert next(editor.module_.parameters()).dtype == torch.float64
    assert editor.transform(ROWS.X).dtype == np.float64


# One row


class Squeezed(nn.Module):
    """Squeezes away the dimension of the rows where there is one."""

    def __init__(self, n_outputs, inside=False):
        super().__init__()
        self.body, self.head, self.inside = mlp(8), nn.Linear(8, n_outputs), inside

    def forward(self, X):
        h = self.body(X).relu()
        return self.head(h.squeeze()) if self.inside else self.head(h).squeeze()


SQUEEZED = [
    *((name, 2, False) for name in sorted(EDITORS)),
    *((name, 1, False) for name in ("FairLRFTransformer", "GapFineTuner", "BlindPostProcessor")),
    ("FairLRFTransformer", 2, True),
    ("FairLRFTransformer", 1, True),
]


@pytest.mark.parametrize(("name", "n_outputs", "inside"), SQUEEZED)
def test_a_network_that_squeezes_works_on_one_row(name, n_outputs, inside):
    """65 rows to edit on: a last batch of one."""
    rows = table(87)
    editor = make(name, Squeezed(n_outputs, inside), batch_size=32)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    proba = editor.predict_proba(rows.X)
    assert np.array_equal(editor.predict_proba(rows.X[:1]), proba[:1])
    assert editor.transform(rows.X[:1]).shape[0] == 1


@pytest.mark.parametrize("inside", [False, True], ids=["at the end", "inside"])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_a_last_block_of_one_row_is_read_as_the_others_are(n_outputs, inside):
    """The judge reads 1,024 rows at a time."""
    rows = table(1025)
    module = Squeezed(n_outputs, inside)
    with torch.no_grad():
        wanted = module(torch.tensor(rows.X))
    editor = quick(module, **UNTOUCHED, output="logits")
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    margin = wanted.reshape(-1) if n_outputs == 1 else wanted[:, 1] - wanted[:, 0]
    np.testing.assert_allclose(editor.decision_function(rows.X), margin, atol=1e-5)
    assert editor.to_module()(torch.tensor(rows.X[:1])).numel() == n_outputs


def normalised():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def test_no_batch_of_a_refit_has_one_row_alone():
    """A normalisation cannot be trained on one row: 87 rows leave 65 = 64 + 1 to edit on."""
    rows = table(87)
    editor = make("BlindPostProcessor", normalised(), joint="refit")
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert editor.rule_ is None or np.isfinite(editor.predict_proba(rows.X)).all()


class Drops(nn.Module):
    """Leaves out the rows whose first column is large."""

    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, X):
        return self.inner(X)[X[:, 0] < 50]


def test_rows_that_get_lost_are_noticed_in_every_block():
    editor = fit(Drops())
    rows = np.concatenate([ROWS.X] * 5)
    rows[520, 0] = 99
    with pytest.raises(NetworkError, match=r"scores of the shape \(511, 2\) for 512 rows"):
        editor.predict(rows)
    far = ROWS.X.copy()
    far[100, 0] = 99
    with pytest.raises(NetworkError, match=r"scores of the shape \(\d+, 2\) for \d+ rows"):
        quick(Drops()).fit(far, ROWS.y, sensitive_features=ROWS.group)
