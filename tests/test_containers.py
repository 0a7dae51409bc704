"""Data in any container: labels, tables of numbers, missing values, and messages."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.exceptions import DataConversionWarning

from fairsvd._messages import counted, listed
from fairsvd.containers import as_known, as_numbers, read_labels
from fairsvd.exceptions import GroupError
from fairsvd.groups import drop_sensitive, encode_groups, find_sensitive

CODES = np.array([0, 1, 1, 0])
WORDS = np.array(["no", "yes", "yes", "no"])
LAST = [False, False, False, True]
HOLE = [0, 1, 1, None]


def by_package(name, make):
    """One case of a package that may not be installed."""

    def run():
        return make(pytest.importorskip(name))

    return pytest.param(run, id=f"{name}-{make.__code__.co_firstlineno}")


# Labels

LABELS = {
    "list": CODES.tolist(),
    "tuple": tuple(CODES.tolist()),
    "big-endian": CODES.astype(">i4"),
    "unsigned": CODES.astype(np.uint64),
    "half": CODES.astype(np.float16),
    "longdouble": CODES.astype(np.longdouble),
    "bool": CODES == 1,
    "objects": CODES.astype(object),
    "decimals": [Decimal(int(code)) for code in CODES],
    "tensor": torch.tensor(CODES),
    "bfloat16": torch.tensor(CODES).bfloat16(),
    "gradients": torch.tensor(CODES, dtype=torch.float32, requires_grad=True),
    "tensors": list(torch.tensor(CODES)),
    "odd index": pd.Series(CODES, index=[7, 7, 7, 7]),
    "index": pd.Index(CODES),
    "Int64": pd.Series(CODES, dtype="Int64"),
    "boolean": pd.Series(CODES == 1, dtype="boolean"),
    "category": pd.Series(CODES, dtype="category"),
    "Categorical": pd.Categorical(CODES, categories=[2, 1, 0]),
    "no mask": np.ma.array(CODES, mask=False),
    "memory": memoryview(CODES),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_of_every_container_are_the_same(labels):
    read = read_labels(labels)
    assert isinstance(read, np.ndarray)
    np.testing.assert_array_equal(read, CODES)


WORD_LABELS = {
    "array": WORDS,
    "objects": WORDS.astype(object),
    "list": WORDS.tolist(),
    "string": pd.Series(WORDS, dtype="string"),
    "category": pd.Series(WORDS, dtype="category"),
    "StringDType": WORDS.astype(np.dtypes.StringDType()),
    "the text nan": [*WORDS.tolist()[:3], "no"],
}


@pytest.mark.parametrize("labels", WORD_LABELS.values(), ids=WORD_LABELS)
def test_strings_of_every_container_are_the_same(labels):
    assert read_labels(labels).tolist() == WORDS.tolist()


@pytest.mark.parametrize(
    "run",
    [
        by_package("polars", lambda pl: pl.Series(CODES)),
        by_package("polars", lambda pl: pl.Series([0, 1, 1, 0], dtype=pl.UInt8)),
        by_package("pyarrow", lambda pa: pa.array(CODES)),
        by_package("pyarrow", lambda pa: pa.chunked_array([CODES[:2], CODES[2:]])),
        by_package("pyarrow", lambda pa: pd.Series(CODES).astype("int64[pyarrow]")),
    ],
)
def test_labels_of_other_packages(run):
    read = read_labels(run())
    assert read.dtype.kind in "iu"
    np.testing.assert_array_equal(read, CODES)


@pytest.mark.parametrize(
    "run",
    [
        by_package("polars", lambda pl: pl.Series(WORDS.tolist()).cast(pl.Categorical)),
        by_package("polars", lambda pl: pl.Series(WORDS.tolist()).cast(pl.Enum(["no", "yes"]))),
        by_package("pyarrow", lambda pa: pa.array(WORDS.tolist()).dictionary_encode()),
        by_package("pyarrow", lambda pa: pd.Series(WORDS, dtype="string[pyarrow]")),
    ],
)
def test_strings_of_other_packages(run):
    assert read_labels(run()).tolist() == WORDS.tolist()


@pytest.mark.parametrize(
    "labels",
    [
        CODES[:, None],
        pd.DataFrame({"y": CODES}),
        torch.tensor(CODES)[:, None],
        [[0], [1], [1], [0]],
    ],
    ids=["array", "frame", "tensor", "list"],
)
def test_a_column_is_one_warning(labels):
    with pytest.warns(DataConversionWarning, match="column-vector y") as caught:
        np.testing.assert_array_equal(read_labels(labels), CODES)
    assert len(caught) == 1


MISSING = {
    "None": np.array(["a", "b", "b", None], dtype=object),
    "list of None": ["a", "b", "b", None],
    "list of nan": ["a", "b", "b", np.nan],
    "array of nan": np.array(["a", "b", "b", np.nan]),
    "NaN": np.array([0, 1, 1, np.nan]),
    "NA": pd.Series(HOLE, dtype="Int64"),
    "string NA": pd.Series(["a", "b", "b", None], dtype="string"),
    "category": pd.Series(["a", "b", "b", None], dtype="category"),
    "NaT": np.array([0, 1, 1, "NaT"], dtype="datetime64[D]"),
    "decimal": [Decimal(0), Decimal(1), Decimal(1), Decimal("nan")],
    "mask": np.ma.array(CODES, mask=LAST),
    "mask of strings": np.ma.array(WORDS, mask=LAST),
    "tensor": torch.tensor([0, 1, 1, float("nan")]),
}


@pytest.mark.parametrize("values", MISSING.values(), ids=MISSING)
def test_a_missing_value_is_found_in_labels_and_in_groups(values):
    with pytest.raises(ValueError, match=r"^y has missing labels in 1 of 4 rows, .* in row 3"):
        read_labels(values)
    assert encode_groups(values, 4, missing="ignore").codes.tolist()[3] == -1
    with pytest.raises(GroupError, match="missing values"):
        encode_groups(values, 4)


@pytest.mark.parametrize(
    "null", [[0, 1, 1, None], ["a", "b", "b", None], [True, False, True, None]]
)
def test_a_null_of_another_package_is_found(null):
    for column in (
        pytest.importorskip("polars").Series(null),
        pytest.importorskip("pyarrow").array(null),
    ):
        assert encode_groups(column, 4, missing="ignore").labels == tuple(sorted(set(null[:3])))
        with pytest.raises(ValueError, match="missing labels in 1 of 4 rows"):
            read_labels(column)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [0.2, 0.7, 1.0, 0.0],
            r"Unknown label type: continuous. y_pred holds 0.2 in row 0.*thresh",
        ),
        (torch.rand(4) + 0.1, r"continuous.*threshold first"),
        (np.array([0.5, 1, 0, 1], dtype=object), "y_pred holds 0.5 in row 0"),
        (CODES + 0.5, "continuous"),
        ([[0.1, 0.9], [0.8, 0.2]], r"1d array, .* shape \(2, 2\).*argmax\(axis=1\)"),
        (np.eye(2)[CODES], "one class label per row"),
        ([0, 1, np.inf, 0], "infinite number in row 2"),
        ([0, "a", 1, "b"], r"mixes labels of types .*\(int, str\).*astype\(str\)"),
        (WORDS.astype("S"), r"holds bytes.*astype\(str\)"),
        (WORDS.astype("S").astype(object), "bytes"),
        (CODES.astype(complex), "Complex data not supported: y_pred"),
        (pd.Series(pd.to_datetime(["2020", "2021"])), "dates"),
        (pd.Series(pd.cut([1, 2], [0, 1, 2])), "type Interval"),
        (np.array([{"a": 1}, {"b": 1}], dtype=object), "type dict"),
        ([[1], [1, 2]], "1d array"),
        ([], "no rows"),
        (3, "y_pred is 3: pass an array"),
        (None, "y_pred is None"),
        ("text", "y_pred is 'text'"),
        ({"a": 1}, "one class label per row"),
        ((code for code in CODES), r"iterator \(generator\): pass list\(y_pred\)"),
        (sparse.csr_matrix(CODES), "y_pred is .*sparse"),
        (torch.tensor(CODES).to_sparse(), r"sparse tensor: pass y_pred.to_dense\(\)"),
    ],
)
def test_what_is_no_label_is_told(labels, message):
    with pytest.raises(ValueError, match=message):
        read_labels(labels, "y_pred")


def test_many_integers_are_labels():
    assert read_labels(np.arange(1000)).shape == (1000,)
    assert read_labels([2**70, 2**70 + 1]).shape == (2,)


# Groups

GROUPS = {
    "bytes": CODES.astype("S"),
    "bytes in objects": np.array([b"0", b"1", b"1", b"0"], dtype=object),
    "half": CODES.astype(np.float16),
    "big-endian": CODES.astype(">i4"),
    "longdouble": CODES.astype(np.longdouble),
    "bfloat16": torch.tensor(CODES).bfloat16(),
    "tensors": list(torch.tensor(CODES)),
    "boolean": pd.Series(CODES == 1, dtype="boolean"),
    "dates": np.array(["2020", "2021"], dtype="datetime64[Y]")[CODES],
    "periods": pd.Series(pd.PeriodIndex(["2020", "2021", "2021", "2020"], freq="Y")),
    "intervals": pd.Series(pd.cut(CODES, [-1, 0, 1])),
    "unused category": pd.Categorical(CODES, categories=[0, 1, 2]),
    "StringDType": WORDS.astype(np.dtypes.StringDType()),
}


@pytest.mark.parametrize("values", GROUPS.values(), ids=GROUPS)
def test_groups_of_every_container_are_the_same(values):
    groups = encode_groups(values, 4)
    assert groups.codes.tolist() == CODES.tolist()
    assert groups.n_groups == 2


COLUMNS = {
    "dictionary": {"a": WORDS, "b": CODES},
    "multi-index": pd.MultiIndex.from_arrays([WORDS, CODES], names=["a", "b"]),
    "records": np.array(list(zip(WORDS, CODES, strict=True)), dtype=[("a", "U3"), ("b", int)]),
    "frame": pd.DataFrame({"a": WORDS, "b": CODES}),
}


@pytest.mark.parametrize("values", COLUMNS.values(), ids=COLUMNS)
def test_several_columns_keep_their_names(values):
    groups = encode_groups(values, 4)
    assert groups.names == ("a", "b")
    assert groups.labels == (("no", 0), ("yes", 1))


@pytest.mark.parametrize("package", ["polars", "pyarrow"])
def test_columns_of_other_packages_keep_their_names(package):
    module = pytest.importorskip(package)
    make = module.DataFrame if package == "polars" else module.table
    groups = encode_groups(make({"a": WORDS.tolist(), "b": CODES.tolist()}), 4)
    assert groups.names == ("a", "b")
    assert groups.labels == (("no", 0), ("yes", 1))


def test_a_quantity_is_to_be_binned():
    incomes = np.random.default_rng(0).normal(size=600)
    with pytest.raises(
        GroupError, match=r"holds 600 distinct numbers with fractions.*qcut"
    ) as error:
        encode_groups(pd.DataFrame({"sex": ["f", "m"] * 300, "income": incomes}), 600)
    assert "'income'" in str(error.value)
    assert len(str(error.value)) < 400
    assert encode_groups(incomes, 600, quantities=True).n_groups == 600
    assert encode_groups(np.arange(600) % 40 / 2, 600, quantities=True).n_groups == 40
    assert encode_groups([0.5, 1.5] * 300, 600).n_groups == 2
    assert encode_groups(np.arange(600.0), 600).n_groups == 600


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1], [1, 2], [1], [2]], "cannot be compared"),
        ({"a": WORDS, "b": CODES[:2]}, "make no table"),
        ((word for word in WORDS), "iterator"),
    ],
)
def test_groups_that_cannot_be_used(values, message):
    with pytest.raises(ValueError, match=message):
        encode_groups(values, 4)


# Sensitive columns


def table(**columns):
    return pd.DataFrame({"a": [0.0, 1, 2, 3], **columns})


def test_a_sensitive_column_that_stands_twice_is_refused():
    twice = pd.concat([table(sex=CODES), table(sex=CODES)[["sex"]]], axis=1)
    message = r"2 columns named 'sex' \(positions 1, 2\).*stay among the features"
    with pytest.raises(GroupError, match=message):
        find_sensitive(twice, CODES, "sex")
    with pytest.raises(GroupError, match=message):
        drop_sensitive(twice, "sex")
    for keys in (["sex", "sex"], ["sex", 1], [1, -1]):
        with pytest.raises(GroupError, match="name a column twice"):
            find_sensitive(table(sex=CODES), CODES, keys)


def test_a_position_that_is_also_a_label_is_refused():
    frame = pd.DataFrame(np.zeros((4, 3)), columns=[5, 6, 1])
    with pytest.raises(GroupError, match=r"is a position, where X has the column 6.*astype\(str\)"):
        find_sensitive(frame, CODES, 1)
    assert find_sensitive(pd.DataFrame(np.zeros((4, 3))), CODES, 1).names == ("1",)


@pytest.mark.parametrize("package", ["polars", "pyarrow"])
def test_columns_are_found_and_taken_out_by_name(package):
    module = pytest.importorskip(package)
    make = module.DataFrame if package == "polars" else module.table
    X = make({"a": [0.0, 1, 2, 3], "sex": WORDS.tolist()})
    located = find_sensitive(X, CODES, "sex")
    assert located.values[:, 0].tolist() == WORDS.tolist()
    assert list(located.X.columns) == ["a"]
    assert list(drop_sensitive(X, "sex", 1).columns) == ["a"]


# Tables of numbers

NUMBERS = {
    "category": pd.Categorical([0, 1, 1, 0]),
    "category of text": pd.Categorical(["0", "1", "1", "0"]),
    "text": ["0", "1.0", "1", "0"],
    "objects": pd.Series([0, True, 1.0, Decimal(0)], dtype=object),
    "Int64": pd.array([0, 1, 1, 0], dtype="Int64"),
    "boolean": pd.array([False, True, True, False], dtype="boolean"),
    "sparse": pd.arrays.SparseArray([0.0, 1, 1, 0]),
    "big-endian": CODES.astype(">f8"),
    "longdouble": CODES.astype(np.longdouble),
}


@pytest.mark.parametrize("column", NUMBERS.values(), ids=NUMBERS)
def test_columns_that_stand_for_numbers_become_numbers(column):
    numbers = as_numbers(table(b=column))
    assert list(numbers.columns) == ["a", "b"]
    assert all(isinstance(dtype, np.dtype) and dtype.kind in "biuf" for dtype in numbers.dtypes)
    torch.from_numpy(numbers["b"].to_numpy(copy=True))
    assert numbers["b"].tolist() == CODES.tolist()


@pytest.mark.parametrize("dtype", ["float[pyarrow]", "int64[pyarrow]", "bool[pyarrow]"])
def test_columns_of_arrow_become_numbers(dtype):
    pytest.importorskip("pyarrow")
    numbers = as_numbers(table(b=pd.Series(CODES).astype(dtype)))
    assert isinstance(numbers["b"].dtype, np.dtype)
    assert numbers["b"].tolist() == CODES.tolist()


def test_a_missing_number_becomes_nan():
    for column in (pd.array(HOLE, dtype="Int64"), pd.Series(HOLE, dtype=object)):
        assert np.isnan(as_numbers(table(b=column))["b"]).tolist() == LAST
    masked = as_known(np.ma.array(CODES[:, None], mask=np.array(LAST)[:, None]), "X")
    assert np.isnan(as_numbers(masked)[:, 0]).tolist() == LAST


TEXTS = {
    "text": ["0", "x", "1", "y"],
    "category": pd.Categorical(["x", "y", "x", "y"]),
    "date": pd.date_range("2020", periods=4),
    "time zone": pd.date_range("2020", periods=4, tz="UTC"),
    "duration": pd.timedelta_range("1D", periods=4),
    "period": pd.period_range("2020", periods=4, freq="D"),
    "interval": pd.cut([1, 2, 3, 4], 2),
    "lists": [[1], [2], [3], [4]],
    "complex": CODES.astype(complex),
}


@pytest.mark.parametrize("column", TEXTS.values(), ids=TEXTS)
def test_a_column_that_holds_no_numbers_is_named(column):
    with pytest.raises(ValueError, match=r"X holds .*in column 'b'"):
        as_numbers(table(b=column))


def test_a_column_of_an_array_is_named_by_its_position():
    with pytest.raises(ValueError, match="X holds 'x' in column 1: pass numbers only"):
        as_numbers(np.array([["0", "x"], ["1", "2"]]))
    with pytest.raises(ValueError, match="X holds dates"):
        as_numbers(np.zeros((2, 2), dtype="datetime64[D]"))
    assert as_numbers(np.array([["0", "1"]])).tolist() == [[0.0, 1.0]]


def test_columns_of_one_name_are_refused():
    with pytest.raises(ValueError, match="several columns named 'a'"):
        as_numbers(table(b=CODES).set_axis(["a", "a"], axis=1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float16])
def test_tensors_of_any_float_become_arrays(dtype):
    X = torch.tensor([[0.0, 1.0]], requires_grad=True).to(dtype)
    assert as_known(X, "X").tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (torch.zeros(2, 2).to_sparse(), "sparse tensor"),
        (torch.zeros(2, 2, device="meta"), "meta"),
        (iter([1]), "iterator"),
    ],
)
def test_what_holds_no_rows_is_refused(X, message):
    with pytest.raises(ValueError, match=message):
        as_known(X, "X")


def test_lazy_frames_are_to_be_collected():
    frame = pytest.importorskip("polars").LazyFrame({"a": [1]})
    with pytest.raises(ValueError, match=r"X is a LazyFrame.*X.collect\(\)"):
        as_known(frame, "X")


def test_a_protocol_of_arrow_is_enough():
    pa = pytest.importorskip("pyarrow")

    class Table:
        def __arrow_c_stream__(self, requested_schema=None):
            return pa.table({"a": [1, 2], "b": ["x", None]}).__arrow_c_stream__(requested_schema)

    frame = as_known(Table(), "X")
    assert frame["a"].tolist() == [1, 2]
    assert frame["b"].tolist() == ["x", None]


# Messages


def test_lists_in_messages_are_cut():
    assert listed([1, "a"], show=repr) == "1, 'a'"
    assert listed(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
    assert listed(["x" * 100], 3) == f"{'x' * 60} (and 40 more characters)"
    assert counted({("no", "f"): 3}) == "{('no', 'f'): 3}"
    assert counted(dict.fromkeys(range(11), 0)).endswith("9: 0 and 1 more}")
