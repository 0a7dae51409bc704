"""No class and no probability follows from NaN or infinity: the rows and the cause are named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from editors import EDITORS, make
from fairsvd import HyperGenerator, fairness_scorer
from fairsvd.arrays import as_batches
from fairsvd.base import Candidate
from helpers import IGNORE_SMALL_DATA, mlp, quick, table, trained

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]

ROWS = table()
METHODS = ("predict", "predict_proba", "decision_function", "transform")


def with_values(*places, dtype=np.float64):
    """The rows with values at (row, column)."""
    X = ROWS.X.astype(dtype)
    for row, column, value in places:
        X[row, column] = value
    return X


HUGE = with_values((7, 2, 1e300), (40, 0, -1e39))


def fitted(network=None, **settings):
    settings = {"criterion": "magnitude", "sparsity": 0.1, "refine": None, **settings}
    network = trained(mlp(), ROWS) if network is None else network
    return quick(network, **settings).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


def refuses(method, X):
    for form in (X, pd.DataFrame(X)):
        with pytest.raises(ValueError, match=r"float32.*1e\+300 in column 2 of row 7.*7, 40"):
            method(form)


@pytest.mark.parametrize("name", sorted(EDITORS))
def test_what_is_infinite_in_the_networks_precision_is_refused_by_every_editor(name):
    editor = make(name, mlp()).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    for method in METHODS:
        refuses(getattr(editor, method), HUGE)
    with pytest.raises(ValueError, match="infinite in float32"):
        editor.score(HUGE, ROWS.y)
    with pytest.raises(ValueError, match="infinite in float32"):
        make(name, mlp()).fit(HUGE, ROWS.y, sensitive_features=ROWS.group)


@pytest.mark.parametrize("end", [nn.Tanh(), nn.Sigmoid(), nn.ReLU()])
def test_so_it_is_where_the_network_would_hide_it(end):
    """tanh(inf) is 1."""
    module = nn.Sequential(nn.Linear(6, 8), end, nn.Linear(8, 2))
    editor = fitted(module)
    refuses(editor.predict, HUGE)


def test_a_double_network_takes_what_it_can_hold():
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    assert np.isfinite(fitted(module).predict_proba(HUGE)).all()


def test_a_scorer_does_not_score_what_cannot_be_predicted():
    editor, scorer = fitted(), fairness_scorer("demographic_parity_difference")
    with pytest.raises(ValueError, match="infinite in float32"):
        scorer(editor, HUGE, ROWS.y, sensitive_features=ROWS.group)


class Where(nn.Module):
    """Sets logits where the first column is large."""

    def __init__(self, value, columns=(0, 1), end=None):
        super().__init__()
        self.inner, self.value, self.columns = trained(mlp(), ROWS), value, list(columns)
        self.end = end

    def forward(self, X):
        logits = self.inner(X)
        far = torch.zeros_like(logits, dtype=torch.bool)
        far[:, self.columns] = X[:, :1] > 50
        logits = torch.where(far, self.value, logits)
        return logits if self.end is None else self.end(logits)


def softmax(logits):
    return logits.softmax(dim=1)


BAD = {
    "NaN": lambda: Where(torch.nan),
    "infinite": lambda: Where(torch.inf),
    "one infinite, of which only a softmax is NaN": lambda: Where(torch.inf, [1]),
    "a class that is masked": lambda: Where(-torch.inf, [0]),
    "NaN probabilities": lambda: Where(torch.inf, [1], softmax),
}


@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
@pytest.mark.parametrize("name", BAD)
def test_outputs_that_are_not_finite_are_refused_with_their_rows(name, method):
    editor = fitted(BAD[name]())
    X = with_values(*((row, 0, 99.0) for row in (3, 50, 51, 52, 53, 54, 119)), dtype=np.float32)
    message = r"logits on 7 of 120 rows of X \(row 3, 50, 51, 52, 53 and 2 more.*reach 99"
    with pytest.raises(ValueError, match=message):
        getattr(editor, method)(X)
    with pytest.raises(ValueError, match=r"NaN or infinite logits on \d of .* rows of X \(row 3"):
        fitted_on(BAD[name](), X)


def fitted_on(network, X):
    return quick(network).fit(X, ROWS.y, sensitive_features=ROWS.group)


def test_features_are_checked_too():
    """Infinite features whose weight is the cause of finite logits."""
    module = trained(mlp(), ROWS)
    editor = fitted(nn.Sequential(Spoiled(), module))
    X = with_values((5, 0, 99.0), dtype=np.float32)
    with pytest.raises(ValueError, match=r"infinite features on 1 of 120 rows.*row 5"):
        editor.transform(X)


class Spoiled(nn.Module):
    def forward(self, X):
        return torch.where(X[:, :1] > 50, torch.nan, X)


def test_spoiled_weights_are_named():
    editor = fitted()
    with torch.no_grad():
        editor.module_[2].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"120 of 120 rows.*'2\.weight' holds NaN"):
        editor.predict(ROWS.X)
    for export in (editor.to_module, editor.to_skorch):
        with pytest.raises(ValueError, match=r"cannot be exported.*NaN or infinite"):
            export()


def test_an_edit_that_diverged_on_some_rows_is_never_chosen():
    class Diverged(type(quick())):
        def _edit(self, task, rng):
            yield from super()._edit(task, rng)
            logits = task.data.untouched.clone()
            logits[0] = torch.nan
            verdict = task.data.judge(task.data.untouched)
            yield Candidate(
                {"4.bias": torch.full((2,), torch.nan)},
                {"stage": "diverged"},
                verdict=type(verdict)(**{**vars(verdict), "feasible": True, "value": 1e6}),
                logits=logits,
            )

    editor = quick(trained(mlp(), ROWS), Diverged, criterion="magnitude", sparsity=0.1, refine=None)
    editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    assert editor.history_["stage"].iloc[-1] == "diverged"
    assert np.isfinite(editor.predict_proba(ROWS.X)).all()


def test_rows_are_narrowed_only_where_they_stay_finite():
    batches = as_batches(HUGE)
    assert batches[:7].dtype == torch.float32
    with pytest.raises(ValueError, match="column 0 of row 40"):
        batches[np.array([39, 40])]
    with pytest.raises(ValueError, match="row 7"):
        batches.subset(np.array([3, 7])).held()
    assert batches.astype(torch.float64)[:].isfinite().all()


def test_a_density_that_cannot_be_computed_is_refused():
    X = ROWS.X.astype(np.float64)
    generator = HyperGenerator(n_steps=2, random_state=0)
    generator.fit(X, ROWS.y, sensitive_features=ROWS.group)
    assert np.isfinite(generator.score_samples(X)).all()
    with pytest.raises(ValueError, match=r"no density.*1 rows.*row 7"):
        generator.score_samples(with_values((7, 2, 1e300)))
