"""Every part that takes labels and groups reads the same data in the same way."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import DataConversionWarning
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fairsvd import (
    CellSampler,
    FairLRFTransformer,
    JointStratifiedKFold,
    autophagy_audit,
    compare,
    fairness_score,
    fairness_scorer,
    group_table,
)
from fairsvd.exceptions import FairsvdWarning
from fairsvd.generative import SmoothedGenerator
from fairsvd.interop import resample_by_weight
from helpers import told

pytestmark = pytest.mark.slow

N = 40
CODES = np.arange(N) % 2
WORDS = np.array(["no", "yes"])[CODES]
SEX = np.array(["f", "m"])[np.arange(N) // 2 % 2]
X = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
NAME = "demographic_parity_difference"


@pytest.fixture(autouse=True)
def quiet():
    """Small rows lead to warnings that are not the point here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairsvdWarning)
        yield


class Constant:
    """Predicts what it is given."""

    def __init__(self, predictions):
        self.predictions = predictions

    def predict(self, X):
        return self.predictions


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def fit_editor(y, groups):
    settings = {"criterion": "magnitude", "sparsity": 0.1, "refine": None, "random_state": 0}
    editor = FairLRFTransformer(network(), **settings).fit(X, y, sensitive_features=groups)
    return editor.predict(X).tolist(), editor.groups_


def score(y, groups):
    return fairness_scorer(NAME)(Constant(WORDS), X, y, sensitive_features=groups)


def score_codes(y, groups):
    return fairness_scorer(NAME)(Constant(CODES), X, y, sensitive_features=groups)


def split(y, groups):
    folds = JointStratifiedKFold(2).split(X, y, sensitive_features=groups)
    return [test.tolist() for _, test in folds]


def split_without_x(y, groups):
    return [test.tolist() for _, test in JointStratifiedKFold(2).split(None, y, groups)]


def tabulate(y, groups):
    return group_table(y, np.asarray(CODES), groups).to_dict()


def sample(y, groups):
    sampler = CellSampler(generator="smoothed", min_cell_size=1, random_state=0)
    _, labels = sampler.fit_resample(X, y, sensitive_features=groups)
    return np.asarray(labels).ravel().tolist(), list(sampler.cell_counts_.values())


def compare_once(y, groups):
    table = compare("threshold", X, y, groups, base=network(), cv=2, random_state=0)
    return table["error"].tolist(), table["psi"].tolist()


def resample(y, groups):
    weights = 1.0 + CODES
    return np.asarray(resample_by_weight(X, y, groups, weights, random_state=0)[0]).tolist()


def audit(y, groups):
    settings = {"n_generations": 1, "n_seeds": 1, "detector": None, "random_state": 0}
    runs = autophagy_audit(SmoothedGenerator(), X, y, sensitive_features=groups, **settings).runs
    return runs["n_rows"].tolist()


PARTS = [fit_editor, split, split_without_x, sample, compare_once, resample, audit]
MEASURES = [score_codes, tabulate]
parts = pytest.mark.parametrize("part", [*PARTS, *MEASURES])

SAME = {
    "list": CODES.tolist(),
    "tuple": tuple(CODES.tolist()),
    "tensor": torch.tensor(CODES),
    "bfloat16": torch.tensor(CODES).bfloat16(),
    "big-endian": CODES.astype(">i8"),
    "odd index": pd.Series(CODES, index=np.zeros(N)),
    "category": pd.Series(CODES, dtype="category"),
    "Int64": pd.Series(CODES, dtype="Int64"),
    "boolean": pd.Series(CODES == 1, dtype="boolean"),
    "objects": CODES.astype(object),
    "memory": memoryview(CODES),
}


@parts
@pytest.mark.parametrize("y", SAME.values(), ids=SAME)
def test_labels_of_every_container_give_the_same(part, y):
    assert part(y, SEX) == part(CODES, SEX)


@pytest.mark.parametrize("part", [*PARTS, score])
def test_strings_and_categories_give_the_same(part):
    expected = part(WORDS, SEX)
    for y in (WORDS.astype(object), WORDS.tolist(), pd.Series(WORDS, dtype="category")):
        assert part(y, SEX) == expected


@parts
@pytest.mark.parametrize("y", [CODES[:, None], pd.DataFrame({"y": CODES})], ids=["array", "frame"])
def test_a_column_is_taken_with_one_warning(part, y):
    with pytest.warns(DataConversionWarning, match="column-vector y") as caught:
        result = part(y, SEX)
    assert len(told(caught, DataConversionWarning)) == 1
    assert result == part(CODES, SEX)


GROUPS = {
    "bytes": SEX.astype("S"),
    "list": SEX.tolist(),
    "category": pd.Series(SEX, dtype="category"),
    "string": pd.Series(SEX, dtype="string"),
    "odd index": pd.Series(SEX, index=np.zeros(N)),
    "tensor": torch.tensor(np.arange(N) // 2 % 2),
    "column": SEX[:, None],
    "dictionary": {"sex": SEX},
}


@pytest.mark.parametrize("part", [split, split_without_x, sample, resample, audit, compare_once])
@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_groups_of_every_container_give_the_same(part, groups):
    assert part(CODES, groups) == part(CODES, SEX)


@pytest.mark.parametrize("package", ["polars", "pyarrow"])
@parts
def test_labels_and_groups_of_other_packages_give_the_same(part, package):
    module = pytest.importorskip(package)
    column = module.Series if package == "polars" else module.array
    assert part(column(CODES.tolist()), column(SEX.tolist())) == part(CODES, SEX)


HOLE = np.arange(N) == 3
REFUSED = {
    "None": (np.where(HOLE, None, WORDS.astype(object)), "missing labels in 1 of 40 rows"),
    "list of nan": (
        [np.nan if hole else w for hole, w in zip(HOLE, WORDS, strict=True)],
        "missing",
    ),
    "NA": (pd.Series(CODES, dtype="Int64").mask(HOLE), "missing"),
    "mask": (np.ma.array(CODES, mask=HOLE), "missing"),
    "scores": (np.linspace(0.01, 0.99, N), "continuous.*threshold"),
    "probabilities": (np.eye(2)[CODES] * 0.8 + 0.1, "1d array"),
    "bytes": (WORDS.astype("S"), "bytes"),
    "mixed": ([1 if code else "no" for code in CODES], "mixes labels"),
    "scalar": (1, "pass an array"),
    "short": (CODES[:-2], "38"),
}


@parts
@pytest.mark.parametrize(("y", "message"), REFUSED.values(), ids=REFUSED)
def test_what_one_part_refuses_all_refuse(part, y, message):
    with pytest.raises(ValueError, match=message):
        part(y, SEX)


# Predictions


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (np.linspace(0.01, 0.99, N), "continuous"),
        (np.eye(2)[CODES] * 0.8 + 0.1, "1d array"),
        (np.ma.array(CODES, mask=HOLE), "missing labels"),
        (torch.tensor(CODES) + 0.5, "continuous"),
    ],
    ids=["scores", "probabilities", "mask", "tensor"],
)
def test_measures_take_labels_only(predictions, message):
    with pytest.raises(ValueError, match=f"y_pred.*{message}|{message}.*y_pred"):
        fairness_score(NAME, CODES, predictions, sensitive_features=SEX)
    with pytest.raises(ValueError, match="y_pred"):
        group_table(CODES, predictions, SEX)
    with pytest.raises(ValueError, match=r"y_pred \(Constant.predict\)"):
        fairness_scorer(NAME)(Constant(predictions), X, CODES, sensitive_features=SEX)


def test_more_labels_than_memory_holds_are_refused_at_once():
    n = 20_000
    with pytest.raises(ValueError, match=r"hold 20000 distinct labels.*pass class labels"):
        fairness_score(NAME, np.arange(n), np.arange(n), sensitive_features=np.arange(n) % 2)
    many = np.arange(300)
    assert fairness_score(NAME, many, many, sensitive_features=many % 2) >= 0


def test_probabilities_that_are_no_numbers_are_refused():
    class Broken(Constant):
        classes_ = np.array([0, 1])

        def predict_proba(self, X):
            return np.full((len(X), 2), np.nan)

    scorer = fairness_scorer(NAME, response_method="predict_proba")
    with pytest.raises(ValueError, match=r"predict_proba of Broken gave NaN .* in row 0"):
        scorer(Broken(None), X, CODES, sensitive_features=SEX)


# Messages in the user's words


def test_too_small_cells_are_named_by_their_labels():
    groups = np.where(np.arange(N) < 39, SEX, "x")
    for part in (split, compare_once):
        with pytest.raises(ValueError, match=r"\(y='yes', group='x'\): 1 rows\. Merge") as error:
            part(WORDS, groups)
        assert "at most" not in str(error.value)


def test_many_groups_make_a_short_message():
    ids = np.arange(N)
    with pytest.raises(ValueError, match=r"40 groups in 40 rows.*Bin a quantity") as error:
        fit_editor(CODES, ids)
    assert len(str(error.value)) < 300
    with pytest.raises(ValueError, match=r"and 30 more.*Bin a quantity") as error:
        split(CODES, ids)
    assert len(str(error.value)) < 700


# A user's utility


def fail(y_true, y_pred):
    raise KeyError("no")


@pytest.mark.parametrize(
    ("utility", "message"),
    [
        (lambda y, p: float("nan"), "returned nan: it must return one finite number"),
        (lambda y, p: "good", "returned 'good'"),
        (lambda y, p: np.ones(2), r"returned array\(\[1., 1.\]\)"),
        (lambda y, p: None, "returned None"),
        (lambda y, p: 1j, "returned 1j"),
        (fail, r"utility=fail raised KeyError: 'no'.*class codes"),
    ],
    ids=["nan", "string", "array", "None", "complex", "raises"],
)
def test_a_utility_that_gives_no_number_is_told(utility, message):
    settings = {"criterion": "magnitude", "sparsity": 0.1, "refine": None, "random_state": 0}
    editor = FairLRFTransformer(network(), utility=utility, **settings)
    with pytest.raises(ValueError, match=message):
        editor.fit(X, CODES, sensitive_features=SEX)


@pytest.mark.parametrize("as_answer", [float, np.float32, torch.tensor, lambda v: np.array([v])])
def test_a_utility_may_answer_with_any_single_number(as_answer):
    settings = {"criterion": "magnitude", "sparsity": 0.1, "refine": None, "random_state": 0}
    editor = FairLRFTransformer(
        network(), utility=lambda y, p: as_answer(float((y == p).mean())), **settings
    )
    assert editor.fit(X, CODES, sensitive_features=SEX).score(X, CODES) > 0


def test_rows_on_disk_stay_there(tmp_path):
    on_disk = np.memmap(tmp_path / "rows", dtype=np.float32, mode="w+", shape=X.shape)
    on_disk[:] = X
    drawn, *_ = resample_by_weight(on_disk, CODES, SEX, np.ones(N), random_state=0)
    assert sorted(drawn[:, 0].tolist()) == sorted(X[:, 0].tolist())
    table = compare("threshold", on_disk, CODES, SEX, base=network(), cv=2, random_state=0)
    assert (table["error"] == "").all()


def test_loaders_have_no_rows_to_draw_or_select():
    loader = DataLoader(TensorDataset(torch.tensor(X)))
    with pytest.raises(ValueError, match="X is a DataLoader"):
        resample_by_weight(loader, CODES, SEX, np.ones(N))
    with pytest.raises(ValueError, match="X is a DataLoader"):
        compare("threshold", loader, CODES, SEX, base=network())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ma.array(np.ones(N), mask=HOLE), "sample_weight is nan"),
        (["heavy"] * N, "sample_weight holds no numbers"),
    ],
    ids=["mask", "text"],
)
def test_weights_are_numbers(weights, message):
    with pytest.raises(ValueError, match=message):
        resample_by_weight(X, CODES, SEX, weights)
    given = torch.ones(N, requires_grad=True)
    assert len(resample_by_weight(X, CODES, SEX, given, random_state=0)[0]) == N
