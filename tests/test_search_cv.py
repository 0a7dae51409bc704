"""FairLRFTransformerCV: what GridSearchCV finds, for one training a fold."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from fairsvd import (
    FairLRFTransformer,
    FairLRFTransformerCV,
    JointStratifiedKFold,
    best_under_gap,
    fairness_scorer,
)
from fairsvd.datasets import make_biased_classification
from helpers import (
    IGNORE_SMALL_DATA,
    Rows,
    convolutions,
    fingerprint,
    images,
    last_wins,
    mlp,
    table,
    trained,
)
from sklearn_checks import checks_of_edits
from work import count_work

pytestmark = [
    # Many short fits: together they take long.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(each) for each in IGNORE_SMALL_DATA),
]

work = pytest.fixture(count_work)

ROWS = table(120)
CURVATURE = {"criterion": "curvature", "refine": None}
QUICK = {"max_steps": 4, "random_state": 0, "utility": "balanced_accuracy"}
GRID = {"rank": [0.5, 1.0], "sparsity": [0.0, 0.1, 0.3]}


def search(rows=ROWS, network=None, **settings):
    defaults = {**QUICK, "ranks": [0.5, 1.0], "sparsities": [0.0, 0.1, 0.3], "cv": 2}
    editor = FairLRFTransformerCV(network, **{**defaults, **settings})
    return editor.fit(rows.X, rows.y, sensitive_features=rows.group)


def grid_search(rows=ROWS, network=None, grid=None, limit=0.05, **settings):
    """Search as scikit-learn does it, one fit for every setting and fold."""
    with sklearn.config_context(enable_metadata_routing=True):
        return GridSearchCV(
            FairLRFTransformer(network, **{**QUICK, **settings}),
            GRID if grid is None else grid,
            scoring={
                "utility": "balanced_accuracy",
                "gap": fairness_scorer("equalized_odds_difference"),
            },
            cv=JointStratifiedKFold(2),
            refit=best_under_gap("utility", "gap", limit=limit),
        ).fit(rows.X, rows.y, sensitive_features=rows.group)


def assert_same_search(found, wanted, rows=ROWS):
    times = {"mean_fit_time", "std_fit_time", "mean_score_time", "std_score_time"}
    assert set(found.cv_results_) == set(wanted.cv_results_)
    for key in set(wanted.cv_results_) - times:
        ours, theirs = found.cv_results_[key], wanted.cv_results_[key]
        if "_test_" in key and "rank" not in key:
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12, err_msg=key)
        else:
            assert list(ours) == list(theirs), key
    assert found.best_params_ == wanted.best_params_
    assert found.best_index_ == wanted.best_index_
    best = wanted.best_estimator_
    assert fingerprint(found.module_) == fingerprint(best.module_)
    assert np.array_equal(found.predict_proba(rows.X), best.predict_proba(rows.X))


def test_by_curvature_it_finds_what_grid_search_finds():
    rows, settings = table(120, seed=1), {**CURVATURE, "random_state": 1}
    assert_same_search(search(rows, **settings), grid_search(rows, **settings), rows)


def test_the_same_with_both_weights_in_the_grid_and_a_spectrum():
    settings = {"criterion": "curvature", "tolerance": 0.2}
    weights = {"gap_weights": [0.5, 1.0], "privileged_weights": [0.5, 2.0]}
    found = search(ranks=[0.5], sparsities=[0.1, 0.3], **weights, **settings)
    grid = {"rank": [0.5], "sparsity": [0.1, 0.3]}
    grid |= {"gap_weight": [0.5, 1.0], "privileged_weight": [0.5, 2.0]}
    assert_same_search(found, grid_search(grid=grid, limit=0.2, **settings))


def test_the_same_with_learned_masks():
    grid = {"rank": [0.5, 1.0], "sparsity": [0.05, 0.3], "gap_weight": [1.0]}
    found = search(gap_weights=[1.0], sparsities=[0.05, 0.3])
    assert_same_search(found, grid_search(grid=grid))


@pytest.mark.parametrize("kind", ["classes", "groups", "images", "module"])
def test_the_same_on_other_data(kind):
    rows, network = {
        "classes": (table(150, n_classes=3), mlp(3)),
        "groups": (table(240, n_groups=4), mlp()),
        "images": (images(48), convolutions()),
        "module": (ROWS, mlp()),
    }[kind]
    network = trained(network, rows)
    assert_same_search(
        search(rows, network, **CURVATURE), grid_search(rows, network, **CURVATURE), rows
    )


def test_one_training_one_decomposition_and_one_curvature_a_fold(work):
    search(**CURVATURE, privileged_weights=[0.3, 1.0])
    # Two folds and the final fit, of two hidden layers each.
    assert work["training"] == 3
    assert work["svd"] == 6
    assert work["curvature"] in (2, 3)  # the last one only if something is removed
    assert work["masks"] == 0


def test_one_training_of_masks_for_each_rank_and_weight_of_the_gap(work):
    search(gap_weights=[0.3, 1.0], sparsities=[0.05, 0.1, 0.3])
    assert work["masks"] == 2 * 2 * 2 + 1


class LastMasks(last_wins(FairLRFTransformer)):
    """Chooses its last edit, so that it shows its masks."""


def test_removal_by_curvature_is_nested():
    network, found = trained(mlp(), ROWS), []
    for sparsity in (0.05, 0.2, 0.5):
        settings = {**QUICK, **CURVATURE, "privileged_weight": 1.0, "sparsity": sparsity}
        editor = LastMasks(network, **settings)
        found.append(editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group).masks_)
    for few, many in pairwise(found):
        for layer in few:
            for side in "UV":
                assert not (~few[layer][side] & many[layer][side]).any()
            # U and V are ranked together: what goes may all be of one side.
            kept = [sum(int(masks[layer][side].sum()) for side in "UV") for masks in (few, many)]
            assert kept[0] > kept[1]


@pytest.mark.parametrize("n_jobs", [2])
def test_parallel_folds_find_the_same(n_jobs):
    one, two = search(**CURVATURE), search(**CURVATURE, n_jobs=n_jobs)
    for metric in ("utility", "gap"):
        key = f"mean_test_{metric}"
        assert np.array_equal(one.cv_results_[key], two.cv_results_[key])
    assert fingerprint(one.module_) == fingerprint(two.module_)


def test_memory_keeps_the_folds(tmp_path, work):
    first = search(**CURVATURE, memory=tmp_path)
    before = dict(work)
    again = search(**CURVATURE, memory=tmp_path)
    assert work == before
    assert fingerprint(first.module_) == fingerprint(again.module_)
    # And what it kept serves a search of scikit-learn's.
    assert_same_search(again, grid_search(**CURVATURE, memory=tmp_path))
    assert work == before


def test_the_path_tells_every_fold_and_setting():
    found = search(**CURVATURE)
    path = found.path_
    assert isinstance(path, pd.DataFrame)
    assert len(path) == 2 * 6
    means = path.groupby(["rank", "sparsity"])["test_utility"].mean()
    assert np.allclose(means.to_numpy(), found.cv_results_["mean_test_utility"])
    assert ((path["removed_fraction"] <= path["sparsity"]) | (path["sparsity"] == 0)).all()
    assert path["threshold"].between(0, 1).all()
    assert found.n_splits_ == 2
    assert found.best_score_ == found.cv_results_["mean_test_utility"][found.best_index_]
    assert found.ranks_ is not None
    assert found.masks_.keys() == found.ranks_.keys()


def test_a_rule_of_the_users_chooses():
    found = search(**CURVATURE, refit=lambda results: len(results["params"]) - 1)
    assert found.best_params_ == {"rank": 1.0, "sparsity": 0.3}


def test_the_default_rule_holds_the_mean_gap_to_the_tolerance():
    found = search(**CURVATURE, tolerance=0.3)
    rule = best_under_gap("utility", "gap", limit=0.3)
    assert found.best_index_ == rule(found.cv_results_)


@pytest.mark.parametrize(
    "cv",
    [2, JointStratifiedKFold(2), StratifiedKFold(2, shuffle=True, random_state=0), "iterable"],
    ids=str,
)
def test_every_kind_of_folds(cv):
    if cv == "iterable":
        cv = [(np.arange(60), np.arange(60, 120))]
    found = search(**CURVATURE, cv=cv)
    assert found.n_splits_ == (1 if isinstance(cv, list) else 2)
    assert np.isfinite(found.cv_results_["mean_test_gap"]).all()


def test_rows_without_a_group_are_in_no_fold():
    groups = ROWS.group.astype(object)
    groups[:20] = None
    editor = FairLRFTransformerCV(
        **QUICK, **CURVATURE, missing_group="ignore", cv=2, ranks=[1.0], sparsities=[0.1]
    ).fit(ROWS.X, ROWS.y, sensitive_features=groups)
    kept = ROWS._replace(X=ROWS.X[20:], y=ROWS.y[20:], group=ROWS.group[20:])
    wanted = search(kept, **CURVATURE, cv=2, ranks=[1.0], sparsities=[0.1])
    sizes = [len(kept.y), editor.group_counts_.sum()]
    assert sizes[0] == sizes[1]
    assert editor.cv_results_.keys() == wanted.cv_results_.keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ranks": []}, "ranks is empty"),
        ({"sparsities": []}, "sparsities is empty"),
        ({"gap_weights": []}, "gap_weights is empty"),
        ({"privileged_weights": []}, "privileged_weights is empty"),
        ({"privileged_weights": [-0.1]}, "privileged_weight"),
        ({"gap_weights": [-0.1]}, "gap_weight"),
        ({"ranks": [2.5]}, "rank"),
        ({"sparsities": [-1]}, "sparsity"),
        ({"cv": 1}, "n_splits"),
        ({"cv": 100}, "fewer splits"),
        ({"refit": "utility"}, "refit"),
    ],
)
def test_bad_parameters_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        search(**CURVATURE, **settings)


def test_a_failed_search_leaves_the_estimator_as_it_was():
    editor = search(**CURVATURE)
    before = {name: id(value) for name, value in vars(editor).items()}
    with pytest.raises(ValueError, match="one class"):
        editor.fit(ROWS.X, np.zeros(120), sensitive_features=ROWS.group)
    assert {name: id(value) for name, value in vars(editor).items()} == before


def test_a_copy_searches_the_same():
    editor = search(**CURVATURE)
    again = clone(editor).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    assert fingerprint(again.module_) == fingerprint(editor.module_)


def test_numpy_grids_give_plain_numbers():
    found = search(**CURVATURE, ranks=np.array([0.5, 1.0]), sparsities=np.linspace(0, 0.2, 3))
    assert all(type(value) is float for value in found.best_params_.values())


def test_it_finds_a_removal_that_helps():
    """Positive control: labels that depend on the group, and masks that may not follow it."""
    data = make_biased_classification(
        1200, n_features=6, base_rate_gap=0.5, label_bias=0.2, random_state=0
    )
    rows = Rows(data.data.astype(np.float32), data.target, data.groups)
    network = trained(mlp(width=16), rows, n_steps=120)
    settings = {"constraint": "demographic_parity", "max_steps": 60, "gap_weights": [1.0]}
    settings |= {"cv": 2, "ranks": [1.0], "refine": None, "tolerance": 0.1}
    found = search(rows, network, **{**settings, "sparsities": [0.0, 0.5]})
    untouched, learned = -found.cv_results_["mean_test_gap"]
    assert untouched > 0.3
    assert learned < untouched / 3
    assert found.best_params_ == {"rank": 1.0, "sparsity": 0.5, "gap_weight": 1.0}
    assert found.removed_fraction_ > 0


CHECKED = FairLRFTransformerCV(
    ranks=[1.0],
    sparsities=[0.2],
    privileged_weights=[1.0],
    cv=2,
    criterion="curvature",
    refine=None,
    random_state=0,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("networks")


@pytest.mark.parametrize(("estimator", "check"), checks_of_edits([CHECKED]))
@pytest.mark.filterwarnings("ignore::fairsvd.exceptions.MissingSensitiveFeaturesWarning")
def test_it_keeps_every_promise_of_an_estimator(estimator, check, folder):
    check(clone(estimator).set_params(memory=folder))
