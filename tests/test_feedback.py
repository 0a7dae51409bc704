"""The feedback audit: whose labels are learned, its measures by hand, interventions, the plot."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier

from fairsvd import GapFineTuner, feedback_audit
from fairsvd.report import plot_feedback
from helpers import IGNORE_SMALL_DATA, table

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

SMALL = {"n_generations": 3, "n_seeds": 1, "random_state": 0}
FITS: list = []


class Logging(ClassifierMixin, BaseEstimator):
    """Predicts by the second column; keeps the numbers of rows, which are in the first."""

    def __init__(self, cut=0.0, random_state=None):
        self.cut = cut
        self.random_state = random_state

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.asked_ = []
        FITS.append((self, X[:, 0].astype(int), y))
        return self

    def predict(self, X):
        self.asked_.append(X[:, 0].astype(int))
        return (X[:, 1] > self.cut).astype(int)


@pytest.fixture
def numbered():
    """Rows with their numbers, labels and groups of unequal cells."""
    FITS.clear()
    rng = np.random.default_rng(0)
    group = (rng.random(200) < 0.3).astype(int)
    y = (rng.random(200) < 0.4 + 0.2 * group).astype(int)
    X = np.column_stack([np.arange(200), rng.normal(size=200) + y])
    return X, y, group


def audit(model, rows, **settings):
    X, y, group = rows
    return feedback_audit(model, X, y, sensitive_features=group, **{**SMALL, **settings})


def test_each_generation_learns_the_labels_of_the_one_before(numbered):
    audit(Logging(), numbered)
    X, y, _ = numbered
    assert len(FITS) == 3
    _, rows, learned = FITS[0]
    np.testing.assert_array_equal(learned, y[rows])
    for _, rows, learned in FITS[1:]:
        np.testing.assert_array_equal(learned, X[rows, 1] > 0)
        assert (learned != y[rows]).any()
    seen = [set(rows.tolist()) for _, rows, _ in FITS]
    assert seen[0] != seen[1]
    assert len(seen[0]) == 70  # half of the 70 % that are no test rows
    test = set(FITS[0][0].asked_[0].tolist())
    assert len(test) == 60
    assert not test & set.union(*seen)


def test_fresh_rows_keep_their_labels(numbered):
    audit(Logging(), numbered, share_fresh=1.0)
    _, y, _ = numbered
    assert all((learned == y[rows]).all() for _, rows, learned in FITS)
    FITS.clear()
    audit(Logging(cut=-99), numbered, share_fresh=0.5, n_generations=2)
    _, rows, learned = FITS[1]
    kept = (learned == y[rows])[y[rows] == 0].mean()
    assert 0.3 < kept < 0.7


def test_first_labels_are_learned_once(numbered):
    _, y, _ = numbered
    audit(Logging(), numbered, first_labels=1 - y, share_fresh=1.0)
    first, second = FITS[:2]
    np.testing.assert_array_equal(first[2], 1 - y[first[1]])
    np.testing.assert_array_equal(second[2], y[second[1]])


def test_the_measures_are_those_of_a_count_by_hand(numbered):
    X, y, group = numbered
    runs = audit(Logging(), numbered).runs
    model, rows, learned = FITS[1]
    test = model.asked_[0] if set(model.asked_[0]) == set(FITS[0][0].asked_[0]) else None
    assert test is not None
    predicted = X[test, 1] > 0
    mine = runs[runs["generation"] == 2].set_index("cell")
    rates = {}
    for g in (0, 1):
        here = group[test] == g
        rates[g] = [predicted[here & (y[test] == k)].mean() for k in (0, 1)]
        row = mine.loc[str(g)]
        assert row["selection_rate"] == pytest.approx(predicted[here].mean())
        assert row[["fpr", "tpr"]].tolist() == pytest.approx(rates[g])
        assert row["accuracy"] == pytest.approx((predicted == y[test])[here].mean())
        assert row["share"] == pytest.approx((group[rows] == g).mean())
        for label in (0, 1):
            share = ((learned == label) & (group[rows] == g)).mean()
            assert mine.loc[f"{label}, {g}", "share"] == pytest.approx(share)
    gaps = np.abs(np.subtract(rates[0], rates[1]))
    assert mine.loc["all", "equalized_odds"] == pytest.approx(gaps.max())
    assert np.isnan(mine.loc["all", "share"])


def test_reparation_learns_from_equally_many_rows_of_each_cell(numbered):
    X, y, group = numbered
    audit(Logging(), numbered, intervention="reparation")
    _, rows, learned = FITS[0]
    np.testing.assert_array_equal(learned, y[rows])
    for _, rows, learned in FITS[1:]:
        sizes = np.bincount(2 * learned + group[rows], minlength=4)
        assert sizes.sum() == 70
        assert np.ptp(sizes) <= 1
        np.testing.assert_array_equal(learned, X[rows, 1] > 0)


def test_a_classifier_intervenes_from_the_second_generation_on(numbered):
    found = audit(Logging(), numbered, intervention=Logging(cut=0.5))
    assert [model.cut for model, _, _ in FITS] == [0.0, 0.5, 0.5]
    assert found.intervention == "Logging"
    rows = [rows for _, rows, _ in FITS]
    FITS.clear()
    audit(Logging(), numbered)
    assert all(map(np.array_equal, rows, [rows for _, rows, _ in FITS]))


def test_an_editor_gets_the_groups():
    rows = table(240)
    editor = GapFineTuner(max_steps=3, n_teachers=1, tolerance=0.2)
    found = feedback_audit(
        LogisticRegression(), rows.X, rows.y, sensitive_features=rows.group, intervention=editor,
        n_generations=2, n_seeds=1, random_state=0,
    )  # fmt: skip
    assert found.intervention == "GapFineTuner"
    assert found.runs["accuracy"].dropna().between(0, 1).all()


@pytest.fixture(scope="module")
def planted():
    """Fair labels, and first labels that turn most positives of group 1 down."""
    rng = np.random.default_rng(0)
    group = (rng.random(3000) < 0.3).astype(int)
    y = rng.integers(2, size=3000)
    X = np.column_stack([2 * y + rng.normal(size=3000), 3 * group + rng.normal(size=3000)])
    biased = np.where((group == 1) & (rng.random(3000) < 0.6), 0, y)
    return X, y, group, biased


def test_a_planted_bias_grows_and_fresh_rows_and_reparation_lessen_it(planted):
    """The positive control: the bias of the first labels stays, unless something is done."""
    X, y, group, biased = planted
    settings = {"n_generations": 6, "n_seeds": 2, "random_state": 0, "first_labels": biased}
    arms = {"none": {}, "fresh": {"share_fresh": 0.5}, "repaired": {"intervention": "reparation"}}
    gaps, rates = {}, {}
    for name, arm in arms.items():
        found = feedback_audit(
            KNeighborsClassifier(151), X, y, sensitive_features=group, **settings, **arm
        ).summary
        medians = found.set_index(["measure", "cell", "generation"]).sort_index()["median"]
        gaps[name] = medians["equalized_odds", "all"]
        rates[name] = medians["tpr", "1"]
    assert gaps["none"][1] == gaps["fresh"][1] == gaps["repaired"][1]
    assert gaps["none"][1] > 0.3
    assert rates["none"][6] < rates["none"][1] - 0.05
    for name in ("fresh", "repaired"):
        assert gaps[name][6] < gaps["none"][6] - 0.4
        assert rates[name][6] > rates["none"][6] + 0.4


def test_one_label_left_is_predicted_for_ever(numbered):
    found = audit(Logging(cut=99), numbered).runs
    assert len(FITS) == 1  # the others had one label to learn
    later = found[(found["generation"] > 1) & (found["cell"] == "all")]
    assert (later["selection_rate"] == 0).all()
    assert (later["equalized_odds"] == 0).all()


def test_labels_of_any_kind_frames_and_several_groups_and_classes():
    rows = table(300, n_classes=3, n_groups=3)
    words = np.array(["no", "yes", "maybe"])[rows.y]
    names = np.array(["f", "m", "x"])[rows.group]
    found = feedback_audit(
        GaussianNB(), rows.X, words, sensitive_features=names, n_generations=2, n_seeds=2,
        random_state=0,
    )  # fmt: skip
    assert set(found.runs["cell"]) >= {"all", "f", "x", "yes, m"}
    assert found.runs["tpr"].notna().sum() == 2 * 2 * 4
    share = found.runs[found.runs["label"].notna()].groupby(["seed", "generation"])["share"].sum()
    np.testing.assert_allclose(share, 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"intervention": "magic"}, "intervention='magic': wanted None, 'reparation' or a class"),
        ({"intervention": 3}, "intervention is a int"),
        ({"share_fresh": 2}, r"share_fresh=2: wanted a share in \[0, 1\]"),
        ({"test_size": 1.0}, r"test_size=1.0: wanted a share in \(0, 1\)"),
        ({"n_generations": 0}, "n_generations=0: wanted an integer of at least 1"),
        ({"first_labels": [7] * 200}, "first_labels has 200 rows and the labels"),
        ({"quantiles": (0.9, 0.1)}, "two numbers in"),
    ],
)
def test_wrong_arguments_are_named(numbered, wrong, message):
    with pytest.raises(ValueError, match=message):
        audit(Logging(), numbered, **wrong)


def test_a_class_is_no_model(numbered):
    with pytest.raises(ValueError, match="wanted a classifier with fit and predict"):
        audit(Logging, numbered)


def test_the_plot_draws_groups_and_the_shares_of_pairs(numbered):
    found = audit(Logging(), numbered, n_seeds=2)
    axes = plot_feedback(found, measures=["tpr", "share"])
    lines = [{line.get_label() for line in ax.lines} for ax in axes]
    assert lines == [{"all rows", "0", "1"}, {"0, 0", "0, 1", "1, 0", "1, 1"}]
    medians = found.summary.query("measure == 'tpr' and cell == '1'")["median"]
    drawn = next(line for line in axes[0].lines if line.get_label() == "1")
    np.testing.assert_array_equal(drawn.get_ydata(), medians)
    assert "intervention none" in axes[0].get_title(loc="left")
    with pytest.raises(ValueError, match="wanted some of selection_rate"):
        plot_feedback(found, measures=["variance_ratio"])
