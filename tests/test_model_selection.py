"""Folds that hold every cell, and the choice under a gap limit."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    RandomizedSearchCV,
    StratifiedKFold,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fairsvd import JointStratifiedKFold, best_under_gap, fairness_scorer
from fairsvd.exceptions import ConstraintNotMetWarning, GroupError
from fairsvd.groups import encode_groups

SCORING = {"utility": "balanced_accuracy", "gap": fairness_scorer("equalized_odds_difference")}
GRID = {"logisticregression__C": [1e-4, 1.0]}


def pipeline():
    return make_pipeline(StandardScaler(), LogisticRegression())


def cell_counts(y, group):
    """Rows of every (label, group) cell, as a table with names."""
    return pd.crosstab(np.asarray(y), np.asarray(group))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("n_splits", [2, 3, 5])
def test_every_fold_holds_its_share_of_every_cell(n_splits, shuffle):
    rng = np.random.default_rng(0)
    y, group = rng.choice(["no", "yes"], 203, p=[0.8, 0.2]), rng.choice(list("abc"), 203)
    cv = JointStratifiedKFold(n_splits, shuffle=shuffle, random_state=0 if shuffle else None)
    folds = list(cv.split(np.zeros(203), y, sensitive_features=group))
    assert len(folds) == cv.get_n_splits() == n_splits
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(203))
    whole = cell_counts(y, group)
    for train, test in folds:
        assert sorted([*train, *test]) == list(range(203))
        share = cell_counts(y[test], group[test])
        assert (abs(share - whole / n_splits) < 1).all(axis=None)
        assert share.shape == whole.shape
        assert len(test) in (203 // n_splits, 203 // n_splits + 1)


def test_stratifying_on_the_label_alone_loses_cells():
    y, group = np.repeat([0, 1], 20), np.tile(np.repeat(["f", "m"], [5, 15]), 2)
    lost = [
        (cell_counts(y[test], group[test]).reindex(columns=["f", "m"], fill_value=0) == 0)
        for _, test in StratifiedKFold(5).split(y, y)
    ]
    assert any(table.any(axis=None) for table in lost)
    for _, test in JointStratifiedKFold(5).split(y, y, sensitive_features=group):
        assert (cell_counts(y[test], group[test]).to_numpy() == [[1, 3], [1, 3]]).all()


@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_any_cells_that_are_large_enough(seed, n_splits):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(n_splits, 9, size=(3, 2))
    cells = [(k, g) for k in range(3) for g in range(2) for _ in range(sizes[k, g])]
    y, group = rng.permutation(cells).T
    for train, test in JointStratifiedKFold(n_splits).split(y, y, sensitive_features=group):
        assert cell_counts(y[test], group[test]).to_numpy().all()
        assert not set(train) & set(test)


def test_shuffling_needs_a_seed_to_repeat_and_moves_rows():
    y, group = np.tile([0, 1], 30), np.repeat(["a", "b"], 30)

    def tests(**options):
        return [list(t) for _, t in JointStratifiedKFold(3, **options).split(y, y, group)]

    assert tests() == tests()
    assert tests(shuffle=True, random_state=1) == tests(shuffle=True, random_state=1)
    assert tests(shuffle=True, random_state=1) != tests(shuffle=True, random_state=2)
    assert tests(shuffle=True, random_state=1) != tests()


def test_order_of_the_sources():
    y = pd.Series([0, 1] * 6, index=pd.Index(["a", "b", "b", "a"] * 3, name="sex"))
    X = np.zeros((12, 1))
    by_columns = JointStratifiedKFold(3, sensitive_columns="sex")

    def tests(cv, **options):
        return [list(test) for _, test in cv.split(X, y, **options)]

    cells = tests(JointStratifiedKFold(3), sensitive_features=y.index)
    other = np.repeat([0, 1], 6)
    assert tests(JointStratifiedKFold(3), groups=list(y.index)) == cells
    assert tests(by_columns) == cells
    assert tests(by_columns, groups=other) == cells
    assert tests(by_columns, sensitive_features=other) != cells
    assert tests(by_columns, sensitive_features=other) == tests(
        JointStratifiedKFold(3), groups=other
    )


def test_rows_without_a_group_are_dealt_too():
    y = np.repeat([0, 1], 10)
    group = np.tile(["a", "b", "a", "b", None], 4)
    folds = list(JointStratifiedKFold(4).split(y, y, sensitive_features=group))
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(20))
    for _, test in folds:
        known = [k for k in test if group[k] is not None]
        assert (cell_counts(y[known], group[known]) > 0).all(axis=None)


def test_too_small_cells_are_named():
    y, group = np.array([0] * 8 + [1] * 6), np.array([0, 1] * 4 + [0] * 4 + [1] * 2)
    with pytest.raises(ValueError, match=r"n_splits=3 .*\(y=1, group=1\): 2 rows.*at most 2"):
        next(JointStratifiedKFold(3).split(y, y, sensitive_features=group))
    assert len(list(JointStratifiedKFold(2).split(y, y, sensitive_features=group))) == 2
    empty = np.array([0, 1] * 4 + [0] * 6)  # no row of y=1 in group 1: not a cell
    assert len(list(JointStratifiedKFold(3).split(y, y, sensitive_features=empty))) == 3


def test_what_cannot_be_split():
    y = np.tile([0, 1], 6)
    with pytest.raises(ValueError, match=r"no sensitive features.*sensitive_columns="):
        next(JointStratifiedKFold(2).split(y, y))
    with pytest.raises(ValueError, match="y is None"):
        next(JointStratifiedKFold(2).split(y, groups=y))
    with pytest.raises(ValueError, match=r"y has shape \(12,\), X has 10 rows"):
        next(JointStratifiedKFold(2).split(y[:10], y, sensitive_features=y[:10]))
    with pytest.raises(GroupError, match="X has 12 rows"):
        next(JointStratifiedKFold(2).split(y, y, sensitive_features=y[:10]))
    with pytest.raises(GroupError, match="index names of y"):
        next(JointStratifiedKFold(2, sensitive_columns="sex").split(y.reshape(-1, 1), y))


@pytest.mark.parametrize("n_splits", [1, 0, 2.5, "3", True])
def test_number_of_splits(n_splits):
    with pytest.raises(ValueError, match="n_splits="):
        JointStratifiedKFold(n_splits)


def test_five_folds_unless_told_otherwise():
    y = np.tile([0, 1], 10)
    assert JointStratifiedKFold().get_n_splits() == 5
    assert len(list(JointStratifiedKFold().split(y, y, groups=y))) == 5


def test_rows_are_dealt_in_turn_within_cells_that_come_in_order():
    """By hand: cells (0, a), (0, b), (1, a), (1, b) one after the other, dealt like cards."""
    y = np.array([1, 0, 1, 0, 0, 1, 0, 1])
    group = np.array(list("abbaabba"))
    # (0, a): rows 3 and 4; (0, b): 1 and 6; (1, a): 0 and 7; (1, b): 2 and 5.
    folds = [test.tolist() for _, test in JointStratifiedKFold(2).split(y, y, groups=group)]
    assert folds == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_the_smallest_cell_says_how_many_splits_there_may_be():
    y, group = np.repeat([0, 0, 1, 1], [9, 3, 9, 2]), np.repeat([0, 1, 0, 1], [9, 3, 9, 2])
    with pytest.raises(ValueError, match=r"rows of 2 .*3 rows.*2 rows.*at most 2\)"):
        next(JointStratifiedKFold(4).split(y, y, groups=group))
    assert len(list(JointStratifiedKFold(2).split(y, y, groups=group))) == 2


def test_splitter_shows_its_parameters_and_pickles():
    cv = JointStratifiedKFold(3, sensitive_columns="sex")
    assert "n_splits=3" in repr(cv)
    assert "sensitive_columns='sex'" in repr(cv)
    assert vars(pickle.loads(pickle.dumps(cv))) == vars(cv)
    assert cv.get_n_splits(None, None, None, sensitive_features=[1]) == 3


@pytest.fixture
def frame():
    """A table and labels whose index holds the attribute, so that index labels repeat."""
    rng = np.random.default_rng(20260)
    group = rng.integers(2, size=400)
    X = pd.DataFrame(rng.normal(size=(400, 3)), columns=list("abc"))
    X["b"] += 2 * group
    y = (X["a"] + 1.5 * group - 0.75 + 0.6 * rng.normal(size=400) > 0).astype(int)
    sex = pd.Index(np.where(group == 1, "m", "f"), name="sex")
    return X.set_axis(sex), y.set_axis(sex)


def check_folds(search):
    """Every candidate has a gap on every fold, and some gap is not 0."""
    gaps = np.array([search.cv_results_[f"split{k}_test_gap"] for k in range(search.n_splits_)])
    assert np.isfinite(gaps).all()
    assert (gaps <= 0).all()
    assert (gaps < 0).any()


@pytest.mark.parametrize("kind", [GridSearchCV, RandomizedSearchCV])
def test_search_with_routing(routing, frame, kind):
    X, y = frame
    options = {"n_iter": 2, "random_state": 0} if kind is RandomizedSearchCV else {}
    search = kind(
        pipeline(),
        GRID,
        scoring=SCORING,
        cv=JointStratifiedKFold(4),
        refit=best_under_gap("utility", "gap", limit=1.0),
        **options,
    )
    search.fit(X, y, sensitive_features=np.asarray(y.index))
    assert search.n_splits_ == 4
    check_folds(search)
    assert search.best_index_ == np.argmax(search.cv_results_["mean_test_utility"])
    assert len(search.predict(X)) == len(y)
    assert not sklearn.clone(search).refit.explain(search.cv_results_).empty


def test_search_without_routing_finds_the_attribute_in_the_index(frame):
    X, y = frame
    scoring = SCORING | {
        "gap": fairness_scorer("equalized_odds_difference", sensitive_columns="sex")
    }
    search = GridSearchCV(
        pipeline(),
        GRID,
        scoring=scoring,
        cv=JointStratifiedKFold(4, sensitive_columns="sex"),
        refit=best_under_gap("utility", "gap", limit=1.0),
    )
    check_folds(search.fit(X.to_numpy(), y))
    by_y = search.cv_results_["mean_test_gap"]
    check_folds(search.fit(X, y.to_numpy()))
    np.testing.assert_array_equal(search.cv_results_["mean_test_gap"], by_y)
    with sklearn.config_context(enable_metadata_routing=True):
        search.set_params(scoring=SCORING, cv=JointStratifiedKFold(4))
        search.fit(X, y, sensitive_features=y.index.to_numpy())
    np.testing.assert_array_equal(search.cv_results_["mean_test_gap"], by_y)


def test_cross_validate_passes_groups_without_routing(frame):
    X, y = frame
    X = X.assign(group=(y.index == "m").astype(float))
    scorer = fairness_scorer("demographic_parity_difference", sensitive_columns="group")
    scores = cross_validate(
        pipeline(), X, y, groups=y.index, cv=JointStratifiedKFold(3), scoring=scorer
    )["test_score"]
    assert scores.shape == (3,)
    assert (scores < -0.1).all()


def results(utility, gap, **more):
    """A dictionary like ``cv_results_``."""
    params = [{"rank": k} for k in range(len(utility))]
    return {
        "params": params,
        "mean_test_utility": np.array(utility),
        "mean_test_gap": np.array(gap),
        **more,
    }


REFIT = best_under_gap("utility", "gap", limit=0.05)


@pytest.mark.parametrize(
    ("utility", "gap", "best"),
    [
        ([0.9, 0.8, 0.7], [-0.2, -0.04, -0.01], 1),
        ([0.9, 0.8, 0.7], [-0.05, -0.04, -0.01], 0),  # the limit itself is allowed
        ([0.7, 0.8, 0.8], [0.0, -0.01, 0.0], 1),  # a tie: the earlier
        ([0.1 + 0.7, 0.8], [0.0, 0.0], 0),  # a tie but for rounding
        ([0.9, np.nan, 0.7], [np.nan, 0.0, -0.01], 2),
        ([np.nan, 0.5], [0.0, -0.05 - 1e-16], 1),
    ],
)
def test_choice(utility, gap, best):
    chosen = REFIT(results(utility, gap))
    assert chosen == best
    assert isinstance(chosen, int)


@pytest.mark.parametrize(
    ("utility", "gap", "best"),
    [
        ([0.9, 0.8, 0.7], [-0.5, -0.1, -0.2], 1),
        ([0.7, 0.9], [-0.1, -0.3], 0),  # a tie but for rounding: the earlier
        ([np.nan, 0.6], [-0.06, -0.9], 1),
    ],
)
def test_choice_when_none_is_feasible(utility, gap, best):
    with pytest.warns(ConstraintNotMetWarning, match=r"'gap' within limit=0\.05: chose number"):
        assert REFIT(results(utility, gap)) == best


def test_unusable_scores():
    with pytest.raises(ValueError, match=r"NaN for all 2 .*JointStratifiedKFold"):
        REFIT(results([0.5, 0.6], [np.nan, np.nan]))
    with pytest.raises(ValueError, match=r"\(1 without utility, 1 without gap\)"):
        REFIT(results([np.nan, 0.6], [-0.1, np.nan]))
    with pytest.raises(ValueError, match=r"'gap' has positive scores \(up to 0\.9\).*ratio"):
        REFIT(results([0.5, 0.6, 0.7], [0.8, 0.9, np.nan]))
    with pytest.raises(ValueError, match=r"no metric 'utility', it has \['accuracy', 'gap'\]"):
        REFIT({"params": [{}], "mean_test_accuracy": [1], "mean_test_gap": [0]})
    with pytest.raises(ValueError, match="no metric 'gap'"):
        REFIT.explain({"params": [{}], "mean_test_utility": [1]})


@pytest.mark.parametrize("name", ["demographic_parity_ratio", "ratio", "Ratio_sex", "gap-ratio"])
def test_names_of_ratios_are_refused(name):
    with pytest.raises(ValueError, match=f"gap='{name}' names a ratio"):
        best_under_gap("utility", name, 0.05)
    best_under_gap("utility_ratio", "generational_gap", 0.05)


@pytest.mark.parametrize("limit", [-0.1, 1.5, float("nan")])
def test_limit_is_a_difference_of_rates(limit):
    with pytest.raises(ValueError, match=r"limit=.*\[0, 1\]"):
        best_under_gap("utility", "gap", limit)


def test_refit_shows_itself_and_pickles():
    assert repr(REFIT) == "best_under_gap('utility', 'gap', limit=0.05)"
    assert pickle.loads(pickle.dumps(REFIT)) == REFIT


def test_explanation():
    table = REFIT.explain(results([0.9, 0.8, 0.8, 0.7, np.nan], [-0.25, -0.04, -0.04, 0.0, -0.02]))
    assert list(table.columns) == ["params", "utility", "gap", "feasible", "chosen", "reason"]
    assert table["params"].tolist() == [{"rank": k} for k in range(5)]
    assert table["gap"].tolist() == [0.25, 0.04, 0.04, 0.0, 0.02]
    assert table["feasible"].tolist() == [False, True, True, True, False]
    assert table["chosen"].tolist() == [False, True, False, False, False]
    assert table["reason"].tolist() == [
        "gap exceeds the limit by 0.2",
        "chosen: the largest utility within the limit",
        "utility is equal, an earlier candidate wins",
        "utility is smaller",
        "utility is missing (NaN)",
    ]


def test_the_limit_itself_is_feasible_in_the_explanation():
    table = REFIT.explain(results([0.9, 0.8, 0.7], [-0.05, -0.05, -0.06]))
    assert table["feasible"].tolist() == [True, True, False]
    assert table["reason"].tolist() == [
        "chosen: the largest utility within the limit",
        "utility is smaller",
        "gap exceeds the limit by 0.01",
    ]


@pytest.mark.parametrize("limit", [0, 0.0, 1, 1.0])
def test_both_ends_of_the_limit_are_taken(limit):
    refit = best_under_gap("utility", "gap", limit)
    assert refit(results([0.9, 0.8], [-1.0, 0.0])) == (0 if limit == 1 else 1)


def test_only_the_excess_counts_where_none_is_feasible():
    """.9 less .1 of excess, against .8 less .01: not less the gaps of .15 and .06 themselves."""
    with pytest.warns(ConstraintNotMetWarning, match=r"chose number 0 with 0\.1500"):
        assert REFIT(results([0.9, 0.7, np.nan], [-0.15, -0.06, -0.051])) == 0


def test_explanation_when_none_is_feasible():
    table = REFIT.explain(results([0.9, 0.8], [-0.25, -0.1]))
    assert table["chosen"].tolist() == [False, True]
    assert table["reason"].tolist() == [
        "gap exceeds the limit by 0.2; utility minus excess gap is not larger",
        "chosen: the largest utility minus excess gap: none is within the limit",
    ]


def test_a_search_without_attributes_says_why(frame):
    X, y = frame
    search = GridSearchCV(
        pipeline(), GRID, scoring=SCORING, cv=3, refit=best_under_gap("utility", "gap", 0.1)
    )
    with (
        pytest.warns(UserWarning, match="got no sensitive_features|non-finite"),
        pytest.raises(ValueError, match=r"NaN for all 2 candidates.*no sensitive features"),
    ):
        search.fit(X, y)


def test_groups_of_folds_are_those_of_the_whole(frame):
    _, y = frame
    whole = encode_groups(y.index, len(y))
    for train, test in JointStratifiedKFold(5).split(y, y, sensitive_features=y.index):
        for rows in (train, test):
            assert encode_groups(y.index[rows], len(rows)).labels == whole.labels
