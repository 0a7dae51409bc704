"""Measures by group against scikit-learn, fairlearn and AIF360; their errors and intervals."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import config_context
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from fairsvd import (
    GapLimit,
    MinimumRate,
    NoHarm,
    best_under_gap,
    fairness_score,
    fairness_scorer,
    group_table,
)
from fairsvd.metrics import MEASURES, Compared, disparity_table
from fairsvd.objective import estimate_spread

EXACT = {"rtol": 0, "atol": 1e-12}

# Each measure by scikit-learn, of labels, predictions, probabilities of 1, and weights.
SKLEARN = {
    "selection_rate": lambda y, p, s, w: np.average(p, weights=w),
    "tpr": lambda y, p, s, w: sk.recall_score(y, p, sample_weight=w),
    "fpr": lambda y, p, s, w: 1 - sk.recall_score(y, p, pos_label=0, sample_weight=w),
    "tnr": lambda y, p, s, w: sk.recall_score(y, p, pos_label=0, sample_weight=w),
    "fnr": lambda y, p, s, w: 1 - sk.recall_score(y, p, sample_weight=w),
    "ppv": lambda y, p, s, w: sk.precision_score(y, p, sample_weight=w),
    "npv": lambda y, p, s, w: sk.precision_score(y, p, pos_label=0, sample_weight=w),
    "false_discovery_rate": lambda y, p, s, w: 1 - sk.precision_score(y, p, sample_weight=w),
    "false_omission_rate": lambda y, p, s, w: (
        1 - sk.precision_score(y, p, pos_label=0, sample_weight=w)
    ),
    "accuracy": lambda y, p, s, w: sk.accuracy_score(y, p, sample_weight=w),
    "f1": lambda y, p, s, w: sk.f1_score(y, p, sample_weight=w),
    "balanced_accuracy": lambda y, p, s, w: sk.balanced_accuracy_score(y, p, sample_weight=w),
    "auc": lambda y, p, s, w: sk.roc_auc_score(y, s, sample_weight=w),
    "average_precision": lambda y, p, s, w: sk.average_precision_score(y, s, sample_weight=w),
    "brier": lambda y, p, s, w: sk.brier_score_loss(y, s, sample_weight=w),
    "log_loss": lambda y, p, s, w: sk.log_loss(y, s, sample_weight=w),
}


def draw(n=600, n_groups=3, seed=0):
    """Labels, predictions, rounded probabilities (with ties), groups and weights."""
    rng = np.random.default_rng(seed)
    group = rng.integers(n_groups, size=n)
    score = rng.random(n).round(2)
    y = (rng.random(n) < score * (0.6 + 0.2 * group)).astype(int)
    return y, (score > 0.4).astype(int), score, group, rng.integers(4, size=n).astype(float)


def test_every_measure_has_a_reference_or_its_own_test():
    own = {"calibration_error", "calibration_slope", "calibration_intercept"}
    assert set(MEASURES) == set(SKLEARN) | own


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", SKLEARN)
def test_values_are_scikit_learns(name, weighted):
    y, predicted, score, group, weights = draw()
    w = weights if weighted else np.ones(len(y))
    options = {"y_score": score, "sample_weight": w if weighted else None}
    table = group_table(y, predicted, group, measures=name, **options)
    own = [group == g for g in range(3)]
    expected = np.array([SKLEARN[name](y[k], predicted[k], score[k], w[k]) for k in own])
    np.testing.assert_allclose(table[name], expected, **EXACT)
    assert np.ptp(expected) > 0.01
    best = MEASURES[name].best
    for kind, value in {
        "difference": np.ptp(expected),
        "ratio": expected.min() / expected.max(),
        "worst": expected[np.abs(expected - best).argmax()],
    }.items():
        found = fairness_score(f"{name}_{kind}", y, predicted, sensitive_features=group, **options)
        assert found == pytest.approx(value, abs=1e-12), kind


@pytest.mark.parametrize("name", ["auc", "average_precision", "ppv", "f1", "brier"])
def test_several_classes_are_means_of_one_versus_the_rest(name):
    rng = np.random.default_rng(1)
    y, score = rng.integers(3, size=400), rng.dirichlet([1, 1, 1], size=400)
    score[np.arange(400), y] += 0.5
    score /= score.sum(axis=1, keepdims=True)
    predicted, truth = score.argmax(axis=1), np.eye(3)[y]
    expected = {
        "auc": lambda: sk.roc_auc_score(y, score, multi_class="ovr"),
        "average_precision": lambda: sk.average_precision_score(truth, score),
        "ppv": lambda: sk.precision_score(y, predicted, average="macro"),
        "f1": lambda: sk.f1_score(y, predicted, average="macro"),
        "brier": lambda: ((score - truth) ** 2).sum(axis=1).mean() / 2,
    }[name]()
    table = group_table(y, predicted, np.zeros(400), y_score=score, measures=name)
    assert table[name].iloc[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["difference", "ratio"])
@pytest.mark.parametrize("name", ["tnr", "ppv", "f1", "auc", "balanced_accuracy"])
def test_between_groups_as_fairlearn(name, kind):
    from fairlearn.metrics import MetricFrame

    y, predicted, score, group, _ = draw(seed=3)
    labels = {"auc": score}.get(name, predicted)
    frame = MetricFrame(
        metrics=lambda y, p: SKLEARN[name](y, p, p, np.ones(len(y))),
        y_true=y,
        y_pred=labels,
        sensitive_features=group,
    )
    found = fairness_score(f"{name}_{kind}", y, predicted, sensitive_features=group, y_score=score)
    assert found == pytest.approx(getattr(frame, kind)(), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("false_omission_rate", "false_omission_rate_difference"),
        ("false_discovery_rate", "false_discovery_rate_difference"),
        ("fnr", "false_negative_rate_difference"),
        ("fpr", "false_positive_rate_difference"),
        ("ppv", "positive_predictive_value"),
        ("npv", "negative_predictive_value"),
    ],
)
def test_differences_as_aif360(name, theirs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its optional dependencies, on import
        from aif360.datasets import BinaryLabelDataset
        from aif360.metrics import ClassificationMetric

    y, predicted, _, group, _ = draw(n_groups=2, seed=5)
    frame = pd.DataFrame({"y": y, "sex": group}, dtype=float)
    options = {"label_names": ["y"], "protected_attribute_names": ["sex"]}
    truth, guess = (
        BinaryLabelDataset(df=frame.assign(y=labels), **options) for labels in (y, predicted)
    )
    metric = ClassificationMetric(truth, guess, [{"sex": 0}], [{"sex": 1}])
    ask = getattr(metric, theirs)
    expected = abs(ask() if theirs.endswith("difference") else ask(True) - ask(False))
    found = fairness_score(f"{name}_difference", y, predicted, sensitive_features=group)
    assert found == pytest.approx(expected, abs=1e-12)
    assert expected > 0.01


def test_calibration_line_is_a_logistic_regression_on_the_logit():
    y, _, score, _, weights = draw(seed=2)
    score = score.clip(0.01, 0.99)
    logit = np.log(score / (1 - score))
    line = LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cholesky")
    line.fit(logit[:, None], y, sample_weight=weights)
    names = ["calibration_slope", "calibration_intercept"]
    table = group_table(
        y, None, np.zeros(600), y_score=score, measures=names, sample_weight=weights
    )
    assert table[names[0]].iloc[0] == pytest.approx(line.coef_.item(), abs=1e-8)
    # Calibration in the large: with this shift the mean probability is the rate of positives.
    shifted = 1 / (1 + np.exp(-logit - table[names[1]].iloc[0]))
    assert np.average(shifted, weights=weights) == pytest.approx(np.average(y, weights=weights))
    apart = group_table([0, 0, 1, 1], None, [0] * 4, y_score=[0.1, 0.2, 0.8, 0.9], measures=names)
    assert np.isnan(apart[names[0]].iloc[0])  # labels that are apart have no slope


def test_calibration_error_of_calibrated_scores_is_nearly_0_and_of_others_what_they_miss():
    rng = np.random.default_rng(0)
    score = rng.random(20_000)
    y = (rng.random(20_000) < score).astype(int)

    def error(scores, rows=slice(None)):
        table = group_table(
            y[rows], None, y[rows] * 0, y_score=scores[rows], measures="calibration_error"
        )
        return table["calibration_error"].iloc[0]

    assert error(score) < 0.01
    assert error(0.8 * score) == pytest.approx(0.2 * score.mean(), abs=0.01)
    # In bins of 10 rows the plain error of calibrated scores is that of noise, whose share that one
    # step of the correction leaves is (2 - sqrt 2).
    small = [error(score, slice(k, k + 150)) for k in range(0, 20_000, 150)]
    plain = np.sqrt(2 / np.pi) * np.pi / 8 / np.sqrt(10)
    assert np.mean(small) == pytest.approx((2 - np.sqrt(2)) * plain, rel=0.1)
    order = rng.permutation(20_000)
    coarse = score.round(1)
    assert error(coarse[order], slice(None)) != error(coarse)  # labels were not permuted with it
    again = group_table(y[order], None, y * 0, y_score=coarse[order], measures="calibration_error")
    assert again["calibration_error"].iloc[0] == pytest.approx(error(coarse), abs=1e-12)


def test_weights_count_rows_and_0_removes_them():
    y, predicted, score, group, weights = draw(seed=4)
    names = [name for name in MEASURES if name != "calibration_error"]
    options = {"measures": names, "level": None}
    weighted = group_table(y, predicted, group, y_score=score, sample_weight=weights, **options)
    rows = np.repeat(np.arange(len(y)), weights.astype(int))
    repeated = group_table(y[rows], predicted[rows], group[rows], y_score=score[rows], **options)
    np.testing.assert_allclose(weighted[names], repeated[names], rtol=0, atol=1e-9)
    for kind in ("equalized_odds_difference", "demographic_parity_ratio"):
        both = [
            fairness_score(kind, y, predicted, sensitive_features=group, sample_weight=weights),
            fairness_score(kind, y[rows], predicted[rows], sensitive_features=group[rows]),
        ]
        assert both[0] == pytest.approx(both[1], abs=1e-12)


@pytest.mark.parametrize("name", MEASURES)
def test_standard_errors_are_those_of_resampled_rows(name):
    """The half-width of an interval is about 1.96 deviations of the value over resamples."""
    y, predicted, score, _, _ = draw(n=800, seed=6)
    score = score.clip(0.02, 0.98)
    rng = np.random.default_rng(0)
    one = np.zeros(800)

    def value(rows):
        table = group_table(y[rows], predicted[rows], one, y_score=score[rows], measures=name)
        return table[name].iloc[0]

    drawn = [value(rng.integers(800, size=800)) for _ in range(150)]
    table = group_table(y, predicted, one, y_score=score, measures=name, level=0.95)
    width = (table[f"{name}_high"] - table[f"{name}_low"]).iloc[0] / 2
    assert width == pytest.approx(1.96 * np.std(drawn), rel=0.2)
    assert table[f"{name}_low"].iloc[0] < table[name].iloc[0] < table[f"{name}_high"].iloc[0]


def test_interval_of_a_rate_is_wilsons():
    y, predicted = np.ones(40, dtype=int), np.r_[np.ones(30), np.zeros(10)].astype(int)
    table = group_table(y, predicted, [0] * 40, measures="tpr", level=0.9, labels=[0, 1])
    expected = stats.binomtest(30, 40).proportion_ci(0.9, method="wilson")
    assert tuple(table[["tpr_low", "tpr_high"]].iloc[0]) == pytest.approx(tuple(expected))


def test_margins_and_intersections_stand_in_one_table_and_small_cells_are_named():
    y, predicted, score, _, _ = draw(seed=7)
    rng = np.random.default_rng(7)
    sensitive = pd.DataFrame({"sex": rng.choice(["m", "f"], 600), "old": rng.random(600) < 0.1})
    table = group_table(
        y, predicted, sensitive, y_score=score, measures=["tpr", "auc"], level=0.95, margins=True
    )
    assert table.index.names == ["sex", "old"]
    assert table.index.tolist() == [
        *[("f", "(all)"), ("m", "(all)"), ("(all)", False), ("(all)", True)],
        *[("f", False), ("f", True), ("m", False), ("m", True)],
    ]
    alone = group_table(y, predicted, sensitive["sex"], y_score=score, measures=["tpr", "auc"])
    np.testing.assert_allclose(table[["tpr", "auc"]].iloc[:2], alone[["tpr", "auc"]], **EXACT)
    both = group_table(y, predicted, sensitive, y_score=score, measures="auc")
    np.testing.assert_allclose(table["auc"].iloc[4:], both["auc"], **EXACT)
    old = (sensitive["sex"] == "f") & sensitive["old"]
    n = [int((old & (y == k)).sum()) for k in (0, 1)]
    assert table.loc[("f", True), "few_rows"] == f"label 0: {n[0]}, label 1: {n[1]}"
    assert table.loc[("f", "(all)"), "few_rows"] == ""
    gaps = disparity_table(y, predicted, sensitive, measures="tpr", margins=True)
    assert gaps.index.tolist() == [("sex", "tpr"), ("old", "tpr"), ("sex x old", "tpr")]
    for name, groups in (("sex", sensitive["sex"]), ("sex x old", sensitive)):
        own = fairness_score("tpr_difference", y, predicted, sensitive_features=groups)
        assert gaps.loc[(name, "tpr"), "difference"] == own


@pytest.mark.parametrize(("n_rows", "few"), [(99, "label 0: 99, label 1: 99"), (100, "")])
def test_a_rate_of_a_hundred_rows_is_not_of_few(n_rows, few):
    y = np.repeat([0, 1, 0, 1], [n_rows, n_rows, 200, 200])
    group = np.repeat(["f", "m"], [2 * n_rows, 400])
    assert group_table(y, y, group, level=0.9)["few_rows"].tolist() == [few, ""]


def test_a_ratio_is_bounded_with_half_a_row_more_of_either_outcome():
    """3 of 20 rows and 30 of 60 are found: the logarithm's error is that of the moved shares."""
    hits, rows = np.array([3.0, 30.0]), np.array([20.0, 60.0])
    compared = Compared({"tpr": (hits / rows, np.zeros(2), rows)}, {}, ["f", "m"], 1)
    low, high = compared.bound_ratio("tpr", np.random.default_rng(0), 0.9)
    shares = (hits + 0.5) / (rows + 1)
    errors = np.sqrt((1 - shares) / shares / (rows + 1))
    spread = estimate_spread(np.log(shares), errors, np.random.default_rng(0), level=0.9)
    assert (low, high) == pytest.approx((np.exp(-spread.high), np.exp(-spread.low)))
    assert low < 0.3 < high


def test_disparity_table_says_what_fairness_score_says():
    y, predicted, score, group, _ = draw(seed=8)
    table = disparity_table(y, predicted, group, y_score=score)
    assert list(table.index) == list(MEASURES)
    for name, row in table.iterrows():
        for kind in ("difference", "ratio", "worst"):
            if kind == "ratio" and not MEASURES[name].positive:
                assert np.isnan(row[["ratio", "ratio_low", "ratio_high"]].astype(float)).all()
                continue
            own = fairness_score(
                f"{name}_{kind}", y, predicted, sensitive_features=group, y_score=score
            )
            assert row[kind] == pytest.approx(own, abs=1e-12)
            bounds = row[[f"{kind}_low", f"{kind}_high"]]
            assert bounds.iloc[0] <= own <= bounds.iloc[1], (name, kind)
        own = group == row["worst_group"]
        if name in SKLEARN:
            worst = SKLEARN[name](y[own], predicted[own], score[own], np.ones(own.sum()))
            assert row["worst"] == pytest.approx(worst, abs=1e-12)


def test_intervals_of_integer_weights_are_those_of_fewer_rows():
    """Rows that all weigh 4 tell as much as rows that weigh 1, not as four times as many."""
    y, predicted, score, group, _ = draw(seed=9)
    options = {"y_score": score, "measures": ["ppv", "auc", "log_loss"]}
    plain = disparity_table(y, predicted, group, **options)
    heavy = disparity_table(y, predicted, group, sample_weight=np.full(600, 4.0), **options)
    columns = [c for c in plain if c != "worst_group"]
    np.testing.assert_allclose(heavy[columns].astype(float), plain[columns].astype(float), 1e-9)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_identities_between_measures(data):
    """Complements, and F1 as the harmonic mean of PPV and TPR."""
    counts = data.draw(st.lists(st.integers(0, 30), min_size=8, max_size=8))
    cells = np.array([(g, t, p) for g in (0, 1) for t in (0, 1) for p in (0, 1)])
    rows = np.repeat(cells, counts, axis=0)
    if not len(rows):
        return
    group, y, predicted = rows.T
    t = group_table(y, predicted, group, measures="all", labels=[0, 1])
    for one, other in (("tpr", "fnr"), ("tnr", "fpr"), ("npv", "false_omission_rate")):
        np.testing.assert_allclose(t[one] + t[other], np.where(t[one].isna(), np.nan, 1))
    both = t[(t["tpr"] > 0) & (t["ppv"] > 0)]
    np.testing.assert_allclose(both["f1"], 2 / (1 / both["tpr"] + 1 / both["ppv"]))
    np.testing.assert_allclose(t["balanced_accuracy"], t[["tpr", "tnr"]].mean(axis=1), **EXACT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measures": "tprr"}, r"measures='tprr'.*Did you mean 'tpr'"),
        ({"measures": "auc"}, "y_score=None: the measure 'auc'"),
        ({"y_pred": None, "measures": "tpr"}, "y_pred=None: the measure 'tpr'"),
        ({"y_score": [0.5, 2.0, 0.1, 0.2]}, "from 0.1 to 2.*probabilities in"),
        ({"y_score": [0.5, np.nan, 0.1, 0.2]}, "probabilities in"),
        ({"y_score": [0.5]}, r"shape \(1,\) for 4 rows of 2 classes"),
        ({"sample_weight": [1, 1, 1]}, r"sample_weight has shape \(3,\)"),
        ({"sample_weight": [1, 1, -1, 0]}, "at least 0"),
        ({"sample_weight": [0, 0, 0, 0]}, "zero in every row"),
        ({"level": 95}, "level=95"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    call = {"y_pred": [0, 1, 0, 1], **options}
    with pytest.raises(ValueError, match=message):
        group_table([0, 1, 1, 0], call.pop("y_pred"), ["a", "a", "b", "b"], **call)


def test_scorers_of_measures_are_greater_for_the_better():
    y, predicted, score, group, weights = draw(seed=10)

    class Fixed:
        classes_ = np.array([0, 1])

        def predict(self, X):
            return predicted

        def predict_proba(self, X):
            return np.column_stack([1 - score, score])

    for name, sign in (
        *[("tpr_worst", 1), ("fpr_worst", -1), ("auc_worst", 1), ("auc_difference", -1)],
        *[("ppv_ratio", 1), ("brier_worst", -1)],
    ):
        value = fairness_score(name, y, predicted, sensitive_features=group, y_score=score)
        scorer = fairness_scorer(name)
        assert scorer(Fixed(), y, y, sensitive_features=group) == pytest.approx(sign * value)
        weighted = fairness_score(
            name, y, predicted, sensitive_features=group, y_score=score, sample_weight=weights
        )
        assert weighted != value
        found = scorer(Fixed(), y, y, sensitive_features=group, sample_weight=weights)
        assert found == pytest.approx(sign * weighted)
    slope = fairness_score(
        "calibration_slope_worst", y, None, sensitive_features=group, y_score=score
    )
    found = fairness_scorer("calibration_slope_worst")(Fixed(), y, y, sensitive_features=group)
    assert found == pytest.approx(-abs(slope - 1))


def test_a_requirement_is_scored_by_its_excess_and_best_under_gap_takes_it():
    y, predicted, _, group, weights = draw(seed=11)

    class Fixed:
        classes_ = np.array([0, 1])

        def predict(self, X):
            return predicted

    def score(asked, **metadata):
        return fairness_scorer(asked)(Fixed(), y, y, sensitive_features=group, **metadata)

    low = fairness_score("tpr_worst", y, predicted, sensitive_features=group)
    wide = fairness_score("ppv_difference", y, predicted, sensitive_features=group)
    assert score(MinimumRate("tpr", low - 0.1)) == 0
    assert score(MinimumRate("tpr", low + 0.1)) == pytest.approx(-0.1)
    both = [MinimumRate("tpr", low + 0.01), GapLimit("ppv", wide - 0.03)]
    assert score(both) == pytest.approx(-0.03)
    assert score(both, sample_weight=weights) != score(both)
    found = {"mean_test_u": [0.9, 0.8], "mean_test_g": [score(both), 0.0]}
    assert best_under_gap("u", "g", limit=0)(found) == 1
    with pytest.raises(ValueError, match="NoHarm compares with a network"):
        fairness_scorer([NoHarm()])


def test_a_search_weighs_the_rows_of_its_scores():
    y, _, score, group, weights = draw(n=300, seed=12)
    X = score.reshape(-1, 1)
    scorer = fairness_scorer("ppv_difference")
    metadata = {"sensitive_features": group, "sample_weight": weights}
    with config_context(enable_metadata_routing=True):
        scorer.set_score_request(sample_weight=True)
        model = LogisticRegression().set_fit_request(sample_weight=False)
        options = {"scoring": {"gap": scorer}, "refit": False, "cv": StratifiedKFold(2)}
        search = GridSearchCV(model, {"C": [1.0]}, **options).fit(X, y, **metadata)
    plain = []
    for fitted, k in StratifiedKFold(2).split(X, y):
        model = LogisticRegression().fit(X[fitted], y[fitted])
        own = {"sensitive_features": group[k], "sample_weight": weights[k]}
        plain.append(scorer(model, X[k], y[k], **own))
    assert search.cv_results_["mean_test_gap"][0] == pytest.approx(np.mean(plain))
    assert scorer(model, X, y, sensitive_features=group) != scorer(model, X, y, **metadata)
