"""AIF360's datasets in and out, and its index convention."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from aif360.datasets import (
    BinaryLabelDataset,
    StandardDataset,
    StructuredDataset,
)
from aif360.datasets.multiclass_label_dataset import MulticlassLabelDataset
from aif360.sklearn import metrics as aif360_metrics
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

import fairsvd
from fairsvd import (
    JointStratifiedKFold,
    fairness_score,
    fairness_scorer,
    interop,
)
from fairsvd.interop import from_aif360, to_aif360
from helpers import IGNORE_SMALL_DATA, quick, table

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

EXACT = {"rtol": 0, "atol": 1e-12}


def frame(n_rows=200, labels=(0.0, 1.0), seed=0):
    """Rows with two protected attributes, a weight, and labels of any value."""
    rows = table(n_rows, n_classes=len(labels), seed=seed)
    data = pd.DataFrame(rows.X.astype(np.float64), columns=list("abcdef"))
    data["sex"], data["old"] = rows.group.astype(float), np.arange(n_rows) // 3 % 2.0
    data["w"] = np.linspace(0.5, 1.5, n_rows)
    return data.assign(paid=np.array(labels)[rows.y])


def binary(data=None, favorable=1.0, unfavorable=0.0, protected=("sex",), **settings):
    return BinaryLabelDataset(
        favorable_label=favorable,
        unfavorable_label=unfavorable,
        df=frame(labels=(unfavorable, favorable)) if data is None else data,
        label_names=["paid"],
        protected_attribute_names=list(protected),
        **{"instance_weights_name": "w", **settings},
    )


def test_nothing_is_lost_on_the_way_in():
    data = frame()
    data["score"] = np.linspace(0, 1, len(data))
    d = from_aif360(
        binary(data, protected=("sex", "old"), scores_names=["score"], metadata={"source": "here"})
    )
    columns = [*"abcdef", "sex", "old"]
    assert list(d.X.columns) == columns and d.X.index.tolist() == [str(k) for k in range(200)]
    np.testing.assert_array_equal(d.X, data[columns])
    np.testing.assert_array_equal(d.y, data["paid"])
    np.testing.assert_array_equal(d.sensitive_features, data[["sex", "old"]])
    np.testing.assert_array_equal(d.sample_weight, data["w"])
    np.testing.assert_array_equal(d.scores, data["score"])
    assert list(d.sensitive_features.columns) == ["sex", "old"] and d.y.name == "paid"
    assert (d.favorable_label, d.unfavorable_label, d.pos_label) == (1, 0, 1)
    assert d.privileged_values == {"sex": [1.0], "old": [1.0]}
    assert d.unprivileged_values == {"sex": [0.0], "old": [0.0]}
    assert d.metadata["source"] == "here"


def test_what_comes_out_is_a_copy():
    dataset = binary()
    before = dataset.copy(deepcopy=True)
    d = from_aif360(dataset)
    d.X.iloc[0, 0], d.y.iloc[0], d.sensitive_features.iloc[0] = 99, 99, 99
    d.sample_weight[0] = d.scores[0] = 99
    assert dataset == before


def test_one_protected_attribute_is_a_series():
    d = from_aif360(binary())
    assert isinstance(d.sensitive_features, pd.Series) and d.sensitive_features.name == "sex"


def test_an_attribute_that_is_no_feature_is_found_all_the_same():
    """AIF360 keeps protected attributes apart, so that they may be taken out of the features."""
    dataset = binary()
    dataset.features, dataset.feature_names = dataset.features[:, :6], list("abcdef")
    d = from_aif360(dataset)
    assert list(d.X.columns) == list("abcdef")
    np.testing.assert_array_equal(d.sensitive_features, frame()["sex"])


def test_instance_names_that_repeat_are_no_index():
    data = frame().set_index(pd.Index(np.arange(200) % 7))
    assert from_aif360(binary(data)).X.index.tolist() == list(range(200))


def test_a_standard_dataset_goes_in_too():
    data = frame().drop(columns="w").assign(sex=lambda f: f["sex"] + 3)
    dataset = StandardDataset(
        data,
        label_name="paid",
        favorable_classes=[0.0],
        protected_attribute_names=["sex"],
        privileged_classes=[[4.0]],
    )
    d = from_aif360(dataset)
    assert (d.pos_label, d.unfavorable_label) == (0, 1)
    assert (d.privileged_values, d.unprivileged_values) == ({"sex": [4.0]}, {"sex": [3.0]})
    np.testing.assert_array_equal(d.sensitive_features, data["sex"])


@pytest.mark.parametrize("labels", [(0.0, 1.0, 2.0), (3.0, 5.0, 9.0, 11.0)])
def test_more_than_two_labels(labels):
    data = frame(labels=labels)
    names = {"label_names": ["paid"], "protected_attribute_names": ["sex"]}
    plain = from_aif360(StructuredDataset(data, **names))
    np.testing.assert_array_equal(plain.y, data["paid"])
    assert (plain.favorable_label, plain.pos_label) == (None, None)
    several = MulticlassLabelDataset(
        favorable_label=list(labels[1:]), unfavorable_label=list(labels[:1]), df=data, **names
    )
    d = from_aif360(several)
    assert (d.favorable_label, d.pos_label) == (list(labels[1:]), None)
    model = LogisticRegression().fit(d.X, d.y)
    predicted = to_aif360(several, model)
    np.testing.assert_array_equal(predicted.labels[:, 0], model.predict(d.X))
    wanted = 1 - model.predict_proba(d.X)[:, 0]
    np.testing.assert_allclose(predicted.scores[:, 0], wanted, **EXACT)


def test_groups_by_name():
    maps = [{1.0: "Male", 0.0: "Female"}, {1.0: "Old", 0.0: "Young"}]
    dataset = binary(protected=("sex", "old"), metadata={"protected_attribute_maps": maps})
    d = from_aif360(dataset, group_names=True)
    data = frame()
    assert d.sensitive_features["sex"].tolist() == data["sex"].map(maps[0]).tolist()
    assert d.sensitive_features["old"].tolist() == data["old"].map(maps[1]).tolist()
    with pytest.raises(ValueError, match=r"names no \[0\.0, 1\.0\] of 'sex'"):
        from_aif360(binary(), group_names=True)
    dataset.metadata["protected_attribute_maps"] = [maps[0], {1.0: "Old"}]
    with pytest.raises(ValueError, match=r"names no \[0\.0\] of 'old'"):
        from_aif360(dataset, group_names=True)


@pytest.mark.parametrize("wrong", [frame(10), None, "adult", np.zeros((3, 2))])
def test_what_is_no_dataset_of_aif360(wrong):
    with pytest.raises(TypeError, match=f"dataset is a {type(wrong).__name__}: wanted an AIF360"):
        from_aif360(wrong)
    with pytest.raises(TypeError, match="wanted an AIF360"):
        to_aif360(wrong, LogisticRegression())


def test_several_columns_of_labels_are_refused():
    names = {"label_names": ["paid", "old"], "protected_attribute_names": ["sex"]}
    with pytest.raises(ValueError, match=r"label columns \['paid', 'old'\]"):
        from_aif360(StructuredDataset(frame(), **names))


@pytest.mark.parametrize(("favorable", "unfavorable"), [(1.0, 0.0), (0.0, 1.0), (1.0, 2.0)])
def test_predictions_stand_in_a_copy(favorable, unfavorable):
    dataset = binary(favorable=favorable, unfavorable=unfavorable)
    before = dataset.copy(deepcopy=True)
    d = from_aif360(dataset)
    model = LogisticRegression().fit(d.X, d.y)
    predicted = to_aif360(dataset, model)
    np.testing.assert_array_equal(predicted.labels, model.predict(d.X)[:, None])
    column = list(model.classes_).index(favorable)
    np.testing.assert_array_equal(predicted.scores, model.predict_proba(d.X)[:, [column]])
    assert ((predicted.scores > 0.5) == (predicted.labels == favorable)).all()
    with before.temporarily_ignore("labels", "scores"):
        assert before == predicted
    assert predicted.metadata["transformer"] == "BinaryLabelDataset.copy"
    assert predicted.metadata["previous"] == [dataset]
    predicted.features[:] = predicted.protected_attributes[:] = predicted.instance_weights[:] = 7
    assert dataset == before


def test_any_classifier_may_predict():
    dataset = binary()
    d = from_aif360(dataset)
    pipe = make_pipeline(StandardScaler(), LogisticRegression())
    search = GridSearchCV(pipe, {"logisticregression__C": [0.1, 1.0]}, cv=2)
    for model in (pipe, search):
        model.fit(d.X, d.y)
        np.testing.assert_array_equal(to_aif360(dataset, model).labels[:, 0], model.predict(d.X))
    # Fitted without names, as AIF360's own notebooks do: no warning about names.
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(dataset.features, dataset.labels.ravel())
    np.testing.assert_array_equal(
        to_aif360(dataset, model).scores, model.predict_proba(dataset.features)[:, [1]]
    )


def test_an_editor_predicts_at_its_threshold():
    d = from_aif360(binary(favorable=0.0, unfavorable=1.0))
    editor = quick(threshold=0.8, pos_label=d.pos_label)
    editor.fit(d.X, d.y, sensitive_features=d.sensitive_features)
    predicted = to_aif360(binary(favorable=0.0, unfavorable=1.0), editor)
    assert ((predicted.scores > 0.5) == (predicted.labels == 0)).all()
    assert set(predicted.labels.ravel()) == {0.0, 1.0}


def test_estimators_that_cannot_predict_a_dataset():
    dataset = binary()
    d = from_aif360(dataset)
    with pytest.raises(ValueError, match="LinearSVC without predict_proba"):
        to_aif360(dataset, LinearSVC().fit(d.X, d.y))
    with pytest.raises(ValueError, match=r"has the classes .*no.* and the dataset the labels"):
        to_aif360(dataset, LogisticRegression().fit(d.X, np.where(d.y == 1, "yes", "no")))
    names = {"label_names": ["paid"], "protected_attribute_names": ["sex"]}
    with pytest.raises(ValueError, match="StructuredDataset, which has no favourable label"):
        to_aif360(StructuredDataset(frame(), **names), LogisticRegression().fit(d.X, d.y))


# AIF360's scikit-learn interface: protected attributes stand in the index of X and y.


@pytest.fixture(scope="module")
def indexed():
    """X and y as its loaders give them: the attributes are levels of the index, and columns."""
    data = frame(240, labels=("no", "yes"))
    index = pd.MultiIndex.from_frame(data[["old", "sex"]])
    X = data.drop(columns=["w", "paid"]).set_index(index)
    return X, data["paid"].set_axis(index)


@pytest.mark.parametrize("columns", ["sex", ["sex", "old"]])
def test_an_editor_finds_its_groups_in_the_index(indexed, columns):
    X, y = indexed
    X = X.drop(columns=["sex", "old"])
    groups = X.index.to_frame(index=False)[columns]
    by_index = quick(sensitive_columns=columns).fit(X, y)
    by_hand = quick().fit(X.reset_index(drop=True), y, sensitive_features=groups)
    assert by_index.sensitive_source_ == "index of X"
    assert np.array_equal(by_index.predict_proba(X), by_hand.predict_proba(X))


def test_a_search_with_both_libraries_scorers(indexed):
    """Behind a scaler only the index of y is left; no routing is needed."""
    X, y = indexed
    both = {
        "ours": fairness_scorer("equal_opportunity_difference", sensitive_columns="sex"),
        "theirs": aif360_metrics.make_scorer(
            aif360_metrics.equal_opportunity_difference,
            prot_attr="sex",
            priv_group=1.0,
            pos_label="yes",
        ),
    }
    search = GridSearchCV(
        make_pipeline(StandardScaler(), quick(sensitive_columns="sex")),
        {"fairlrftransformer__sparsity": [0.0, 0.2]},
        scoring=both,
        refit="ours",
        cv=JointStratifiedKFold(3, sensitive_columns="sex"),
        error_score="raise",
    ).fit(X, y)
    found = search.cv_results_
    assert (found["mean_test_ours"] < 0).any()
    np.testing.assert_allclose(found["mean_test_ours"], found["mean_test_theirs"], **EXACT)
    assert search.best_estimator_[-1].sensitive_source_ == "index of y"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("demographic_parity_difference", "statistical_parity_difference"),
        ("equal_opportunity_difference", "equal_opportunity_difference"),
    ],
)
def test_metrics_of_aif360_sklearn_agree(indexed, ours, theirs):
    X, y = indexed
    model = LogisticRegression().fit(X, y)
    predicted = model.predict(X)
    sex = y.index.get_level_values("sex")
    value = getattr(aif360_metrics, theirs)(
        y, predicted, prot_attr="sex", priv_group=1.0, pos_label="yes"
    )
    found = fairness_score(ours, y, predicted, sensitive_features=sex, pos_label="yes")
    np.testing.assert_allclose(found, abs(value), **EXACT)
    assert found > 0.05
    scored = fairness_scorer(ours, sensitive_columns="sex", pos_label="yes")(model, X, y)
    np.testing.assert_allclose(scored, -abs(value), **EXACT)


def test_the_mitigator_is_imported_when_it_is_asked_for():
    with pytest.raises(AttributeError, match=r"fairsvd\.interop.* no attribute 'AIF360Mitigater'"):
        interop.AIF360Mitigater  # noqa: B018
    assert fairsvd.interop.AIF360Mitigator is interop.AIF360Mitigator
    assert set(interop.__all__) <= set(dir(interop))
