"""X of any kind: converted, or refused with the cure."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, TensorDataset

from fairsvd import FairLRFTransformer, JointStratifiedKFold, fairness_scorer
from fairsvd.exceptions import FairsvdWarning

N = 40
X = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
Y = np.arange(N) % 2
SEX = np.array(["f", "m"])[np.arange(N) // 2 % 2]
FRAME = pd.DataFrame(X, columns=list("abc"))


@pytest.fixture(autouse=True)
def quiet():
    """Small rows lead to warnings that are not the point here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairsvdWarning)
        yield


def editor(**options):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    settings = {"criterion": "magnitude", "sparsity": 0.1, "refine": None, "random_state": 0}
    return FairLRFTransformer(network, **(settings | options))


def fit(rows, **options):
    return editor(**options).fit(rows, Y, sensitive_features=SEX)


class Items(Dataset):
    """A map-style dataset of given items."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, row):
        return self.items[row]


TENSOR = torch.tensor(X)
SAME = {
    "big-endian": X.astype(">f4"),
    "longdouble": X.astype(np.longdouble),
    "strings": X.astype(str),
    "objects": X.astype(object),
    "no mask": np.ma.array(X, mask=False),
    "lists": X.tolist(),
    "records": np.array([tuple(row) for row in X], dtype=[(k, "f4") for k in "abc"]),
    "gradients": TENSOR.clone().requires_grad_(),
    "parameter": nn.Parameter(TENSOR.clone()),
    "frame of objects": FRAME.astype(object),
    "frame of strings": FRAME.astype(str),
    "nullable": FRAME.astype("Float32"),
    "sparse frame": FRAME.astype(pd.SparseDtype(np.float32, 0.0)),
    "big-endian frame": FRAME.astype(">f4"),
    "dataset": TensorDataset(TENSOR),
    "dataset of gradients": TensorDataset(TENSOR.clone().requires_grad_()),
    "items with gradients": Items(list(TENSOR.clone().requires_grad_())),
    "big-endian items": Items(list(X.astype(">f4"))),
    "parts": ConcatDataset([TensorDataset(TENSOR[:9]), TensorDataset(TENSOR[9:])]),
}


@pytest.mark.parametrize("rows", SAME.values(), ids=SAME)
def test_rows_of_every_kind_give_the_same(rows):
    expected = fit(X).predict_proba(X)
    fitted = fit(rows)
    np.testing.assert_allclose(fitted.predict_proba(rows), expected, atol=1e-6)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.uint16, torch.bool, torch.int8]
)
def test_tensors_of_every_dtype_are_numbers(dtype):
    rows = (10 * TENSOR.abs()).to(dtype)
    expected = fit(rows.float().numpy()).predict_proba(rows.float().numpy())
    for same in (rows, TensorDataset(rows)):
        np.testing.assert_allclose(fit(same).predict_proba(same), expected, atol=1e-6)


@pytest.mark.parametrize("package", ["polars", "pyarrow"])
def test_frames_of_other_packages_keep_their_names(package):
    module = pytest.importorskip(package)
    make = module.DataFrame if package == "polars" else module.table
    rows = make(FRAME.to_dict("list"))
    fitted = fit(rows)
    assert fitted.feature_names_in_.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(fitted.predict(rows), fit(FRAME).predict(FRAME))
    with pytest.raises(ValueError, match="feature names"):
        fitted.predict(make({k: [0.0] for k in "abd"}))

    with_sex = make({**FRAME.to_dict("list"), "sex": SEX.tolist()})
    by_name = editor(sensitive_columns="sex").fit(with_sex, Y)
    assert by_name.groups_ == ["f", "m"]
    assert by_name.sensitive_source_ == "columns of X"
    np.testing.assert_array_equal(by_name.predict(with_sex), by_name.predict(rows))
    folds = JointStratifiedKFold(2, sensitive_columns="sex").split(with_sex, Y)
    expected = JointStratifiedKFold(2).split(X, Y, sensitive_features=SEX)
    for ours, theirs in zip(folds, expected, strict=True):
        np.testing.assert_array_equal(ours[1], theirs[1])
    scorer = fairness_scorer("demographic_parity_difference", sensitive_columns="sex")
    assert -1 <= scorer(by_name, with_sex, Y) <= 0


class NoLength(Dataset):
    def __getitem__(self, row):
        return TENSOR[row]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(TENSOR)


REFUSED = {
    "loader": (DataLoader(TensorDataset(TENSOR)), r"DataLoader.*X=loader.dataset"),
    "stream": (Stream(), r"Stream, an IterableDataset.*map-style Dataset"),
    "no length": (NoLength(), r"NoLength, a Dataset without __len__: define it"),
    "path": ("rows.csv", r"X is a str, which holds no rows.*what was read from it"),
    "set": (set(range(N)), r"X is a set, which holds no rows"),
    "dictionary": ({"a": X[:, 0]}, r"X is a dict of names.*pandas.DataFrame\(X\)"),
    "generator": ((row for row in X), r"iterator \(generator\): pass list\(X\)"),
    "items of text": (Items(["a"] * N), r"Items whose items hold str.*array or tensor"),
    "items of names": (Items([{"x": row} for row in X]), r"Sequential does not take \['x'\]"),
    "ragged items": (Items([row[: 2 + k % 2] for k, row in enumerate(X)]), r"\(2,\).*\(3,\)"),
    "items of lists": (Items(X.tolist()), r"a list stands for \(x, label\)"),
    "sparse dataset": (TensorDataset(TENSOR.to_sparse()), "sparse tensor"),
    "masked": (np.ma.array(X, mask=X > 1), "NaN"),
    "masked integers": (np.ma.array(X.astype(int), mask=X > 1), "NaN"),
    "category": (FRAME.assign(c=pd.Categorical(["x", "y"] * (N // 2))), "'x' in column 'c'"),
    "dates": (FRAME.assign(c=pd.Timestamp("2020-01-01")), "datetime64.*in column 'c'"),
    "NA": (FRAME.astype("Float64").mask(FRAME > 1), "NaN"),
    "names twice": (FRAME.set_axis(list("aab"), axis=1), "several columns named 'a'"),
}


@pytest.mark.parametrize(("rows", "message"), REFUSED.values(), ids=REFUSED)
def test_rows_that_cannot_be_read_are_refused_with_the_cure(rows, message):
    with pytest.raises(ValueError, match=message):
        fit(rows)


def test_of_a_long_message_the_beginning_and_the_advice_are_shown():
    with pytest.raises(ValueError, match=r"(?s)Expected 2D.*and so on.*array\.reshape") as caught:
        fit([{"age": 1.0, "hours": 2.0, "income": 3.0}] * N)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("name", ["category", "dates", "NA", "masked", "loader", "dictionary"])
def test_rows_are_refused_at_prediction_too(name):
    rows, message = REFUSED[name]
    fitted = fit(FRAME)
    with warnings.catch_warnings(), pytest.raises(ValueError, match=message):
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        fitted.predict(rows)


def test_a_second_copy_of_the_sensitive_column_does_not_stay_among_the_features():
    twice = pd.concat([FRAME.assign(sex=SEX), pd.DataFrame({"sex": Y})], axis=1)
    with pytest.raises(ValueError, match=r"2 columns named 'sex' \(positions 3, 4\)"):
        editor(sensitive_columns="sex").fit(twice, Y)


def test_masked_rows_and_labels_are_not_silently_used():
    hole = np.arange(N) == 3
    with pytest.raises(ValueError, match="y has missing labels"):
        editor().fit(X, np.ma.array(Y, mask=hole), sensitive_features=SEX)
    with pytest.raises(ValueError, match="missing values"):
        editor().fit(X, Y, sensitive_features=np.ma.array(SEX, mask=hole))
    fitted = editor(missing_group="ignore").fit(
        X, Y, sensitive_features=np.ma.array(SEX, mask=hole)
    )
    assert fitted.group_counts_.tolist() == [20, 19]


@pytest.mark.parametrize(
    "labels", [Y, Y == 1, np.array(["no", "yes"])[Y]], ids=["integers", "booleans", "strings"]
)
def test_classes_are_those_of_scikit_learn(labels):
    for y in (labels, labels.tolist(), pd.Series(labels)):
        ours = editor().fit(X, y, sensitive_features=SEX)
        theirs = LogisticRegression().fit(X, y)
        np.testing.assert_array_equal(ours.classes_, theirs.classes_)
