"""Saved Pipelines, samplers and generators."""

from __future__ import annotations

import re
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from imblearn.pipeline import make_pipeline as make_imblearn_pipeline
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from torch import nn

import fairsvd
from fairsvd import (
    CellSampler,
    FairLRFTransformerCV,
    GapFineTuner,
    HyperGenerator,
    JointStratifiedKFold,
    RandomPerturbation,
    best_under_gap,
)
from fairsvd.exceptions import ModelFileError, UntrustedError
from fairsvd.generative import CopulaGenerator, SmoothedGenerator, SmoteGenerator
from saved_files import toy_network, toy_rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.FairsvdWarning"),
]


def doubled(X):
    return X * 2


class Shift(TransformerMixin, BaseEstimator):
    """A user's transformer."""

    def __init__(self, by=1.0):
        self.by = by

    def fit(self, X, y=None):
        self.scaler_ = StandardScaler().fit(X)
        return self

    def transform(self, X):
        return (self.scaler_.transform(X) + self.by).astype(np.float32)


def tuner(network=None, **params):
    network = toy_network() if network is None else network
    return GapFineTuner(network, max_steps=1, random_state=0, **params)


def fitted(*steps, X=None, network=None):
    rows, y, groups = toy_rows()
    pipe = make_pipeline(*steps, tuner(network))
    return pipe.fit(rows if X is None else X, y, gapfinetuner__sensitive_features=groups)


def through(estimator, folder, **how):
    fairsvd.save(estimator, folder / "model", overwrite=True)
    return fairsvd.load(folder / "model", **how)


STEPS = {
    "scaler": lambda: StandardScaler(),
    "frozen": lambda: FrozenEstimator(StandardScaler().fit(toy_rows()[0])),
    "columns": lambda: ColumnTransformer(
        [
            ("a", FrozenEstimator(StandardScaler().fit(toy_rows()[0][:, :1])), [0]),
            ("b", "drop", []),
        ],
        remainder="passthrough",
    ),
    "passthrough": lambda: "passthrough",
    "function of numpy": lambda: FunctionTransformer(np.abs),
    "pipeline": lambda: make_pipeline(StandardScaler(), StandardScaler(with_mean=False)),
    "editor": lambda: RandomPerturbation(
        nn.Linear(2, 2), n_trials=1, output="logits", random_state=0
    ),
}


@pytest.mark.parametrize("make", STEPS.values(), ids=STEPS)
def test_pipelines_around_an_editor(make, tmp_path):
    X = toy_rows()[0]
    pipe = fitted(make())
    again = through(pipe, tmp_path)
    assert [name for name, _ in again.steps] == [name for name, _ in pipe.steps]
    assert np.array_equal(again.predict_proba(X), pipe.predict_proba(X))
    assert again[-1].report_.gaps.equals(pipe[-1].report_.gaps)


def test_frames_with_encoded_columns(tmp_path):
    X, _, codes = toy_rows()
    frame = pd.DataFrame({"age": X[:, 0], "job": np.where(codes, "a", "b")})
    columns = ColumnTransformer([("n", StandardScaler(), ["age"]), ("c", OneHotEncoder(), ["job"])])
    network = nn.Linear(3, 2)
    pipe = fitted(columns, X=frame, network=network)
    again = through(pipe, tmp_path)
    assert np.array_equal(again.predict_proba(frame), pipe.predict_proba(frame))
    assert list(again.feature_names_in_) == ["age", "job"]


@pytest.mark.parametrize("nested", ["frozen", "pipeline"])
def test_an_editor_deeper_in_a_pipeline(nested, tmp_path):
    X, y, groups = toy_rows()
    editor = tuner().fit(X, y, sensitive_features=groups)
    inner = FrozenEstimator(editor) if nested == "frozen" else make_pipeline("passthrough", editor)
    pipe = make_pipeline(FrozenEstimator(StandardScaler().fit(X)), inner)
    assert np.array_equal(through(pipe, tmp_path).predict_proba(X), pipe.predict_proba(X))


def test_metadata_routing_is_kept(tmp_path):
    X, y, groups = toy_rows()
    with sklearn.config_context(enable_metadata_routing=True):
        pipe = make_pipeline(StandardScaler(), tuner().set_fit_request(sensitive_features=True))
        pipe.fit(X, y, sensitive_features=groups)
        again = clone(through(pipe, tmp_path)).fit(X, y, sensitive_features=groups)
        assert np.array_equal(again.predict_proba(X), pipe.predict_proba(X))


def test_a_users_transformer_needs_trust(tmp_path):
    pipe = fitted(Shift(2.0))
    with pytest.raises(UntrustedError, match=re.escape(f"trusted=('{__name__}.Shift',)")):
        through(pipe, tmp_path)
    again = through(pipe, tmp_path, trusted=[Shift])
    assert np.array_equal(again.predict_proba(toy_rows()[0]), pipe.predict_proba(toy_rows()[0]))


def test_a_function_inside_a_step_of_scikit_learn_needs_trust(tmp_path):
    pipe = fitted(FunctionTransformer(doubled))
    with pytest.raises(UntrustedError, match=f"{__name__}.doubled"):
        through(pipe, tmp_path)
    again = through(pipe, tmp_path, trusted=f"{__name__}.doubled")
    assert np.array_equal(again.predict_proba(toy_rows()[0]), pipe.predict_proba(toy_rows()[0]))


UNSAVABLE = {
    "a lambda": lambda: FunctionTransformer(lambda X: X),
    "an editor in columns": lambda: ColumnTransformer([("e", tuner(), [0, 1])]),
}


@pytest.mark.parametrize("make", UNSAVABLE.values(), ids=UNSAVABLE)
def test_a_step_that_cannot_be_saved_is_named(make, tmp_path):
    X, y, groups = toy_rows()
    pipe = Pipeline([("before", make()), ("editor", tuner())])
    if isinstance(pipe[0], ColumnTransformer):
        pipe[-1].set_params(network=nn.Linear(3, 2))
    pipe.fit(X, y, editor__sensitive_features=groups)
    with pytest.raises(ModelFileError, match=r"step 'before'.*skops"):
        fairsvd.save(pipe, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_without_skops_the_error_says_what_to_install(tmp_path, monkeypatch):
    pipe = fitted(StandardScaler())
    fairsvd.save(pipe, tmp_path / "model")
    monkeypatch.setitem(sys.modules, "skops.io", None)
    for call in (
        lambda: fairsvd.save(pipe, tmp_path / "other"),
        lambda: fairsvd.load(tmp_path / "model"),
    ):
        with pytest.raises(ImportError, match=r"pip install fairsvd\[pipelines\]"):
            call()
    through(fitted("passthrough"), tmp_path)  # needs no skops


def test_what_is_around_no_editor_is_refused(tmp_path):
    X, y, _ = toy_rows()
    pipe = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    search = GridSearchCV(pipe, {}, cv=2).fit(X, y)
    for estimator, words in ((pipe, "Pipeline with one"), (search, "best_estimator_")):
        with pytest.raises(ModelFileError, match=words):
            fairsvd.save(estimator, tmp_path / "model")


def test_a_pipeline_that_resamples(tmp_path):
    X, y, codes = toy_rows(80)
    index = pd.Index(np.where(codes, "f", "m"), name="sex")
    frame, labels = pd.DataFrame(X, columns=["a", "b"], index=index), pd.Series(y, index=index)
    sampler = CellSampler(sensitive_columns="sex", random_state=0)
    pipe = make_imblearn_pipeline(sampler, tuner(sensitive_columns="sex")).fit(frame, labels)
    again = through(pipe, tmp_path)
    assert type(again) is type(pipe)
    assert np.array_equal(again.predict_proba(frame), pipe.predict_proba(frame))


def mixed_frame():
    n = 60
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "real": rng.normal(size=n),
            "text": rng.choice(["u", "v", "w"], n),
            "kind": pd.Categorical(rng.choice(["a", "b", "c"], n), ordered=True),
            "maybe": pd.Series(rng.integers(9, size=n)).astype("Int64").where(rng.random(n) < 0.9),
            "day": pd.date_range("2020", periods=n),
            "flag": rng.random(n) < 0.5,
        }
    )


TABLES = {"frame": mixed_frame, "array": lambda: toy_rows(60)[0]}
GENERATORS = {
    "copula": CopulaGenerator(random_state=0),
    "smoothed": SmoothedGenerator(random_state=0),
    "smote": SmoteGenerator(random_state=0),
    "hyper": HyperGenerator(n_steps=2, random_state=0),
    "hyper mixture": HyperGenerator("mixture", n_steps=1, random_state=0),
    "hyper vae": HyperGenerator("vae", n_steps=1, random_state=0),
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", GENERATORS)
def test_generators_and_samplers_draw_the_same_rows(name, table, tmp_path):
    X = TABLES[table]()
    _, y, groups = toy_rows(60)
    y = (y + np.arange(60) % 3 == 1).astype(int)
    generator = clone(GENERATORS[name]).fit(X, y, sensitive_features=groups)
    again = through(generator, tmp_path)
    equal_rows(again.sample(7), generator.sample(7))
    assert again.cells_ == generator.cells_
    sampler = CellSampler(generator=generator, random_state=0)
    sampler.fit_resample(X, y, sensitive_features=pd.Series(groups, name="sex"))
    loaded = through(sampler, tmp_path)
    assert loaded.sampling_strategy_ == sampler.sampling_strategy_
    pd.testing.assert_series_equal(loaded.sensitive_features_, sampler.sensitive_features_)
    equal_rows(loaded.generator_.sample(7), sampler.generator_.sample(7))
    if "hyper" in name and table == "array":
        estimates = again.estimate(X[:20]), generator.estimate(X[:20])
        assert all(np.array_equal(estimates[0][key], estimates[1][key]) for key in estimates[1])


def equal_rows(first, second):
    if isinstance(second, pd.DataFrame):
        pd.testing.assert_frame_equal(first, second, check_exact=True)
    else:
        assert np.array_equal(first, second)


def test_a_sampler_with_a_model_of_scikit_learn(tmp_path):
    X, y, groups = toy_rows(60)
    y = (y + np.arange(60) % 3 == 1).astype(int)
    sampler = CellSampler(generator=GaussianMixture(random_state=0), random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler.fit_resample(X, y, sensitive_features=groups)
    again = through(sampler, tmp_path)
    for cell, model in sampler.generator_.items():
        assert np.array_equal(again.generator_[cell].means_, model.means_)


def test_a_search_keeps_its_results(tmp_path):
    X, y, groups = toy_rows()
    search = FairLRFTransformerCV(
        toy_network(),
        ranks=[0.5, 1.0],
        sparsities=[0.0],
        cv=JointStratifiedKFold(2),
        refit=best_under_gap("utility", "gap", limit=0.5),
        max_steps=1,
        random_state=0,
    ).fit(X, y, sensitive_features=groups)
    again = through(search, tmp_path)
    assert again.refit.limit == 0.5
    assert again.best_params_ == search.best_params_
    assert np.array_equal(again.predict_proba(X), search.predict_proba(X))
    pd.testing.assert_frame_equal(again.path_, search.path_, check_exact=True)
    assert again.cv_results_.keys() == search.cv_results_.keys()
    for name, column in search.cv_results_.items():
        assert repr(again.cv_results_[name]) == repr(column)


def test_columns_and_names_of_a_frame(tmp_path):
    X, y, codes = toy_rows()
    frame = pd.DataFrame(X, columns=["a", "b"]).assign(sex=np.where(codes, "f", "m"))
    editor = tuner(sensitive_columns="sex").fit(frame, y)
    again = through(editor, tmp_path)
    assert list(again.feature_names_in_) == ["a", "b"]
    for rows in (frame, frame.drop(columns="sex")):
        assert np.array_equal(again.predict_proba(rows), editor.predict_proba(rows))
    with pytest.raises(ValueError, match="feature names"):
        again.predict(frame.rename(columns={"a": "c"}))
