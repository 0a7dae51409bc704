"""The calls that users are shown: one search with metadata routing, and three ways without."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from fairsvd import FairLRFTransformer, JointStratifiedKFold, best_under_gap, fairness_scorer
from fairsvd.exceptions import FairsvdWarning, MissingSensitiveFeaturesWarning
from helpers import IGNORE_SMALL_DATA, mlp, skorch_net, table, trained

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

GAP = "equalized_odds_difference"
GRID = {"fairlrf__rank": [0.25, 1.0], "fairlrf__sparsity": [0.0, 0.1]}
FEW_STEPS = {"max_steps": 3, "gap_weight": 1.0, "random_state": 0}


@pytest.fixture(scope="module")
def data():
    """Numbers as a DataFrame, string labels, and the attribute beside them."""
    rows = table(120)
    X = pd.DataFrame(rows.X.astype(np.float64), columns=list("abcdef"))
    sex = pd.Series(np.array(["f", "m"])[rows.group], name="sex")
    return X, pd.Series(np.array(["no", "yes"])[rows.y], name="granted"), sex


def pipeline(**settings):
    editor = FairLRFTransformer(**FEW_STEPS, **settings)
    return Pipeline([("scale", StandardScaler()), ("fairlrf", editor)])


def search(pipe, **settings):
    """Make the search of the snippet; ``settings`` go to scorer and splitter alike."""
    scoring = {"utility": "balanced_accuracy", "gap": fairness_scorer(GAP, **settings)}
    return GridSearchCV(
        pipe,
        GRID,
        scoring=scoring,
        cv=JointStratifiedKFold(2, **settings),
        refit=best_under_gap("utility", "gap", limit=0.3),
        error_score="raise",
    )


def check_search(found, X, y):
    """Every fit and every score happened, with groups, and the result predicts without them."""
    for metric in ("utility", "gap"):
        assert np.isfinite(found.cv_results_[f"mean_test_{metric}"]).all()
    assert (found.cv_results_["mean_test_gap"] <= 0).all()
    assert (found.cv_results_["mean_test_gap"] < 0).any()
    editor = found.best_estimator_["fairlrf"]
    assert editor.groups_ == ["f", "m"]
    assert editor.group_counts_.sum() == len(y)
    assert set(found.predict(X)) == {"no", "yes"}
    assert found.predict_proba(X).shape == (len(X), 2)
    table = found.refit.explain(found.cv_results_)
    assert "chosen" in " ".join(map(str, table.loc[found.best_index_]))
    return editor


def test_the_snippet_with_routing(routing, data):
    X, y, sex = data
    with warnings.catch_warnings():
        warnings.simplefilter("error", MissingSensitiveFeaturesWarning)
        found = search(pipeline()).fit(X, y, sensitive_features=sex)
    editor = check_search(found, X, y)
    assert editor.sensitive_source_ == "sensitive_features"


@pytest.mark.parametrize("form", ["array", "list", "two columns"])
def test_the_snippet_with_other_forms_of_the_attribute(routing, data, form):
    X, y, sex = data
    age = pd.Series(np.arange(len(y)) // 2 % 2, name="old")
    given = {
        "array": sex.to_numpy(),
        "list": sex.tolist(),
        "two columns": pd.concat([sex, age], axis=1),
    }[form]
    found = search(pipeline())
    found.set_params(param_grid={"fairlrf__sparsity": [0.0]})
    found.fit(X.to_numpy(), y.to_numpy(), sensitive_features=given)
    groups = found.best_estimator_["fairlrf"].groups_
    assert groups == (
        [("f", 0), ("f", 1), ("m", 0), ("m", 1)] if form == "two columns" else ["f", "m"]
    )


def test_routing_is_not_the_pipelines_merit(routing, data):
    """Another classifier refuses the attribute; ours asks for it."""
    X, y, sex = data
    pipe = Pipeline([("scale", StandardScaler()), ("fairlrf", LogisticRegression())])
    with pytest.raises((TypeError, UnsetMetadataPassedError), match="sensitive_features"):
        pipe.fit(X, y, sensitive_features=sex)
    assert pipeline().fit(X, y, sensitive_features=sex)["fairlrf"].groups_ == ["f", "m"]


def test_cross_validation_with_routing(routing, data):
    X, y, sex = data
    found = cross_validate(
        pipeline(sparsity=0.0),
        X,
        y,
        scoring={"gap": fairness_scorer(GAP), "accuracy": "accuracy"},
        cv=JointStratifiedKFold(2),
        params={"sensitive_features": sex},
        error_score="raise",
    )
    assert np.isfinite(found["test_gap"]).all()


def test_with_routing_the_step_form_is_refused(routing, data):
    X, y, sex = data
    with pytest.raises(TypeError, match="fairlrf__sensitive_features"):
        pipeline().fit(X, y, fairlrf__sensitive_features=sex)


def test_without_routing_by_the_index_of_y(data):
    """It reaches editor, scorer and splitter through a scaler that drops X's names and index."""
    X, y, sex = data
    labels = y.set_axis(pd.Index(sex, name="sex"))
    assert not sklearn.get_config()["enable_metadata_routing"]
    found = search(pipeline(sensitive_columns="sex"), sensitive_columns="sex")
    found.fit(X, labels)
    editor = check_search(found, X, y)
    assert editor.sensitive_source_ == "index of y"
    assert editor.n_features_in_ == 6
    seen = editor.report_.groups["", "n"]
    assert seen.min() > 0


def test_without_routing_by_a_column_of_x(data):
    """Directly on a DataFrame; predictions accept X with the column or without it."""
    X, y, sex = data
    table = X.assign(sex=sex)
    pipe = Pipeline([("fairlrf", FairLRFTransformer(sensitive_columns="sex", **FEW_STEPS))])
    found = search(pipe, sensitive_columns="sex").fit(table, y)
    editor = check_search(found, table, y)
    assert editor.sensitive_source_ == "columns of X"
    assert editor.feature_names_in_.tolist() == list("abcdef")
    assert np.array_equal(found.predict_proba(table), found.predict_proba(X))
    shuffled = table[["sex", "a", "b", "c", "d", "e", "f"]]
    assert np.array_equal(found.predict_proba(shuffled), found.predict_proba(X))


def test_without_routing_by_a_position_in_an_array(data):
    X, y, sex = data
    array = np.column_stack([(sex == "m").astype(float), X.to_numpy()])
    editor = FairLRFTransformer(sensitive_columns=0, **FEW_STEPS).fit(array, y)
    assert (editor.sensitive_source_, editor.n_features_in_) == ("columns of X", 6)
    assert np.array_equal(editor.predict_proba(array), editor.predict_proba(array[:, 1:]))


def test_without_routing_by_an_index_level_of_x(data):
    X, y, sex = data
    indexed = X.set_axis(pd.MultiIndex.from_arrays([np.arange(120), sex], names=["id", "sex"]))
    pipe = Pipeline([("fairlrf", FairLRFTransformer(sensitive_columns="sex", **FEW_STEPS))])
    found = search(pipe, sensitive_columns="sex").fit(indexed, y)
    editor = check_search(found, indexed, y)
    assert editor.sensitive_source_ == "index of X"
    assert np.array_equal(found.predict(X), found.predict(indexed))


def test_without_routing_the_step_form_reaches_the_editor(data):
    X, y, sex = data
    pipe = pipeline().fit(X, y, fairlrf__sensitive_features=sex)
    assert pipe["fairlrf"].groups_ == ["f", "m"]
    assert pipe["fairlrf"].sensitive_source_ == "sensitive_features"
    assert set(pipe.predict(X)) == {"no", "yes"}
    grid = GridSearchCV(pipeline(), {"fairlrf__sparsity": [0.0]}, cv=2, error_score="raise")
    grid.fit(X, y, fairlrf__sensitive_features=sex)
    assert grid.best_estimator_["fairlrf"].group_counts_.sum() == 120
    # It reaches no scorer: that one says what to do.
    with pytest.raises(ValueError, match="sensitive_columns"):
        grid.set_params(scoring=fairness_scorer(GAP)).fit(X, y, fairlrf__sensitive_features=sex)


def test_the_three_ways_give_the_same_network(data):
    X, y, sex = data
    labels = y.set_axis(pd.Index(sex, name="sex"))
    step = pipeline().fit(X, y, fairlrf__sensitive_features=sex)
    index = pipeline(sensitive_columns="sex").fit(X, labels)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = pipeline().fit(X, y, sensitive_features=sex)
    wanted = step.predict_proba(X)
    assert np.array_equal(index.predict_proba(X), wanted)
    assert np.array_equal(routed.predict_proba(X), wanted)
    with pytest.warns(MissingSensitiveFeaturesWarning):
        alone = pipeline().fit(X, y)
    assert not np.array_equal(alone.predict_proba(X), wanted)


def test_a_trained_network_behind_its_own_scaler(routing, data):
    """The frozen scaler keeps the scale that the network knows, in every fold."""
    X, y, sex = data
    scaler = StandardScaler().fit(X)
    codes = (y == "yes").to_numpy().astype(int)
    scaled = table(120)._replace(X=scaler.transform(X).astype(np.float32), y=codes)
    net = skorch_net(trained(mlp(), scaled)).initialize()
    editor = FairLRFTransformer(FrozenEstimator(net), **FEW_STEPS)
    pipe = Pipeline([("scale", FrozenEstimator(scaler)), ("fairlrf", editor)])
    found = search(pipe).fit(X, y, sensitive_features=sex)
    check_search(found, X, y)
    assert found.best_estimator_["fairlrf"].report_.groups["accuracy", "before"].min() > 0.7


def test_as_a_transformer_before_another_classifier(data):
    X, y, sex = data
    pipe = make_pipeline(StandardScaler(), FairLRFTransformer(**FEW_STEPS), LogisticRegression())
    pipe.fit(X, y, fairlrftransformer__sensitive_features=sex)
    assert pipe[:-1].get_feature_names_out().shape == (64,)
    assert pipe[:-1].get_feature_names_out()[0] == "fairlrftransformer0"
    assert pipe.score(X, y) > 0.7


def test_without_scikit_learn_around_it(data):
    """A module goes in, an edited module comes out."""
    import torch
    from torch.utils.data import TensorDataset

    rows = table(120)
    dataset = TensorDataset(torch.tensor(rows.X), torch.tensor(rows.y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairsvdWarning)
        editor = FairLRFTransformer(trained(mlp(), rows), **FEW_STEPS)
        module = editor.fit(dataset, rows.y, sensitive_features=rows.group).to_module()
    with torch.no_grad():
        codes = module(torch.tensor(rows.X)).argmax(dim=1).numpy()
    assert np.array_equal(codes, editor.predict(rows.X))
