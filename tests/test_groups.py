"""Finding and encoding sensitive attributes of every type."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairsvd.exceptions import GroupError
from fairsvd.groups import (
    cell_codes,
    drop_sensitive,
    encode_groups,
    find_sensitive,
    require_two_groups,
)

SEX = ["m", "f", "f", "m"]


@pytest.mark.parametrize(
    "values",
    [
        SEX,
        tuple(SEX),
        np.array(SEX),
        np.array(SEX, dtype=object),
        np.array(SEX).reshape(-1, 1),
        pd.Series(SEX, index=[5, 5, 5, 5]),
        pd.Series(SEX, dtype="category"),
        pd.Series(SEX, dtype="string"),
        pd.DataFrame({"sex": SEX}, index=[1, 1, 0, 0]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_every_container_of_strings(values):
    groups = encode_groups(values, 4)
    assert groups.codes.tolist() == [1, 0, 0, 1]
    assert groups.codes.dtype == np.int64
    assert groups.labels == ("f", "m")
    assert groups.n_groups == 2
    assert groups.counts().tolist() == [2, 2]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([3, 1, 1, 3], (1, 3)),
        (np.array([3, 1, 1, 3], dtype=np.uint8), (1, 3)),
        (np.array([3, 1, 1, 3], dtype=np.float16), (1.0, 3.0)),
        (np.array([True, False, False, True]), (False, True)),
        (torch.tensor([3, 1, 1, 3]), (1, 3)),
        (torch.tensor([[3.0], [1.0], [1.0], [3.0]], requires_grad=True), (1.0, 3.0)),
        (pd.Series([3, 1, 1, 3], dtype="Int64"), (1, 3)),
        (["b", 1, 1, "b"], (1, "b")),
        (["0", 5, 5, "0"], (5, "0")),  # by type first, then by text
    ],
)
def test_every_type_of_label(values, labels):
    groups = encode_groups(values, 4)
    assert groups.codes.tolist() == [1, 0, 0, 1]
    assert groups.labels == labels
    assert not any(isinstance(label, np.generic) for label in groups.labels)


def test_mixed_labels_have_one_order_whatever_comes_first():
    rows = ["b", 2, "a", 1.5, (1, 2)]
    orders = {
        encode_groups(np.array([*order, None], dtype=object)[:-1], 5).labels
        for order in itertools.permutations(rows)
    }
    assert len(orders) == 1


def test_columns_are_intersected_into_combinations_that_occur():
    frame = pd.DataFrame({"sex": ["m", "f", "f", "m"], "old": [True, False, True, True]})
    groups = encode_groups(frame, 4)
    assert groups.names == ("sex", "old")
    assert groups.labels == (("f", False), ("f", True), ("m", True))
    assert groups.codes.tolist() == [2, 0, 1, 2]
    plain = encode_groups(frame.to_numpy(), 4)
    assert plain.labels == groups.labels
    assert plain.names == ("sensitive_feature_0", "sensitive_feature_1")
    assert encode_groups(list(frame.itertuples(index=False)), 4).labels == groups.labels


def test_names_are_carried_given_or_made_up():
    assert encode_groups(pd.Series(SEX, name="sex"), 4).names == ("sex",)
    assert encode_groups(SEX, 4).names == ("sensitive_feature",)
    assert encode_groups(SEX, 4, names=["gender"]).names == ("gender",)
    assert encode_groups(pd.Series(SEX, name="sex"), 4, names=()).names == ("sex",)


MISSING = [
    ["m", None, "f", "m"],
    ["m", np.nan, "f", "m"],
    ["m", pd.NA, "f", "m"],
    pd.Series(["m", None, "f", "m"]),
    pd.Series(["m", None, "f", "m"], dtype="category"),
    np.array(["m", float("nan"), "f", "m"], dtype=object),
]


@pytest.mark.parametrize("values", MISSING)
def test_missing_values(values):
    with pytest.raises(GroupError, match=r"sensitive_features.*: 1\}.*missing_group='ignore'"):
        encode_groups(values, 4)
    ignored = encode_groups(values, 4, missing="ignore")
    assert ignored.codes.tolist() == [1, -1, 0, 1]
    assert ignored.labels == ("f", "m")
    assert ignored.counts().tolist() == [1, 2]
    own = encode_groups(values, 4, missing="own_group")
    assert own.codes.tolist() == [1, 2, 0, 1]
    assert own.labels == ("f", "m", "missing")


def test_missing_numbers_and_missing_in_one_of_two_columns():
    values = pd.DataFrame({"sex": [0.0, np.nan, 1.0], "race": ["a", "b", None]})
    assert encode_groups(values, 3, missing="ignore").codes.tolist() == [0, -1, -1]
    own = encode_groups(values, 3, missing="own_group")
    assert [own.labels[c] for c in own.codes] == [(0.0, "a"), ("missing", "b"), (1.0, "missing")]
    assert encode_groups([1.0, np.nan, 1.0], 3, missing="own_group").labels == (1.0, "missing")


def test_a_group_that_is_called_missing_takes_the_missing_rows_in():
    groups = encode_groups(["missing", None, "a", "z"], 4, missing="own_group")
    assert groups.labels == ("a", "missing", "z")
    assert groups.codes.tolist() == [1, 1, 0, 2]
    assert groups.counts().tolist() == [1, 2, 1]
    columns = [["missing", 1], [None, 1], ["a", None], ["a", 1]]
    both = encode_groups(columns, 4, missing="own_group")
    assert both.labels == (("a", 1), ("a", "missing"), ("missing", 1))
    assert both.codes.tolist() == [2, 2, 1, 0]


def test_missing_in_some_column_is_refused_and_counted_by_column():
    values = pd.DataFrame({"sex": ["f", "m", "f"], "race": ["a", None, None]})
    with pytest.raises(GroupError, match=r"'sex': 0, 'race': 2"):
        encode_groups(values, 3)


def test_nothing_missing_adds_no_group():
    assert encode_groups(SEX, 4, missing="own_group").labels == ("f", "m")
    counts = encode_groups(["b", None, "b", "a"], 4, missing="ignore").counts()
    assert counts.tolist() == [1, 2]


def test_the_text_nan_is_a_label():
    assert encode_groups(["nan", "None", "nan"], 3).labels == ("None", "nan")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (SEX[:3], "list with 3 rows and 1 columns, X has 4 rows"),
        ([], "0 rows"),
        (np.zeros((4, 0)), r"shape \(4, 0\).* 0 columns"),
        (np.zeros((4, 1, 1)), r"shape \(4, 1, 1\): wanted one value per row"),
        ("male", "is a str"),
        (3, "is a int"),
        ([None] * 4, "missing in all 4 rows"),
    ],
)
def test_what_cannot_be_groups(values, message):
    with pytest.raises(GroupError, match=f"sensitive_features.*{message}"):
        encode_groups(values, 4, missing="ignore")


def test_no_rows_at_all():
    with pytest.raises(GroupError, match="X has 0 rows"):
        encode_groups([], 0)


def test_unknown_policy():
    with pytest.raises(ValueError, match=r"missing_group='drop'.*raise, ignore, own_group"):
        encode_groups(SEX, 4, missing="drop")


def test_one_group():
    with pytest.raises(GroupError, match=r"\['sex'\] has the single group 'f'.*at least two"):
        require_two_groups(encode_groups(pd.Series(["f", "f"], name="sex"), 2))
    groups = encode_groups(SEX, 4)
    assert require_two_groups(groups) is groups


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=30), st.permutations(range(4)))
def test_codes_follow_the_labels(values, relabel):
    rows = [None if v < 0 else v for v in values]
    if set(rows) == {None}:
        return
    groups = encode_groups(rows, len(rows), missing="ignore")
    assert [groups.labels[c] if c >= 0 else None for c in groups.codes] == rows
    renamed = [None if v is None else f"g{relabel[v]}" for v in rows]
    other = encode_groups(renamed, len(rows), missing="ignore")
    assert [other.labels[c] if c >= 0 else None for c in other.codes] == renamed
    assert other.n_groups == groups.n_groups


def test_cells_number_every_label_and_group():
    y, group = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 1, -1])
    assert cell_codes(y, group, 2).tolist() == [0, 1, 2, 3, -1]


@pytest.fixture
def table():
    return pd.DataFrame(
        {"age": [1.0, 2.0, 3.0], "sex": ["f", "m", "f"], "job": [0, 1, 1]},
        index=pd.Index(["a", "b", "a"], name="race"),
    )


@pytest.mark.parametrize(
    "columns", ["sex", ["sex"], ("sex",), 1, [-2], np.int64(1), pd.Index(["sex"])]
)
def test_a_column_of_x_is_found_and_taken_out(table, columns):
    before = table.copy()
    found = find_sensitive(table, None, columns)
    assert found.values.tolist() == [["f"], ["m"], ["f"]]
    assert found.names == ("sex",)
    assert found.source == "columns of X"
    assert list(found.X.columns) == ["age", "job"]
    assert found.X.index.equals(table.index)
    pd.testing.assert_frame_equal(table, before)


def test_several_columns_keep_order_and_types(table):
    found = find_sensitive(table, None, ["job", "sex"])
    assert found.values.tolist() == [[0, "f"], [1, "m"], [1, "f"]]
    assert list(found.X.columns) == ["age"]


def test_columns_of_arrays_and_lists():
    X = np.arange(6.0).reshape(2, 3)
    for data in (X, X.tolist()):
        found = find_sensitive(data, None, [0, -1])
        assert found.values.tolist() == [[0, 2], [3, 5]]
        assert found.names == ("0", "2")
        assert np.asarray(found.X, dtype=float).tolist() == [[1], [4]]


def test_an_index_that_repeats_is_read_by_position(table):
    found = find_sensitive(table, None, "race")
    assert found.values.tolist() == [["a"], ["b"], ["a"]]
    assert found.source == "index of X"
    assert found.X is table


def test_levels_of_the_index_of_y_reach_through_arrays():
    index = pd.MultiIndex.from_arrays([["f", "m", "f"], [1, 1, 2]], names=["sex", "race"])
    y = pd.Series([0, 1, 0], index=index)
    X = np.zeros((3, 2))
    found = find_sensitive(X, y, ["race", "sex"])
    assert found.values.tolist() == [[1, "f"], [1, "m"], [2, "f"]]
    assert found.source == "index of y"
    assert found.X is X
    assert find_sensitive(X, y.to_frame(), "sex").values[:, 0].tolist() == ["f", "m", "f"]


def test_x_goes_before_its_index_and_that_before_y(table):
    y = pd.Series([0, 1, 0], index=pd.MultiIndex.from_arrays([[7] * 3] * 2, names=["race", "sex"]))
    assert find_sensitive(table, y, "sex").source == "columns of X"
    assert find_sensitive(table, y, "race").source == "index of X"
    assert find_sensitive(table.reset_index(drop=True), y, "race").source == "index of y"


@pytest.mark.parametrize("columns", ["gender", ["sex", "race"], ["sex", "gender"], 3, [-4], [0, 9]])
def test_not_found_lists_what_there_is(table, columns):
    y = pd.Series([0, 1, 0], index=pd.Index([1, 2, 3], name="region"))
    with pytest.raises(GroupError) as error:
        find_sensitive(table, y, columns)
    for part in ("'age', 'sex', 'job'", "['race']", "['region']", "sensitive_features"):
        assert part in str(error.value)


def test_images_have_no_columns():
    with pytest.raises(GroupError, match="0 without names"):
        find_sensitive(np.zeros((3, 1, 4, 4)), [0, 1, 0], 0)


@pytest.mark.parametrize("columns", [[], [None], 1.5, None, True, [["sex"]], ["sex", ["job"]]])
def test_what_is_no_column(table, columns):
    with pytest.raises(GroupError, match=r"sensitive_columns=.*wanted a column's name"):
        find_sensitive(table, None, columns)


@pytest.mark.parametrize("columns", ["sex", 1, ["sex"]])
def test_prediction_takes_x_with_and_without_the_column(table, columns):
    without = table.drop(columns="sex")
    assert list(drop_sensitive(table, columns, 2).columns) == ["age", "job"]
    assert drop_sensitive(without, columns, 2) is without
    X = np.arange(6).reshape(2, 3)
    assert drop_sensitive(X, [1], 2).tolist() == [[0, 2], [3, 5]]
    assert drop_sensitive(X, [-1], 2).tolist() == [[0, 1], [3, 4]]
    assert drop_sensitive(X, [1], 3) is X
    assert drop_sensitive(X.tolist(), [0], 2).tolist() == [[1, 2], [4, 5]]


def test_positions_reach_from_one_end_to_the_other():
    X = np.arange(6.0).reshape(2, 3)
    for column in (0, -3):
        found = find_sensitive(X, None, column)
        assert found.values.tolist() == [[0], [3]]
        assert found.names == ("0",)
        assert found.X.tolist() == [[1, 2], [4, 5]]
    assert find_sensitive(X, None, 2).values.tolist() == [[2], [5]]


def test_prediction_leaves_a_width_that_nothing_explains(table):
    assert drop_sensitive(table, "sex", 1) is table
    assert drop_sensitive(table, "sex", 5) is table
    assert drop_sensitive(table, ["sex", "job"], 2) is table
    assert drop_sensitive(table, ["sex", "gone"], 2).columns.tolist() == ["age", "job"]
    assert drop_sensitive(table, "sex").columns.tolist() == ["age", "job"]
    assert drop_sensitive(table, "gone") is table
    images = np.zeros((2, 1, 3, 3))
    assert drop_sensitive(images, [0]) is images
