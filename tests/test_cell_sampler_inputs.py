"""Where CellSampler finds the groups, and what containers it takes and gives back."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import DataConversionWarning

from cell_tasks import COUNTS, cells_of, small_task
from fairsvd import CellSampler
from fairsvd.exceptions import GroupError, MissingSensitiveFeaturesWarning

task = pytest.fixture(small_task)


# Where groups come from


def test_groups_in_a_column_stay_there_and_are_never_generated(task):
    X, y, sex = task
    X = X.assign(sex=sex, female=(sex == "F").astype(int), code=np.where(sex == "F", 7.5, -1.0))
    sampler = CellSampler(sensitive_columns="sex", random_state=0)
    X_res, y_res = sampler.fit_resample(X, y)
    assert sampler.sensitive_source_ == "columns of X"
    assert list(X_res.columns) == list(X.columns)
    assert X_res["sex"].tolist() == y_res.index.tolist()
    assert (X_res["female"] == (X_res["sex"] == "F")).all()
    assert X_res["code"].tolist() == np.where(X_res["sex"] == "F", 7.5, -1.0).tolist()
    # The same without a word about the column, as fairlearn's users pass it.
    X_res, y_res = CellSampler(random_state=0).fit_resample(X, y, sensitive_features=sex)
    assert X_res["sex"].tolist() == y_res.index.tolist()


def test_groups_by_position_in_an_array():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=100), rng.integers(0, 3, 100)])
    y = rng.integers(0, 2, 100)
    sampler = CellSampler(sensitive_columns=1, min_cell_size=1, random_state=0)
    X_res, y_res = sampler.fit_resample(X, y)
    assert X_res[:, 1].tolist() == y_res.index.tolist()
    assert y_res.index.name == "1"


def test_groups_in_the_index_of_y(task):
    X, y, sex = task
    y = pd.Series(y, index=pd.Index(sex, name="sex"), name="hired")
    sampler = CellSampler(sensitive_columns="sex", random_state=0)
    X_res, y_res = sampler.fit_resample(X, y)
    assert sampler.sensitive_source_ == "index of y"
    assert cells_of(y_res) == dict.fromkeys(COUNTS, 48)
    assert (y_res.name, y_res.index.name) == ("hired", "sex")
    assert X_res.index.equals(pd.RangeIndex(192))


def test_groups_in_the_index_of_x_stay_there(task):
    X, y, sex = task
    X = X.set_axis(pd.Index(sex, name="sex"), axis=0)
    X_res, y_res = CellSampler(sensitive_columns="sex", random_state=0).fit_resample(X, y)
    assert X_res.index.equals(y_res.index)
    assert X_res.index.name == "sex"


def test_several_attributes_are_intersected(task):
    X, y, sex = task
    groups = pd.DataFrame({"sex": sex, "old": np.arange(120) % 2 == 0})
    sampler = CellSampler(min_cell_size=1, random_state=0)
    _, y_res = sampler.fit_resample(X, y, sensitive_features=groups)
    assert y_res.index.names == ["sex", "old"]
    assert sampler.groups_ == [("F", False), ("F", True), ("M", False), ("M", True)]
    assert (1, ("F", True)) in sampler.sampling_strategy_
    assert set(cells_of(y_res).values()) == {max(sampler.cell_counts_.values())}
    pd.testing.assert_frame_equal(y_res.index.to_frame(index=False), sampler.sensitive_features_)


def test_missing_groups(task):
    X, y, sex = task
    sex = sex.astype(object)
    sex[:10] = None
    with pytest.raises(GroupError, match="missing values"):
        CellSampler().fit_resample(X, y, sensitive_features=sex)
    sampler = CellSampler(missing_group="ignore", min_cell_size=1, random_state=0)
    X_res, y_res = sampler.fit_resample(X, y, sensitive_features=sex)
    pd.testing.assert_frame_equal(X_res[:120], X)
    assert sampler.sensitive_features_[:10].isna().all()
    assert y_res.index.isna().sum() == 10
    sampler.set_params(mode="replace").fit_resample(X, y, sensitive_features=sex)
    assert not sampler.sensitive_features_.isna().any()
    sampler = CellSampler(missing_group="own_group", min_cell_size=1, random_state=0)
    _, y_res = sampler.fit_resample(X, y, sensitive_features=sex)
    assert sampler.groups_ == ["F", "M", "missing"]
    n = sampler.sampling_strategy_[0, "missing"]
    assert y_res.index.isna().sum() == 2 * n


def test_without_groups_the_classes_are_balanced(task):
    X, y, _ = task
    y = np.where(np.arange(120) < 30, 1, y * 0)
    for labels in (y, pd.Series(y, name="hired"), pd.DataFrame({"hired": y}), y.tolist()):
        column = pytest.warns(DataConversionWarning) if np.ndim(labels) == 2 else nullcontext()
        with pytest.warns(MissingSensitiveFeaturesWarning, match="classes alone"), column:
            X_res, y_res = (sampler := CellSampler(random_state=0)).fit_resample(X, labels)
        assert type(y_res) is type(labels)
        assert np.bincount(np.asarray(y_res).ravel()).tolist() == [90, 90]
        assert sampler.sampling_strategy_ == {0: 90, 1: 90}
        assert sampler.groups_ == []
        assert sampler.sensitive_features_ is None
        assert len(X_res) == 180


# Containers


def test_arrays_lists_and_label_types(task):
    X, y, sex = task
    numbers = X[["age", "score"]].to_numpy().astype(np.float32)
    X_res, y_res = CellSampler().fit_resample(numbers, y == 1, sensitive_features=list(sex))
    assert X_res.dtype == np.float32
    assert y_res.dtype == bool
    assert y_res.index.name == "sensitive_feature"
    rows = X.to_numpy().tolist()
    X_res, _ = CellSampler().fit_resample(rows, y, sensitive_features=sex)
    assert isinstance(X_res, list)
    assert X_res[:120] == rows
    assert {type(value) for value in X_res[-1]} == {int, float, str}


def test_categories_of_y_survive(task):
    X, y, sex = task
    y = pd.Series(pd.Categorical(np.where(y, "yes", "no"), categories=["yes", "no", "maybe"]))
    _, y_res = CellSampler().fit_resample(X, y, sensitive_features=sex)
    assert y_res.dtype == y.dtype


@pytest.mark.parametrize("generator", ["copula", "smoothed", "smote"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images(generator, dtype):
    rng = np.random.default_rng(0)
    X = (rng.random((60, 3, 4, 4)) * 255).astype(dtype)
    y, group = np.arange(60) % 2, np.where(np.arange(60) // 2 % 5, "M", "F")
    sampler = CellSampler(generator=generator, min_cell_size=2, random_state=0)
    X_res, y_res = sampler.fit_resample(X, y, sensitive_features=group)
    assert X_res.shape == (96, 3, 4, 4)
    assert X_res.dtype == dtype
    assert (X_res[:60] == X).all()
    assert X.min() <= X_res.min()
    assert X_res.max() <= X.max()
    assert set(cells_of(y_res).values()) == {24}


def test_an_index_without_groups_starts_anew(task):
    X, y, sex = task
    X = X.set_axis(np.arange(120) % 7, axis=0)
    sex = sex.set_axis(np.arange(120)[::-1], axis=0)  # rows are matched by position
    X_res, y_res = CellSampler().fit_resample(X, y, sensitive_features=sex)
    assert y_res.index[:120].tolist() == sex.tolist()
    assert X_res.index.equals(pd.RangeIndex(192))
    assert (X_res[:120].to_numpy() == X.to_numpy()).all()
