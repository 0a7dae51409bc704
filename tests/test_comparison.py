"""compare: the folds, the shared base network, the inputs, and what a row says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equalized_odds_difference,
    false_positive_rate,
    true_positive_rate,
)
from fairlearn.postprocessing import ThresholdOptimizer
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fairsvd.comparison._fold as folds
from comparison_rows import PEERS, QUICK, Stub, compared, rows_of
from fairsvd import (
    Comparison,
    ConvNet,
    FairLRFTransformer,
    GapFineTuner,
    JointStratifiedKFold,
    PhiObjective,
    compare,
)
from fairsvd.interop import GroupAwareWrapper
from helpers import EXACT, IGNORE_SMALL_DATA, images, mlp, skorch_net, table, trained

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]
TIMES = ["seconds"]


class Told(Stub):
    """The same, told the groups: predicts the group's code in place of a label."""

    def fit(self, X, y, *, sensitive_features):
        self.groups_ = np.unique(sensitive_features)
        return super().fit(X, y)

    def predict(self, X, *, sensitive_features):
        return self.classes_[(np.asarray(sensitive_features) == self.groups_[1]).astype(int)]


class Failing(Stub):
    """Fails in one of its ways."""

    def __init__(self, how="fit", random_state=None):
        self.how = how
        self.random_state = random_state

    def fit(self, X, y):
        if self.how == "fit":
            raise RuntimeError("no luck\ntoday")
        if self.how == "interrupt":
            raise KeyboardInterrupt
        self.column = 0
        return super().fit(X, y)

    def predict(self, X):
        labels = super().predict(X)
        return {"label": np.full(len(labels), 7), "length": labels[:-1]}[self.how]


@pytest.fixture(scope="module")
def task():
    return table(240)


@pytest.fixture(scope="module")
def base(task):
    """A network that comes trained, so that nothing has to be."""
    return trained(mlp(), task)


def harm_of(y, before, after, groups, constraint):
    """The largest fall of a rate by the exact test of McNemar, for all rates together."""
    kinds = {"tpr": (y == 1, 1), "tnr": (y == 0, 0)}
    if constraint == "demographic_parity":
        kinds["selection"] = (np.ones(len(y), dtype=bool), 1)
    cells = [(mask & (groups == g), label) for mask, label in kinds.values() for g in ("f", "m")]
    falls = [0.0]
    for mask, label in cells:
        old, new = before[mask] == label, after[mask] == label
        lost, gained = int((old & ~new).sum()), int((new & ~old).sum())
        chance = binomtest(lost, lost + gained, alternative="greater").pvalue if lost else 1.0
        if chance * len(cells) < 0.05 and (lost - gained) / mask.sum() > 0.02:
            falls.append((lost - gained) / mask.sum())
    return max(falls)


# What a row says


def test_values_are_fairlearns(task, base):
    sex = np.array(["f", "m"])[task.group]
    cv = JointStratifiedKFold(3, shuffle=True, random_state=4)
    splits = list(cv.split(task.X, task.y, sensitive_features=sex))
    asked = ["equalized_odds", "demographic_parity"]
    settings = {"base": base, "cv": cv, "constraints": asked, "tolerance": 0.1, "random_state": 0}
    found = compare(Stub(1), task.X, task.y, sex, **settings)
    with torch.no_grad():
        untouched = base(torch.tensor(task.X)).argmax(1).numpy()
    predicted = (task.X[:, 1] > 0).astype(int)
    assert (type(found), len(found), found.tolerance) == (Comparison, 3 * 2 * 2, 0.1)
    for (_, row), (_, test) in zip(rows_of(found, "Stub").iterrows(), splits * 2, strict=False):
        test = splits[row["fold"]][1]
        data, groups = (task.y[test], predicted[test]), {"sensitive_features": sex[test]}
        gaps = {
            "equalized_odds": equalized_odds_difference(*data, **groups),
            "demographic_parity": demographic_parity_difference(*data, **groups),
        }
        balanced, gap = balanced_accuracy_score(*data), gaps[row["constraint"]]
        recalls = [
            (predicted[test] == task.y[test])[(task.y[test] == label) & (sex[test] == group)].mean()
            for label in (0, 1)
            for group in ("f", "m")
        ]
        expected = {
            "accuracy": accuracy_score(*data),
            "balanced_accuracy": balanced,
            "equalized_odds_difference": gaps["equalized_odds"],
            "demographic_parity_difference": gaps["demographic_parity"],
            "gap": gap,
            "worst_cell": min(recalls),
            "psi": balanced - max(0, gap - 0.1),
            "phi": balanced if gap < 0.1 else 0,
        }
        rates = {"tpr": true_positive_rate, "fpr": false_positive_rate}
        after = MetricFrame(metrics=rates, y_true=data[0], y_pred=data[1], **groups).by_group
        before = MetricFrame(
            metrics=rates, y_true=data[0], y_pred=untouched[test], **groups
        ).by_group
        change = after - before
        for rate in rates:
            for group in ("f", "m"):
                expected[f"{rate}_change_{group}"] = change.loc[group, rate]
        predictions = untouched[test], data[1]
        expected["harm"] = harm_of(data[0], *predictions, sex[test], row["constraint"])
        np.testing.assert_allclose(row[list(expected)].astype(float), [*expected.values()], **EXACT)
        assert row["gap_low"] <= row["gap"]
        assert row["gap_low"] < row["gap_upper"] <= row["gap_high"]
        assert row["psi_low"] <= row["psi"] <= row["psi_high"]
        assert 0 < row["noise_floor"] < 0.3
    calm = rows_of(found, "untouched")
    assert (calm.filter(like="change").to_numpy() == 0).all()
    assert (calm["harm"] == 0).all() and (rows_of(found, "Stub")["harm"] > 0).any()


def test_labels_groups_and_the_positive_label_are_the_users(base, task):
    y = np.array(["yes", "no"])[task.y]  # sorted, "no" comes first
    groups = pd.DataFrame({"sex": np.array(["f", "m"])[task.group], "old": task.X[:, 2] > 0})
    settings = {"base": base, "cv": 2, "random_state": 0, "constraints": "demographic_parity"}
    found = compare({"mine": Stub(1)}, task.X, y, groups, pos_label="no", **settings)
    row = rows_of(found, "mine").iloc[0]
    assert {"tpr_change_f/True", "fpr_change_m/False"} <= set(found)
    other = compare({"mine": Stub(1)}, task.X, y, groups, pos_label="yes", **settings)
    flipped = rows_of(other, "mine").iloc[0]
    assert row["gap"] == pytest.approx(flipped["gap"], abs=1e-12)
    assert row["tpr_change_f/True"] == pytest.approx(-flipped["fpr_change_f/True"], abs=1e-12)


def test_a_failure_is_a_row(task, base):
    methods = {how: Failing(how) for how in ("fit", "label", "length")}
    found = compared({**methods, "fine": Stub()}, task, base=base)
    assert found["method"].tolist() == 2 * ["untouched", "fit", "label", "length", "fine"]
    errors = found.set_index("method")["error"]
    assert set(errors["fit"]) == {"RuntimeError: no luck today"}
    assert errors["label"].str.startswith("ValueError: predicted the label").all()
    assert errors["length"].str.contains(r"shape \(119,\) for 120 rows").all()
    assert set(errors["fine"]) == {""}
    assert rows_of(found, "fit")["psi"].isna().all()
    assert found.summary()["failed"].droplevel("constraint").to_dict()["fit"] == 2
    assert found.failed.sum() == 6


def test_an_interrupt_passes(task, base):
    with pytest.raises(KeyboardInterrupt):
        compared(Failing("interrupt"), task, base=base)


class Warning_(Stub):
    """Warns in fit."""

    def fit(self, X, y):
        import warnings

        warnings.warn("careful", FutureWarning, stacklevel=1)
        return super().fit(X, y)


def test_warnings_are_in_their_row(task, base):
    found = compared({"warns": Warning_(), "calm": Stub()}, task, base=base)
    assert set(rows_of(found, "warns")["warnings"]) == {"FutureWarning"}
    assert set(rows_of(found, "calm")["warnings"]) == {""}


# Who sees what


def test_the_base_is_trained_once_a_fold_and_shared(task, monkeypatch):
    seen = []

    def spy(network, rows, *args, **settings):
        seen.append((network, len(rows)))
        return adopt(network, rows, *args, **settings)

    adopt = folds.adopt
    monkeypatch.setattr(folds, "adopt", spy)
    net = skorch_net(mlp())
    asked = ["equalized_odds", "demographic_parity"]
    mine = [QUICK, "threshold", FairLRFTransformer(max_steps=3, gap_weight=1.0)]
    found = compared(mine, task, base=net, constraints=asked)
    assert not found.failed.any()
    assert [network for network, _ in seen] == [net, net]
    assert {n for _, n in seen} == {84}  # 70 % of the 120 rows that a fold does not test on
    assert not net.initialized_


class Recording(GapFineTuner):
    """Notes what its fit is given."""

    seen: list[dict[str, object]] = []  # noqa: RUF012

    def fit(self, X, y, *, sensitive_features=None):
        (parts,) = self.validation.split(X)
        self.seen.append({"X": X, "parts": parts, **self.get_params()})
        return super().fit(X, y, sensitive_features=sensitive_features)


def test_editors_edit_the_base_on_its_rows_and_choose_on_others(task, base, monkeypatch):
    monkeypatch.setattr(Recording, "seen", [])
    cv = JointStratifiedKFold(2, shuffle=True, random_state=0)
    compared(Recording(max_steps=3, n_teachers=1), task, base=base, cv=cv, tolerance=0.2)
    splits = list(cv.split(task.X, task.y, sensitive_features=task.group))
    for seen, (train, _) in zip(Recording.seen, splits, strict=True):
        assert np.array_equal(seen["X"], task.X[train])
        assert [len(part) for part in seen["parts"]] == [84, 36]
        cells = task.y[train][seen["parts"][1]] * 2 + task.group[train][seen["parts"][1]]
        share = np.bincount(cells, minlength=4) / np.bincount(task.y[train] * 2 + task.group[train])
        assert (np.abs(share - 0.3) < 0.05).all()
        assert isinstance(seen["network"], torch.nn.Module)
        assert (seen["tolerance"], seen["constraint"]) == (0.2, "equalized_odds")


def test_what_an_instance_brings_stays(task, base, monkeypatch):
    monkeypatch.setattr(Recording, "seen", [])
    own = trained(mlp(width=5), task)
    objective = PhiObjective("demographic_parity")
    mine = Recording(own, constraint=objective, max_steps=3, n_teachers=1, random_state=5)
    found = compared({"mine": mine}, task, base=base)
    assert not found.failed.any()
    for seen in Recording.seen:
        assert seen["network"][0].out_features == 5
        assert seen["constraint"].measure == "demographic_parity"
        assert seen["random_state"] == 5
    assert mine.network is own and not hasattr(mine, "module_")


def test_other_classifiers_get_the_groups_where_they_take_them(task, base):
    pipe = make_pipeline(StandardScaler(), GapFineTuner(max_steps=3))
    wrapper = GroupAwareWrapper(
        ThresholdOptimizer(estimator=LogisticRegression(), predict_method="predict_proba"),
        sensitive_columns=0,
        random_state=0,
    )
    X = np.column_stack([task.group, task.X])
    methods = {"told": Told(), "pipe": pipe, "wrapped": wrapper, "plain": Stub(1)}
    settings = {
        "base": trained(torch.nn.Sequential(torch.nn.Linear(7, 2)), task._replace(X=X.astype("f4")))
    }
    found = compare(methods, X, task.y, task.group, cv=2, random_state=0, **settings)
    assert found["error"].tolist() == [""] * 10
    needs = found.summary()["needs_group"].droplevel("constraint").to_dict()
    assert needs == {
        "untouched": False, "told": True, "pipe": False, "wrapped": True, "plain": False,
    }  # fmt: skip
    assert (rows_of(found, "told")["demographic_parity_difference"] == 1).all()


# Inputs


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        (
            {"X": np.array([["a"]] * 240, dtype=object)},
            "X holds 'a' in column 0.*OneHotEncoder",
        ),
        ({"X": np.full((240, 2), np.nan)}, "NaN"),
        ({"y": np.zeros(239)}, "239"),
        ({"y": np.zeros(240)}, "one class only"),
        ({"sensitive_features": None}, "sensitive_features is None"),
        ({"sensitive_features": np.zeros(240)}, "one group only"),
        ({"constraints": "fair"}, "wanted names among demographic_parity"),
        ({"constraints": []}, "wanted names among"),
        ({"tolerance": 2}, "tolerance=2"),
        ({"pos_label": "yes"}, "pos_label='yes' is none of the classes"),
        ({"cv": 200}, "n_splits=200 is more than the rows"),
        ({"cv": []}, "cv makes no split"),
    ],
)
def test_bad_input_is_told_before_any_training(task, monkeypatch, changed, complaint):
    monkeypatch.setattr(folds, "adopt", lambda *_, **__: pytest.fail("trained"))
    given = {"X": task.X, "y": task.y, "sensitive_features": task.group, **changed}
    with pytest.raises(ValueError, match=complaint):
        compare("threshold", **given)


def test_any_splitter_and_a_list_of_splits(task, base):
    found = compared(Stub(), task, base=base, cv=StratifiedKFold(4))
    assert found["fold"].nunique() == 4
    is_test = np.arange(240) < 60
    by_mask, by_rows = (
        compared(Stub(), task, base=base, cv=[split])
        for split in ((~is_test, is_test), (np.flatnonzero(~is_test), np.flatnonzero(is_test)))
    )
    pd.testing.assert_frame_equal(by_mask.drop(columns=TIMES), by_rows.drop(columns=TIMES))
    expected = np.mean((task.X[:60, 0] > 0) == task.y[:60])
    assert rows_of(by_rows, "Stub")["accuracy"].tolist() == [pytest.approx(expected)]


def test_a_frame_of_numbers_stays_a_frame(task, base):
    X = pd.DataFrame(task.X, columns=list("abcdef"), index=range(500, 740))
    methods = {"names": make_pipeline(StandardScaler(), Stub()), "gap": QUICK}
    found = compare(
        methods, X, pd.Series(task.y), list(task.group), base=base, cv=2, random_state=0
    )
    plain = compared(methods, task, base=base)
    pd.testing.assert_frame_equal(found.drop(columns=TIMES), plain.drop(columns=TIMES))


def test_images(monkeypatch):
    rows = images(160)
    methods = [QUICK, "threshold", "ThresholdOptimizer", "EqOddsPostprocessing"]
    net = skorch_net(ConvNet(4, 2, generator=torch.Generator().manual_seed(0)), max_epochs=1)
    found = compared([*methods, "ExponentiatedGradient"], rows, base=net)
    errors = found.set_index("method")["error"]
    assert errors["ExponentiatedGradient"].str.contains("takes tables, but X holds images").all()
    assert set(errors.drop("ExponentiatedGradient")) == {""}


def test_three_groups(base):
    rows = table(360, n_groups=3)
    found = compared([QUICK, "ThresholdOptimizer", "EqOddsPostprocessing"], rows, base=base)
    errors = found.set_index("method")["error"]
    assert errors["EqOddsPostprocessing"].str.contains("two groups, but these rows have 3").all()
    assert set(errors.drop("EqOddsPostprocessing")) == {""}
    assert {"tpr_change_2", "fpr_change_2"} <= set(found)


def test_three_classes():
    rows = table(360, n_classes=3)
    peers = ["threshold", *PEERS]
    found = compared([QUICK, *peers], rows, base=trained(mlp(3), rows))
    errors = found.set_index("method")["error"]
    for name in PEERS:
        assert errors[name].str.contains("two classes, but y has 3").all()
    assert set(errors.drop(PEERS)) == {""}
    same = [rows_of(found, name)["accuracy"].tolist() for name in ("untouched", "threshold")]
    assert same[0] == same[1]


# Repeatability


def test_equal_tables_whatever_the_number_of_jobs(task):
    methods = [QUICK, "threshold", "ThresholdOptimizer"]
    first, parallel = (
        compared(methods, task, n_jobs=jobs).drop(columns=TIMES) for jobs in (None, 2)
    )
    assert set(first["error"]) == {""}
    pd.testing.assert_frame_equal(first, parallel, check_exact=True)
    other = compared("threshold", task, random_state=1)
    mine = first.loc[first["method"] == "threshold", "psi"].tolist()
    assert mine != rows_of(other, "threshold")["psi"].tolist()


def test_verbose_shows_a_bar(task, base, capsys):
    compared(Stub(), task, base=base)
    assert capsys.readouterr() == ("", "")
    compared(Stub(), task, base=base, verbose=1)
    assert "6/6" in capsys.readouterr().err
