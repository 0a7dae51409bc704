"""Data that is not in memory: read in blocks, checked as it is read, with equal results."""

from __future__ import annotations

import pickle
from functools import cache

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from torch import nn

from fairsvd.arrays import LabelledRows, LazyRows, as_batches, is_lazy, to_device
from fairsvd.networks import _inference
from helpers import IGNORE_SMALL_DATA, convolutions, fingerprint, images, mlp, quick, table, trained
from streams import LIMIT, FileArray, Items, memory_map

pytestmark = [
    # Many short fits: together they take long.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(each) for each in IGNORE_SMALL_DATA),
]

CPU = torch.device("cpu")


def blocks_of(monkeypatch, n_bytes):
    """Read X in blocks of so many bytes, for data that fit into one otherwise."""
    for place in ("_batches", "_lazy"):
        monkeypatch.setattr(f"fairsvd.arrays.{place}.BLOCK_BYTES", n_bytes)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Make blocks of 64 rows of a table with 6 columns, so that few rows need many blocks."""
    blocks_of(monkeypatch, LIMIT * 6 * 4)
    monkeypatch.setattr(_inference, "SMALL_BLOCK", LIMIT)


FORMS = {
    "dataset of tensors": lambda X, _: Items(X),
    "dataset of arrays": lambda X, _: Items(X, np.copy),
    "file": lambda X, _: FileArray(X),
    "file, slices only": lambda X, _: FileArray(X, ["slices"]),
    "file, lists only": lambda X, _: FileArray(X, ["lists"]),
    "file, other byte order": lambda X, _: FileArray(X.astype(X.dtype.newbyteorder())),
    "memory map": memory_map,
}
FILES = [name for name in FORMS if "dataset" not in name]


def wide_table(dtype="float32", n_rows=400):
    rows = table(n_rows)
    return rows.X.astype(dtype), rows.y, rows.group, trained(mlp(), rows)


def small_images(dtype="float32", n_rows=240):
    rows = images(n_rows)
    X = rows.X if dtype != "uint8" else np.clip(rows.X * 40 + 120, 0, 255)
    return X.astype(dtype), rows.y, rows.group, trained(convolutions(), rows)


DATA = {
    "table": wide_table,
    "table of float64": lambda: wide_table("float64"),
    "images": small_images,
    "images of uint8": lambda: small_images("uint8"),
}


def editor(module, criterion="curvature", **settings):
    """Edit by curvature alone, or as the default does; 64 rows a step of training."""
    if criterion == "curvature":
        settings = {"sparsity": 0.1, "refine": None, **settings}
    size = LIMIT if isinstance(module[0], nn.Conv2d) else LIMIT // 4
    return quick(module, criterion=criterion, batch_size=size, **settings)


def results(fitted, X):
    return {
        "module": fingerprint(fitted.module_),
        "labels": fitted.predict(X).tolist(),
        "probabilities": fitted.predict_proba(X).tobytes(),
        "features": fitted.transform(X).tobytes(),
        "history": fitted.history_.to_csv(),
        "notes": fitted.report_.notes,
    }


@cache
def in_memory(data, criterion):
    """What the array in memory gives, read in one block."""
    X, y, group, module = DATA[data]()
    return results(editor(module, criterion).fit(X, y, sensitive_features=group), X)


# Both read in blocks alike: training by rows in any order needs the forms that differ there.
@pytest.mark.parametrize(
    ("form", "criterion"),
    [
        *((form, "curvature") for form in FORMS),
        *((form, "learned") for form in ("dataset of tensors", "file, slices only", "memory map")),
    ],
)
@pytest.mark.parametrize("data", DATA)
def test_results_are_those_of_the_array_in_memory(data, form, criterion, tmp_path, monkeypatch):
    X, y, group, module = DATA[data]()
    wanted = in_memory(data, criterion)
    blocks_of(monkeypatch, LIMIT * X[0].size * 4)
    streamed = FORMS[form](X, tmp_path)
    found = editor(module, criterion).fit(streamed, y, sensitive_features=group)
    assert results(found, streamed) == wanted
    if hasattr(streamed, "alive"):
        assert streamed.alive.most <= LIMIT + 1
        assert streamed.alive.rows == 0


@pytest.mark.parametrize("form", FILES)
def test_scikit_learn_learns_the_number_of_features(form, tmp_path):
    X, y, group, module = wide_table()
    frame = pd.DataFrame(X, columns=list("abcdef"))
    fitted = editor(module).fit(frame, y, sensitive_features=group)
    assert fitted.feature_names_in_.tolist() == list("abcdef")
    fitted.fit(FORMS[form](X, tmp_path), y, sensitive_features=group)
    assert fitted.n_features_in_ == 6
    assert not hasattr(fitted, "feature_names_in_")
    narrow = FORMS[form](X[:, :4].copy(), tmp_path)
    with pytest.raises(ValueError, match=r"X has 4 features, but .* is expecting 6 features"):
        fitted.predict(narrow)


@cache
def fitted_on_floats():
    X, y, group, module = wide_table("float64")
    return editor(module).fit(X, y, sensitive_features=group)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", FORMS)
def test_a_bad_value_in_a_late_row_is_found(form, value, tmp_path):
    X, y, group, module = wide_table("float64")
    X[[390, 396], 2] = value
    streamed = FORMS[form](X, tmp_path)
    with pytest.raises(ValueError, match=r"X has NaN or infinite values in row 39[06]"):
        editor(module).fit(streamed, y, sensitive_features=group)
    with pytest.raises(ValueError, match="X has NaN or infinite values in row 390, counted from 0"):
        fitted_on_floats().predict(streamed)


def test_large_finite_values_are_no_infinite_ones():
    X = np.full((5, 3), 3e38, dtype=np.float32)
    assert as_batches(FileArray(X))[:].tolist() == X.tolist()


BAD = {
    "X has 1 dimensions; it must be a table": np.zeros(400),
    "X has 3 dimensions; it must be a table": np.zeros((400, 2, 2)),
    r"X has the shape \(0, 6\): pass at least one row": np.zeros((0, 6)),
    r"X has the shape \(400, 0\): pass at least one row": np.zeros((400, 0)),
    "X has the dtype complex128: pass real numbers": np.zeros((400, 6), complex),
    "X has the dtype object: pass real numbers": np.zeros((400, 6), object),
    "X has the dtype <U3: pass real numbers": np.zeros((400, 6), "U3"),
    r"X has the dtype \w+: pass real numbers of up to 64 bits": np.zeros((400, 6), "g"),
}


@pytest.mark.parametrize(("words", "array"), BAD.items())
def test_what_is_no_data_is_refused(words, array):
    _, y, group, module = wide_table()
    with pytest.raises(ValueError, match=words):
        editor(module).fit(FileArray(array), y, sensitive_features=group)
    with pytest.raises(ValueError, match=words):
        fitted_on_floats().predict(FileArray(array))


def test_labels_must_be_as_many_as_rows_and_there():
    X, y, group, module = wide_table()
    with pytest.raises(ValueError, match="X has 400 rows but y has 399"):
        editor(module).fit(FileArray(X), y[:-1], sensitive_features=group[:-1])
    with pytest.raises(ValueError, match="requires y to be passed"):
        editor(module).fit(FileArray(X), None, sensitive_features=group)
    with pytest.raises(ValueError, match="X has 0 rows"):
        editor(module).fit(X, y, sensitive_features=group).predict(Items(X[:0]))


def test_an_array_that_disagrees_with_itself_is_refused():
    X, y, group, module = wide_table()
    wrong = FileArray(X)
    wrong.shape = (np.nan, 6)
    with pytest.raises(ValueError, match=r"X has the shape \(nan, 6\) and 400 rows"):
        editor(module).fit(wrong, y, sensitive_features=group)
    wrong.shape, wrong.dtype = X.shape, torch.float32
    with pytest.raises(ValueError, match=r"X has the dtype torch\.float32: pass real numbers"):
        editor(module).fit(wrong, y, sensitive_features=group)
    with pytest.raises(ValueError, match="it must give rows for slices or sorted integer arrays"):
        editor(module).fit(FileArray(X, []), y, sensitive_features=group)


def test_a_dataset_of_complex_numbers_is_refused():
    X, y, group, module = wide_table("complex64")
    with pytest.raises(ValueError, match="X holds complex numbers; pass real ones"):
        editor(module).fit(Items(X), y, sensitive_features=group)


@pytest.mark.parametrize("column", [2, [5, 2], -1])
@pytest.mark.parametrize("form", FILES)
def test_sensitive_columns_are_read_and_left_out_in_blocks(form, column, tmp_path, monkeypatch):
    X, y, group, _ = wide_table("float64", 600)
    X[:, 2], X[:, 5] = group, np.arange(600) // 3 % 2
    module = mlp(width=8)
    left = 6 - np.size(column)
    blocks_of(monkeypatch, LIMIT * left * 4)
    module[0] = nn.Linear(left, 8)
    wanted = editor(module, sensitive_columns=column).fit(X, y)
    streamed = FORMS[form](X, tmp_path)
    found = editor(module, sensitive_columns=column).fit(streamed, y)
    assert found.groups_ == wanted.groups_
    assert found.n_features_in_ == left
    assert results(found, streamed) == results(wanted, X)
    rest = np.delete(X, column, axis=1)
    assert found.predict(FORMS[form](rest, tmp_path)).tolist() == wanted.predict(X).tolist()


def test_sensitive_values_may_lie_in_the_index_of_y():
    X, y, group, module = wide_table()
    labels = pd.Series(y, index=pd.Index(group, name="group"))
    fitted = editor(module, sensitive_columns="group").fit(FileArray(X), labels)
    assert fitted.sensitive_source_ == "index of y"
    plain = editor(module).fit(X, y, sensitive_features=group)
    assert results(fitted, FileArray(X)) == results(plain, X)


def test_a_fitted_editor_holds_no_rows():
    X, y, group, module = wide_table()
    fitted = editor(module).fit(FileArray(X), y, sensitive_features=group)
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.predict_proba(X), fitted.predict_proba(FileArray(X)))


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_a_network_that_works_in_place_leaves_a_memory_map_alone(mode, tmp_path):
    X, y, group, module = wide_table()
    mapped = memory_map(X, tmp_path, mode)
    in_place = nn.Sequential(nn.ReLU(inplace=True), *module)
    fitted = quick(in_place, criterion="curvature", sparsity=0.1, refine=None)
    fitted.fit(mapped, y, sensitive_features=group).predict(mapped)
    np.testing.assert_array_equal(mapped, X)


@pytest.mark.parametrize("kinds", [["slices", "lists"], ["slices"], ["lists"]])
def test_any_rows_are_read_in_any_order(kinds):
    X = np.arange(3000.0).reshape(1000, 3)
    batches = as_batches(FileArray(X, kinds), torch.float64)
    rng = np.random.default_rng(0)
    asked = [np.arange(30, 80), np.arange(80, 30, -1), np.array([7]), np.r_[0:30, 60:90]]
    asked += [np.array([999, 0, 999, 500, 0]), rng.integers(1000, size=60)]
    asked += [rng.permutation(100)[:60], np.sort(rng.permutation(90)[:60])]
    for rows in asked:
        np.testing.assert_array_equal(batches[rows], X[rows])


def test_what_counts_as_not_in_memory(tmp_path):
    X = np.zeros((4, 3), dtype=np.float32)
    in_memory = [X, X.tolist(), torch.tensor(X), Items(X), pd.DataFrame(X), X[0, 0], "text", None]
    in_memory += [scipy.sparse.csr_matrix(X), scipy.sparse.csr_array(X), LazyRows(FileArray(X))]
    assert [is_lazy(each) for each in in_memory] == [False] * len(in_memory)
    assert is_lazy(FileArray(X))
    assert is_lazy(memory_map(X, tmp_path))


def test_blocks_of_wide_rows_hold_fewer_of_them(monkeypatch):
    blocks_of(monkeypatch, 1000)
    narrow, wide = as_batches(np.zeros((50, 5))), as_batches(np.zeros((50, 100)))
    assert (narrow.block_size(20), narrow.block_size(1024)) == (20, 50)
    assert (wide.block_size(1024), wide.astype(torch.float64).block_size(1024)) == (2, 1)
    rows = LabelledRows(wide, torch.arange(50), torch.arange(50))
    sizes = [len(y) for _, y, _ in rows.batches(20, CPU)]
    assert sizes == [2] * 25


def test_on_the_cpu_nothing_is_copied():
    X = torch.zeros(3, 2)
    assert to_device(X, "cpu") is X
    assert to_device(X, CPU, torch.float32) is X
    assert to_device(X, CPU, torch.float64).dtype == torch.float64
