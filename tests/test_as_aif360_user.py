"""What somebody does who has a notebook with AIF360 in front of them."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from aif360.algorithms import Transformer
from aif360.algorithms.postprocessing import EqOddsPostprocessing, RejectOptionClassification
from aif360.algorithms.preprocessing import Reweighing
from aif360.datasets import BinaryLabelDataset
from aif360.metrics import BinaryLabelDatasetMetric, ClassificationMetric
from fairlearn import metrics as fairlearn_metrics
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from fairsvd import (
    JointStratifiedKFold,
    best_under_gap,
    fairness_score,
    fairness_scorer,
    group_table,
)
from fairsvd.datasets import make_biased_classification
from fairsvd.exceptions import GroupError
from fairsvd.interop import AIF360Mitigator, from_aif360, resample_by_weight
from helpers import EXACT, IGNORE_SMALL_DATA, quick

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

PRIVILEGED, UNPRIVILEGED = [{"sex": 1.0}], [{"sex": 0.0}]
GROUPS = {"unprivileged_groups": UNPRIVILEGED, "privileged_groups": PRIVILEGED}


def make_dataset(favorable=1.0, unfavorable=0.0, n_rows=600):
    """Rows on which the privileged group gets the favourable label more often."""
    task = make_biased_classification(n_rows, n_features=6, random_state=0)
    data = pd.DataFrame(task.data, columns=list("abcdef"))
    data["sex"], data["old"] = 1.0 - task.groups, np.arange(n_rows) // 5 % 2.0
    data["paid"] = np.where(task.target == 1, favorable, unfavorable)
    return BinaryLabelDataset(
        favorable_label=favorable,
        unfavorable_label=unfavorable,
        df=data,
        label_names=["paid"],
        protected_attribute_names=["sex", "old"],
    )


@pytest.fixture(scope="module", params=[(1.0, 0.0), (0.0, 1.0), (1.0, 2.0)], ids=str)
def notebook(request):
    """The notebook, down to the predictions, for each place of the favourable label."""
    train, test = make_dataset(*request.param).split([0.6], shuffle=True, seed=1)
    # Without a tuning the gaps stay open, and there is something to compare.
    mitigator = AIF360Mitigator(quick(refine=None), **GROUPS)
    return train, test, mitigator, mitigator.fit(train).predict(test)


@pytest.fixture(scope="module")
def halves():
    return make_dataset().split([0.6], shuffle=True, seed=1)


def test_it_is_one_of_aif360_s_algorithms(notebook):
    train, test, mitigator, predicted = notebook
    assert isinstance(mitigator, Transformer)
    assert isinstance(predicted, BinaryLabelDataset)
    assert set(predicted.labels.ravel()) == {train.favorable_label, train.unfavorable_label}
    assert ((predicted.scores > 0.5) == (predicted.labels == train.favorable_label)).all()
    assert mitigator.editor_.groups_ == ["privileged", "unprivileged"]
    assert mitigator.editor_.pos_label == train.favorable_label
    assert predicted.metadata["transformer"] == "AIF360Mitigator.predict"
    assert predicted.metadata["previous"] == [test]
    assert predicted.metadata["params"]["unprivileged_groups"] == UNPRIVILEGED


def test_the_metrics_of_three_libraries_agree(notebook):
    _, test, mitigator, predicted = notebook
    metric = ClassificationMetric(test, predicted, UNPRIVILEGED, PRIVILEGED)
    d = from_aif360(test)
    y, found, sex = d.y, predicted.labels.ravel(), d.sensitive_features["sex"]

    def ours(name):
        return fairness_score(
            f"{name}_difference", y, found, sensitive_features=sex, pos_label=d.pos_label
        )

    theirs = {
        "demographic_parity": metric.statistical_parity_difference(),
        "equal_opportunity": metric.equal_opportunity_difference(),
        "average_odds": metric.average_abs_odds_difference(),
        "signed_average_odds": metric.average_odds_difference(),
        "equalized_odds": metric.equalized_odds_difference(),
        "accuracy_parity": metric.error_rate_difference(),
    }
    for name, value in theirs.items():
        np.testing.assert_allclose(ours(name), abs(value), err_msg=name, **EXACT)
    assert sum(abs(value) > 0.01 for value in theirs.values()) >= 3
    binary = (y == d.pos_label).to_numpy().astype(int), (found == d.pos_label).astype(int)
    for name in ("demographic_parity", "equal_opportunity", "equalized_odds"):
        value = getattr(fairlearn_metrics, f"{name}_difference")(*binary, sensitive_features=sex)
        np.testing.assert_allclose(ours(name), value, err_msg=name, **EXACT)
    np.testing.assert_allclose(metric.accuracy(), accuracy_score(y, found), **EXACT)
    np.testing.assert_allclose(metric.accuracy(), mitigator.editor_.score(d.X, y), **EXACT)
    scorer = fairness_scorer("equal_opportunity_difference", pos_label=d.pos_label)
    value = scorer(mitigator.editor_, d.X, y, sensitive_features=sex)
    np.testing.assert_allclose(-value, abs(theirs["equal_opportunity"]), **EXACT)


@pytest.mark.parametrize("seed", range(5))
def test_they_agree_on_any_predictions(seed):
    dataset = make_dataset()
    predicted = dataset.copy()
    stays = np.random.default_rng(seed).random(dataset.labels.shape) < [[0.8]]
    predicted.labels = np.where(stays, dataset.labels, 1 - dataset.labels)
    metric = ClassificationMetric(dataset, predicted, UNPRIVILEGED, PRIVILEGED)
    d = from_aif360(dataset)
    for name, theirs in {
        "demographic_parity_difference": metric.statistical_parity_difference(),
        "demographic_parity_ratio": metric.disparate_impact(),
        "equal_opportunity_difference": metric.equal_opportunity_difference(),
        "average_odds_difference": metric.average_abs_odds_difference(),
        "signed_average_odds_difference": metric.average_odds_difference(),
        "equalized_odds_difference": metric.equalized_odds_difference(),
        "accuracy_parity_difference": metric.error_rate_difference(),
    }.items():
        value = min(theirs, 1 / theirs) if name.endswith("ratio") else abs(theirs)
        sex = d.sensitive_features["sex"]
        ours = fairness_score(name, d.y, predicted.labels.ravel(), sensitive_features=sex)
        np.testing.assert_allclose(ours, value, err_msg=name, **EXACT)
        assert value > 0


def test_the_table_of_groups_has_aif360_s_rates(notebook):
    _, test, _, predicted = notebook
    metric = ClassificationMetric(test, predicted, UNPRIVILEGED, PRIVILEGED)
    d = from_aif360(test)
    found = group_table(
        d.y,
        predicted.labels.ravel(),
        sensitive_features=d.sensitive_features["sex"],
        pos_label=d.pos_label,
    )
    for group, privileged in ((0.0, False), (1.0, True)):
        wanted = [
            metric.num_instances(privileged=privileged),
            metric.selection_rate(privileged=privileged),
            metric.true_positive_rate(privileged=privileged),
            metric.false_positive_rate(privileged=privileged),
            metric.accuracy(privileged=privileged),
        ]
        columns = ["n", "selection_rate", "tpr", "fpr", "accuracy"]
        np.testing.assert_allclose(found.loc[group, columns].to_numpy(float), wanted, **EXACT)


def test_the_mitigator_is_the_editor_on_the_dataset_s_rows(halves):
    train, _ = halves
    predicted = AIF360Mitigator(quick()).fit_predict(train)
    assert predicted.metadata["transformer"] == "AIF360Mitigator.fit_predict"
    d = from_aif360(train)
    editor = quick(pos_label=1.0).fit(d.X, d.y, sensitive_features=d.sensitive_features)
    assert editor.groups_ == [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]
    np.testing.assert_array_equal(predicted.labels[:, 0], editor.predict(d.X))
    np.testing.assert_array_equal(predicted.scores, editor.predict_proba(d.X)[:, [1]])


def test_nothing_that_came_in_is_changed(halves):
    train, test = halves
    before = copy.deepcopy((train, test))
    editor = quick()
    parameters = dict(editor.get_params())
    AIF360Mitigator(editor, **GROUPS).fit(train).predict(test)
    assert editor.get_params() == parameters and not hasattr(editor, "module_")
    assert (train, test) == before


def test_a_fitted_mitigator_and_its_predictions_travel(halves):
    train, test = halves
    mitigator = AIF360Mitigator(quick(), **GROUPS).fit(train)
    predicted = mitigator.predict(test)
    again = pickle.loads(pickle.dumps(mitigator)).predict(test)
    np.testing.assert_array_equal(again.scores, predicted.scores)
    assert predicted.copy(deepcopy=True) == predicted  # its metadata hold the editor


def test_a_column_that_the_editor_names_is_taken_out(halves):
    train, test = halves
    mitigator = AIF360Mitigator(quick(sensitive_columns=["sex", "old"]), **GROUPS).fit(train)
    assert mitigator.editor_.feature_names_in_.tolist() == list("abcdef")
    flipped = test.copy(deepcopy=True)
    flipped.features[:, test.feature_names.index("sex")] *= -1
    assert (mitigator.predict(flipped).labels == mitigator.predict(test).labels).all()


def test_a_pipeline_and_a_search_stand_in_for_an_editor(halves):
    train, test = halves
    pipe = Pipeline([("scale", StandardScaler()), ("editor", quick())])
    search = GridSearchCV(
        pipe,
        {"editor__sparsity": [0.0, 0.2]},
        scoring={"utility": "accuracy", "gap": fairness_scorer("demographic_parity_difference")},
        cv=JointStratifiedKFold(2),
        refit=best_under_gap("utility", "gap", limit=0.9),
        error_score="raise",
    )
    for estimator in (pipe, search):
        mitigator = AIF360Mitigator(estimator, **GROUPS).fit(train)
        found = getattr(mitigator.editor_, "best_estimator_", mitigator.editor_)["editor"]
        assert found.groups_ == ["privileged", "unprivileged"] and found.pos_label == 1.0
        assert (
            ClassificationMetric(test, mitigator.predict(test), UNPRIVILEGED, PRIVILEGED).accuracy()
            > 0.6
        )


def test_a_label_that_the_editor_names_is_kept(halves):
    mitigator = AIF360Mitigator(quick(pos_label=0.0), **GROUPS).fit(halves[0])
    assert mitigator.editor_.pos_label == 0.0


def test_rows_of_neither_group_are_the_editor_s_to_refuse_or_ignore(halves):
    train, _ = halves
    groups = {
        "unprivileged_groups": [{"sex": 0, "old": 0}, {"sex": 0, "old": 1}],
        "privileged_groups": [{"sex": 1, "old": 1}],
    }
    with pytest.raises(GroupError, match="missing values"):
        AIF360Mitigator(quick(), **groups).fit(train)
    editor = AIF360Mitigator(quick(missing_group="ignore"), **groups).fit(train).editor_
    sex, old = train.protected_attributes.T
    assert editor.groups_ == ["privileged", "unprivileged"]
    assert editor.group_counts_.tolist() == [((sex == 1) & (old == 1)).sum(), (sex == 0).sum()]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"unprivileged_groups": UNPRIVILEGED}, "privileged_groups=None: give both or neither"),
        ({"privileged_groups": PRIVILEGED}, "unprivileged_groups=None and .* both or neither"),
        (
            {"unprivileged_groups": [{"race": 0}], "privileged_groups": [{"race": 1}]},
            r"groups use the attributes \['race'\], .* protected attributes are \['sex', 'old'\]",
        ),
        (
            {"unprivileged_groups": [{"old": 0}], "privileged_groups": PRIVILEGED},
            r"have \d+ rows in common",
        ),
    ],
)
def test_groups_that_cannot_be_used(halves, groups, message):
    mitigator = AIF360Mitigator(quick(), **groups)
    with pytest.raises(ValueError, match=message):
        mitigator.fit(halves[0])


def test_what_does_not_go(halves):
    with pytest.raises(NotFittedError, match="call fit or fit_predict"):
        AIF360Mitigator(quick()).predict(halves[0])
    with pytest.raises(NotImplementedError, match="predict"):
        AIF360Mitigator(quick()).transform(halves[0])
    with pytest.raises(TypeError, match="wanted an AIF360 dataset"):
        AIF360Mitigator(quick()).fit(from_aif360(halves[0]).X)


# AIF360's own algorithms before and after.


def test_reweighing_before(halves):
    """The weights reach the editor: by them label and group are independent."""
    train, test = halves
    weighted = Reweighing(UNPRIVILEGED, PRIVILEGED).fit_transform(train)
    before = BinaryLabelDatasetMetric(train, UNPRIVILEGED, PRIVILEGED).mean_difference()
    assert before < -0.1
    mitigator = AIF360Mitigator(quick(), random_state=0, **GROUPS).fit(weighted)
    d = from_aif360(weighted)
    names = np.where(d.sensitive_features["sex"] == 1, "privileged", "unprivileged")
    again = quick(pos_label=1.0).fit(
        d.X, d.y, sensitive_features=names, sample_weight=d.sample_weight
    )
    np.testing.assert_array_equal(
        mitigator.predict(test).scores[:, 0],
        again.predict_proba(from_aif360(test).X)[:, 1],
    )
    shares = [
        np.average(d.y[names == name], weights=d.sample_weight[names == name])
        for name in ("privileged", "unprivileged")
    ]
    assert abs(shares[0] - shares[1]) < 0.01
    assert any("sample_weight" in note for note in mitigator.editor_.report_.notes)


def test_a_pipeline_gets_rows_drawn_by_weight(halves):
    train, _ = halves
    weighted = Reweighing(UNPRIVILEGED, PRIVILEGED).fit_transform(train)
    pipeline = make_pipeline(StandardScaler(), quick(pos_label=1.0))
    mitigator = AIF360Mitigator(pipeline, random_state=0, **GROUPS).fit(weighted)
    d = from_aif360(weighted)
    names = np.where(d.sensitive_features["sex"] == 1, "privileged", "unprivileged")
    X, y, groups = resample_by_weight(d.X, d.y, names, d.sample_weight, random_state=0)
    assert abs(y[groups == "privileged"].mean() - y[groups == "unprivileged"].mean()) < 0.01
    with sklearn.config_context(enable_metadata_routing=True):
        again = clone(pipeline).fit(X, y, sensitive_features=groups)
    np.testing.assert_array_equal(mitigator.editor_.predict(d.X), again.predict(d.X))


def test_equal_weights_change_nothing(halves):
    train, test = halves
    heavier = train.copy(deepcopy=True)
    heavier.instance_weights *= 2.5
    found = [
        AIF360Mitigator(quick(), **GROUPS).fit(rows).predict(test) for rows in (train, heavier)
    ]
    np.testing.assert_array_equal(found[0].scores, found[1].scores)


def test_equalized_odds_postprocessing_after(halves):
    train, test = halves
    mitigator = AIF360Mitigator(quick(), **GROUPS).fit(train)
    fitted, predicted = mitigator.predict(train), mitigator.predict(test)
    after = EqOddsPostprocessing(UNPRIVILEGED, PRIVILEGED, seed=0).fit(train, fitted)
    fixed = after.predict(predicted)
    assert fixed.metadata["previous"] == [predicted]
    assert set(fixed.labels.ravel()) <= {0.0, 1.0}
    mixed = ClassificationMetric(train, after.predict(fitted), UNPRIVILEGED, PRIVILEGED)
    plain = ClassificationMetric(train, fitted, UNPRIVILEGED, PRIVILEGED)
    assert mixed.average_abs_odds_difference() < plain.average_abs_odds_difference()


def test_reject_option_classification_after(halves):
    train, test = halves
    mitigator = AIF360Mitigator(quick(), **GROUPS).fit(train)
    after = RejectOptionClassification(
        UNPRIVILEGED,
        PRIVILEGED,
        num_class_thresh=20,
        num_ROC_margin=20,
        metric_name="Statistical parity difference",
    ).fit(train, mitigator.predict(train))
    fixed = after.predict(mitigator.predict(train))
    metric = ClassificationMetric(train, fixed, UNPRIVILEGED, PRIVILEGED)
    plain = ClassificationMetric(train, mitigator.predict(train), UNPRIVILEGED, PRIVILEGED)
    assert plain.statistical_parity_difference() < -0.1
    assert abs(metric.statistical_parity_difference()) <= 0.05 + 1e-9
    assert set(after.predict(mitigator.predict(test)).labels.ravel()) == {0.0, 1.0}


def test_a_pipeline_made_by_hand_works_on_the_same_rows(halves):
    """Whoever leaves AIF360 keeps the numbers: the step-by-step way gives the same labels."""
    train, test = halves
    d, new = from_aif360(train), from_aif360(test)
    sex = d.sensitive_features["sex"].map({1.0: "privileged", 0.0: "unprivileged"})
    pipe = make_pipeline(StandardScaler(), quick(pos_label=d.pos_label))
    pipe.fit(d.X, d.y, fairlrftransformer__sensitive_features=sex)
    inside = AIF360Mitigator(make_pipeline(StandardScaler(), quick()), **GROUPS).fit(train)
    np.testing.assert_array_equal(inside.predict(test).labels[:, 0], pipe.predict(new.X))
