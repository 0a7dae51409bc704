"""What every editor takes and gives, whatever its method."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import TensorDataset

from editors import CONFIGURATIONS, TEMPLATES, make
from fairsvd import JointStratifiedKFold, best_under_gap, fairness_scorer
from fairsvd.exceptions import FairsvdWarning, MissingSensitiveFeaturesWarning
from helpers import (
    IGNORE_SMALL_DATA,
    binary_net,
    convolutions,
    fingerprint,
    global_state,
    images,
    mlp,
    skorch_net,
    table,
    trained,
)

pytestmark = [
    # Many short fits: together they take long.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

GAP = "equalized_odds_difference"


@pytest.fixture(params=CONFIGURATIONS)
def name(request):
    return request.param


# Reading and writing are the template's: an editor adds nothing to them.
some_editors = pytest.mark.parametrize("name", TEMPLATES)


@pytest.fixture(scope="module")
def frame():
    """Numbers as a DataFrame, string labels, and the attribute beside them."""
    rows = table(120)
    X = pd.DataFrame(rows.X.astype(np.float64), columns=list("abcdef"))
    sex = pd.Series(np.array(["f", "m"])[rows.group], name="sex")
    return X, pd.Series(np.array(["no", "yes"])[rows.y], name="granted"), sex


@pytest.fixture(scope="module")
def network():
    """A network that is trained already, so that no fit trains one."""
    return trained(mlp(), table(120))


def search(name, editor, cv=None, **settings):
    """Search an editor behind a scaler."""
    grid = {f"editor__{key}": values for key, values in CONFIGURATIONS[name].grid.items()}
    return GridSearchCV(
        Pipeline([("scale", StandardScaler()), ("editor", editor)]),
        grid,
        scoring={"utility": "balanced_accuracy", "gap": fairness_scorer(GAP, **settings)},
        cv=JointStratifiedKFold(2, **settings) if cv is None else cv,
        refit=best_under_gap("utility", "gap", limit=0.5),
        error_score="raise",
    )


def check_search(found, X):
    for metric in ("utility", "gap"):
        assert np.isfinite(found.cv_results_[f"mean_test_{metric}"]).all()
    assert found.best_estimator_["editor"].groups_ == ["f", "m"]
    assert set(found.predict(X)) <= {"no", "yes"}
    assert found.predict_proba(X).shape == (len(X), 2)


def test_a_search_with_routing(routing, name, network, frame):
    X, y, sex = frame
    # That the groups reach the splitter is no matter of the editor: one fold is enough for most.
    cv = None if name in TEMPLATES else [(np.arange(60), np.arange(60, 120))]
    check_search(search(name, make(name, network), cv).fit(X, y, sensitive_features=sex), X)


@some_editors
def test_a_search_without_routing_by_the_index_of_y(name, network, frame):
    X, y, sex = frame
    labels = y.set_axis(pd.Index(sex, name="sex"))
    found = search(name, make(name, network, sensitive_columns="sex"), sensitive_columns="sex")
    check_search(found.fit(X, labels), X)


@some_editors
def test_by_a_column_of_x_and_by_the_step_s_name(name, network, frame):
    X, y, sex = frame
    editor = make(name, network, sensitive_columns="sex").fit(X.assign(sex=sex), y)
    assert editor.feature_names_in_.tolist() == list("abcdef")
    assert np.array_equal(editor.predict(X), editor.predict(X.assign(sex=sex)))
    pipe = Pipeline([("scale", StandardScaler()), ("editor", make(name, network))])
    assert pipe.fit(X, y, editor__sensitive_features=sex)["editor"].groups_ == ["f", "m"]


def test_forms_of_a_network(name):
    rows = table()
    networks = [trained(mlp(1), rows), skorch_net(mlp())]
    if name in TEMPLATES:
        net = skorch_net(mlp()).fit(rows.X, rows.y)
        one = binary_net(mlp(1)).fit(rows.X, rows.y.astype(np.float32))
        networks += [FrozenEstimator(net), FrozenEstimator(one), trained(mlp(), rows)]
    for network in networks:
        editor = make(name, network).fit(rows.X, rows.y, sensitive_features=rows.group)
        shares = editor.predict_proba(rows.X)
        assert np.array_equal(editor.classes_[shares.argmax(axis=1)], editor.predict(rows.X))
        with torch.no_grad():
            output = editor.to_module()(torch.tensor(rows.X))
        codes = output.argmax(1) if output.shape[1] > 1 else (output[:, 0] > 0).long()
        assert np.array_equal(editor.classes_[codes.numpy()], editor.predict(rows.X))


@pytest.mark.parametrize("kind", ["images", "three classes and groups"])
def test_forms_of_data(name, kind):
    rows = {
        "images": images,
        "three classes and groups": lambda: table(180, n_classes=3, n_groups=3),
    }[kind]()
    X = rows.X
    if kind != "images" and name in TEMPLATES:
        X = TensorDataset(torch.tensor(rows.X))
    n_classes = len(np.unique(rows.y))
    network = trained(mlp(n_classes) if rows.X.ndim == 2 else convolutions(n_classes), rows)
    before, state = fingerprint(network), global_state()
    editor = make(name, network).fit(X, rows.y, sensitive_features=rows.group)
    assert (fingerprint(network), global_state()) == (before, state)
    assert editor.predict_proba(X).shape == (len(rows.y), n_classes)
    assert len(editor.groups_) == len(np.unique(rows.group))


def test_equal_seeds_and_copies(name):
    rows = table()
    network = trained(mlp(), rows)
    fits = [
        make(name, network, n_jobs=jobs).fit(rows.X, rows.y, sensitive_features=rows.group)
        for jobs in (None, 2)
    ]
    assert fingerprint(fits[0].module_) == fingerprint(fits[1].module_)
    assert fits[0].history_.equals(fits[1].history_)
    again = pickle.loads(pickle.dumps(fits[0]))
    assert np.array_equal(again.predict_proba(rows.X), fits[0].predict_proba(rows.X))
    fresh = clone(fits[0])
    assert not hasattr(fresh, "module_")
    assert repr(fresh.get_params(deep=False)) == repr(fits[0].get_params(deep=False))


def test_without_sensitive_features_one_warning(name):
    rows = table()
    editor = make(name, trained(mlp(), rows))
    with pytest.warns() as caught:
        editor.fit(rows.X, rows.y)
    ours = [w.category for w in caught if issubclass(w.category, FairsvdWarning)]
    assert ours == [MissingSensitiveFeaturesWarning]
    assert editor.groups_ == []


@some_editors
def test_a_failed_fit_loses_nothing(name):
    rows = table()
    editor = make(name, trained(mlp(), rows))
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    before = editor.predict_proba(rows.X)
    with pytest.raises(ValueError, match="one group only"):
        editor.fit(rows.X, rows.y, sensitive_features=np.zeros(len(rows.y)))
    assert np.array_equal(editor.predict_proba(rows.X), before)


def test_weights_and_unknown_groups(name):
    rows = table()
    groups = rows.group.astype(object)
    groups[::5] = None
    weights = np.random.default_rng(0).integers(0, 4, size=len(rows.y))
    editor = make(name, trained(mlp(), rows), missing_group="keep")
    editor.fit(rows.X, rows.y, sensitive_features=groups, sample_weight=weights)
    notes = " ".join(editor.report_.notes)
    assert "sample_weight" in notes and "missing_group='keep'" in notes
    assert np.isfinite(editor.predict_proba(rows.X)).all()
    # Rows that count nothing are not among those of a group.
    assert editor.group_counts_.sum() == (weights[groups != None] > 0).sum()  # noqa: E711
